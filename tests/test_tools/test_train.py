"""tools/train.py and tools/test.py train, resume and evaluate for real."""

import json
import os
import shutil
import socket
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, run
from mmengine.config import Config

from mmext.checkpoints import CheckpointError
from mmext.cli import common
from mmext.cli import test as cli_test
from mmext.cli import train as cli_train
from mmext.cli.main import main as command

TRAIN, TEST = ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py'
EXPERIMENT = """
_base_ = 'mmext::yolox/yolox_nano_recommended_1xb8-9e_shapes.py'
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}))
val_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={root!r} + '/annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
# After two iterations no score is sure to be above 0.01, and without detections mmdet reports no AP.
model = dict(test_cfg=dict(score_thr=0.0))
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2), logger=dict(interval=1))
"""


@pytest.fixture(scope='module')
def experiment(shapes, tmp_path_factory):
    file = tmp_path_factory.mktemp('experiment') / 'mine.py'
    file.write_text(EXPERIMENT.format(root=str(shapes)))
    return file


@pytest.fixture(scope='module')
def trained(experiment):
    """An experiment that inherits `mmext::`, trained for two iterations and validated."""
    work_dir = experiment.parent / 'work_dir'
    result = run(sys.executable, TRAIN, experiment, '--work-dir', work_dir)
    return work_dir, result.stdout + result.stderr


def test_trains_in_mixed_precision(experiment, tmp_path):
    run(sys.executable, TRAIN, experiment, '--work-dir', tmp_path, '--amp')
    config = Config.fromfile(tmp_path / 'mine.py')
    cuda = torch.cuda.is_available()
    assert config.optim_wrapper.type == ('AmpOptimWrapper' if cuda else 'mmext.BFloat16OptimWrapper')
    losses = [record['loss'] for record in scalars(tmp_path) if 'loss' in record]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)


def scalars(work_dir):
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_trains_and_validates(trained):
    work_dir, output = trained
    assert (work_dir / 'epoch_1.pth').is_file()
    steps = [record for record in scalars(work_dir) if 'loss' in record]
    assert len(steps) == 2
    assert all(record[name] > 0 for record in steps for name in ('loss_cls', 'loss_bbox', 'loss_obj'))
    assert any('coco/bbox_mAP' in record for record in scalars(work_dir))
    assert 'eta' in output
    assert 'mmext is not installed' not in output


def test_reports(trained):
    work_dir, output = trained
    tail = output[output.index('evaluation') :]
    for word in (
        '| AP ',
        '| AP50 ',
        '| AP75 ',
        '| AP circle ',
        '| AP star ',
        'log:',
        'checkpoint:',
        'curves:',
        'pictures:',
    ):
        assert word in tail
    assert str(work_dir / 'epoch_1.pth') in tail
    assert (work_dir / 'curves.png').stat().st_size > 10_000
    assert len(list((work_dir / 'pictures').glob('*.png'))) == 4


def test_resumes(trained, experiment):
    work_dir, _ = trained
    result = run(
        *(sys.executable, TRAIN, experiment, '--work-dir', work_dir, '--resume'),
        *('--cfg-options', 'train_cfg.max_epochs=2'),
    )
    assert 'resumed epoch: 1, iter: 2' in result.stdout + result.stderr
    assert (work_dir / 'epoch_2.pth').is_file()
    assert [record['step'] for record in scalars(work_dir) if 'loss' in record] == [1, 2, 3, 4]


@pytest.mark.parametrize('arguments', [['--resume'], ['--cfg-options', 'resume=True']])
def test_resumes_from_the_newest_that_loads(arguments, trained, experiment, tmp_path, monkeypatch):
    """With `--resume` and with a config that says so."""
    shutil.copy(trained[0] / 'epoch_1.pth', tmp_path)
    (tmp_path / 'epoch_2.pth').write_bytes(b'PK\x03\x04')
    found = []
    monkeypatch.setattr(cli_train, 'build_runner', lambda config: found.append(config) or SimpleNamespace(train=list))
    cli_train.main([str(experiment), '--work-dir', str(tmp_path), *arguments])
    assert found[0].resume is True and found[0].load_from == str(tmp_path / 'epoch_1.pth')


def test_makes_any_training_resumable():
    """Also one that leaves the hook and the loop to mmengine, and not one that wants no checkpoints."""
    config = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=1)))
    common.make_resumable(config)
    assert config.train_cfg == dict(type='mmext.EpochBasedTrainLoop', max_epochs=1)
    assert config.default_hooks.checkpoint.type == 'mmext.CheckpointHook'
    assert [hook['type'] for hook in config.custom_hooks] == [
        'mmext.ResumeHook', 'mmext.TerminationHook', 'mmext.OutageHook'
    ]  # fmt: skip
    own = dict(
        default_hooks=dict(checkpoint=None), train_cfg=dict(by_epoch=False, max_iters=1), custom_hooks=[dict(type='A')]
    )
    config = Config(own)
    common.make_resumable(config)
    assert config.train_cfg == own['train_cfg'] and config.default_hooks.checkpoint is None
    assert config.custom_hooks[0] == dict(type='A') and len(config.custom_hooks) == 4


