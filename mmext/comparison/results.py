"""Load the finished runs of a comparison, and name what is missing or does not belong."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .plan import RESULT_FILE, Plan, read_json, write_json

RERUN = 'run `mmext compare` again with the same arguments'


@dataclass(frozen=True)
class Result:
    """One finished run: `result.json`.

    Attributes:
        name: Name of the run in the plan.
        seed: Its seed.
        path: The file.
        metrics: AP and the like in [0, 1]; None where the data have no such objects.
        curve: `train`, a list of losses by epoch, and `val`, a list of metrics by epoch.
        detections: COCO's result format; None in a record without them.
        record: The whole file, without the detections.
    """

    name: str
    seed: int
    path: Path
    metrics: dict[str, float | None]
    curve: dict[str, list[dict]]
    detections: list[dict] | None
    record: dict = field(repr=False)


@dataclass(frozen=True)
class Problem:
    """Something that is left out of the report, or that weakens it, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.what}: {self.remedy}'


@dataclass(frozen=True)
class Results:
    """The finished runs of a folder.

    Attributes:
        folder: The folder.
        plan: What was to be trained.
        runs: The runs that belong together, by name and seed; every name of the plan is there, with the seeds found.
        missing: The seeds of the plan that are not there, by name; only names that lack some.
        problems: Files that were left out, and differences between runs that were kept.
    """

    folder: Path
    plan: Plan
    runs: dict[str, dict[int, Result]]
    missing: dict[str, list[int]]
    problems: list[Problem]

    def scores(self, name: str, metric: str) -> dict[int, float]:
        """The metric of each seed; without those that have none."""
        values = {seed: run.metrics.get(metric) for seed, run in self.runs[name].items()}
        return {seed: value for seed, value in values.items() if value is not None}

    @property
    def all_runs(self) -> list[Result]:
        """The runs in display order."""
        return [run for runs in self.runs.values() for run in runs.values()]


def load_results(folder: Path) -> Results:
    """Read the plan and all finished runs of a folder.

    A run is `NAME/seed_N/result.json`, or `NAME/seed_N.json` in a record without detections; where both are there the
    first counts. A file that cannot be read, is not of the plan, or was trained with another config or on other data
    than the rest is left out, and named in `problems`.

    Raises:
        FileNotFoundError: If the folder has no `comparison.json`.
        ValueError: If that cannot be read.
    """
    plan = Plan.load(folder)
    problems: list[Problem] = []
    runs = [run for path in _result_files(folder) if (run := _load_run(path, plan, problems))]
    runs = _without_duplicates(runs, problems)
    runs.sort(key=lambda run: (plan.names.index(run.name), run.seed))
    runs = _of_one_kind(runs, 'data', lambda run: '', problems)
    runs = _of_one_kind(runs, 'config', lambda run: run.name, problems)
    _note_differences(runs, problems)
    by_name = {name: {run.seed: run for run in runs if run.name == name} for name in plan.names}
    absent = {name: [seed for seed in plan.runs[name].seeds if seed not in by_name[name]] for name in plan.names}
    missing = {name: seeds for name, seeds in absent.items() if seeds}
    return Results(folder, plan, by_name, missing, problems)


def write_record(folder: Path, record: Path) -> None:
    """Write the plan of a folder and its finished runs, without detections, to another: `NAME/seed_N.json`.

    Args:
        folder: The folder of a comparison.
        record: The folder of the record; runs that it has already are written anew.

    Raises:
        FileNotFoundError: If the folder has no `comparison.json`.
    """
    Plan.load(folder).save(record)
    for run in load_results(folder).all_runs:
        write_json(record / run.name / f'seed_{run.seed}.json', run.record, indent=None)


def _result_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob(f'*/seed_*/{RESULT_FILE}'), *folder.glob('*/seed_*.json')])


