"""Accuracy: every loss of the table against formulas written out in float64 with NumPy, which share no code with mmext.

The reference is given the numbers that the loss is given, already rounded to their type, so that the error is that of
the computation. docs/reliability.md has the bounds.
"""

import math

import numpy as np
import pytest
import torch
from table import BOX_LOSSES, IMAGE_SIZE, LOSSES, SOFTMAX_LOSSES

TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
MEAN = float(np.float32(0.1))  # The running mean in `Loss.build`.
# The largest error of the loss of a pair or element, relative to 1 + the loss, by the type that it is computed in. In
# float64 it is the reference's as much as the loss's.
BOUNDS = {torch.float32: 1.5e-5, torch.float64: 1e-11}


def pairs(number: int, dtype: torch.dtype, low: float = 1, high: float = 1000):
    """Boxes with sides from low to high, and targets that are near, overlapping or apart."""
    generator = torch.Generator().manual_seed(0)
    uniform, normal = (
        function(number, 4, generator=generator, dtype=torch.float64) for function in (torch.rand, torch.randn)
    )
    side = low * (high / low) ** uniform[:, :2]
    corner = uniform[:, 2:] * high / 2
    pred = torch.cat([corner, corner + side], 1)
    spread = torch.rand(number, 1, generator=generator, dtype=torch.float64).pow(3)
    target = pred + normal * side.repeat(1, 2) * spread
    target[:, 2:] = torch.maximum(target[:, 2:], target[:, :2] + side / 100)
    return pred.to(dtype), target.to(dtype)


def pairs_of_any_size(number: int, dtype: torch.dtype):
    """Boxes of 1e-30 to 1e6 px near the origin, as far as the type reaches, and targets in every relation to them.

    Sizes around 3e-4 px are left out: there the union crosses `eps`, and its rounding decides whether there is an IoU.
    """
    generator = torch.Generator().manual_seed(0)
    uniform, normal = (
        function(number, 4, generator=generator, dtype=torch.float64) for function in (torch.rand, torch.randn)
    )
    place, spread, small = torch.rand(3, number, 1, generator=generator, dtype=torch.float64)
    ranges = ((-7, -6), (-2, 3)) if dtype == torch.float16 else ((-30, -6), (-2, 5))
    low, high = torch.where(small < 0.5, *(torch.tensor(each).double().view(2, 1, 1) for each in ranges))
    size = 10 ** (low + place * (high - low))
    side, corner = size * (1 + 9 * uniform[:, :2]), size * uniform[:, 2:]
    pred = torch.cat([corner, corner + side], 1)
    target = pred + normal * side.repeat(1, 2) * spread.pow(3)
    target[:, 2:] = torch.maximum(target[:, 2:], target[:, :2] + side / 100)
    return pred.to(dtype), target.to(dtype)


def overlap(a, b):
    """IoU, union, and width and height of the enclosing box."""
    inner = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    enclosing = np.maximum(a[:, 2:], b[:, 2:]) - np.minimum(a[:, :2], b[:, :2])
    return np.where(union < 1e-7, 0, inner / np.maximum(union, 1e-7)), union, enclosing


def quotient(a, b):
    return a / np.maximum(b, 1e-7)


