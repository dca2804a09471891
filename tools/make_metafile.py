#!/usr/bin/env python
"""Write configs/yolox/metafile.yml, which `mim search mmext` reads, from the record in evidence/."""

from pathlib import Path
from statistics import mean

import yaml
from mmengine.config import Config

from mmext.comparison.plan import PLAN_FILE
from mmext.comparison.results import Results, load_results

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / 'evidence'
METAFILE = ROOT / 'configs' / 'yolox' / 'metafile.yml'
HEADER = '# Written by tools/make_metafile.py from evidence/. Metrics are means over the seeds, in percent.\n'
# Names of the metrics in OpenMMLab's metafiles, and in the record.
METRICS = {'box AP': 'AP', 'box AP50': 'AP50', 'box AP75': 'AP75'}
COLLECTION = {
    'Name': 'YOLOX',
    'Paper': 'https://arxiv.org/abs/2107.08430',
    'README': 'configs/yolox/README.md',
}


def main() -> None:
    """Write the file."""
    METAFILE.write_text(HEADER + yaml.safe_dump(content(EVIDENCE), sort_keys=False))


def content(evidence: Path) -> dict:
    """The content of the metafile.

    Args:
        evidence: The folder of the records.
    """
    return {'Collections': [COLLECTION], 'Models': [model(*found) for _, found in sorted(trained(evidence).items())]}


def trained(evidence: Path) -> dict[str, tuple[Path, Results, str]]:
    """Each shipped config that was trained without options: its file, and the record and name of its runs.

    Where several records have the config, the one with the most seeds counts.
    """
    found = []
    for plan in sorted(evidence.rglob(PLAN_FILE)):
        results = load_results(plan.parent)
        for name, variant in results.plan.runs.items():
            file = ROOT / 'configs' / variant.config.removeprefix('mmext::')
            if results.runs[name] and not variant.options and file.is_file():
                found.append((file, results, name))
    found.sort(key=lambda item: len(item[1].runs[item[2]]))
    return {file.stem: (file, results, name) for file, results, name in found}


def model(file: Path, results: Results, name: str) -> dict:
    """The entry of a config.

    Args:
        file: The config.
        results: The record that has its runs.
        name: Their name in the record.
    """
    data = file.stem.rpartition('_')[2]
    scores = {title: results.scores(name, metric).values() for title, metric in METRICS.items()}
    return {
        'Name': file.stem,
        'In Collection': COLLECTION['Name'],
        'Config': file.relative_to(ROOT).as_posix(),
        'Metadata': {
            'Training Data': data,
            'Epochs': Config.fromfile(file).train_cfg.max_epochs,
            'Seeds': len(results.runs[name]),
        },
        'Results': [
            {
                'Task': 'Object Detection',
                'Dataset': data,
                'Metrics': {title: round(100 * mean(values), 1) for title, values in scores.items() if values},
            }
        ],
    }


if __name__ == '__main__':
    main()
