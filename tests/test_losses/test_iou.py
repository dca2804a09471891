"""Box losses: independent numbers, relations, and a battery over the table of box losses."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models import losses as mmdet_losses
from table import BOX_LOSSES, CHANGES, EXEMPT, IMAGE_SIZE, VARIANT_KWARGS, Loss

from mmext import losses
from mmext.losses import VARIANTS, IoULoss, iou_loss
from mmext.losses.box_pair import BoxPair

VECTORS = json.loads(Path(__file__).with_name('vectors.json').read_text())
# A: IoU 1/2, rho2/c2 = 1/20, v = .0419565, trade-off .0774167. B: IoU 0, U 3, C 5, rho2/c2 = 12.25/26.
A = ([0, 0, 4, 2], [0, 0, 2, 2])
B = ([0, 0, 1, 1], [3, 0, 5, 1])
# D: no side equal, offset in both directions: I = 9, U = 23, dx = 3/2, dy = 1/2, cw = 6, ch = 4, c2 = 52.
D = ([0, 0, 5, 4], [2, 1, 6, 4])
B1, B2, B3, B4 = [-1, -1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 2], [1, 1, 2, 2]


def e(exponent):
    return 1 - torch.e**-exponent


WRITTEN_OUT = [
    ('iou', A, 1 - 1 / 2, 1 - 1 / 8),
    ('giou', A, 1 - 1 / 2, 1 - 1 / 8),
    ('diou', A, 1 / 2 + 1 / 20, 7 / 8 + 1 / 20**3),
    ('ciou', A, 1 / 2 + 1 / 20 + 0.0774167 * 0.0419565, 7 / 8 + 1 / 20**3 + (0.0774167 * 0.0419565) ** 3),
    ('eiou', A, 1 / 2 + 1 / 20 + (2 / 4) ** 2, 7 / 8 + 1 / 20**3 + (2 / 4) ** 6),
    ('siou', A, 0.5707359, 0.8753539),
    ('iou', B, 1, 1),
    ('giou', B, 1 + 2 / 5, 1 + (2 / 5) ** 3),
    ('diou', B, 1 + 12.25 / 26, 1 + (12.25 / 26) ** 3),
    ('ciou', B, 1.4728433, 1.1045895),
    ('eiou', B, 1 + 12.25 / 26 + (1 / 5) ** 2, 1 + (12.25 / 26) ** 3 + (1 / 5) ** 6),
    ('siou', B, 1.3243288, 1.0341159),
    # Lambda = 2 * 1.5 * .5 / 2.5 = .6, so the distance's exponents are 1.4 r; the sides differ by 1/5 and 1/4.
    ('siou', D, 1 - 9 / 23 + (e(1.4 / 16) + e(1.4 / 64) + e(1 / 5) ** 4 + e(1 / 4) ** 4) / 2, None),
    ('shape', D, 1 - 9 / 23 + (1.5**2 + 0.5**2) / 52 + (e(1 / 5) ** 4 + e(1 / 4) ** 4) / 2, None),
    # The squared distances of the corners are 5 and 1.
    ('mpdiou', D, 1 - 9 / 23 + (5 + 1) / (640**2 + 480**2), None),
    # P = ((2 + 1) / 4 + (1 + 0) / 3) / 4.
    ('piou', D, 1 - 9 / 23 + e(((3 / 4 + 1 / 3) / 4) ** 2), 1 - (9 / 23) ** 3 + e(((3 / 4 + 1 / 3) / 4) ** 2) ** 3),
    # a is 0.6, so B' is (0, 0, 2.8, 2); for the distant pair a is 0.99 and B' (2.97, 0, 4.96, 1).
    ('interp', A, 1 / 2 + (1 - 4 / 5.6), 7 / 8 + (1 - 4 / 5.6) ** 3),
    ('interp', B, 1 + (1 - 1.96 / 2.03), 1 + (1 - 1.96 / 2.03) ** 3),
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


def loss_and_gradients(loss, pred, target):
    pred, target = pred.clone().requires_grad_(), target.clone().requires_grad_()
    values = loss(pred, target)
    values.sum().backward()
    return values.detach(), pred.grad, target.grad


@pytest.mark.parametrize('vector', VECTORS['losses'], ids=lambda vector: vector['name'])
def test_vectors(vector):
    """Computed by code that knows nothing of mmext, and checked against the public implementation of each loss."""
    loss = getattr(losses, vector['type'])(reduction='none', **vector['arguments']).eval()
    if 'mean' in vector:
        loss.focus.mean.fill_(vector['mean'])
    pred, target = (boxes(*rows) for rows in zip(*VECTORS['pairs']))
    expected = torch.tensor(vector['values'], dtype=torch.float64)
    torch.testing.assert_close(loss(pred, target), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(('variant', 'pair', 'classical', 'cubed'), WRITTEN_OUT)
def test_vectors_written_out(variant, pair, classical, cubed):
    pred, target = boxes(pair[0]), boxes(pair[1])
    own = {'image_size': IMAGE_SIZE} if variant == 'mpdiou' else {}
    assert iou_loss(pred, target, variant, **own).item() == pytest.approx(classical, abs=1e-7)
    if cubed is not None:
        assert iou_loss(pred, target, variant, alpha=3.0, **own).item() == pytest.approx(cubed, abs=1e-7)


def test_every_variant_has_vectors():
    assert {vector['arguments'].get('variant', 'iou') for vector in VECTORS['losses']} == set(VARIANTS)
    assert {row[0] for row in WRITTEN_OUT} == set(VARIANTS)


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_box_without_width_grows(variant):
    """Half precision and large coordinates round a small side away."""
    pred, target = boxes([5.0, 2, 5, 8]).requires_grad_(), boxes([0.0, 0, 10, 10])
    iou_loss(pred, target, variant, **VARIANT_KWARGS[variant]).sum().backward()
    assert pred.grad[0, 0] > 0.05
    assert pred.grad[0, 2] < -0.05


@pytest.mark.parametrize('row', BOX_LOSSES, ids=str)
class TestEveryBoxLoss:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    def test_finite_for_finite_boxes(self, row, dtype):
        pred, target = (boxes(*rows, dtype=dtype) for rows in zip(*itertools.product(DEGENERATE, repeat=2)))
        for values in loss_and_gradients(row.build(), pred, target):
            assert values.isfinite().all()

    def test_finite_in_float16(self, row):
        sizes = [0.01, 1, 17, 600, 30000]
        rows = [[x, x, x + side, x + side / 2] for x, side in itertools.product([0, 3, 600], sizes)]
        pred, target = (boxes(*rows, dtype=torch.float16) for rows in zip(*itertools.product(rows, repeat=2)))
        for values in loss_and_gradients(row.build(), pred, target):
            assert values.isfinite().all()

    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
    def test_identical_boxes_have_no_loss(self, row, dtype):
        box = boxes(*[[3.0, 7.0, 3.0 + side, 7.0 + 2 * side] for side in (0.01, 1.0, 32.0, 1e5)], dtype=dtype)
        loss, *gradients = loss_and_gradients(row.build(), box, box)
        assert (loss == 0).all()
        assert all(gradient.isfinite().all() for gradient in gradients)

    def test_same_in_any_place(self, row):
        pred, target = random_pairs()
        torch.testing.assert_close(row.build()(pred + 100, target + 100), row.build()(pred, target))

    def test_same_in_any_unit(self, row):
        pred, target = random_pairs()
        self.holds(row, 'scale', torch.allclose(row.build()(pred * 8, target * 8), row.build()(pred, target)))

    def test_symmetric(self, row):
        pred, target = random_pairs()
        self.holds(row, 'symmetric', torch.allclose(row.build()(target, pred), row.build()(pred, target)))

    def test_never_falls_as_the_box_moves_away(self, row):
        target = boxes(*[[0, 0, 10, 20]] * 60)
        pred = target + torch.linspace(0, 60, 60, dtype=torch.float64).unsqueeze(-1)
        self.holds(row, 'monotone', (row.build()(pred, target).diff() >= -1e-12).all())

    @staticmethod
    def holds(row, trait, truth):
        """The loss has the property, or a part that is exempt; by itself that part must lack the property."""
        exempt = {part for part in row.parts if (part, trait) in EXEMPT}
        if not exempt:
            assert truth
        elif set(row.parts) <= {'iou', *exempt}:
            assert not truth, f'{exempt} needs no exemption from {trait!r}'


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False), min_size=8, max_size=8),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.sampled_from(BOX_LOSSES),
    st.floats(0.5, 6),
)
def test_finite_for_any_eight_floats(numbers, dtype, row, alpha):
    """Denormal and infinite ones too; those beyond the type's range become infinite."""
    pred, target = torch.tensor(numbers, dtype=torch.float64).to(dtype).view(2, 1, 4)
    loss = row.build(**({'alpha': alpha} if row.kind == 'IoULoss' else {}))
    for values in loss_and_gradients(loss, pred, target):
        assert values.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('gap', [1e-30, 3e-40, 1e-44])
