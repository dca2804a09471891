#!/usr/bin/env python
"""Compare mmext's losses with reference values, with published numbers and with mmdet's losses.

The reference values come from formulas written without mmext and checked against the official implementations.
Everything but the known faults of mmdet is computed in float64. The exit status is 1 where mmext differs from a
reference by more than 1e-6, or from a published number by more than that was rounded.

Example:
    python tools/compare_peers.py
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmdet.models import losses as mmdet_losses
from terminaltables import AsciiTable
from torch import Tensor

from mmext import losses

VECTORS = Path(__file__).resolve().parents[1] / 'tests' / 'test_losses' / 'vectors.json'
TOLERANCE = 1e-6

# mmdet's losses of the same variant and power.
PEERS = {
    ('iou', 1.0): [('IoULoss', {'mode': 'linear'})],
    ('iou', 2.0): [('IoULoss', {'mode': 'square'})],
    ('giou', 1.0): [('GIoULoss', {})],
    ('diou', 1.0): [('DIoULoss', {})],
    ('ciou', 1.0): [('CIoULoss', {})],
    ('eiou', 1.0): [('EIoULoss', {})],
    ('siou', 1.0): [('SIoULoss', {'neg_gamma': True}), ('SIoULoss', {})],
}
NOTES = """\
mmdet's losses of boxes have eps=1e-16 here, to compare the formulas. Its CIoU leaves out the aspects of pairs with an
IoU up to 0.5; its EIoULoss is Extended IoU, another loss; its SIoULoss needs neg_gamma=True for the sign of the
distance."""

# From torchvision's test/test_ops.py; it prints four digits.
B1, B2, B3, B4 = [-1, -1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 2], [1, 1, 2, 2]
TORCHVISION = {
    'giou': [(B1, B1, 0.0), (B1, B2, 0.75), (B2, B3, 1.0), (B2, B4, 1.5)],
    'diou': [(B1, B1, 0.0), (B1, B2, 0.8125), (B1, B3, 1.1923), (B1, B4, 1.25)],
    'ciou': [(B1, B1, 0.0), (B1, B2, 0.8125), (B1, B3, 1.1923), (B1, B4, 1.25)],
}
FOUR_DIGITS = 5e-5

# From mmcv's tests/test_ops/test_focal_loss.py, alpha 0.25 and gamma 2: logits, labels; the sum of the loss over the
# number of rows and its gradient, of the softmax and of the sigmoid.
MMCV = [
    (
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1]),
        (0.00566451, [[-0.00657264, 0.00657264], [0.00657264, -0.00657264]]),
        (0.13562961, [[-0.00657264, 0.11185755], [0.11185755, -0.00657264]]),
    ),
    (
        ([[1.0, 0.0, -1.0], [0.0, 1.0, 2.0]], [2, 1]),
        (0.34956908, [[0.10165970, 0.03739851, -0.13905823], [0.01227554, -0.10298023, 0.09070466]]),
        (1.10251057, [[0.28808805, 0.11185755, -0.09602935], [0.11185755, -0.00657264, 0.40376765]]),
    ),
    (
        ([[1e-6, 2e-6, 3e-6], [4e-6, 5e-5, 6e-4], [7e-3, 8e-2, 9e-1]], [1, 2, 0]),
        (
            0.15754992,
            [
                [0.02590877, -0.05181759, 0.02590882],
                [0.02589641, 0.02589760, -0.05179400],
                [-0.07307514, 0.02234372, 0.05073142],
            ],
        ),
        (
            0.42287254,
            [
                [0.07457182, -0.02485716, 0.07457201],
                [0.07457211, 0.07457669, -0.02483728],
                [-0.02462499, 0.08277918, 0.18050370],
            ],
        ),
    ),
]

# What is wrong in mmdet with its own defaults: type, prediction, target, losses.
FAULTS = {
    'identical boxes': (torch.float32, [0, 0, 100, 200], [0, 0, 100, 200], [('ciou', 'CIoULoss', {})]),
    'disjoint boxes': (torch.float32, [0, 0, 10, 10], [100, 100, 120, 120], [('siou', 'SIoULoss', {})]),
    'float16 boxes of 600 px': (
        torch.float16,
        [0, 0, 600, 600],
        [8, 4, 616, 600],
        [
            ('iou', 'IoULoss', {'mode': 'linear'}),
            ('giou', 'GIoULoss', {}),
            ('diou', 'DIoULoss', {}),
            ('ciou', 'CIoULoss', {}),
            ('siou', 'SIoULoss', {'neg_gamma': True}),
        ],
    ),
}
FAULT_HEADER = ['case', 'variant', "mmdet's", 'loss', 'gradient', 'mmext', 'gradient', 'in float64']


@dataclass
class Row:
    """A row of a table, and how far mmext is from the reference in it."""

    name: str
    cells: list[str]
    difference: float
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        """Whether mmext is as near as it should be; a NaN is not."""
        return self.difference <= self.tolerance


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return 1 where mmext differs from a reference, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--vectors',
        type=Path,
        default=VECTORS,
        metavar='FILE',
        help='the reference values of the box losses (tests/test_losses/vectors.json of the checkout)',
    )
    args = parser.parse_args(argv)
    try:
        vectors = json.loads(args.vectors.read_text())
        pairs, entries = vectors['pairs'], vectors['losses']
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f'--vectors {args.vectors} cannot be read ({error!r}): give a file such as {VECTORS.name}')

    covered = {entry['arguments'].get('variant', 'iou') for entry in entries if entry['type'] == 'IoULoss'}
    failures = [f'variant {name} has no reference' for name in losses.VARIANTS if name not in covered]
    print(NOTES)
    for title, header, rows in tables(pairs, entries):
        largest = max(row.difference for row in rows)
        print(table(f'{title}: largest difference {largest:.1e}', header, [row.cells for row in rows]))
        failures += [row.name for row in rows if not row.agrees]
    print(table('known faults of mmdet, with its own defaults', FAULT_HEADER, fault_cells()))
    print('\n'.join(['mmext differs:', *failures]) if failures else 'mmext agrees with every reference')
    return 1 if failures else 0


def tables(pairs: list, entries: list[dict]) -> Iterator[tuple[str, list[str], list[Row]]]:
    """Title, header and rows of each table that is held against references."""
    families: dict[str, list[Row]] = {}
    for entry in entries:
        families.setdefault(family(entry), []).extend(box_rows(entry, pairs))
    header = ['loss', 'variant', 'pair', 'mmext', 'reference', 'difference', "mmdet's", 'is', 'difference']
    for title, rows in families.items():
        # Without the columns of mmdet where it has none of these losses.
        width = len(header) if any(row.cells[6] for row in rows) else 6
        for row in rows:
            row.cells = row.cells[:width]
        yield title, header[:width], rows
    yield (
        "torchvision's published numbers, to four digits",
        ['variant', 'pair', 'mmext', 'published', 'difference'],
        list(torchvision_rows()),
    )
    yield (
        "classification: mmcv's published numbers, and 300 random logits",
        ['loss', 'reference', 'largest difference', 'of the gradient'],
        [*mmcv_rows(), *classification_rows()],
    )


def family(entry: dict) -> str:
    """The title of the table that a loss belongs to."""
    arguments = entry['arguments']
    if entry['type'] != 'IoULoss':
        return 'not of the IoU family'
    if 'focus' in arguments:
        return 'with a focus'
    if 'inner_ratio' in arguments or 'interval' in arguments:
        return 'of another overlap'
    return 'alpha-IoU' if arguments.get('alpha', 1.0) != 1 else 'IoU family'


def box_rows(entry: dict, pairs: list) -> Iterator[Row]:
    """A row for each pair, and all of them again for each of mmdet's losses."""
    name, arguments = entry['name'], entry['arguments']
    loss = getattr(losses, entry['type'])(**arguments, reduction='none').eval()
    if 'mean' in entry:
        loss.focus.mean.fill_(entry['mean'])
    pred, target = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    ours = loss(pred, target).tolist()
    variant = arguments.get('variant', 'iou') if entry['type'] == 'IoULoss' else ''
    plain = not set(arguments) - {'variant', 'alpha'}
    for peer, theirs in peers(variant, arguments.get('alpha', 1.0) if plain else None, pred, target):
        first = [name, variant, peer]
        for pair, value, reference, other in zip(pairs, ours, entry['values'], theirs, strict=True):
            difference = abs(value - reference)
            cells = [*first[:2], '{} {}'.format(*pair), f'{value:.8f}', f'{reference:.8f}', f'{difference:.1e}']
            beside = ['', '', ''] if other is None else [first[2], f'{other:.8f}', f'{abs(value - other):.1e}']
            yield Row(f'{name} of {pair}', [*cells, *beside], difference)
            first = ['', '', '']


