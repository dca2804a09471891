"""Each loss gets a figure, and the curves are those of the losses."""

import numpy as np
import pytest
import torch
from conftest import load_tool

from mmext import losses
from mmext.visualization import loss_curves

plot_losses = load_tool('plot_losses')


def test_every_loss_gets_a_figure(tmp_path, capsys):
    plot_losses.main(['--out', str(tmp_path / 'new')])
    files = {path.stem: path.read_bytes() for path in (tmp_path / 'new').iterdir()}
    classes = {name for name in losses.__all__ if isinstance(getattr(losses, name), type)}
    assert set(files) == {'variants', 'inner_ratio', 'interval', *losses.VARIANTS, *classes} - {'IoULoss'}
    assert all(content[:4] == b'\x89PNG' and len(content) > 10_000 for content in files.values())
    assert str(tmp_path / 'new' / 'giou.png') in capsys.readouterr().out.splitlines()


def test_only_the_named_are_drawn(tmp_path):
    plot_losses.main(['FocalLoss', '--out', str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ['FocalLoss.png']


def test_an_unknown_name_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        plot_losses.main(['goiu', '--out', str(tmp_path)])
    assert 'there is no loss goiu; there are variants, iou, giou' in capsys.readouterr().err


def lines(name, row=0):
    """The x values of a figure's row, and its loss and gradient lines by label."""
    left, right = loss_curves.loss_figures()[name]().axes[2 * row : 2 * row + 2]
    drawn = [{line.get_label(): line.get_ydata() for line in panel.lines} for panel in (left, right)]
    return right.lines[0].get_xdata(), *drawn


@pytest.mark.parametrize('variant', ['iou', 'ciou', 'siou'])
def test_the_gradients_of_boxes_are_those_of_their_coordinates(variant):
    offset, values, gradients = lines(variant)
    target = torch.tensor([[0.0, 0, 16, 16]], dtype=torch.float64).expand(len(offset), 4)
    pred = (target + 16 * torch.as_tensor(offset).unsqueeze(-1) * torch.tensor([1, 0, 1, 0])).requires_grad_()
    loss = losses.iou_loss(pred, target, variant, alpha=2)
    loss.sum().backward()
    np.testing.assert_allclose(values['alpha 2'], loss.detach())
    # A side is 16 px, and both edges move.
    np.testing.assert_allclose(gradients['alpha 2'], 16 * pred.grad[:, [0, 2]].sum(-1), atol=1e-12)


def test_the_curve_of_the_iou_is_the_textbooks():
    offset, values, gradients = lines('iou')
    near = offset < 1
    np.testing.assert_allclose(values['alpha 1'][near], (2 * offset / (1 + offset))[near])
    np.testing.assert_allclose(gradients['alpha 1'][near], (2 / (1 + offset) ** 2)[near])
    assert not gradients['alpha 1'][~near].any()


def test_the_gradient_over_the_width_is_the_slope():
    ratio, values, gradients = lines('eiou', row=1)
    wide = ratio > 1.1
    slopes = np.gradient(values['alpha 3'], ratio)
    np.testing.assert_allclose(gradients['alpha 3'][wide][1:-1], slopes[wide][1:-1], rtol=1e-3)


@pytest.mark.parametrize('name', loss_curves.class_losses())
def test_the_gradients_of_logits_are_those_of_the_summed_loss(name):
    """Not the slope of the curve: a formula may detach its weight or its target."""
    logit, _, gradients = lines(name)
    loss = getattr(losses, name)(reduction='sum')
    targets = (1.0, 0.0, loss_curves.SOFT_TARGET) if loss_curves.takes_scores(name) else (1, 0)
    assert len(gradients) == len(targets)
    for target, gradient in zip(targets, gradients.values()):
        leaf = torch.tensor(logit, requires_grad=True)
        if loss_curves.takes_scores(name):
            pred, target = leaf.unsqueeze(-1), torch.full((len(logit), 1), target, dtype=torch.float64)
        else:
            pred, target = torch.stack([torch.zeros_like(leaf), leaf], -1), torch.full((len(logit),), target)
        loss(pred, target).backward()
        np.testing.assert_allclose(gradient, leaf.grad, rtol=1e-6, atol=1e-9)


def test_the_gradient_of_focal_loss_is_its_slope():
    logit, values, gradients = lines('FocalLoss')
    for label, gradient in gradients.items():
        np.testing.assert_allclose(gradient[1:-1], np.gradient(values[label], logit)[1:-1], atol=2e-3)


def test_training_comes_to_rest_where_the_loss_says():
    assert loss_curves.resting_point('FocalLoss', 0.6) == pytest.approx(0.72, abs=0.005)
    for name in loss_curves.class_losses():
        if loss_curves.takes_scores(name):
            loss = getattr(losses, name)()
            expected = float(loss.resting_point(torch.tensor(0.3)))
            right = loss_curves.resting_point(name, 0.3) == pytest.approx(expected, abs=1e-3)
            assert right is loss.soft_target, name
