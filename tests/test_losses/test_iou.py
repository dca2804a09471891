"""Losses of the IoU family: vectors, relations, and a battery over the table of variants."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models import losses as mmdet_losses

from mmext.losses import VARIANTS, IoULoss, iou_loss

ALPHAS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 6.0)

# p0, p1, p2, p7: same width; touching; apart; concentric.
PAIRS = [
    ([0, 0, 10, 10], [0, 0, 10, 20]),
    ([10, 10, 20, 20], [0, 10, 10, 19]),
    ([32, 32, 38, 42], [10, 10, 20, 20]),
    ([4, 4, 6, 6], [0, 0, 10, 10]),
]
# A: IoU 1/2, rho2/c2 = 1/20, v = .0419565, trade-off .0774167. B: IoU 0, U 3, C 5, rho2/c2 = 12.25/26.
A = ([0, 0, 4, 2], [0, 0, 2, 2])
B = ([0, 0, 1, 1], [3, 0, 5, 1])
B1, B2, B3, B4 = [-1, -1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 2], [1, 1, 2, 2]
VECTORS = {
    ('iou', 1): [0.5, 1.0, 1.0, 0.96],
    ('iou', 2): [0.75, 1.0, 1.0, 0.9984],
    ('giou', 1): [0.5, 1.05, 1.82142857, 0.96],
    ('diou', 1): [0.55, 1.2005, 1.48893805, 0.96],
    ('ciou', 1): [0.55324813, 1.20050125, 1.48951561, 0.96],
    ('eiou', 1): [0.8, 1.2105, 1.50934622, 2.24],
    ('iou', 3): [0.875, 1.0, 1.0, 0.999936],
    ('giou', 3): [0.875, 1.000125, 1.55425474, 0.999936],
    ('diou', 3): [0.875125, 1.00806015, 1.11688574, 0.999936],
    ('ciou', 3): [0.87512503, 1.00806015, 1.11688574, 0.999936],
    ('eiou', 3): [0.89075, 1.00806115, 1.11689424, 1.524224],
}
WRITTEN_OUT = [
    ('iou', A, 1 - 1 / 2, 1 - 1 / 8),
    ('giou', A, 1 - 1 / 2, 1 - 1 / 8),
    ('diou', A, 1 / 2 + 1 / 20, 7 / 8 + 1 / 20**3),
    ('ciou', A, 1 / 2 + 1 / 20 + 0.0774167 * 0.0419565, 7 / 8 + 1 / 20**3 + (0.0774167 * 0.0419565) ** 3),
    ('eiou', A, 1 / 2 + 1 / 20 + (2 / 4) ** 2, 7 / 8 + 1 / 20**3 + (2 / 4) ** 6),
    ('iou', B, 1, 1),
    ('giou', B, 1 + 2 / 5, 1 + (2 / 5) ** 3),
    ('diou', B, 1 + 12.25 / 26, 1 + (12.25 / 26) ** 3),
    ('ciou', B, 1.4728433, 1.1045895),
    ('eiou', B, 1 + 12.25 / 26 + (1 / 5) ** 2, 1 + (12.25 / 26) ** 3 + (1 / 5) ** 6),
    ('giou', (B1, B2), 0.75, None),
    ('giou', (B2, B3), 1.0, None),
    ('giou', (B2, B4), 1.5, None),
    ('diou', (B1, B2), 0.8125, None),
    ('diou', (B1, B3), 1.1923077, None),
    ('ciou', (B1, B4), 1.25, None),
]

# Identical, apart, concentric, zero width, zero height, a point, inverted, tiny, huge, thin.
DEGENERATE = [
    [0, 0, 10, 10],
    [20, 30, 25, 60],
    [4, 4, 6, 6],
    [5, 0, 5, 10],
    [0, 5, 10, 5],
    [5, 5, 5, 5],
    [10, 10, 0, 0],
    [1e-20, 0, 2e-20, 3e-20],
    [-1e6, -1e6, 1e6, 1e6],
    [1e6, 1e6, 1e6 + 8, 1e6 + 8],
    [0, 0, 1e6, 1e-3],
    [-3e38, -3e38, 3e38, 3e38],
]


def boxes(*rows, dtype=torch.float64, grad=False):
    return torch.tensor(rows, dtype=dtype).requires_grad_(grad)


def random_pairs(number=64, dtype=torch.float64):
    """Valid boxes, not square, some apart and some close."""
    generator = torch.Generator().manual_seed(0)
    top_left = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 50
    sides = torch.rand(number, 2, generator=generator, dtype=torch.float64) * 40 + 1
    pred = torch.cat([top_left, top_left + sides], -1)
    target = pred + torch.randn(number, 4, generator=generator, dtype=torch.float64) * 3
    target[::4] += 60
    target[:, 2:] = torch.maximum(target[:, 2:], target[:, :2] + 1)
    return pred.to(dtype), target.to(dtype)


def loss_and_gradients(pred, target, **arguments):
    pred, target = pred.clone().requires_grad_(), target.clone().requires_grad_()
    loss = iou_loss(pred, target, **arguments)
    loss.sum().backward()
    return loss.detach(), pred.grad, target.grad


@pytest.mark.parametrize(('variant', 'alpha'), VECTORS)
def test_vectors(variant, alpha):
    pred, target = (boxes(*rows) for rows in zip(*PAIRS))
    expected = torch.tensor(VECTORS[variant, alpha], dtype=torch.float64)
    torch.testing.assert_close(iou_loss(pred, target, variant, alpha), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(('variant', 'pair', 'classical', 'cubed'), WRITTEN_OUT)
def test_vectors_written_out(variant, pair, classical, cubed):
    pred, target = boxes(pair[0]), boxes(pair[1])
    assert iou_loss(pred, target, variant).item() == pytest.approx(classical, abs=1e-7)
    if cubed is not None:
        assert iou_loss(pred, target, variant, alpha=3.0).item() == pytest.approx(cubed, abs=1e-7)


def test_every_variant_has_vectors():
    assert {variant for variant, _ in VECTORS} == set(VARIANTS)
    assert {row[0] for row in WRITTEN_OUT} == set(VARIANTS)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('alpha', ALPHAS)
class TestEveryVariantAndAlpha:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    def test_finite_for_finite_boxes(self, variant, alpha, dtype):
        pred, target = (boxes(*rows, dtype=dtype) for rows in zip(*itertools.product(DEGENERATE, repeat=2)))
        for values in loss_and_gradients(pred, target, variant=variant, alpha=alpha):
            assert values.isfinite().all()

    def test_finite_in_float16(self, variant, alpha):
        sizes = [0.01, 1, 17, 600, 30000]
        rows = [[x, x, x + side, x + side / 2] for x, side in itertools.product([0, 3, 600], sizes)]
        pred, target = (boxes(*rows, dtype=torch.float16) for rows in zip(*itertools.product(rows, repeat=2)))
        for values in loss_and_gradients(pred, target, variant=variant, alpha=alpha):
            assert values.isfinite().all()

    @pytest.mark.parametrize('side', [0.01, 1.0, 32.0, 1e5])
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
    def test_identical_boxes_have_no_loss(self, variant, alpha, side, dtype):
        box = boxes([3.0, 7.0, 3.0 + side, 7.0 + 2 * side], dtype=dtype)
        loss, *gradients = loss_and_gradients(box, box, variant=variant, alpha=alpha)
        assert loss.item() == 0
        assert all(gradient.isfinite().all() for gradient in gradients)

    def test_same_in_any_unit_and_place(self, variant, alpha):
        pred, target = random_pairs()
        expected = iou_loss(pred, target, variant, alpha)
        torch.testing.assert_close(iou_loss(pred * 8 + 100, target * 8 + 100, variant, alpha), expected)

    def test_symmetric(self, variant, alpha):
        pred, target = random_pairs()
        torch.testing.assert_close(iou_loss(target, pred, variant, alpha), iou_loss(pred, target, variant, alpha))

    def test_never_falls_as_the_box_moves_away(self, variant, alpha):
        target = boxes(*[[0, 0, 10, 20]] * 60)
        pred = target + torch.linspace(0, 60, 60, dtype=torch.float64).unsqueeze(-1)
        assert (iou_loss(pred, target, variant, alpha).diff() >= -1e-12).all()

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
    def test_narrow_types_are_computed_in_float32(self, variant, alpha, dtype):
        pred, target = random_pairs(dtype=dtype)
        loss = iou_loss(pred, target, variant, alpha)
        assert loss.dtype == torch.float32
        expected = iou_loss(pred.double(), target.double(), variant, alpha)
        # Below the resolution of float32 a term counts as 0 where alpha < 1: eps**0.5 is 3.5e-4.
        torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5 if alpha >= 1 else 5e-4)

    def test_compiles_whole(self, variant, alpha):
        """Without a graph break; inductor's own code is for the machine that trains."""
        pred, target = random_pairs()
        torch.compiler.reset()
        compiled = torch.compile(iou_loss, fullgraph=True, backend='aot_eager')
        torch.testing.assert_close(compiled(pred, target, variant, alpha), iou_loss(pred, target, variant, alpha))


