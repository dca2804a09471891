"""The benchmark measures every case, and notices outputs that differ."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from conftest import load_tool

from mmext.heads import YOLOXHead

cases = load_tool('benchmark_cases')
benchmark = load_tool('benchmark')
SIZES = ('--device', 'cpu', '--size', '64', '--classes', '3', '--batch', '2', '--boxes', '3', '--repeats', '2')
SETTING = cases.Setting(
    'cpu', torch.float32, batch=1, boxes=1, size=128, classes=1, late=True, model='nano', providers=('mmext',)
)


def measure(folder, *options):
    status = benchmark.main([*SIZES, '--out', str(folder), *options])
    with (folder / 'benchmark.csv').open(newline='') as file:
        return status, list(csv.DictReader(file))


WITHOUT_PEER = [case for case, name in cases.sigmoid_losses().items() if not hasattr(cases.mmdet_losses, name)]


def test_every_exported_loss_is_a_case():
    exported = {name for name in cases.losses.__all__ if hasattr(getattr(cases.losses, name), 'of_logits')}
    assert set(cases.sigmoid_losses().values()) == exported > {'FocalLoss', 'AsymmetricLoss'}
    assert cases.sigmoid_losses()['quality_focal'] == 'QualityFocalLoss'
    assert cases.sigmoid_losses().keys() < benchmark.CASES.keys()
    assert {'poly_focal', 'asymmetric'} <= set(WITHOUT_PEER) and 'varifocal' not in WITHOUT_PEER


@pytest.mark.parametrize('case', benchmark.CASES)
def test_every_case(case, tmp_path, capsys):
    status, rows = measure(tmp_path, case)
    output = capsys.readouterr().out
    assert status == 0, output
    assert output.endswith('all outputs agree with the reference\n')
    (baseline,) = {row['baseline'] for row in rows}
    assert baseline == ('plain' if case in WITHOUT_PEER else 'mmdet')
    assert f'/ {baseline}' in output
    classification = case in cases.sigmoid_losses() or case == 'focal_labels'
    assert {row['provider'] for row in rows} >= {baseline, 'mmext', *(['plain'] if classification else [])}
    assert (tmp_path / 'benchmark.png').read_bytes()[:4] == b'\x89PNG'
    for row in rows:
        assert row['case'] == case
        assert 0 < float(row['ms_q25']) <= float(row['ms']) <= float(row['ms_q75'])
        assert row['provider'] != baseline or float(row['ratio']) == 1
        assert bool(row['images_per_s']) is (case == 'step')
        assert bool(row['gb_per_s']) is bool(row['share_of_copy']) is (case != 'step')
        assert int(row['operations']) > 0
        assert int(row['bytes_accessed']) > 0
        assert float(row['peak_mib']) > 0
        assert row['warned_syncs'] == ''
        assert row['torch'] == torch.__version__
        assert row['threads'] == str(torch.get_num_threads())
        if case in ('assigner', 'loss_by_feat') and row['provider'] != 'mmdet':
            assert row['syncs'] == '0'


def test_a_case_goes_once_over_what_it_does_not_depend_on(tmp_path):
    _, rows = measure(tmp_path, 'focal', 'iou', '--boxes', '1', '3', '--dtype', 'fp32', 'bf16')
    mmext = [(row['case'], row['dtype'], row['boxes']) for row in rows if row['provider'] == 'mmext']
    assert mmext == [('focal', 'fp32', ''), ('focal', 'bf16', ''), ('iou', 'fp32', '1'), ('iou', 'fp32', '3')]


@pytest.mark.parametrize('options', [('--boxes', '0'), ('--dtype', 'bf16'), ('--stage', 'early')])
def test_other_settings(options, tmp_path, capsys):
    status, rows = measure(tmp_path, 'assigner', 'loss_by_feat', *options)
    assert status == 0, capsys.readouterr().out
    assert len(rows) == 5


def test_skips_what_cannot_be_measured(tmp_path, capsys):
    status, rows = measure(tmp_path, 'step', 'giou', '--dtype', 'fp16', '--boxes', '0')
    output = capsys.readouterr().out
    assert status == 0
    assert not rows
    assert 'step, 2 images, 0 boxes each, fp16: skipped, float16 needs' in output
    assert 'giou, 2 images, 0 boxes each, fp32: skipped, without boxes' in output


def test_providers(tmp_path, capsys):
    _, rows = measure(tmp_path, 'loss_by_feat', '--providers', 'mmext_losses')
    assert [(row['provider'], row['ratio']) for row in rows] == [('mmext_losses', '')]
    measure(tmp_path, 'siou', '--providers', 'mmcv')
    assert 'siou, 2 images, 3 boxes each, fp32: skipped, none of the providers' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.torch_can('compile')
def test_compiled(tmp_path):
    status, rows = measure(tmp_path, 'focal', 'ciou', 'loss_by_feat', '--providers', 'mmdet', 'compiled')
    assert status == 0
    assert all((row['operations'] == '') is (row['bytes_accessed'] == '') for row in rows)
    assert [(row['provider'], row['operations'] == '') for row in rows] == [('mmdet', False), ('compiled', True)] * 3


def test_counts_of_a_call():
    x = torch.ones(3)
    assert benchmark.count(lambda: (2 * x).sum().item()) == {
        'operations': 3,
        'bytes_accessed': 24 + 16 + 4,
        'syncs': 1,
    }


@pytest.mark.parametrize(('operations', 'gigabytes', 'ms'), [(400, 0.1, 2.0), (400, 4.0, 2.0), (400, 6.0, 3.0)])
def test_projection_is_the_larger_of_launches_and_bytes(operations, gigabytes, ms):
    assert 1e3 * benchmark.projected(operations, int(gigabytes * 1e9)) == pytest.approx(ms)


def doubled(function):
    """The function, with twice the losses."""
    return lambda *args, **kwargs: {name: 2 * loss for name, loss in function(*args, **kwargs).items()}


def wrong(kind):
    """The loss, with a sum that is not that of its elements."""

    class Wrong(kind):
        def forward(self, *args, **kwargs):
            loss = super().forward(*args, **kwargs)
            return 1.001 * loss if self.reduction == 'sum' else loss

    return Wrong


@pytest.mark.parametrize('case', ['focal', 'focal_labels', 'poly_focal', 'loss_by_feat', 'step'])
def test_notices_losses_that_differ(case, tmp_path, monkeypatch, capsys):
    for kind in ('FocalLoss', 'PolyFocalLoss'):
        monkeypatch.setattr(cases.losses, kind, wrong(getattr(cases.losses, kind)))
    monkeypatch.setattr(YOLOXHead, 'loss_by_feat', doubled(YOLOXHead.loss_by_feat))
    status, rows = measure(tmp_path, case, '--providers', 'mmext')
    assert status == 1
    assert len(rows) == 1
    place = f'{case}, 2 images' if 'focal' in case else f'{case}, 2 images, 3 boxes each'
    assert f'outputs differ:\n{place}, fp32: mmext differs by ' in capsys.readouterr().out


class TestHalfPrecision:
    """A step in half precision, on a CPU in bfloat16: rounding passes, a wrong loss does not."""

    @pytest.mark.parametrize('boxes', [0, 1, 3])
    @pytest.mark.parametrize('batch', [1, 2])
    def test_step(self, batch, boxes, tmp_path, capsys):
        options = '--batch', str(batch), '--boxes', str(boxes), '--size', '96', '--repeats', '1'
        status, rows = measure(tmp_path, 'step', '--dtype', 'bf16', *options)
        assert status == 0, capsys.readouterr().out
        assert [row['provider'] for row in rows] == ['mmdet', 'mmext', 'mmext_losses', *cases.NETWORKS]
        assert all(float(row['difference']) < 1e-4 for row in rows if row['provider'] != 'mmdet')

    @pytest.mark.parametrize('name', ['loss_cls', 'loss_bbox', 'loss_obj'])
    def test_a_finite_wrong_loss_differs(self, name, tmp_path, monkeypatch, capsys):
        original = YOLOXHead.loss_by_feat

        def wrong_loss(*args, **kwargs):
            losses = original(*args, **kwargs)
            return losses | {name: 1.1 * losses[name]}

        monkeypatch.setattr(YOLOXHead, 'loss_by_feat', wrong_loss)
        status, _ = measure(tmp_path, 'step', '--dtype', 'bf16', '--providers', 'mmext')
        assert status == 1
        assert 'step, 2 images, 3 boxes each, bf16: mmext differs by ' in capsys.readouterr().out


def test_labels_are_given_where_mmdet_has_a_fused_operator(monkeypatch):
    """On a GPU mmdet's focal loss calls mmcv's operator for labels, which takes no bfloat16."""
    monkeypatch.setattr(cases, 'lacks_cuda_ops', lambda: False)
    half = {dtype: replace(SETTING, device='cuda', dtype=dtype) for dtype in (torch.float16, torch.bfloat16)}
    assert [cases.has_fused_focal_loss(half[dtype]) for dtype in half] == [True, False]
    assert cases.other_focal_losses(half[torch.float16], labels=True).keys() == {'mmcv'}
    assert not cases.other_focal_losses(half[torch.float16], labels=False).keys() & {'mmcv'}
    monkeypatch.setattr(cases, 'lacks_cuda_ops', lambda: True)
    assert not cases.has_fused_focal_loss(half[torch.float16])
    peers = {'mmcv': lambda logits, target: logits.sum()}
    monkeypatch.setattr(cases, 'other_focal_losses', lambda setting, labels: peers if labels else {})
    both = replace(SETTING, providers=('mmext', 'mmcv'))
    assert list(cases.dense_loss('FocalLoss', both, labels=True).providers) == ['mmext', 'mmcv']
    assert list(cases.dense_loss('VarifocalLoss', both, labels=True).providers) == ['mmext']
    given = cases.dense_loss('FocalLoss', SETTING, labels=True).inputs[1]
    assert given.dtype == torch.int64 and given.dim() == 1
    assert cases.dense_loss('FocalLoss', SETTING).inputs[1].dim() == 2


def test_notices_an_assigner_that_differs(tmp_path, monkeypatch, capsys):
    narrow = cases.BatchSimOTAAssigner(center_radius=0.5)
    monkeypatch.setattr(cases, 'BatchSimOTAAssigner', lambda center_radius: narrow)
    status, _ = measure(tmp_path, 'assigner')
    assert status == 1
    assert 'outputs differ:\nassigner, 2 images, 3 boxes each, fp32: mmext differs by ' in capsys.readouterr().out


def compare(value):
    return cases.compare({'loss': torch.tensor([2.0, 1.0])}, value, tolerance=0.1)


def test_compares_with_the_largest_value():
    assert compare({'loss': torch.tensor([2.0, 1.1])}) == cases.Comparison(pytest.approx(0.05), agrees=True)
    assert not compare({'loss': torch.tensor([2.0, 1.3])}).agrees
    assert not compare({'loss': torch.tensor([2.0, math.nan])}).agrees
    assert not compare({}).agrees


@pytest.fixture
def assignment(monkeypatch):
    """Of one image: `(boxes, same)`, `same`: every prior predicts its box alike."""

    def make(boxes, same):
        monkeypatch.setattr(cases, 'random_boxes', lambda number, size, generator: torch.tensor(boxes))
        if same:
            monkeypatch.setattr(cases, 'normal', lambda *shape, mean=0.0, **_: torch.full(shape, mean))
        setting = replace(SETTING, boxes=len(boxes))
        return cases.Assignment(setting, *cases.predictions(setting))

    return make


def swapped(assignment):
    """mmdet's assignment, and the same with a prior that has a box and one in the middle of it changed for another."""
    reference = assignment.mmdet()
    middle = ((assignment.priors[:, :2] - 64).abs() < 16).all(-1) & (assignment.priors[:, 2] == 8)
    box = reference['box'].clone()
    taken, free = (box[0] == 0).nonzero()[0, 0], (middle & (box[0] < 0)).nonzero()[0, 0]
    box[0, [taken, free]] = box[0, [free, taken]]
    return reference, dict(box=box, iou=reference['iou'])