def test_a_subnormal_gap_is_no_overlap(gap, dtype):
    """The IoU is 0, not a negative number without a power."""
    pred, target = boxes([0.0, gap, 1, 1], dtype=dtype), boxes([0.0, -1, 1, 0], dtype=dtype)
    assert BoxPair(pred, target).iou.item() == 0
    for values in loss_and_gradients(IoULoss(alpha=1.5, reduction='none'), pred, target):
        assert values.isfinite().all()


# Coordinates in pixels, on a grid that shifts and factors leave exact.
pixels = st.integers(0, 4096).map(lambda number: number / 8)
sides = st.integers(1, 4096).map(lambda number: number / 8)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(pixels, pixels, sides, sides), min_size=2, max_size=2), st.sampled_from(BOX_LOSSES))
def test_relations_of_any_two_boxes(pair, row):
    pred, target = boxes(*[[x, y, x + w, y + h] for x, y, w, h in pair]).unsqueeze(1)
    loss = row.build()
    value = loss(pred, target)
    assert value >= 0
    torch.testing.assert_close(loss(pred + 64, target + 64), value)
    if row.lacks('scale') is None:
        torch.testing.assert_close(loss(pred * 4, target * 4), value)
    if row.lacks('symmetric') is None:
        torch.testing.assert_close(loss(target, pred), value)
    assert loss(target, target) == 0


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

    @pytest.mark.parametrize(
        ('variant', 'peer'),
        [
            ('iou', mmdet_losses.IoULoss(mode='linear', eps=1e-16, reduction='none')),
            ('giou', mmdet_losses.GIoULoss(eps=1e-16, reduction='none')),
            ('diou', mmdet_losses.DIoULoss(eps=1e-16, reduction='none')),
            ('siou', mmdet_losses.SIoULoss(eps=1e-16, reduction='none', neg_gamma=True)),
        ],
    )
    def test_equals_mmdet(self, variant, peer):
        pred, target = random_pairs()
        pred.requires_grad_()
        ours, theirs = iou_loss(pred, target, variant), peer(pred, target)
        torch.testing.assert_close(ours, theirs)
        gradients = [torch.autograd.grad(loss.sum(), pred)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients)

    def test_rounding_makes_no_penalty_negative(self):
        """The enclosing box of nested boxes is their union."""
        generator = torch.Generator().manual_seed(0)
        corner, side, margin = (torch.rand(1000, 2, generator=generator) * 50 for _ in range(3))
        pred = torch.cat([corner, corner + side], -1)
        target = torch.cat([corner - margin, corner + side + margin], -1)
        (penalty,) = VARIANTS['giou'](BoxPair(pred, target))
        assert (penalty >= 0).all()

    def test_equal_edges_share_the_gradient(self):
        """As those of torch's minimum, which mmdet takes."""
        pred, target = boxes([0.0, 0, 10, 10], [2, 1, 10, 9], grad=True), boxes([0.0, 0, 8, 12], [3, 1, 10, 9])
        stock = mmdet_losses.IoULoss(mode='linear', eps=1e-16, reduction='none')
        gradients = [torch.autograd.grad(loss(pred, target).sum(), pred)[0] for loss in (iou_loss, stock)]
        torch.testing.assert_close(*gradients)

    def test_ciou_equals_mmdet_where_it_is_gated_open(self):
        """mmdet's CIoU has no aspect term for IoU <= 0.5."""
        pred, target = random_pairs()
        ious = 1 - iou_loss(pred, target)
        peer = mmdet_losses.CIoULoss(eps=1e-16, reduction='none')(pred, target)
        torch.testing.assert_close(iou_loss(pred, target, 'ciou')[ious > 0.5], peer[ious > 0.5])

    def test_penalties_vanish_where_they_should(self):
        pred, target = random_pairs()
        same_size = torch.cat([target[:, :2], target[:, :2] + pred[:, 2:] - pred[:, :2]], -1)
        expected = iou_loss(pred, same_size, 'diou')
        torch.testing.assert_close(iou_loss(pred, same_size, 'eiou'), expected)
        torch.testing.assert_close(iou_loss(pred, same_size, 'ciou'), expected)
        torch.testing.assert_close(iou_loss(pred, same_size, 'shape'), expected)

    def test_shape_weighs_the_short_side(self):
        """Of a target twice as high as wide, with scale 1: an offset in x counts 4/3, one in y 2/3."""
        target = boxes([0, 0, 10, 20], [0, 0, 10, 20])
        pred = target + boxes([1, 0, 1, 0], [0, 1, 0, 1])
        penalty = iou_loss(pred, target, 'shape', scale=1.0) - iou_loss(pred, target)
        diagonals = torch.tensor([11**2 + 20**2, 10**2 + 21**2])
        torch.testing.assert_close(penalty * diagonals, torch.tensor([4 / 3, 2 / 3], dtype=torch.float64))

    @pytest.mark.parametrize('variant', VARIANTS)
    def test_neutral_transforms(self, variant):
        pred, target = random_pairs()
        own = VARIANT_KWARGS[variant]
        expected = iou_loss(pred, target, variant, **own)
        torch.testing.assert_close(iou_loss(pred, target, variant, inner_ratio=1.0, **own), expected)
        torch.testing.assert_close(iou_loss(pred, target, variant, interval=(0, 1), **own), expected)

    @pytest.mark.parametrize('variant', VARIANTS)
    def test_transforms_change_the_overlap_alone(self, variant):
        pred, target = random_pairs()
        own = VARIANT_KWARGS[variant]
        penalty = iou_loss(pred, target, variant, **own) - iou_loss(pred, target)
        for change in ({'inner_ratio': 0.7}, {'interval': (0.2, 0.8)}, {'inner_ratio': 1.4, 'interval': (0.2, 0.8)}):
            changed = iou_loss(pred, target, variant, **change, **own) - iou_loss(pred, target, **change)
            torch.testing.assert_close(changed, penalty)

    def test_inner_iou_is_that_of_scaled_boxes(self):
        pred, target = boxes([0, 0, 10, 10]), boxes([4, 0, 14, 10])
        scaled = iou_loss(boxes([2, 2, 8, 8]), boxes([6, 2, 12, 8]))
        torch.testing.assert_close(iou_loss(pred, target, inner_ratio=0.6), scaled)


