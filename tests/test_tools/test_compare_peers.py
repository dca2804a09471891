"""The comparison with peers agrees with the references, and notices where it does not."""

import json
import re
import sys

import pytest
from conftest import ROOT, load_tool, run

from mmext import losses
from mmext.losses import VARIANTS

VECTORS = ROOT / 'tests' / 'test_losses' / 'vectors.json'


@pytest.fixture(scope='module')
def tool():
    return load_tool('compare_peers')


@pytest.fixture(scope='module')
def output():
    """From a fresh process, which must succeed."""
    return run(sys.executable, ROOT / 'tools' / 'compare_peers.py').stdout


def row(output, *cells):
    """The row of a table that starts with these cells."""
    (found,) = re.findall(''.join(rf'\| {re.escape(cell)} +' for cell in cells) + r'\|.*', output)
    return [cell.strip() for cell in found.strip('|').split('|')]


def altered(tmp_path, alter):
    vectors = json.loads(VECTORS.read_text())
    alter(vectors['losses'])
    file = tmp_path / 'vectors.json'
    file.write_text(json.dumps(vectors))
    return file


def test_agrees(output):
    assert output.endswith('mmext agrees with every reference\n')
    for title in ('IoU family: ', 'alpha-IoU: ', 'published numbers', 'random logits', 'known faults of mmdet'):
        assert title in output


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_variant_is_compared(variant, output):
    assert re.search(rf'\| \S.* \| {variant} +\| \[', output)


@pytest.mark.parametrize('loss', [name for name in losses.__all__ if name.endswith('Loss')])
def test_every_loss_is_compared(loss, output):
    kinds = {entry['type'] for entry in json.loads(VECTORS.read_text())['losses']}
    assert loss in kinds or f'| {loss} ' in output


def test_every_reference_is_shown(output):
    for entry in json.loads(VECTORS.read_text())['losses']:
        assert f'| {entry["name"]} ' in output


def test_shows_the_numbers_side_by_side(output):
    published = row(output, 'diou', '[-1, -1, 1, 1] [0, 1, 1, 2]')
    assert published[2:4] == ['1.19230769', '1.1923']
    square = row(output, 'YOLOX (alpha 2)', 'iou')
    assert square[3:] == ['0.75000000', '0.75000000', '0.0e+00', "IoULoss(mode='square')", '0.75000000', '0.0e+00']


def test_shows_the_faults_of_mmdet(output):
    assert row(output, 'identical boxes', 'ciou')[3:] == ['nan', 'nan', '0', '0', '0']
    loss, gradient, ours, our_gradient, exact = map(float, row(output, 'disjoint boxes', 'siou')[3:])
    assert loss == gradient == 0
    assert ours == pytest.approx(exact) == pytest.approx(1.559)
    assert our_gradient > 0
    for variant in ('iou', 'giou', 'diou', 'ciou', 'siou'):
        loss, _, ours, our_gradient, exact = map(float, row(output, 'float16 boxes of 600 px', variant)[3:])
        assert not abs(loss - exact) < 0.5
        assert ours == pytest.approx(exact, rel=1e-3)
        assert 0 < our_gradient < 1


@pytest.mark.parametrize('value', [0.50001, float('nan')])
def test_notices_a_reference_that_differs(value, tool, tmp_path, capsys):
    def alter(entries):
        (giou,) = [entry for entry in entries if entry['name'] == 'GIoU']
        giou['values'][0] = value

    assert tool.main(['--vectors', str(altered(tmp_path, alter))]) == 1
    assert capsys.readouterr().out.endswith('mmext differs:\nGIoU of [[0, 0, 10, 10], [0, 0, 10, 20]]\n')


def test_notices_a_published_number_that_differs(tool, monkeypatch, capsys):
    monkeypatch.setitem(tool.TORCHVISION, 'giou', [(tool.B1, tool.B2, 0.7502)])
    monkeypatch.setattr(
        tool,
        'MMCV',
        [(case, (softmax + 1e-5, gradient), sigmoid) for case, (softmax, gradient), sigmoid in tool.MMCV[:1]],
    )
    assert tool.main([]) == 1
    failures = capsys.readouterr().out.split('mmext differs:\n')[1].splitlines()
    assert failures == ['giou of [-1, -1, 1, 1] [0, 0, 1, 1]', 'SoftmaxFocalLoss: mmcv, published, case 1']


def test_notices_a_peer_that_differs(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'poly_focal', lambda logit, target: 1.001 * tool.focal(logit, target))
    assert tool.main([]) == 1
    assert capsys.readouterr().out.endswith('mmext differs:\nPolyFocalLoss: formula\n')


def test_notices_a_variant_without_a_reference(tool, tmp_path, capsys):
    def alter(entries):
        entries[:] = [entry for entry in entries if entry['arguments'].get('variant') != 'giou']

    assert tool.main(['--vectors', str(altered(tmp_path, alter))]) == 1
    assert 'variant giou has no reference' in capsys.readouterr().out


@pytest.mark.parametrize('text', [None, 'no json', '[]', '{"pairs": []}'])
def test_refuses_a_file_that_holds_no_vectors(text, tool, tmp_path, capsys):
    file = tmp_path / 'mine.json'
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit) as error:
        tool.main(['--vectors', str(file)])
    assert error.value.code == 2
    assert f'--vectors {file} cannot be read' in capsys.readouterr().err


def test_help_tells_what_the_exit_status_means(tool, capsys):
    with pytest.raises(SystemExit) as error:
        tool.main(['--help'])
    assert error.value.code == 0
    assert 'exit status is 1' in capsys.readouterr().out
