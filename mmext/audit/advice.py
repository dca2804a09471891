"""Which losses to compare first on some data, and why."""

import runpy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

import mmext
from mmext.comparison.analysis import count, option, signed, spoken
from mmext.comparison.statistics import MIN_PAIRS
from mmext.losses.class_balance import class_weights

from .boxes import Boxes
from .evidence import Evidence, with_verdict

SEEDS = 5
# At most this many variants: each costs as many trainings as there are seeds.
MOST = 3
# The data set whose configs say what an idea is; else any other's.
REFERENCE = 'bccd'
# From this ratio of the most frequent to the rarest class on, class weights are suggested.
IMBALANCE = 5
# Boxes with a side below this many strides are small.
SMALL = 4


@dataclass(frozen=True)
class Advice:
    """What to compare first.

    Attributes:
        lines: The data, their boxes, the suggestion, what the records show.
        command: The command that makes the comparison; None where mmext has nothing to suggest.
    """

    lines: list[str]
    command: str | None


def advise(
    boxes: Boxes, config: Config, source: str, options: Mapping[str, object], evidence: Sequence[Evidence], yolox: bool
) -> Advice:
    """Say which ideas to compare first: those that the records show to be better, then those that suit the data.

    Args:
        boxes: The training data.
        config: The config.
        source: The config as it was given: a file or a name `mmext::...`.
        options: The options that override it.
        evidence: The records of mmext's comparisons.
        yolox: Whether the config has a YOLOX head.
    """
    if not yolox:
        return Advice([*describe(boxes), "mmext's own comparisons are of YOLOX: see its docs on other heads"], None)
    ideas = choose(boxes, evidence)
    reasons = '; '.join(f'{name} ({reason})' for name, reason in ideas.items())
    lines = [*describe(boxes), f'Compare first: {reasons}', f'Records: {measured(list(ideas), evidence)}']
    return Advice(lines, command(list(ideas), boxes, config, source, options))


def describe(boxes: Boxes) -> list[str]:
    """The training data in two lines."""
    total = sum(boxes.counts.values()) or 1
    classes = ', '.join(f'{name} {number / total:.0%}' for name, number in _by_count(boxes.counts)[:MOST])
    others = f' and {count(len(boxes.counts) - MOST, "other")}' if len(boxes.counts) > MOST else ''
    low, median, high = boxes.sides
    size = f'side {low:.0f} to {high:.0f} px, median {median:.0f}'
    if boxes.stride:
        size += f' ({", ".join(f"{side / boxes.stride:.1f}" for side in boxes.sides)} strides)'
    size += f', aspect {boxes.aspect:.1f}'
    fit = '' if boxes.unmatched is None else f', {boxes.unmatched:.1%} without a prior in box and center region'
    return [
        f'Data: {boxes.images} images, {count(total, "object")}: {classes}{others}; '
        f'the most frequent class has {boxes.imbalance:.1f} times the objects of the rarest',
        f'Boxes: {size}, {boxes.per_image:.0f} in an image, {boxes.crowded:.0%} crowded{fit}',
    ]


def choose(boxes: Boxes, evidence: Sequence[Evidence]) -> dict[str, str]:
    """The ideas to compare first, each with its reason; those that a record shows to be worse are left out."""
    better, worse = with_verdict(evidence, 'better'), with_verdict(evidence, 'worse')
    measured = {name: f'better on {" and ".join(datasets)}' for name, datasets in better.items() if name not in worse}
    suited = {name: reason for name, reason in _suited(boxes) if name not in worse}
    return dict(list({**measured, **{name: suited[name] for name in suited if name not in measured}}.items())[:MOST])


def _suited(boxes: Boxes) -> Iterator[tuple[str, str]]:
    """The ideas that suit the data, by the reasoning behind them, which no record proves."""
    if boxes.imbalance >= IMBALANCE:
        yield 'cls-softmax-focal', 'class weights, as the classes are imbalanced'
    if boxes.sides[1] < SMALL * (boxes.stride or 8):
        yield 'nwd', f'half of the boxes are under {SMALL} strides, where the IoU changes much with a pixel'
    else:
        yield 'alpha-ciou', f'half of the boxes are over {SMALL} strides, where their fit counts'
    negatives = f'{boxes.priors:,} priors for {boxes.per_image:.0f} boxes' if boxes.priors else 'many priors'
    yield 'obj-varifocal', f'{negatives}: most objectness targets are easy negatives'