@pytest.mark.parametrize('variant', sorted(set(VARIANTS) - {'ciou'}))
@pytest.mark.parametrize('alpha', [0.5, 1.0, 3.0])
def test_gradient(variant, alpha):
    """All but ciou, whose trade-off is held constant."""
    pred, target = random_pairs(12)
    assert torch.autograd.gradcheck(
        lambda pred, target: iou_loss(pred, target, variant, alpha), (pred.requires_grad_(), target.requires_grad_())
    )


def test_trade_off_of_ciou_is_held_constant():
    """The gradient equals that of the formula with the trade-off's number in its place."""
    pred, target = boxes([0, 0, 4, 2], grad=True), boxes([0, 0, 2, 2])
    iou_loss(pred, target, 'ciou').backward()
    frozen = boxes([0, 0, 4, 2], grad=True)
    wh = frozen[:, 2:] - frozen[:, :2]
    aspect = 4 / torch.pi**2 * (torch.atan2(wh.new_tensor(2.0), wh.new_tensor(2.0)) - torch.atan2(*wh[0])) ** 2
    trade_off = (aspect / (1 - 0.5 + aspect)).item()
    (iou_loss(frozen, target, 'diou') + trade_off * aspect).backward()
    torch.testing.assert_close(pred.grad, frozen.grad)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8),
    st.sampled_from(sorted(VARIANTS)),
    st.floats(0.5, 6),
)
def test_finite_for_any_eight_floats(numbers, variant, alpha):
    pred, target = torch.tensor(numbers, dtype=torch.float32).view(2, 1, 4)
    for values in loss_and_gradients(pred, target, variant=variant, alpha=alpha):
        assert values.isfinite().all()