def box_reference(row, a, b):
    """The loss of boxes (n, 4)."""
    arguments = row.arguments
    wh, target_wh = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    offset = ((b[:, :2] + b[:, 2:]) - (a[:, :2] + a[:, 2:])) / 2
    if row.kind == 'NWDLoss':
        distance = np.sqrt((offset**2).sum(1) + ((wh - target_wh) ** 2).sum(1) / 4)
        return 1 - np.exp(-distance / arguments.get('constant', 12.8))
    iou, union, enclosing = overlap(a, b)
    squared, diagonal = (offset**2).sum(1), (enclosing**2).sum(1)
    distance, side = quotient(squared, diagonal), quotient(abs(wh - target_wh), np.maximum(wh, target_wh))
    edge = quotient(abs(a - b).reshape(-1, 2, 2).sum(1), target_wh).sum(1) / 4
    variant = arguments['variant']
    if variant == 'iou':
        terms = []
    elif variant == 'giou':
        terms = [quotient(np.clip(enclosing.prod(1) - union, 0, None), enclosing.prod(1))]
    elif variant == 'diou':
        terms = [distance]
    elif variant == 'ciou':
        angle, target_angle = (np.arctan2(*np.maximum(sides, 1e-7).T) for sides in (wh, target_wh))
        v = 4 / math.pi**2 * (angle - target_angle) ** 2
        terms = [distance, quotient(v, 1 - iou + v) * v]
    elif variant == 'eiou':
        terms = [distance, *quotient((wh - target_wh) ** 2, enclosing**2).T]
    elif variant == 'siou':
        angle = quotient(2 * abs(offset.prod(1)), squared)
        costs = 1 - np.exp(-(2 - angle[:, None]) * quotient(offset**2, enclosing**2)) + (1 - np.exp(-side)) ** 4
        terms = [costs.sum(1) / 2]
    elif variant == 'shape':
        powers = np.maximum(target_wh, 1e-7) ** arguments['scale']
        weight = 2 * powers / powers.sum(1, keepdims=True)
        weight = weight[:, ::-1]  # The height weighs the distance along x, and the widths.
        terms = [quotient((weight * offset**2).sum(1), diagonal), ((1 - np.exp(-weight * side)) ** 4).sum(1) / 2]
    elif variant == 'mpdiou':
        corners = ((a - b) ** 2).reshape(-1, 2, 2).sum(2) / (IMAGE_SIZE[0] ** 2 + IMAGE_SIZE[1] ** 2)
        terms = list(corners.T)
    elif variant == 'piou':
        terms = [1 - np.exp(-(edge**2))]
    elif variant == 'interp':
        share = np.clip(1 - iou, 0.6, 0.99)[:, None]
        terms = [1 - overlap((1 - share) * a + share * b, b)[0]]
    similarity, alpha = iou, arguments.get('alpha', 1)
    if 'inner_ratio' in arguments:
        similarity = overlap(scaled(a, arguments['inner_ratio']), scaled(b, arguments['inner_ratio']))[0]
    if 'interval' in arguments:
        low, high = arguments['interval']
        similarity = np.clip((similarity - low) / (high - low), 0, 1)
    loss = 1 - similarity**alpha + sum(term**alpha for term in terms)
    return loss * focus_reference(arguments.get('focus'), iou, distance, edge)


def scaled(boxes, ratio):
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * ratio
    return np.concatenate([center - half, center + half], 1)


def focus_reference(focus, iou, distance, edge):
    if focus is None:
        return 1
    if focus['type'] == 'mmext.FocalFocus':
        return iou**0.5
    if focus['type'] == 'mmext.PIoUFocus':
        z = 1.3 * np.exp(-edge)
        return 3 * z * np.exp(-(z**2))
    beta, version = (1 - iou) / MEAN, focus.get('version', 3)
    gain = {1: 1, 2: beta**0.5, 3: beta / (3 * 1.9 ** (beta - 3))}[version]
    return gain * np.exp(distance)


def per_class(numbers):
    """A loss keeps a list in float32."""
    return np.float32(numbers).astype(float) if isinstance(numbers, list) else np.asarray(numbers, dtype=float)