def peers(variant: str, alpha: float | None, pred: Tensor, target: Tensor) -> Iterator[tuple[str, list]]:
    """The name and the values of each of mmdet's losses of the variant; where it has none, one of nothing."""
    for name, arguments in PEERS.get((variant, alpha), []):
        peer = getattr(mmdet_losses, name)(**arguments, eps=1e-16, reduction='none')
        yield call(name, arguments), peer(pred, target).tolist()
    if (variant, alpha) not in PEERS:
        yield '', [None] * len(pred)


def call(name: str, arguments: dict) -> str:
    """The name with its arguments, as one would write it."""
    return name + (f'({", ".join(f"{key}={value!r}" for key, value in arguments.items())})' if arguments else '')


def torchvision_rows() -> Iterator[Row]:
    """The losses of torchvision's own tests."""
    for variant, cases in TORCHVISION.items():
        for pred, target, published in cases:
            boxes = (torch.tensor([box], dtype=torch.float64) for box in (pred, target))
            value = losses.iou_loss(*boxes, variant=variant).item()
            difference = abs(value - published)
            cells = [variant, f'{pred} {target}', f'{value:.8f}', f'{published:.4f}', f'{difference:.1e}']
            yield Row(f'{variant} of {pred} {target}', cells, difference, FOUR_DIGITS)


