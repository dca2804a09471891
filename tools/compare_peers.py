#!/usr/bin/env python
"""Compare mmext's losses with independent references and with mmdet's losses, in float64.

The losses are those that mmext.losses exports. References are the values in tests/test_losses/vectors.json, numbers
that torchvision and mmcv publish in their tests, and the formulas below, written in probabilities without mmext.
mmdet's box losses are shown, but need not agree: some of them are wrong. The exit status is 1 if a loss differs from
a reference by more than its tolerance; a loss without a reference is reported.

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
from mmext.visualization.loss_curves import class_losses, takes_scores

VECTORS = json.loads((Path(__file__).resolve().parents[1] / 'tests' / 'test_losses' / 'vectors.json').read_text())
TOLERANCE = 1e-6

# mmdet's losses of the same variant and power; eps is 1e-16 to compare the formulas.
MMDET_BOX_LOSSES = {
    ('iou', 1.0): [('IoULoss', {'mode': 'linear'})],
    ('iou', 2.0): [('IoULoss', {'mode': 'square'})],
    ('giou', 1.0): [('GIoULoss', {})],
    ('diou', 1.0): [('DIoULoss', {})],
    ('ciou', 1.0): [('CIoULoss', {})],
    ('eiou', 1.0): [('EIoULoss', {})],
    ('siou', 1.0): [('SIoULoss', {'neg_gamma': True}), ('SIoULoss', {})],
}
NOTES = """\
mmdet's CIoULoss omits the aspect term where IoU <= 0.5. Its EIoULoss is Extended IoU, a different loss. Its SIoULoss
has the wrong sign in the distance term unless neg_gamma=True. Where edges coincide, the loss has a kink, and mmext's
gradient is the mean of both sides. tests/test_losses/test_known_bugs.py shows more faults of mmdet's losses."""

# torchvision, test/test_ops.py, four digits: prediction, target, loss.
B1, B2, B3, B4 = [-1, -1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 2], [1, 1, 2, 2]
TORCHVISION = {
    'giou': [(B1, B1, 0.0), (B1, B2, 0.75), (B2, B3, 1.0), (B2, B4, 1.5)],
    'diou': [(B1, B1, 0.0), (B1, B2, 0.8125), (B1, B3, 1.1923), (B1, B4, 1.25)],
    'ciou': [(B1, B1, 0.0), (B1, B2, 0.8125), (B1, B3, 1.1923), (B1, B4, 1.25)],
}
FOUR_DIGITS = 5e-5

# mmcv, tests/test_ops/test_focal_loss.py, alpha 0.25 and gamma 2: (logits, labels), then for softmax and sigmoid the
# summed loss divided by the number of rows, and its gradient.
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


def matchability_aware(logit: Tensor, t: Tensor) -> Tensor:
    """Matchability-aware loss, gamma 3/2; the weight of negatives is detached."""
    p, q = logit.sigmoid(), t**1.5
    return -torch.where(t > 0, q * p.log() + (1 - q) * (1 - p).log(), p.detach() ** 1.5 * (1 - p).log())


def ia_bce(logit: Tensor, t: Tensor) -> Tensor:
    """IA-BCE loss, alpha 1/4, gamma 2; the target of positives is detached."""
    p = logit.sigmoid()
    q = (p**0.25 * t**0.75).clamp(min=0.01).detach()
    return -torch.where(t > 0, q * p.log() + (1 - q) * (1 - p).log(), p**2 * (1 - p).log())


def softmax_focal(logit: Tensor, label: Tensor) -> Tensor:
    """Focal loss of a softmax, no alpha, gamma 2."""
    p = (logit.exp() / logit.exp().sum(-1, keepdim=True))[torch.arange(len(label)), label]
    return -((1 - p) ** 2) * p.log()


FORMULAS = {
    'FocalLoss': focal,
    'PolyFocalLoss': poly_focal,
    'AsymmetricLoss': asymmetric,
    'VarifocalLoss': varifocal,
    'QualityFocalLoss': quality_focal,
    'MALoss': matchability_aware,
    'IABCELoss': ia_bce,
    'SoftmaxFocalLoss': softmax_focal,
}


@dataclass(frozen=True)
class Row:
    """The largest differences of a loss, and of its gradient where known, from one reference or peer."""

    loss: str
    reference: str
    of_loss: float
    of_gradient: float | None = None
    tolerance: float | None = TOLERANCE
    """None: the row is shown, but need not agree."""

    @property
    def agrees(self) -> bool:
        """Whether the differences are within the tolerance; NaN is not."""
        if self.tolerance is None:
            return True
        return self.of_loss <= self.tolerance and (self.of_gradient or 0) <= self.tolerance

    @property
    def cells(self) -> list[str]:
        """The row as text."""
        gradient = '' if self.of_gradient is None else f'{self.of_gradient:.1e}'
        verdict = 'shown only' if self.tolerance is None else 'agrees' if self.agrees else 'DIFFERS'
        return [self.loss, self.reference, f'{self.of_loss:.1e}', gradient, verdict]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a loss differs from a reference, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    rows = [*vector_rows(), *torchvision_rows(), *mmcv_rows(), *classification_rows()]
    header = ['loss', 'reference', 'largest difference', 'of the gradient', '']
    print(f'{AsciiTable([header, *(row.cells for row in rows)]).table}\n{NOTES}')
    for loss in without_reference(rows):
        print(f'{loss} has no reference')
    failures = [f'{row.loss}: {row.reference}' for row in rows if not row.agrees]
    print('\n'.join(['mmext differs:', *failures]) if failures else 'mmext agrees with every reference')
    return 1 if failures else 0