class TestTies:
    BOX = [32.0, 32.0, 96.0, 96.0]

    def test_at_the_last_place(self, assignment):
        tied = assignment([self.BOX], same=True)
        assert tied.compare(*swapped(tied)) == cases.Comparison(0, agrees=True, ties=2)

    def test_another_prior_without_a_tie_differs(self, assignment):
        untied = assignment([self.BOX], same=False)
        assert untied.compare(*swapped(untied)) == cases.Comparison(2, agrees=False)

    def test_between_boxes(self, assignment):
        twins = assignment([self.BOX, self.BOX], same=False)
        reference = twins.mmdet()
        others = dict(box=torch.where(reference['box'] == 0, 1, reference['box']), iou=reference['iou'])
        found = twins.compare(reference, others)
        assert found.agrees
        assert found.ties == (reference['box'] == 0).sum() > 0

    @pytest.mark.parametrize(
        ('iou', 'tied', 'explained'),
        [
            # Ten times 0.3 are 3, or as float32 adds them 2.9999998: two or three priors.
            (0.3, False, [2]),
            (0.31, False, []),
            # Any prior that costs as much may be the third.
            (0.3, True, [2, 3]),
            # A sum of about 1, and one below it, both give one prior; with the next cost the same, there is a tie.
            (0.1, False, []),
            (0.05, False, []),
        ],
    )
    def test_where_the_sum_of_ious_is_an_integer(self, iou, tied, explained):
        """The sum's rounding decides how many priors a box takes."""
        assigner = cases.RecordingSimOTA()
        cost = torch.arange(12.0).unsqueeze(1) + 1
        cost[3] = cost[2] if tied else cost[3]
        assigner.dynamic_k_matching(cost, torch.full((12, 1), iou), 1, torch.ones(12, dtype=torch.bool))
        nobody = torch.full((12,), -1)
        assert assigner.explain(nobody, nobody).nonzero().flatten().tolist() == explained

    def test_another_iou_differs(self, assignment):
        one = assignment([self.BOX], same=False)
        reference = one.mmdet()
        assert not one.compare(reference, dict(reference, iou=reference['iou'] * 0.9)).agrees

    def test_a_loss_may_differ_where_the_assignment_ties(self, monkeypatch):
        workload = cases.loss_by_feat(replace(SETTING, boxes=3))
        other = {name: 2 * value for name, value in workload.reference('mmext').items()}
        assert not workload.compare(workload.reference('mmext'), other).agrees
        for ties, agrees in ((1, False), (400, True)):
            monkeypatch.setattr(
                cases.Assignment, 'compare', lambda *_, n=ties: cases.Comparison(0, agrees=True, ties=n)
            )
            found = workload.compare(workload.reference('mmext'), other)
            assert (found.agrees, found.difference, found.ties) == (agrees, pytest.approx(1), ties)
        other = workload.reference('mmext') | {'gradient 0': torch.full_like(other['gradient 0'], math.nan)}
        assert not workload.compare(workload.reference('mmext'), other).agrees


@pytest.mark.parametrize(
    'options, message',
    [
        (['speed'], 'unknown case speed; choose from losses, asymmetric'),
        (['--size', '100'], '--size must be a multiple of 32, but is 100'),
        (['--batch', '0'], 'must be at least 1, but is 0'),
    ],
)
def test_refuses(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        measure(tmp_path, *options)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_help_explains_columns_and_providers(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(['--help'])
    output = capsys.readouterr().out
    assert 'The exit status\nis 1 if outputs differ' in output
    for word in [*list(benchmark.COLUMNS)[4:], *benchmark.PROVIDERS]:
        assert f'\n    {word} ' in output