def test_gradient_of_float16_boxes_saturates():
    """The true gradient of a sliver is beyond float16."""
    pred = torch.tensor([[0.0, 0, 1e-4, 1e-3]], dtype=torch.float16, requires_grad=True)
    (iou_loss(pred, pred.detach() * 2, 'diou') * 1e6).sum().backward()
    assert pred.grad.isfinite().all()
    assert pred.grad.abs().max() == torch.finfo(torch.float16).max


class TestRelations:
    def test_alpha_two_is_yolox_stock_loss(self):
        pred, target = random_pairs()
        stock = mmdet_losses.IoULoss(mode='square', eps=1e-16, reduction='none')
        torch.testing.assert_close(iou_loss(pred, target, alpha=2.0), stock(pred, target))

    @pytest.mark.parametrize(('variant', 'name'), [('giou', 'GIoULoss'), ('diou', 'DIoULoss')])
    def test_equals_mmdet(self, variant, name):
        pred, target = random_pairs()
        pred.requires_grad_()
        peer = getattr(mmdet_losses, name)(eps=1e-16, reduction='none')
        ours, theirs = iou_loss(pred, target, variant), peer(pred, target)
        torch.testing.assert_close(ours, theirs)
        gradients = [torch.autograd.grad(loss.sum(), pred)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients)

    def test_ciou_equals_mmdet_where_it_is_gated_open(self):
        """mmdet's CIoU has no aspect term for IoU <= 0.5, and is NaN for identical boxes."""
        pred, target = random_pairs()
        ious = 1 - iou_loss(pred, target)
        peer = mmdet_losses.CIoULoss(eps=1e-16, reduction='none')(pred, target)
        torch.testing.assert_close(iou_loss(pred, target, 'ciou')[ious > 0.5], peer[ious > 0.5])
        box = boxes([0, 0, 100, 200], dtype=torch.float32)
        assert mmdet_losses.CIoULoss()(box, box).isnan()
        assert iou_loss(box, box, 'ciou').item() == 0

    def test_penalties_vanish_where_they_should(self):
        pred, target = random_pairs()
        same_size = torch.cat([target[:, :2], target[:, :2] + pred[:, 2:] - pred[:, :2]], -1)
        expected = iou_loss(pred, same_size, 'diou')
        torch.testing.assert_close(iou_loss(pred, same_size, 'eiou'), expected)
        torch.testing.assert_close(iou_loss(pred, same_size, 'ciou'), expected)


class TestModule:
    def test_equals_the_function(self):
        pred, target = random_pairs()
        module = IoULoss('ciou', alpha=3.0, reduction='none', loss_weight=5.0)
        torch.testing.assert_close(module(pred, target), 5 * iou_loss(pred, target, 'ciou', 3.0))

    def test_weight_of_four_columns_is_averaged(self):
        pred, target = random_pairs()
        weight = torch.rand(len(pred), 4, dtype=torch.float64)
        loss = IoULoss(reduction='sum')
        torch.testing.assert_close(loss(pred, target, weight), loss(pred, target, weight.mean(-1)))

    @pytest.mark.parametrize(
        'arguments',
        [{'variant': 'gious'}, {'alpha': 0}, {'alpha': -1.0}, {'alpha': float('nan')}, {'alpha': 'two'}, {'eps': 0.0}],
    )
    def test_refuses_bad_arguments(self, arguments):
        ((name, value),) = arguments.items()
        with pytest.raises(ValueError, match=name) as error:
            IoULoss(**arguments)
        assert str(value).rstrip('.0') in str(error.value)

    def test_refuses_unknown_arguments(self):
        with pytest.raises(TypeError, match='mode'):
            IoULoss(mode='square')

    @pytest.mark.parametrize(('pred', 'target'), [((3, 4), (2, 4)), ((3, 5), (3, 5)), ((4,), (1, 4))])
    def test_refuses_shapes_that_are_no_pairs(self, pred, target):
        with pytest.raises(ValueError, match='aligned boxes'):
            iou_loss(torch.zeros(pred), torch.zeros(target))

    @pytest.mark.parametrize('arguments', [{'variant': 'gious'}, {'alpha': 0.0}, {'alpha': -2.0}])
    def test_function_refuses_bad_arguments(self, arguments):
        with pytest.raises(ValueError, match=str(*arguments.values())):
            iou_loss(torch.zeros(1, 4), torch.zeros(1, 4), **arguments)
