"""The regression experiment, on cases worked out by hand and against the paper's findings."""

import numpy as np
import pytest
import torch

from mmext import losses
from mmext.losses.box_pair import BoxPair
from mmext.visualization import regression
from mmext.visualization.regression import Setting, cases_at, corners, learning_rate, simulate, spread_points, step

POINTS = spread_points(16)
UNIT = torch.tensor([[10.0, 10, 1, 1]])


@pytest.fixture(scope='module')
def descents():
    return {variant: simulate(Setting(variant), POINTS) for variant in ('iou', 'giou', 'diou', 'ciou', 'eiou')}


def stepped(setting, x, y, w, h, rate=0.1):
    """The box after one step towards the unit square at (10, 10)."""
    return step(setting.loss(), torch.tensor([[x, y, w, h]]), corners(UNIT), rate)[0].tolist()


def test_the_cases_are_the_papers():
    anchors, targets = cases_at(torch.tensor([[8.0, 9.0], [12.0, 10.0]]))
    assert len(anchors) == len(targets) == 2 * 343
    assert regression.POINTS * regression.CASES == 1_715_000
    assert torch.equal(anchors[:343, :2], torch.tensor([8.0, 9.0]).expand(343, 2))
    assert torch.equal(targets[:, :2], torch.tensor([10.0, 10.0]).expand(686, 2))
    torch.testing.assert_close(targets[:, 2:].prod(-1), torch.ones(686))
    pairs = {
        tuple(round(value, 3) for value in (w / h, w * h, tw / th))
        for w, h, tw, th in torch.cat([anchors[:343, 2:], targets[:343, 2:]], -1).tolist()
    }
    ratios = [round(ratio, 3) for ratio in (1 / 4, 1 / 3, 1 / 2, 1, 2, 3, 4)]
    areas = (0.5, 0.67, 0.75, 1, 1.33, 1.5, 2)
    assert pairs == {(ratio, area, target) for ratio in ratios for area in areas for target in ratios}


def test_points_are_spread_evenly():
    """Any disc has its share of the points, and so have those of a chunk."""
    points = spread_points(2000) - torch.tensor([10.0, 10.0])
    for part in (points, points[3::10]):
        distance = part.norm(dim=1)
        assert distance.max() < 3
        for radius in (1, 2):
            assert (distance < radius).float().mean() == pytest.approx((radius / 3) ** 2, abs=0.02)
        assert part.mean(0).abs().max() < 0.05


def test_one_step_of_the_iou_loss():
    """A unit square, 1/2 to the left: IoU 1/3. The overlap grows by 1 for each unit of x, and the union falls by 1.

    dIoU/dx = (3/2 + 1/2) / (3/2)**2 = 8/9. Half a unit of w is overlap: dIoU/dw = (3/2 / 2 - 1/2 / 2) / (3/2)**2 = 2/9.
    At equal heights autograd takes half of the overlap's derivative in h, 1/4, so that the union's is 1 - 1/4:
    dIoU/dh = (3/2 / 4 - 1/2 * 3/4) / (3/2)**2 = 0.
    """
    factor = 0.1 * (2 - 1 / 3)
    expected = [9.5 + factor * 8 / 9, 10, 1 + factor * 2 / 9, 1]
    assert stepped(Setting('iou'), 9.5, 10.0, 1.0, 1.0) == pytest.approx(expected, abs=1e-6)


def test_one_step_of_diou_without_overlap():
    """Unit squares 2 apart in x: the penalty is d**2 / c**2 with d = 2, c**2 = 3**2 + 1**2 = 10, and the IoU is 0.

    The enclosing width grows by 1 for each unit that the left box moves away, by 1/2 for each unit of w, and its height
    by 1/4 + 1/4 for a unit of h at equal edges, of which autograd takes the half: d(c**2)/dx = -6, /dw = 3, /dh = 1.
    d(penalty)/dx = (-4 * 10 + 4 * 6) / 100 = -0.16; /dw = -4 * 3 / 100; /dh = -4 * 1 / 100.
    """
    expected = [8 + 0.2 * 0.16, 10, 1 + 0.2 * 0.12, 1 + 0.2 * 0.04]
    assert stepped(Setting('diou'), 8.0, 10.0, 1.0, 1.0) == pytest.approx(expected, abs=1e-6)


def test_the_learning_rate_falls_at_80_and_90_percent():
    rates = [learning_rate(iteration) for iteration in range(200)]
    assert rates == pytest.approx([0.1] * 160 + [0.01] * 20 + [0.001] * 20)


def test_the_errors_start_with_those_of_the_anchors(descents):
    anchors, targets = cases_at(POINTS)
    error = (anchors - targets).abs().sum(-1)
    descent = descents['iou']
    assert descent.errors.shape == (201,)
    assert descent.errors[0] == pytest.approx(error.mean().item(), rel=1e-5)
    assert descent.errors[-1] == pytest.approx(descent.final.mean(), rel=1e-6)