def mmcv_rows() -> Iterator[Row]:
    """The losses and gradients of mmcv's own tests."""
    for number, ((logits, labels), *published) in enumerate(MMCV, start=1):
        softmax = losses.SoftmaxFocalLoss(alpha=[0.25] * len(logits[0]))
        for loss, expected in zip((softmax, losses.FocalLoss()), published):
            logit = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
            value = loss(logit, torch.tensor(labels), avg_factor=len(labels))
            value.backward()
            pairs = zip((value.detach(), logit.grad), expected)
            yield classification_row(
                type(loss).__name__,
                f'mmcv, published, case {number}',
                *((ours - torch.tensor(theirs, dtype=torch.float64)).abs().max().item() for ours, theirs in pairs),
            )


def classification_row(loss: str, reference: str, of_loss: float, of_gradient: float) -> Row:
    """A row for the largest differences of a loss and of its gradient."""
    cells = [loss, reference, f'{of_loss:.1e}', f'{of_gradient:.1e}']
    return Row(f'{loss}: {reference}', cells, torch.tensor([of_loss, of_gradient]).max().item())


def classification_rows() -> Iterator[Row]:
    """The losses and gradients of mmdet and of formulas in probabilities, for random logits."""
    generator = torch.Generator().manual_seed(0)
    logit, noise = torch.randn(2, 100, 3, generator=generator, dtype=torch.float64)
    soft = noise.sigmoid() * (noise > 0)
    hard, labels = (soft > 0).double(), noise.argmax(-1)
    for name, reference, theirs, target in [
        ('FocalLoss', 'mmdet', mmdet_losses.FocalLoss(reduction='none'), hard),
        ('FocalLoss', "formula, as torchvision's", focal, hard),
        ('PolyFocalLoss', 'formula', poly_focal, hard),
        ('AsymmetricLoss', 'formula', asymmetric, hard),
        ('VarifocalLoss', 'mmdet', mmdet_losses.VarifocalLoss(reduction='none'), soft),
        ('VarifocalLoss', 'formula', varifocal, soft),
        ('QualityFocalLoss', 'mmdet', mmdet_losses.QualityFocalLoss(reduction='none'), soft),
        ('QualityFocalLoss', 'formula', quality_focal, soft),
        ('SoftmaxFocalLoss', 'formula', softmax_focal, labels),
    ]:
        ours = getattr(losses, name)(reduction='none')
        results = [loss_and_gradient(function, 3 * logit, target) for function in (ours, theirs)]
        yield classification_row(name, reference, *((a - b).abs().max().item() for a, b in zip(*results)))