def sigmoid_reference(row, x, t):
    """The loss of logits, or of probabilities, and scores (n, C)."""
    given, p = row.arguments, 1 / (1 + np.exp(-x))
    if given.get('activated'):
        x, p = np.log(x) - np.log1p(-x), x
    bce = lambda target: np.maximum(x, 0) - x * target + np.log1p(np.exp(-abs(x)))  # noqa: E731
    reject = 1 / (1 + np.exp(x))
    miss = t * reject + (1 - t) * p
    gamma, alpha = given.get('gamma', 2.0), per_class(given.get('alpha', 0.25))
    balance = alpha * t + (1 - alpha) * (1 - t)
    if row.kind == 'FocalLoss':
        loss = balance * miss**gamma * bce(t)
    elif row.kind == 'PolyFocalLoss':
        loss = (
            miss**gamma
            * (bce(t) + given.get('epsilon', 1.0) * miss)
            * (balance if given.get('alpha') is not None else 1)
        )
    elif row.kind == 'QualityFocalLoss':
        loss = abs(t - p) ** given.get('beta', 2.0) * bce(t)
    elif row.kind == 'VarifocalLoss':
        negative = per_class(given.get('alpha', 0.75)) * p**gamma
        loss = np.where(t > 0, t if given.get('iou_weighted', True) else 1, negative) * bce(t)
    elif row.kind == 'MALoss':
        gamma = given.get('gamma', 1.5)
        loss = np.where(t > 0, bce(np.where(t > 0, t, 1) ** gamma), p**gamma * bce(0))
    elif row.kind == 'IABCELoss':
        share = given.get('alpha', 0.25)
        quality = np.maximum(p**share * np.where(t > 0, t, 1) ** (1 - share), 0.01)
        loss = np.where(t > 0, bce(quality), p**gamma * bce(0))
    elif row.kind == 'AsymmetricLoss':
        clip = given.get('clip', 0.05)
        shifted = np.maximum(p - clip, 0) if clip else p
        log_reject = np.log1p(-shifted) if clip else -np.logaddexp(0, x)
        positive = reject ** given.get('gamma_pos', 1.0) * np.logaddexp(0, -x)
        loss = t * positive - (1 - t) * shifted ** given.get('gamma_neg', 4.0) * log_reject
    loss = loss * np.asarray(given.get('class_weight', 1.0))
    return loss.sum(1) if row.kind == 'QualityFocalLoss' else loss


def softmax_reference(row, x, label):
    log_p = x - x.max(1, keepdims=True)
    log_p = (log_p - np.log(np.exp(log_p).sum(1, keepdims=True)))[np.arange(len(x)), label]
    alpha = row.arguments.get('alpha')
    if alpha is None:
        balance = 1
    else:
        balance = per_class(alpha)[label] if isinstance(alpha, list) else np.where(label == 0, alpha, 1 - alpha)
    return -balance * (1 - np.exp(log_p)) ** row.arguments.get('gamma', 2.0) * log_p


def inputs_and_reference(row, dtype, number, boxes=pairs):
    if row in BOX_LOSSES:
        pred, target = boxes(number, dtype)
        return pred, target, box_reference(row, pred.double().numpy(), target.double().numpy())
    generator = torch.Generator().manual_seed(0)
    logit = torch.randn(number, 3, generator=generator, dtype=torch.float64) * 6
    if row in SOFTMAX_LOSSES:
        label, logit = torch.randint(0, 3, (number,), generator=generator), logit.to(dtype)
        return logit, label, softmax_reference(row, logit.double().numpy(), label.numpy())
    score = torch.rand(number, 3, generator=generator, dtype=torch.float64)
    score = (score * (torch.rand(number, 3, generator=generator) > 0.5)).to(dtype)
    if row.arguments.get('activated'):
        # Not so near to 1 that it rounds to it: there the loss clamps it.
        logit = logit.clamp(-4, 4).sigmoid()
    logit = logit.to(dtype)
    return logit, score, sigmoid_reference(row, logit.double().numpy(), score.double().numpy())


def smallest_power(row) -> float:
    """The lowest power below 1 in the formula; 1 if there is none."""
    name = {'IoULoss': 'alpha', 'QualityFocalLoss': 'beta', 'AsymmetricLoss': ''}.get(row.kind, 'gamma')
    focus = 0.5 if {'FocalFocus', 'WiseFocus 2'} & set(row.parts) else 1
    powers = [value for key, value in row.arguments.items() if key in (name, 'gamma_pos', 'gamma_neg')]
    return min([power for power in (focus, *powers) if power > 0])


def bound(row, dtype) -> float:
    """A base of a power below 1 counts as 0 below the machine epsilon, in up to four terms; see `numerics.power`."""
    dtype = torch.promote_types(dtype, torch.float32)
    power = smallest_power(row)
    return BOUNDS[dtype] if power == 1 else BOUNDS[dtype] + 4 * torch.finfo(dtype).eps ** power


