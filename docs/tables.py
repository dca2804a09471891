"""Tables and sections of the pages, derived from mmext.losses, its docstrings, the configs, and evidence/.

The pages of docs/ include the parts by name. Files that are read without a build hold their tables between two
comments, `<!-- table: NAME -->` and `<!-- end of table -->`; `python docs/tables.py` draws these anew.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from inspect import getdoc
from pathlib import Path

import torch
from mmengine.config import Config

from mmext import losses
from mmext.comparison.analysis import analyze, short_names, signed, spoken
from mmext.comparison.report import markdown_table
from mmext.comparison.results import Results, load_results
from mmext.comparison.statistics import compare, summarize
from mmext.losses.focus import Focus
from mmext.visualization import loss_curves

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
EVIDENCE = ROOT / 'evidence'
REQUIREMENTS = ROOT / 'requirements'
# The data sets of evidence/, and their titles.
DATA = {'bccd': 'BCCD', 'aquarium': 'Aquarium', 'hituav': 'HIT-UAV'}
FILLED = (
    ROOT / 'README.md',
    ROOT / 'docs' / 'which_loss.md',
    ROOT / 'docs' / 'compatibility.md',
    ROOT / 'docs' / 'dependencies.md',
    CONFIGS / 'yolox' / 'README.md',
)
OFFSETS = (0.1, 0.5, 0.9, 1.5, 2.5)
FIGURE = """\
```{{figure}} /_generated/{name}.png
:alt: {name} and its gradient
```
"""
AUTODOC = """\
```{{eval-rst}}
.. auto{kind}:: {name}
```
"""


def table(*rows: list[str]) -> str:
    """A Markdown table; the first row is the header."""
    lines = ['| ' + ' | '.join(cell.replace('|', r'\|') for cell in row) + ' |' for row in rows]
    lines.insert(1, '|---' * len(rows[0]) + '|')
    return '\n'.join([*lines, ''])


def summary(documented: object) -> str:
    """The first sentence of a docstring, roles as code, without the period."""
    paragraph = ' '.join(getdoc(documented).split('\n\n')[0].split())
    paragraph = re.sub(r':\w+:`([^`]+)`', r'`\1`', paragraph)
    return re.split(r'\.(?= |$)', paragraph)[0]


def papers(documented: object) -> dict[str, str]:
    """The links after `Source:` in a docstring, by name."""
    source = ' '.join((getdoc(documented) or '').partition('Source:')[2].split())
    return dict(re.findall(r'`([^`<]+) <([^>]+)>`_', source))


def paper(*documented: object) -> str:
    """A link to the first paper that one of these names as its source."""
    return next((f'[{name}]({link})' for item in documented for name, link in papers(item).items()), '')


def argument(documented: object, name: str) -> str:
    """The first sentence about an argument in a docstring."""
    (text,) = re.findall(rf'^    {name}: (.*(?:\n {{5,}}.*)*)', getdoc(documented), re.MULTILINE)
    return re.split(r'[.;](?= |$)', ' '.join(text.split()))[0]


def function_of(name: str) -> str | None:
    """The function of a loss class: their names differ in capitals and underscores only."""
    return next((item for item in losses.__all__ if item != name and item.replace('_', '') == name.lower()), None)


def documented_loss(name: str) -> list[object]:
    """The function of a loss class, if there is one, and the class."""
    return [getattr(losses, item) for item in (function_of(name), name) if item]


def settings(node: object) -> Iterator[dict]:
    """Every dict with a type of mmext's in a config."""
    if isinstance(node, dict) and str(node.get('type')).startswith('mmext.'):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from settings(child)


@cache
def shipped() -> dict[Path, list[dict]]:
    """The settings of mmext's types in the model of each shipped config."""
    paths = sorted(CONFIGS.glob('[!_]*/*.py'))
    return {path: list(settings(Config.fromfile(path).to_dict().get('model'))) for path in paths}


def users(kind: str, uses: Callable[[dict], bool] = lambda setting: True) -> str:
    """Links to the configs with a setting of this type that `uses` accepts."""
    paths = [
        path
        for path, found in shipped().items()
        if any(setting['type'] == f'mmext.{kind}' and uses(setting) for setting in found)
    ]
    return ', '.join(f'[{label(path)}](../{path.relative_to(CONFIGS.parent).as_posix()})' for path in paths)


def label(path: Path) -> str:
    """The idea of a config, MODEL_IDEA_SCHEDULE_DATA.py, with the model unless it is YOLOX and the data unless COCO."""
    *_, idea, _schedule, data = path.stem.split('_')
    others = [part for part, usual in ((path.parent.name, 'yolox'), (data, 'coco')) if part != usual]
    return ' '.join([idea, *(f'({part})' for part in others)])