class TestModule:
    def test_equals_the_function(self):
        pred, target = random_pairs()
        module = IoULoss('ciou', alpha=3.0, inner_ratio=0.8, interval=(0.1, 0.9), reduction='none', loss_weight=5.0)
        expected = 5 * iou_loss(pred, target, 'ciou', 3.0, 0.8, (0.1, 0.9))
        torch.testing.assert_close(module(pred, target), expected)

    def test_weight_of_four_columns_is_averaged(self):
        pred, target = random_pairs()
        weight = torch.rand(len(pred), 4, dtype=torch.float64)
        for loss in (IoULoss(reduction='sum'), losses.NWDLoss(reduction='sum')):
            torch.testing.assert_close(loss(pred, target, weight), loss(pred, target, weight.mean(-1)))

    @pytest.mark.parametrize(
        'arguments',
        [
            *({'variant': 'gious'}, {'alpha': 0}, {'alpha': -1.0}, {'alpha': float('nan')}, {'alpha': 'two'}),
            *({'eps': 0.0}, {'inner_ratio': 0}, {'inner_ratio': -0.5}),
            *({'interval': (0.5,)}, {'interval': (0.9, 0.1)}, {'interval': (0, 1.5)}, {'interval': (-0.1, 1)}),
        ],
    )
    def test_refuses_bad_arguments(self, arguments):
        ((name, value),) = arguments.items()
        with pytest.raises(ValueError, match=name) as error:
            IoULoss(**arguments)
        assert str(value).rstrip('.0') in str(error.value)
        if name != 'eps':
            with pytest.raises(ValueError, match=f'iou_loss: {name}'):
                iou_loss(*random_pairs(), **arguments)

    @pytest.mark.parametrize('size', [(640,), (0, 640), (640, -1)])
    def test_refuses_bad_image_sizes(self, size):
        with pytest.raises(ValueError, match='image_size must be'):
            IoULoss('mpdiou', image_size=size)

    def test_refuses_a_negative_scale(self):
        with pytest.raises(ValueError, match='scale must be a number of at least 0, but is -1'):
            IoULoss('shape', scale=-1)

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'variant': 'giou', 'scale': 1.0}, "'giou' takes no argument 'scale'; it belongs to the variant 'shape'"),
            ({'variant': 'shape', 'image_size': (8, 8)}, "it belongs to the variant 'mpdiou'"),
            ({'mode': 'square'}, "'iou' takes no argument 'mode'. .* add _delete_=True"),
        ],
    )
    def test_refuses_what_a_variant_does_not_know(self, arguments, message):
        with pytest.raises(TypeError, match=message):
            IoULoss(**arguments)
        with pytest.raises(TypeError, match=message):
            iou_loss(*random_pairs(), **arguments)

    @pytest.mark.parametrize(('pred', 'target'), [((3, 4), (2, 4)), ((3, 5), (3, 5)), ((4,), (1, 4))])
    def test_refuses_shapes_that_are_no_pairs(self, pred, target):
        with pytest.raises(ValueError, match='aligned boxes'):
            iou_loss(torch.zeros(pred), torch.zeros(target))

    def test_shows_what_it_is(self):
        text = repr(IoULoss('shape', alpha=2.0, interval=(0, 0.9), focus={'type': 'mmext.WiseFocus'}, scale=1.0))
        for part in ('shape, alpha=2.0', 'interval=(0, 0.9)', 'scale=1.0', 'version=3', 'alpha=1.9'):
            assert part in text