def measured(ideas: Sequence[str], evidence: Sequence[Evidence]) -> str:
    """What the records say about these ideas, and no more."""
    if not evidence:
        return 'none, so this order is a guess from the data'
    found = [
        (each.dataset, idea, each.differences[idea]) for each in evidence for idea in ideas if idea in each.differences
    ]
    known = [
        f'{idea} {signed(item.mean)} AP on {dataset}, {spoken(item.interval)} over {len(item.values)} seeds, '
        f'{item.verdict}'
        for dataset, idea, item in found
        if item.verdict != 'no verdict'
    ]
    if known:
        return '; '.join(known)
    names = ' and '.join(each.dataset for each in evidence)
    return f'on {names}, none of these with the {MIN_PAIRS} seeds that a verdict needs: this order is a guess'


def command(
    ideas: Sequence[str], boxes: Boxes, config: Config, source: str, options: Mapping[str, object]
) -> str | None:
    """The command that compares the ideas with the config: shipped configs where there are some, else variants."""
    root = _shipped_root(Path(config.filename))
    siblings = {idea: _with_idea(root, idea) for idea in ideas} if root else {}
    words = ['mmext', 'compare', _name(root) if root else source]
    if root and Path(config.filename).stem not in (root.stem, *(path.stem for path in siblings.values())):
        words.append(_name(Path(config.filename)))
    words += [_name(path) for path in siblings.values() if path.is_file()]
    words += ['--seeds', str(SEEDS)]
    for idea in ideas:
        if idea not in siblings or not siblings[idea].is_file():
            settings = settings_of(idea, boxes, config.model.bbox_head)
            words += ['--variant', idea, *(f'{key}={option(value)}' for key, value in settings.items())]
    if options:
        words += ['--cfg-options', *(f'{key}={option(value)}' for key, value in options.items())]
    return shlex.join(words)


def settings_of(idea: str, boxes: Boxes, head: Mapping) -> dict[str, object]:
    """The settings that make an idea of a config: those of a shipped config of it, with other class weights.

    Args:
        idea: The idea.
        boxes: The training data, for class weights.
        head: The head of the config.
    """
    files = sorted(_folder().glob(f'yolox_nano_{idea}_*.py'), key=lambda file: not file.stem.endswith(REFERENCE))
    # What the file itself sets, without its bases.
    changes = runpy.run_path(str(files[0]))['model']['bbox_head']
    settings = {} if head.get('type') == 'mmext.YOLOXHead' else {'model.bbox_head.type': 'mmext.YOLOXHead'}
    for key, value in _flat(changes, 'model.bbox_head'):
        if key.endswith('.alpha') and isinstance(value, list):
            value = [round(weight, 3) for weight in class_weights(list(boxes.counts.values()), 'sqrt')]
        settings[key] = value
    return settings


def _flat(node: Mapping, place: str) -> Iterator[tuple[str, object]]:
    """The values of nested dicts by their keys with dots."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f'{place}.{key}')
        else:
            yield f'{place}.{key}', value


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _folder() -> Path:
    return Path(mmext.__file__).parent / '.mim' / 'configs' / 'yolox'


def _shipped_root(file: Path) -> Path | None:
    """The config with the stock losses of which a shipped config has an idea; None for other configs."""
    size, _, data = file.stem.partition('_nano_')
    if not data or file.resolve().parent != _folder().resolve():
        return None
    root = _folder() / f'{size}_nano_{"_".join(data.split("_")[-2:])}.py'
    return root if root.is_file() else None


def _with_idea(root: Path, idea: str) -> Path:
    return root.with_name(root.name.replace('_nano_', f'_nano_{idea}_'))


def _name(file: Path) -> str:
    return f'mmext::yolox/{file.name}'