def box_table() -> str:
    """The variants of IoULoss."""
    rows = [['`variant`', 'penalty', 'paper', 'configs']]
    for name, variant in losses.VARIANTS.items():
        arguments = ''.join(f'; argument `{keyword}`' for keyword in loss_curves.variant_keywords(name))
        configs = users('IoULoss', lambda setting, name=name: setting.get('variant', 'iou') == name)
        rows.append([f'[`{name}`](boxes.md#{name})', summary(variant) + arguments, paper(variant), configs])
    return table(*rows)


def factor_table() -> str:
    """The power, overlaps and focuses of IoULoss, and the box losses that stand alone."""
    rows = [['setting', 'effect', 'paper', 'configs']]
    sources = papers(losses.iou_loss)
    for name in ('alpha', *loss_curves.OVERLAPS):
        effect = argument(losses.IoULoss, name)
        link = next((f'[{title}]({link})' for title, link in sources.items() if title in effect), '')
        used = users('IoULoss', lambda setting, name=name: setting.get(name) not in (None, 1.0))
        rows.append([f'`{name}`', effect, link, used])
    for name in loss_curves.exported(Focus):
        focus = getattr(losses, name)
        rows.append([f'focus [`{name}`](boxes.md#{name.lower()})', summary(focus), paper(focus), users(name)])
    for name in loss_curves.other_box_losses():
        items = documented_loss(name)
        rows.append([f'[`{name}`](boxes.md#{name.lower()})', summary(items[0]), paper(*items), users(name)])
    return table(*rows)


def class_table() -> str:
    """The losses for classification and objectness."""
    rows = [['loss', 'what it does', 'soft targets', 'paper', 'configs']]
    for name in loss_curves.class_losses():
        items = documented_loss(name)
        link = f'[`{name}`](classification.md#{name.lower()})'
        rows.append([link, summary(items[0]), rest(name), paper(*items), users(name)])
    return table(*rows)


def rest(name: str) -> str:
    """What a loss does with a target between 0 and 1."""
    loss = getattr(losses, name)
    if not loss_curves.takes_scores(name):
        return 'takes labels only'
    if not loss.soft_target:
        return 'made for 0 and 1'
    return f'`{loss.rest}`'


def minima() -> str:
    """Where training of each classification loss comes to rest for a soft target."""
    soft = loss_curves.SOFT_TARGET
    rows = [['loss', 'targets', 'soft targets', f'p at rest for t = {soft}']]
    for name in loss_curves.class_losses():
        scores = loss_curves.takes_scores(name)
        targets = 'scores in [0, 1], labels, or both' if scores else 'labels'
        rows.append([f'`{name}`', targets, rest(name), f'{loss_curves.resting_point(name):.2f}' if scores else ''])
    return table(*rows)


def gradients() -> str:
    """The gradient of each variant on a box of the target's size, at growing offsets."""
    offsets = torch.tensor(OFFSETS, dtype=torch.float64)
    rows = [['variant', *(f'offset {offset:g}' for offset in OFFSETS)]]
    functions = {name: loss_curves.variant_loss(name) for name in losses.VARIANTS}
    functions.update({f'ciou, alpha {alpha}': loss_curves.variant_loss('ciou', alpha=alpha) for alpha in (2, 3)})
    functions['NWDLoss'] = losses.nwd_loss
    for name, loss in functions.items():
        _, slopes = loss_curves.curve_and_gradient(loss_curves.on_boxes(loss, loss_curves.MOVED), offsets)
        rows.append([f'`{name}`', *(f'{slope:.3f}' for slope in slopes.tolist())])
    return table(*rows)


def section(name: str, *documented: str, level: int = 3) -> str:
    """A heading, the figure, and what autodoc says of objects, each given as `kind name`."""
    directives = [AUTODOC.format(kind=kind, name=target) for kind, target in map(str.split, documented)]
    return '\n'.join([f'{"#" * level} {name}\n', *directives[:1], FIGURE.format(name=name), *directives[1:]])


def variants() -> str:
    """A section for each variant."""
    return '\n'.join(section(name, f'function mmext.losses.iou.{name}') for name in losses.VARIANTS)


def overlaps() -> str:
    """A section for each overlap."""
    return '\n'.join(section(name) for name in loss_curves.OVERLAPS)


def focuses() -> str:
    """A section for each focus."""
    return '\n'.join(section(name, f'class mmext.losses.{name}') for name in loss_curves.exported(Focus))


def loss_sections(names: list[str]) -> str:
    """For each loss a section with its function and its class."""
    sections = []
    for name in names:
        functions = [f'function mmext.losses.{item}' for item in [function_of(name)] if item]
        sections.append(section(name, *functions, f'class mmext.losses.{name}', level=2))
    return '\n'.join(sections)


def other_boxes() -> str:
    """A section for each box loss outside the IoU family."""
    return loss_sections(loss_curves.other_box_losses())


def classification() -> str:
    """A section for each loss for classification and objectness."""
    return loss_sections(loss_curves.class_losses())