class TestImageSize:
    """mpdiou measures in the diagonal of the network's input, which the head gives with each call."""

    def test_comes_with_the_call(self):
        pred, target = random_pairs()
        for size in ((640, 640), (320, 480)):
            loss = IoULoss('mpdiou', reduction='none')
            assert loss.needs_image_size
            expected = iou_loss(pred, target, 'mpdiou', image_size=size)
            torch.testing.assert_close(loss(pred, target, image_size=size), expected)

    def test_in_the_unit_of_the_boxes_it_has_no_unit(self):
        pred, target = random_pairs()
        expected = iou_loss(pred, target, 'mpdiou', image_size=(640, 480))
        torch.testing.assert_close(iou_loss(pred / 8, target / 8, 'mpdiou', image_size=(80, 60)), expected)

    def test_given_at_construction_it_is_fixed(self):
        pred, target = random_pairs()
        loss = IoULoss('mpdiou', reduction='none', image_size=(640, 480))
        assert not loss.needs_image_size
        expected = iou_loss(pred, target, 'mpdiou', image_size=(640, 480))
        torch.testing.assert_close(loss(pred, target, image_size=(8, 8)), expected)

    def test_missing(self):
        for call in (IoULoss('mpdiou'), lambda *pair: iou_loss(*pair, 'mpdiou')):
            with pytest.raises(ValueError, match=r'needs image_size=\(height, width\).* mmext.YOLOXHead passes it'):
                call(*random_pairs())

    def test_no_other_variant_asks_for_it(self):
        assert [name for name in VARIANTS if IoULoss(name).needs_image_size] == ['mpdiou']


def test_every_change_of_the_table_changes_the_loss():
    """A row whose arguments did nothing would test nothing."""
    pred, target = random_pairs()
    plain = {row.arguments['variant']: row.build()(pred, target) for row in BOX_LOSSES if row.name in VARIANTS}
    changed = [row for row in BOX_LOSSES if row.name not in VARIANTS and row.kind == 'IoULoss']
    assert len(changed) == len(VARIANTS) * (len(CHANGES) - 1)
    for row in changed:
        assert isinstance(row, Loss)
        assert not torch.allclose(row.build()(pred, target), plain[row.arguments['variant']])