def _load_run(path: Path, plan: Plan, problems: list[Problem]) -> Result | None:
    try:
        content = read_json(path, {'name', 'seed', 'config', 'options', 'metrics', 'curve', 'hashes'})
    except ValueError as error:
        problems.append(Problem(f'{error}, and is left out', f'delete it, and {RERUN}'))
        return None
    if problem := _stranger(path, content, plan):
        problems.append(problem)
        return None
    detections = content.pop('detections', None)
    return Result(content['name'], content['seed'], path, content['metrics'], content['curve'], detections, content)


def _stranger(path: Path, content: Mapping, plan: Plan) -> Problem | None:
    """Why a result does not belong to its place or to the plan; None if it does."""
    folder = path.parent if path.name == RESULT_FILE else path.with_suffix('')
    name, seed = content['name'], content['seed']
    if (name, f'seed_{seed}') != (folder.parent.name, folder.name):
        what = f'{path} is left out: it says that it is {name!r} with seed {seed}'
        return Problem(what, 'move it back to its own folder, or delete it')
    planned = plan.runs.get(name)
    if planned is None or seed not in planned.seeds:
        what = f'{path} is left out: the plan has no run {name!r} with seed {seed}'
        return Problem(what, 'add it to the arguments of `mmext compare`, or move it to another folder')
    if (content['config'], content['options']) != (planned.config, planned.options):
        what = (
            f'{path} is left out: it was trained as {content["config"]} with options {content["options"]}, but the '
            f'plan has {planned.config} with {planned.options}'
        )
        return Problem(what, f'move it to another folder, and {RERUN}')
    return None


def _without_duplicates(runs: list[Result], problems: list[Problem]) -> list[Result]:
    kept: dict[tuple[str, int], Result] = {}
    # Work dirs first: they have the detections.
    for run in sorted(runs, key=lambda run: run.path.name != RESULT_FILE):
        first = kept.setdefault((run.name, run.seed), run)
        if first is not run and first.metrics != run.metrics:
            problems.append(
                Problem(
                    f'{run.path} is left out: {first.path} is the same run with other metrics', 'delete one of them'
                )
            )
    return list(kept.values())


def _of_one_kind(
    runs: list[Result], kind: str, group: Callable[[Result], str], problems: list[Problem]
) -> list[Result]:
    """Leave out the runs whose hash is not the most frequent one of their group; the first one of equals counts."""
    votes: dict[str, Counter] = {}
    for run in runs:
        votes.setdefault(group(run), Counter())[run.record['hashes'].get(kind)] += 1
    kept = []
    for run in runs:
        if run.record['hashes'].get(kind) == votes[group(run)].most_common(1)[0][0]:
            kept.append(run)
            continue
        others = 'other data than' if kind == 'data' else 'another version of the config than'
        problems.append(
            Problem(
                f'{run.path} is left out: it was trained with {others} most runs '
                f'{"of this name" if group(run) else "of this folder"} ({run.record["hashes"].get(kind)})',
                f'move it to another folder, and {RERUN}',
            )
        )
    return kept


def _note_differences(runs: list[Result], problems: list[Problem]) -> None:
    """Name what may differ between runs that are compared, but should not."""
    facts = {
        'code of mmext': lambda run: run.record['hashes'].get('code'),
        'torch': lambda run: run.record.get('versions', {}).get('torch'),
        'mmdet': lambda run: run.record.get('versions', {}).get('mmdet'),
        'device': lambda run: run.record.get('device'),
        'number of epochs': lambda run: run.record.get('epochs'),
    }
    for fact, of in facts.items():
        found: dict[object, str] = {}
        for run in runs:
            found.setdefault(of(run), f'{run.name} seed {run.seed}')
        if len(found) > 1:
            examples = ', '.join(f'{value} ({example})' for value, example in found.items())
            problems.append(
                Problem(
                    f'the runs differ in the {fact}: {examples}',
                    'they are compared all the same; train them all under one, in a new folder, to be sure',
                )
            )
