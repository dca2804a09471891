"""What the records of mmext's own comparisons show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mmext
from mmext.comparison.analysis import short_names
from mmext.comparison.results import load_results
from mmext.comparison.statistics import Difference, compare


@dataclass(frozen=True)
class Evidence:
    """The result of one comparison of shipped configs.

    Attributes:
        dataset: The name of the data.
        classes: Their classes.
        differences: AP minus the baseline's, by the idea: the part of the config's name that the baseline's lacks.
    """

    dataset: str
    classes: tuple[str, ...]
    differences: dict[str, Difference]


def records_folder() -> Path:
    """Where the records are: `evidence/` of the checkout, which the wheel carries."""
    return Path(mmext.__file__).parent / '.mim' / 'evidence'


def read_evidence(folder: Path | None = None) -> list[Evidence]:
    """The comparisons `DATASET/comparison.json` in a folder; none if there is no such file.

    Args:
        folder: The folder; None: mmext's own records.
    """
    found = []
    for plan in sorted((folder or records_folder()).glob('*/comparison.json')):
        results = load_results(plan.parent)
        names, baseline = results.plan.names, results.plan.baseline
        labels = short_names(names, baseline)
        scores = {name: results.scores(name, 'AP') for name in names}
        differences = compare(scores[baseline], {name: scores[name] for name in results.plan.variants})
        own = {labels[name]: difference for name, difference in differences.items()}
        found.append(Evidence(plan.parent.name, tuple(results.plan.classes), own))
    return found


def with_verdict(evidence: Sequence[Evidence], verdict: str) -> dict[str, list[str]]:
    """The data sets on which each idea has this verdict, by the idea."""
    ideas: dict[str, list[str]] = {}
    for each in evidence:
        for idea, difference in each.differences.items():
            if difference.verdict == verdict:
                ideas.setdefault(idea, []).append(each.dataset)
    return ideas