def without_reference(rows: Sequence[Row]) -> list[str]:
    """The exported losses and variants that no row compares."""
    vectors = {entry['arguments'].get('variant', 'iou') for entry in VECTORS['losses'] if entry['type'] == 'IoULoss'}
    compared = {row.loss for row in rows} | vectors | {entry['type'] for entry in VECTORS['losses']}
    exported = [name for name in losses.__all__ if name.endswith('Loss')]
    return [name for name in (*losses.VARIANTS, *exported) if name not in compared]


def vector_rows() -> Iterator[Row]:
    """Each box loss of vectors.json beside its values there, and beside mmdet's losses of the same formula."""
    pred, target = torch.tensor(VECTORS['pairs'], dtype=torch.float64).unbind(1)
    for entry in VECTORS['losses']:
        arguments = entry['arguments']
        loss = getattr(losses, entry['type'])(**arguments, reduction='none').eval()
        if 'mean' in entry:
            loss.focus.mean.fill_(entry['mean'])
        expected = torch.tensor(entry['values'], dtype=torch.float64)
        yield Row(entry['name'], 'vectors.json', difference(loss(pred, target), expected))
        if entry['type'] == 'IoULoss' and not set(arguments) - {'variant', 'alpha'}:
            for name, given in MMDET_BOX_LOSSES.get((loss.variant, loss.alpha), ()):
                peer = getattr(mmdet_losses, name)(**given, eps=1e-16, reduction='none')
                call = f"mmdet's {name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
                yield compare(entry['name'], call, loss, peer, pred, target, tolerance=None)


def torchvision_rows() -> Iterator[Row]:
    """The box losses of torchvision's tests."""
    for variant, cases in TORCHVISION.items():
        pred, target, published = (torch.tensor(column, dtype=torch.float64) for column in zip(*cases))
        value = losses.iou_loss(pred, target, variant=variant)
        yield Row(variant, "torchvision's tests", difference(value, published), tolerance=FOUR_DIGITS)


def mmcv_rows() -> Iterator[Row]:
    """The focal losses and gradients of mmcv's tests."""
    for number, ((logits, labels), *published) in enumerate(MMCV, start=1):
        softmax = losses.SoftmaxFocalLoss(alpha=[0.25] * len(logits[0]))
        for loss, expected in zip((softmax, losses.FocalLoss()), published):
            logit = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
            value = loss(logit, torch.tensor(labels), avg_factor=len(labels))
            value.backward()
            theirs = (torch.tensor(numbers, dtype=torch.float64) for numbers in expected)
            differences = map(difference, (value, logit.grad), theirs)
            yield Row(type(loss).__name__, f"mmcv's tests, case {number}", *differences)


def classification_rows() -> Iterator[Row]:
    """Every exported loss for classification beside its formula and mmdet's loss of its name, on 300 random logits."""
    generator = torch.Generator().manual_seed(0)
    logit, noise = torch.randn(2, 100, 3, generator=generator, dtype=torch.float64)
    soft = noise.sigmoid() * (noise > 0)
    for name in class_losses():
        loss = getattr(losses, name)(reduction='none')
        target = noise.argmax(-1)
        if takes_scores(name):
            target = soft if loss.soft_target else (soft > 0).double()
        if name in FORMULAS:
            yield compare(name, 'formula', loss, FORMULAS[name], 3 * logit, target)
        if hasattr(mmdet_losses, name):
            peer = getattr(mmdet_losses, name)(reduction='none')
            yield compare(name, "mmdet's", loss, peer, 3 * logit, target)


def compare(
    name: str, reference: str, ours: Callable, theirs: Callable, pred: Tensor, target: Tensor, **kwargs: object
) -> Row:
    """Two losses, and the gradients of their sums, on the same predictions and targets."""
    results = []
    for loss in (ours, theirs):
        leaf = pred.clone().requires_grad_()
        value = loss(leaf, target)
        results.append((value, *torch.autograd.grad(value.sum(), leaf)))
    return Row(name, reference, *map(difference, *results), **kwargs)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; NaN if there is one."""
    return (ours - theirs).abs().max().item()


if __name__ == '__main__':
    raise SystemExit(main())