def test_chunks_change_nothing(monkeypatch):
    setting = Setting('ciou')
    whole = simulate(setting, POINTS, iterations=3)
    monkeypatch.setattr(regression, 'CHUNK', 5)
    parts = simulate(setting, POINTS, iterations=3)
    np.testing.assert_allclose(parts.errors, whole.errors, rtol=1e-6)
    np.testing.assert_allclose(parts.final, whole.final, rtol=1e-6)


def test_the_iou_loss_moves_no_box_that_does_not_overlap():
    """Section 3.1: it converges only where the boxes overlap."""
    anchors, targets = cases_at(POINTS)
    boxes, target_corners, loss = anchors, corners(targets), Setting('iou').loss()
    for iteration in range(200):
        boxes = step(loss, boxes, target_corners, learning_rate(iteration))
    apart = (BoxPair(corners(anchors), target_corners).overlap_wh < 0).any(0)
    assert 0.8 < apart.float().mean() < 0.9
    assert torch.equal(boxes[apart], anchors[apart])
    assert (boxes - targets)[~apart].abs().sum(-1).mean() < 0.3


def test_the_order_of_the_final_errors(descents):
    """The paper has IoU > GIoU > DIoU > CIoU; GIoU and DIoU change places with the true gradient."""
    final = {variant: descent.errors[-1] for variant, descent in descents.items()}
    assert sorted(final, key=final.get) == ['eiou', 'ciou', 'giou', 'diou', 'iou']
    assert final['iou'] > 100 * final['diou'] / 2
    # CIoU is ahead of DIoU at each iteration, not at the end alone.
    assert (descents['ciou'].errors[5:] < descents['diou'].errors[5:]).all()


def test_the_wrong_sign_of_the_authors_program_gives_the_papers_order(descents, monkeypatch):
    """With the term of c**2 added instead of subtracted in x and y, DIoU is faster than GIoU, and ends below it."""

    def authors_step(loss, boxes, targets, rate):
        leaf = boxes.detach().requires_grad_()
        pair = BoxPair(corners(leaf), targets)
        distance, diagonal = pair.squared_distance, pair.squared_diagonal
        of_iou, of_distance, of_diagonal = (
            torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0] for value in (pair.iou, distance, diagonal)
        )
        distance, diagonal = distance.detach().unsqueeze(-1), diagonal.detach().unsqueeze(-1)
        sign = torch.tensor([1.0, 1.0, -1.0, -1.0])
        penalty = of_distance / diagonal + sign * distance * of_diagonal / diagonal**2
        return boxes - rate * (2 - pair.iou.detach()).unsqueeze(-1) * (penalty - of_iou)

    monkeypatch.setattr(regression, 'step', authors_step)
    wrong = simulate(Setting('diou'), POINTS)
    assert (wrong.errors[1:] < descents['giou'].errors[1:]).all()
    assert descents['diou'].errors[40] > 1.2 * descents['giou'].errors[40] > 2 * wrong.errors[40]


def test_settings_are_all_variants_powers_and_focuses():
    names = [setting.name for setting in regression.all_settings()]
    assert len(set(names)) == len(names)
    for variant in losses.VARIANTS:
        assert {variant, f'{variant} alpha 0.5', f'{variant} alpha 2', f'{variant} alpha 3'} < set(names)
    assert {'eiou FocalFocus gamma 0.5', 'iou WiseFocus version 3', 'piou PIoUFocus lam 1.3'} < set(names)
    assert all(setting.loss().reduction == 'none' for setting in regression.all_settings())


def test_figures_show_the_errors(tmp_path):
    points = spread_points(3)
    focused = Setting('iou', focus=dict(type='mmext.WiseFocus'))
    settings = [Setting('iou'), Setting('iou', 2.0), Setting('ciou'), focused]
    descents = {setting: simulate(setting, points, iterations=4) for setting in settings}
    drawn = regression.figures(descents, points)
    names = {f'regression_{name}' for name in ('variants', 'powers', 'focuses', 'final', 'positions')}
    assert set(drawn) == names
    lines = drawn['regression_variants'].axes[0].lines
    assert [line.get_label() for line in lines] == ['iou', 'ciou']
    np.testing.assert_array_equal(lines[1].get_ydata(), descents[settings[2]].errors)
    cells = [text.get_text() for text in drawn['regression_final'].axes[0].texts]
    expected = [descents[setting].errors[-1] for setting in settings[:3]]
    assert cells == [f'{error:.3f}' for error in expected]
    focus = drawn['regression_focuses'].axes[0].lines
    assert [line.get_label() for line in focus] == ['iou', 'iou WiseFocus']
    assert {path.stem for path in regression.write_figures(descents, points, tmp_path / 'new')} == names
