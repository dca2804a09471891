"""The comparison covers what mmext exports, agrees with the references, and notices where it does not."""

import copy
import re
import sys

import pytest
from conftest import ROOT, load_tool, run

from mmext import losses
from mmext.losses import VARIANTS


@pytest.fixture(scope='module')
def tool():
    return load_tool('compare_peers')


@pytest.fixture(scope='module')
def output():
    """Of a fresh process, which must succeed."""
    return run(sys.executable, ROOT / 'tools' / 'compare_peers.py').stdout


def rows(output, loss):
    """The rows of a loss, by reference."""
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in output.splitlines() if '|' in line]
    return {reference: numbers for name, reference, *numbers in cells if name == loss}


def failures(output):
    return output.split('mmext differs:\n')[1].splitlines()


def test_agrees(output):
    assert output.endswith('mmext agrees with every reference\n')


@pytest.mark.parametrize('loss', [name for name in losses.__all__ if name.endswith('Loss')])
def test_every_exported_loss_is_compared_or_reported(loss, output, tool):
    kinds = {entry['type'] for entry in tool.VECTORS['losses']}
    assert (loss in kinds or bool(rows(output, loss))) is not (f'{loss} has no reference' in output)


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_variant_is_compared(variant, output):
    assert f'{variant} has no reference' not in output


def test_every_vector_is_compared(output, tool):
    for entry in tool.VECTORS['losses']:
        assert rows(output, entry['name'])['vectors.json'][-1] == 'agrees'


def test_mmdets_loss_of_the_same_name_is_a_peer(output):
    for loss in ('FocalLoss', 'VarifocalLoss', 'QualityFocalLoss'):
        assert rows(output, loss)["mmdet's"][-1] == 'agrees'


def test_mmdets_box_losses_are_shown_only(output):
    sign = rows(output, 'SIoU')
    assert float(sign["mmdet's SIoULoss(neg_gamma=True)"][0]) < 1e-9
    assert float(sign["mmdet's SIoULoss()"][0]) > 0.5
    assert sign["mmdet's SIoULoss()"][-1] == 'shown only'


@pytest.mark.parametrize('value', [0.50001, float('nan')])
def test_notices_a_vector_that_differs(value, tool, monkeypatch, capsys):
    vectors = copy.deepcopy(tool.VECTORS)
    next(entry for entry in vectors['losses'] if entry['name'] == 'GIoU')['values'][0] = value
    monkeypatch.setattr(tool, 'VECTORS', vectors)
    assert tool.main([]) == 1
    output = capsys.readouterr().out
    assert failures(output) == ['GIoU: vectors.json']
    assert rows(output, 'GIoU')['vectors.json'][-1] == 'DIFFERS'


def test_notices_a_published_number_that_differs(tool, monkeypatch, capsys):
    monkeypatch.setitem(tool.TORCHVISION, 'giou', [(tool.B1, tool.B2, 0.7502)])
    (case, (softmax, gradient), sigmoid), *_ = tool.MMCV
    monkeypatch.setattr(tool, 'MMCV', [(case, (softmax + 1e-5, gradient), sigmoid)])
    assert tool.main([]) == 1
    assert failures(capsys.readouterr().out) == ["giou: torchvision's tests", "SoftmaxFocalLoss: mmcv's tests, case 1"]


def test_notices_a_formula_that_differs_in_its_gradient_alone(tool, monkeypatch, capsys):
    detached = lambda logit, target: tool.focal(logit, target).detach() + 0 * logit  # noqa: E731
    monkeypatch.setitem(tool.FORMULAS, 'FocalLoss', detached)
    assert tool.main([]) == 1
    assert failures(capsys.readouterr().out) == ['FocalLoss: formula']


def test_reports_what_has_no_reference(tool, monkeypatch, capsys):
    entries = [entry for entry in tool.VECTORS['losses'] if entry['arguments'].get('variant') != 'giou']
    monkeypatch.setattr(tool, 'VECTORS', {**tool.VECTORS, 'losses': entries})
    monkeypatch.setattr(tool, 'TORCHVISION', {})
    monkeypatch.delitem(tool.FORMULAS, 'PolyFocalLoss')
    assert tool.main([]) == 0
    output = capsys.readouterr().out
    assert {'giou', 'PolyFocalLoss'} <= set(re.findall(r'(.*) has no reference', output))
    assert output.endswith('mmext agrees with every reference\n')


def test_help_says_what_the_exit_status_means(tool, capsys):
    with pytest.raises(SystemExit) as error:
        tool.main(['--help'])
    assert error.value.code == 0
    assert 'exit status is 1' in capsys.readouterr().out