def fast_path() -> str:
    """AP in float32 and on the fast path, seed by seed, from the record in `evidence/`."""
    rows = [['data', 'float32', 'fast path', 'mean difference', '95 % interval']]
    for folder in sorted((EVIDENCE / 'fast-path').iterdir()):
        results = load_results(folder)
        fast, plain = (results.scores(name, 'AP') for name in results.plan.names)
        (difference,) = compare(plain, {'fast': fast}).values()
        interval = f'{difference.interval.low:+.3f} to {difference.interval.high:+.3f}'
        seeds = [', '.join(f'{scores[seed]:.3f}' for seed in sorted(difference.values)) for scores in (plain, fast)]
        rows.append([folder.name, *seeds, f'{difference.mean:+.3f}', interval])
    return table(*rows)


def recorded() -> dict[str, Results]:
    """The record of each data set, as far as there is one, by title."""
    return {title: load_results(EVIDENCE / name) for name, title in DATA.items() if (EVIDENCE / name).is_dir()}


def evidence() -> str:
    """AP of the stock losses on each data set, and the difference that each idea makes; seeds in parentheses."""
    columns = {title: evidence_column(results) for title, results in recorded().items()}
    ideas = list(dict.fromkeys(idea for column in columns.values() for idea in column))
    return table(['', *columns], *([idea, *(column.get(idea, '') for column in columns.values())] for idea in ideas))


def evidence_column(results: Results) -> dict[str, str]:
    """AP of the baseline, and the differences from it, by short names."""
    labels = short_names(results.plan.names, results.plan.baseline)
    baseline, *variants = (results.scores(name, 'AP') for name in labels)
    summary = summarize(baseline)
    sd = f' ± {summary.sd:.3f}' if len(baseline) > 1 else ''
    column = {'stock': f'{summary.mean:.3f}{sd} ({len(baseline)})'}
    differences = compare(baseline, dict(zip(results.plan.variants, variants)))
    for name, difference in differences.items():
        interval = f', {spoken(difference.interval)}' if difference.interval else ''
        verdict = f' **{difference.verdict}**' if difference.verdict in ('better', 'worse') else ''
        seeds = len(difference.values)
        column[labels[name]] = f'{signed(difference.mean)}{interval} ({seeds}){verdict}' if seeds else ''
    return column


def evidence_of(title: str) -> str:
    """The table of `mmext compare` for one data set."""
    results = recorded().get(title)
    return markdown_table(analyze(results)) if results else ''


def pins(stack: str) -> dict[str, str]:
    """The versions in the constraints file of a stack, by the name that a package is imported by."""
    lines = [line for line in (REQUIREMENTS / f'{stack}.txt').read_text().splitlines() if '==' in line]
    versions = {name.removeprefix('onedl-'): version for name, version in (line.split('==') for line in lines)}
    return {'mmdet': versions.get('mmdetection'), **versions}


def stacks() -> str:
    """The versions of each stack, from its constraints file, and the name of its packages."""
    packages = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet')
    rows = [['`STACK`', 'packages', *packages]]
    for stack in sorted((path.stem for path in REQUIREMENTS.glob('*.txt')), key=lambda name: (name != 'onedl', name)):
        versions = pins(stack)
        origin = '`onedl-mm...`' if stack == 'onedl' else '`mm...`'
        rows.append([f'`{stack}`', origin, *(versions[name] for name in packages)])
    return table(*rows)


def tested() -> str:
    """What was run on which stack, with which Python, and when, from `requirements/tested.json`."""
    rows = [['`STACK`', 'Python', 'torch', 'what was run', 'result', 'date']]
    for run in json.loads((REQUIREMENTS / 'tested.json').read_text()):
        versions = [f'`{run["stack"]}`', run['python'], pins(run['stack'])['torch']]
        rows.append([*versions, run['what'], run['result'], run['date']])
    return table(*rows)


def licenses() -> str:
    """What `make` installs, under which licenses, in which layer, from `requirements/licenses.json`."""
    packages = json.loads((REQUIREMENTS / 'licenses.json').read_text())
    return table(['package', 'license', 'layer'], *([*package.values()] for package in packages))


TABLES: dict[str, Callable[[], str]] = {
    'stacks': stacks,
    'tested': tested,
    'licenses': licenses,
    'evidence': evidence,
    **{f'evidence_{name}': partial(evidence_of, title) for name, title in DATA.items()},
}


def filled(text: str) -> str:
    """The text with its tables drawn anew."""
    return re.sub(
        r'(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)',
        lambda found: f'{found[1]}\n{TABLES[found[2]]()}\n{found[3]}',
        text,
        flags=re.S,
    )


PARTS: dict[str, Callable[[], str]] = {
    make.__name__: make
    for make in (
        *(box_table, factor_table, class_table, minima, gradients),
        *(variants, overlaps, focuses, other_boxes, classification, fast_path),
    )
}

if __name__ == '__main__':
    for file in FILLED:
        file.write_text(filled(file.read_text()))