def loss_and_gradient(function: Callable, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each element, and the gradient of their sum."""
    leaf = pred.clone().requires_grad_()
    loss = function(leaf, target)
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def focal(logit: Tensor, t: Tensor) -> Tensor:
    """Focal loss of a hard target, alpha 1/4, gamma 2."""
    p = logit.sigmoid()
    p_t = p * t + (1 - p) * (1 - t)
    return -(0.25 * t + 0.75 * (1 - t)) * (1 - p_t) ** 2 * p_t.log()


def poly_focal(logit: Tensor, t: Tensor) -> Tensor:
    """Poly-1 focal loss of a hard target, epsilon 1, gamma 2."""
    p = logit.sigmoid()
    p_t = p * t + (1 - p) * (1 - t)
    return -((1 - p_t) ** 2) * p_t.log() + (1 - p_t) ** 3


def asymmetric(logit: Tensor, t: Tensor) -> Tensor:
    """Asymmetric loss, gammas 1 and 4, margin 0.05."""
    p = logit.sigmoid()
    p_m = (p - 0.05).clamp(min=0)
    return -t * (1 - p) * p.log() - (1 - t) * p_m**4 * (1 - p_m).log()


def varifocal(logit: Tensor, t: Tensor) -> Tensor:
    """Varifocal loss, alpha 3/4, gamma 2."""
    p = logit.sigmoid()
    return -torch.where(t > 0, t * (t * p.log() + (1 - t) * (1 - p).log()), 0.75 * p**2 * (1 - p).log())


def quality_focal(logit: Tensor, t: Tensor) -> Tensor:
    """Quality focal loss, beta 2."""
    p = logit.sigmoid()
    return -((t - p) ** 2 * (t * p.log() + (1 - t) * (1 - p).log())).sum(-1)


def softmax_focal(logit: Tensor, label: Tensor) -> Tensor:
    """Focal loss of a softmax, no alpha, gamma 2."""
    p = (logit.exp() / logit.exp().sum(-1, keepdim=True))[torch.arange(len(label)), label]
    return -((1 - p) ** 2) * p.log()


def fault_cells() -> list[list[str]]:
    """What mmdet and mmext make of the pairs that mmdet fails at, and mmext's loss in float64."""
    cells = []
    for case, (dtype, *pair, faulty) in FAULTS.items():
        exact = [torch.tensor([box], dtype=torch.float64) for box in pair]
        for variant, name, arguments in faulty:
            ours = losses.IoULoss(variant, reduction='none')
            theirs = getattr(mmdet_losses, name)(**arguments, reduction='none')
            results = [loss_and_gradient(loss, *(box.to(dtype) for box in exact)) for loss in (theirs, ours)]
            numbers = [number for loss, gradient in results for number in (loss.item(), gradient.abs().max().item())]
            numbers.append(ours(*exact).item())
            cells.append([case, variant, call(name, arguments), *(f'{number:.4g}' for number in numbers)])
    return cells


def table(title: str, header: list[str], cells: list[list[str]]) -> str:
    """A table with a line above it."""
    return f'\n{title}\n{AsciiTable([header, *cells]).table}'


if __name__ == '__main__':
    raise SystemExit(main())