class Call:
    """An object whose pickle makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


class TestCheckpointsThatRunCode:
    @pytest.fixture
    def hostile(self, trained, tmp_path):
        content = torch.load(trained[0] / 'epoch_1.pth', weights_only=False)
        torch.save({**content, 'message_hub': Call(tmp_path / 'canary')}, tmp_path / 'hostile.pth')
        return tmp_path / 'hostile.pth'

    @pytest.mark.parametrize('way', ['resume', 'load_from', 'init_cfg', 'test'])
    def test_are_refused(self, way, hostile, experiment, tmp_path):
        os.environ.pop('LOCAL_RANK', None)
        pretrained = ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={hostile}']
        arguments = {
            'resume': ['--resume', str(hostile)],
            'load_from': ['--cfg-options', f'load_from={hostile}'],
            'init_cfg': ['--cfg-options', *pretrained],
            'test': [str(hostile)],
        }[way]
        main = (cli_test if way == 'test' else cli_train).main
        with pytest.raises(CheckpointError, match=r'hostile\.pth was not loaded: it holds .*mkdir') as error:
            main([str(experiment), '--work-dir', str(tmp_path / 'run'), *arguments])
        assert '--trust-checkpoint' in str(error.value)
        assert not (tmp_path / 'canary').exists()

    def test_run_if_they_are_trusted(self, hostile, experiment, tmp_path):
        arguments = (experiment, hostile, '--work-dir', tmp_path / 'run', '--trust-checkpoint')
        assert 'AP50' in run(sys.executable, TEST, *arguments).stdout
        assert (tmp_path / 'canary').is_dir()


@pytest.mark.parametrize('tta', [False, True])
def test_evaluates_the_checkpoint(trained, experiment, tmp_path, tta):
    work_dir, _ = trained
    out = tmp_path / 'predictions.pkl'
    result = run(
        *(sys.executable, TEST, experiment, work_dir / 'epoch_1.pth', '--work-dir', tmp_path),
        *(['--tta'] if tta else ['--out', out, '--show-dir', 'pictures']),
    )
    output = result.stdout + result.stderr
    assert '| AP50 ' in output[output.index('evaluation') :]
    if not tta:
        assert out.stat().st_size > 0
        assert len(list(tmp_path.glob('*/pictures/*'))) == 4


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def test_two_processes_train_over_gloo_with_another_loss(experiment, tmp_path):
    """--cfg-options swaps the loss; _delete_ drops the arguments of the one before."""
    result = run(
        *(ROOT / 'tools' / 'dist_train.sh', experiment, 2, '--work-dir', tmp_path),
        *('--cfg-options', 'train_dataloader.batch_size=2', 'model.bbox_head.loss_bbox._delete_=True'),
        *('model.bbox_head.loss_bbox.type=mmext.IoULoss', 'model.bbox_head.loss_bbox.variant=giou'),
        'model.bbox_head.loss_bbox.loss_weight=5.0',
        CUDA_VISIBLE_DEVICES='',
        PORT=str(free_port()),
    )
    assert 'cpu, 2 processes' in result.stdout
    steps = [record for record in scalars(tmp_path) if 'loss' in record]
    assert len(steps) == 2
    (dumped,) = tmp_path.glob('*.py')
    loss = Config.fromfile(dumped).model.bbox_head.loss_bbox
    assert loss == {'type': 'mmext.IoULoss', 'variant': 'giou', 'loss_weight': 5.0}


class TestWrongConfigsNameTheRemedy:
    def fail(self, experiment, work_dir, *options):
        os.environ.pop('LOCAL_RANK', None)
        with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
            cli_train.main([str(experiment), '--work-dir', str(work_dir), *options])
        return str(error.value)

    def test_no_such_config(self, tmp_path):
        assert "no config 'mine.py'" in self.fail('mine.py', tmp_path)
        assert 'mmext list' in self.fail('mmext::yolox/mine.py', tmp_path)

    def test_typo_in_a_type(self, experiment, tmp_path):
        message = self.fail(experiment, tmp_path, '--cfg-options', 'model.bbox_head.loss_obj.type=mmext.FocalLos')
        assert 'did you mean mmext.FocalLoss?' in message

    def test_forgotten_delete(self, experiment, tmp_path):
        message = self.fail(experiment, tmp_path, '--cfg-options', 'model.bbox_head.loss_bbox.mode=square')
        assert "takes no argument 'mode'" in message
        assert '_delete_=True' in message

    def test_float16_on_a_cpu(self, experiment, tmp_path, monkeypatch):
        monkeypatch.setattr('mmengine.device.get_device', lambda: 'cpu')
        message = self.fail(experiment, tmp_path, '--amp', '--cfg-options', 'optim_wrapper.dtype=float16')
        assert "bfloat16, but optim_wrapper.dtype is 'float16'" in message
        assert 'train without --amp' in message

    def test_auto_scale_lr_without_a_base(self, experiment, tmp_path):
        options = ('--auto-scale-lr', '--cfg-options', 'auto_scale_lr._delete_=True', 'auto_scale_lr.enable=False')
        assert 'auto_scale_lr=dict(base_batch_size=N)' in self.fail(experiment, tmp_path, *options)

    def test_no_such_checkpoint(self, experiment, tmp_path):
        assert "no checkpoint 'none.pth'" in self.fail(experiment, tmp_path, '--resume', 'none.pth')
        with pytest.raises(FileNotFoundError, match=r"no checkpoint 'none\.pth'"):
            cli_test.main([str(experiment), 'none.pth'])

    def test_number_of_classes(self, experiment, tmp_path):
        message = self.fail(experiment, tmp_path, '--cfg-options', 'model.bbox_head.num_classes=80')
        assert 'set model.bbox_head.num_classes=3' in message

    def test_names_of_classes(self, experiment, tmp_path):
        classes = 'train_dataloader.dataset.metainfo.classes=circle,triangle,square'
        message = self.fail(experiment, tmp_path, '--cfg-options', classes)
        assert "has no class 'square'" in message
        assert 'metainfo' in message

    @pytest.mark.parametrize('split', ['train', 'val', 'test'])
    def test_order_of_classes(self, split, experiment, tmp_path):
        place = f'{split}_dataloader.dataset'
        classes = f'{place}.metainfo.classes=triangle,circle,star'
        message = self.fail(experiment, tmp_path, '--cfg-options', classes)
        assert f"{place} names its classes ('triangle', 'circle', 'star')" in message
        assert f"Set metainfo=dict(classes=('circle', 'triangle', 'star')) in {place}," in message
        assert not scalars(tmp_path)

    def test_files_in_different_orders(self, experiment, shapes, tmp_path):
        data = json.loads((shapes / 'annotations' / 'val.json').read_text())
        data['categories'].reverse()
        file = tmp_path / 'val.json'
        file.write_text(json.dumps(data))
        options = (f'val_dataloader.dataset.ann_file={file}', f'val_evaluator.ann_file={file}')
        message = self.fail(experiment, tmp_path, '--cfg-options', *options)
        assert f"val_dataloader.dataset ({file}) has ('star', 'triangle', 'circle')" in message

    def test_order_of_classes_in_a_test(self, trained, experiment, tmp_path):
        os.environ.pop('LOCAL_RANK', None)
        checkpoint = str(trained[0] / 'epoch_1.pth')
        options = ['--cfg-options', 'test_dataloader.dataset.metainfo.classes=star,circle,triangle']
        with pytest.raises(ValueError, match=r"Set metainfo=dict\(classes=\('circle', 'triangle', 'star'\)\) in test_"):
            cli_test.main([str(experiment), checkpoint, '--work-dir', str(tmp_path), *options])

    def test_mean_in_mmdet_head(self, experiment, tmp_path):
        """Divided twice it would train to nothing without a word."""
        options = ['model.bbox_head._delete_=True', 'model.bbox_head.type=YOLOXHead', 'model.bbox_head.num_classes=3']
        options += ['model.bbox_head.in_channels=64', 'model.bbox_head.feat_channels=64']
        options += ['model.bbox_head.loss_obj.type=mmext.FocalLoss']
        message = self.fail(experiment, tmp_path, '--cfg-options', *options)
        assert "model.bbox_head.loss_obj.reduction: it is 'mean'" in message
        assert "reduction='sum'" in message


def test_tta_without_a_pipeline_flips_before_padding():
    pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'Pad'}, {'type': 'PackDetInputs', 'meta_keys': ('img_id',)}]
    load, augment = cli_test.flip(pipeline)
    assert load == pipeline[0]
    flips, pad, pack = augment['transforms']
    assert [step['prob'] for step in flips] == [1.0, 0.0]
    assert pad == [pipeline[1]]
    assert pack == [{'type': 'PackDetInputs', 'meta_keys': ('img_id', 'flip', 'flip_direction')}]
    with pytest.raises(ValueError, match='ends in Resize'):
        cli_test.flip([{'type': 'Resize'}])


def test_out_must_be_a_pickle(experiment, capsys):
    with pytest.raises(SystemExit):
        cli_test.parse_args([str(experiment), 'some.pth', '--out', 'predictions.json'])
    assert "--out must end in .pkl or .pickle, but is 'predictions.json'" in capsys.readouterr().err


def test_the_command_runs_the_same(experiment, capsys):
    with pytest.raises(SystemExit) as error:
        command(['train', '--help'])
    assert error.value.code == 0
    assert '--auto-scale-lr' in capsys.readouterr().out
    assert run(sys.executable, TRAIN, '--help').stdout.count('--resume') >= 1