def error(ours, reference) -> float:
    """The largest error, relative to 1 + the reference; NaN if there is one."""
    return float(np.max(abs(ours - reference) / (1 + abs(reference)), initial=0))


def error_of_values(row, dtype, number, boxes=pairs) -> float:
    pred, target, reference = inputs_and_reference(row, dtype, number, boxes)
    return error(row.build()(pred, target).double().numpy(), reference)


def gradient(row, pred, target):
    pred = pred.clone().requires_grad_()
    return torch.autograd.grad(row.build()(pred, target).sum(), pred)[0]


def widened(tensor, dtype):
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def errors_of_gradients(row, pred, target) -> np.ndarray:
    """Of float32 against float64, which `test_gradient` checks by differences; times the smallest side for boxes.

    Relative to 1 + the gradient, the largest of each row.
    """
    ours = gradient(row, pred, target).double()
    reference = gradient(row, pred.double(), widened(target, torch.float64))
    if row in BOX_LOSSES:
        side = torch.minimum(*(boxes[:, 2:] - boxes[:, :2] for boxes in (pred, target))).amin(1, keepdim=True)
        ours, reference = ours * side, reference * side
    return ((ours - reference).abs() / (1 + reference.abs())).amax(1).numpy()


def away_from_kinks(pred, target) -> np.ndarray:
    """Whether no two edges of a pair, left and right or upper and lower, are nearer than a hundredth of a side."""
    side = torch.minimum(*(boxes[:, 2:] - boxes[:, :2] for boxes in (pred, target))).amin(1, keepdim=True)
    gaps = torch.cat([pred - target, pred - target.roll(2, 1)], 1).abs()
    return (gaps > side / 100).all(1).numpy()


@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('row', LOSSES, ids=str)
def test_value(row, dtype):
    assert error_of_values(row, dtype, 150) <= bound(row, dtype)


# The powers of its distances in diagonals of the image saturate.
ANY_SIZE = [
    row for row in BOX_LOSSES if not (row.arguments.get('variant') == 'mpdiou' and row.arguments.get('alpha', 1) > 2)
]


@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('row', ANY_SIZE, ids=str)
def test_value_at_any_size(row, dtype):
    assert error_of_values(row, dtype, 300, pairs_of_any_size) <= bound(row, dtype)


# Near 0 the slope of such a power is infinite: any rounding of the base changes the gradient without limit.
SMOOTH = [row for row in LOSSES if smallest_power(row) == 1]


def largest_error_of_gradients(row, number) -> float:
    """In float32, away from the kinks of box losses."""
    pred, target, _ = inputs_and_reference(row, torch.float32, number)
    errors = errors_of_gradients(row, pred, target)
    return (errors[away_from_kinks(pred, target)] if row in BOX_LOSSES else errors).max()


@pytest.mark.parametrize('row', SMOOTH, ids=str)
def test_gradient_in_float32(row):
    assert largest_error_of_gradients(row, 300) <= 1e-5


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('row', LOSSES, ids=str)
def test_gradient_in_half_is_that_of_the_same_numbers_in_float32(row, dtype):
    """Rounded once, at the end: what is lost is lost in the rounding of the input."""
    pred, target, _ = inputs_and_reference(row, dtype, 150)
    expected = gradient(row, pred.float(), widened(target, torch.float32))
    if row in BOX_LOSSES:
        expected = expected.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    torch.testing.assert_close(gradient(row, pred, target), expected.to(dtype), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', TYPES)
@pytest.mark.parametrize('row', LOSSES, ids=str)
def test_ten_million_pairs(row, dtype):
    """Of all rows together, for each type."""
    number = 10**7 // len(LOSSES) + 1
    assert error_of_values(row, dtype, number) <= bound(row, dtype)


@pytest.mark.slow
@pytest.mark.parametrize('row', SMOOTH, ids=str)
def test_ten_million_gradients_in_float32(row):
    """Of all rows together."""
    assert largest_error_of_gradients(row, 10**7 // len(SMOOTH) + 1) <= 1e-4
