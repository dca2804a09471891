"""A user's mistake ends in one message and status 2; a defect keeps its traceback."""

import re
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import ROOT
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import build_from_cfg
from mmengine.utils import ManagerMixin

import mmext
from mmext.cli import main as cli
from mmext.cli.explain import explain
from mmext.cli.main import main

CONFIG = """
_base_ = 'mmext::yolox/yolox_nano_1xb8-9e_shapes.py'
loader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}))
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
val_evaluator = dict(ann_file={root!r} + '/annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=3, val_interval=3)
model = dict(test_cfg=dict(score_thr=0.0))
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
"""


@pytest.fixture(scope='module')
def config(shapes, tmp_path_factory):
    file = tmp_path_factory.mktemp('mistakes') / 'mine.py'
    file.write_text(CONFIG.format(root=str(shapes)))
    return file


@pytest.fixture(autouse=True)
def forget_the_run():
    """Take back what a runner leaves in the process, which later tests and their forks would go on with."""

    def kinds(kind):
        return [kind, *(each for below in kind.__subclasses__() for each in kinds(below))]

    before = {kind: dict(kind._instance_dict) for kind in kinds(ManagerMixin)}
    handler, show = signal.getsignal(signal.SIGTERM), warnings.showwarning
    yield
    for kind in kinds(ManagerMixin):
        kind._instance_dict.clear()
        kind._instance_dict.update(before.get(kind, {}))
    signal.signal(signal.SIGTERM, handler)
    warnings.showwarning = show


HEAD = 'model.bbox_head'
DATA = 'train_dataloader.dataset'
# The settings of --cfg-options, and words of the message.
SETTINGS = [
    # An index that a list does not have.
    ('custom_hooks.9.type=EMAHook', 'does not fit the config', 'Index 9'),
    # A type that nobody has, and one that needs the prefix.
    (f'{HEAD}.type=YOLOXHed', f'{HEAD} (YOLOXHed): there is no such type', 'mmext.YOLOXHead or mmdet.YOLOXHead'),
    (f'{HEAD}.loss_obj.type=MALoss', f'{HEAD}.loss_obj (MALoss)', 'did you mean mmext.MALoss'),
    ('custom_hooks.0.type=EMAHok', 'custom_hooks[0] (EMAHok)', 'mmengine.EMAHook'),
    ('optim_wrapper.optimizer.type=SDG', 'optim_wrapper.optimizer (SDG)', 'did you mean mmengine.SGD'),
    (f'{DATA}.pipeline.2.type=Resiz', f'{DATA}.pipeline[2] (Resiz)', 'mmdet.Resize'),
    (f'{HEAD}.loss_obj.type=mmext.FocalLos', 'did you mean mmext.FocalLoss?'),
    (f'{HEAD}.loss_cls=None', f'{HEAD}', 'should be a dict'),
    # An argument that the class does not take; mmext's class of the same name does.
    (f'{HEAD}.loss_bbox.variant=ciou', f'{HEAD}.loss_bbox (IoULoss): mmdet.models', "write type='mmext.IoULoss'"),
    (f'{HEAD}.loss_bbox.mod=square', f'{HEAD}.loss_bbox (IoULoss)', "did you mean 'mode'", '_delete_=True'),
    (f'{HEAD}.loss_bbx.mode=square', "mmext.YOLOXHead takes no argument 'loss_bbx'"),
    ('optim_wrapper.clip_grad.max=3', 'optim_wrapper.clip_grad: ', "'max'"),
    # A value that the class does not accept.
    (f'{HEAD}.loss_bbox.mode=cubic', f'{HEAD}.loss_bbox (IoULoss): `assert mode in', "with mode='cubic'"),
    (f'{HEAD}.obj_target=soft', f'{HEAD} (mmext.YOLOXHead)', "'hard', 'iou'", "but is 'soft'"),
    ('model.backbone.widen_factor=wide', 'model.backbone (CSPDarknet)', 'wide'),
    ('optim_wrapper.optimizer.lr=-1', 'optim_wrapper.optimizer (SGD): Invalid learning rate: -1'),
    ('default_hooks.logger.interval=0', 'default_hooks.logger (LoggerHook): interval must be greater than 0'),
    ('val_evaluator.metric=box', 'val_evaluator (CocoMetric): metric should be one of', 'box'),
    # Data that are not there.
    (
        f'{DATA}.data_root=nothing/shapes',
        'nothing/shapes/annotations/train.json: there is no such file',
        'mmext shapes`',
    ),
    (f'{DATA}.data_root=nothing/aquarium', 'nothing/aquarium/annotations/train.json', 'prepare_data.py aquarium'),
    (f'{DATA}.data_root=mine', 'mine/annotations/train.json', 'Set data_root, ann_file and data_prefix'),
    ('val_evaluator.ann_file=mine.json', 'val_evaluator.ann_file', 'there is no such file'),
    (f'{DATA}.data_prefix.img=nothing/', 'have no file', 'Check data_prefix', 'there is no folder'),
    # Classes and heads that do not fit the data.
    (f'{HEAD}.num_classes=80', 'set model.bbox_head.num_classes=3'),
    # A training that cannot go well.
    ('optim_wrapper.optimizer.lr=nan', 'training stopped in iteration 2', 'learning rate itself is not finite'),
]


@pytest.mark.parametrize('setting, words', [(row[0], row[1:]) for row in SETTINGS], ids=[row[0] for row in SETTINGS])
def test_settings(setting, words, config, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    assert main(['train', str(config), '--work-dir', str(tmp_path), '--cfg-options', setting]) == 2
    output = capfd.readouterr().err
    message = output[output.index('mmext: error: ') :]
    assert all(word in message for word in words), message
    # Errors in the data end with a second line of advice.
    assert message.count('\n') <= 2 and 'Traceback' not in output


# The content of a config, and words of the message.
CONFIGS = [
    ('model = dict(\n', 'line', 'never closed'),
    ("_base_ = './nothing.py'\n", 'nothing.py'),
    ("_base_ = 'mmext::yolox/nothing.py'\n", 'yolox/nothing.py'),
    ("_base_ = 'mmdet::yolox/nothing.py'\n", 'yolox/nothing.py'),
    ('\nlr = base * 2\n', 'line 2', "name 'base' is not defined"),
    ("_base_ = 'mmext::yolox/yolox_nano_1xb8-9e_shapes.py'\nhooks = _base_.custom_hook\n", 'line 2', 'custom_hook'),
    ("work_dir = '.'\n", 'the config has no model, train_dataloader, train_cfg, optim_wrapper'),
]


@pytest.mark.parametrize('content, words', [(row[0], row[1:]) for row in CONFIGS])
def test_configs(content, words, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    file = tmp_path / 'wrong.py'
    file.write_text(content)
    assert main(['train', str(file), '--work-dir', str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith('mmext: error: ') and message.count('\n') == 1
    assert all(word in message for word in words), message


# The command line, and words of the message.
COMMANDS = [
    ('train nothing.py', "there is no config 'nothing.py'"),
    ('train mmext::yolox/yolox_nano_bccd.py', 'did you mean', 'mmext list'),
    ('train CONFIG --resume nothing.pth', "there is no checkpoint 'nothing.pth'"),
    ('train CONFIG --auto-scale-lr --cfg-options auto_scale_lr._delete_=True auto_scale_lr.a=1', 'base_batch_size'),
    ('test CONFIG nothing.pth', "there is no checkpoint 'nothing.pth'"),
    ('test CONFIG DAMAGED', 'damaged.pth was not loaded'),
    ('test CONFIG OTHER', 'other.pth does not fit the config: ', 'tensors are missing, 1 unexpected', 'layer is unexp'),
    ('test CONFIG AVERAGE', "average.pth has no weights in 'state_dict', only ema_state_dict", 'give a checkpoint'),
    ('train CONFIG --cfg-options load_from=OTHER', 'the weights are those of another model: 0 of'),
    ('class-weights nothing.json', "no annotation file 'nothing.json'"),
    ('compare CONFIG CONFIG', 'two variants are named mine'),
    ('compare CONFIG --variant ciou model', 'give settings as key=value, not model'),
    ('compare --report nothing', 'does not exist'),
]


@pytest.mark.parametrize('command, words', [(row[0], row[1:]) for row in COMMANDS], ids=[row[0] for row in COMMANDS])
def test_commands(command, words, config, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    damaged = tmp_path / 'damaged.pth'
    damaged.write_bytes(b'PK\x03\x04')
    files = dict(CONFIG=config, DAMAGED=damaged, OTHER=tmp_path / 'other.pth', AVERAGE=tmp_path / 'average.pth')
    torch.save({'state_dict': {'layer': torch.zeros(1)}}, files['OTHER'])
    torch.save({'ema_state_dict': {'layer': torch.zeros(1)}}, files['AVERAGE'])
    for name, file in files.items():
        command = command.replace(name, str(file))
    given = command.split()
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in ('mmext: error: ', *words)), message


# The command line, and words of argparse's message.
USAGES = [
    ('', 'COMMAND'),
    ('trian', "invalid choice: 'trian'"),
    ('train', 'config'),
    ('train CONFIG --cfg-options model', "--cfg-options: give settings as key=value, not 'model'"),
    ('compare', 'give at least one config'),
    ('compare CONFIG --seeds 0', '--seeds must be at least 1'),
    ('compare CONFIG --cfg-options model', "--cfg-options: give settings as key=value, not 'model'"),
]


@pytest.mark.parametrize('command, words', USAGES)
def test_usage(command, words, capsys):
    with pytest.raises(SystemExit) as error:
        main(command.split())
    assert error.value.code == 2
    assert words in capsys.readouterr().err


def process(*command):
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize('script', [['-m', 'mmext', 'train'], ['tools/train.py']])
def test_in_a_process(script):
    result = process(*script, 'nothing.py')
    assert result.returncode == 2
    assert result.stderr == f"mmext: error: there is no config 'nothing.py' below {ROOT}\n"


def test_the_traceback_on_request():
    result = process('-m', 'mmext', 'train', 'nothing.py', '--traceback')
    assert result.returncode == 1
    assert result.stderr.startswith('Traceback') and 'MissingFileError' in result.stderr


def test_a_training_that_stops(config, tmp_path):
    """With the exit status, and the message in the log file too."""
    work_dir = tmp_path / 'run'
    options = ('train_cfg.max_epochs=9', 'optim_wrapper.optimizer.lr=1e6')
    result = process('-m', 'mmext', 'train', config, '--work-dir', work_dir, '--cfg-options', *options)
    assert result.returncode == 2, result.stderr[-2000:]
    assert 'mmext: error: ' in result.stderr and 'Traceback' not in result.stderr
    (log,) = work_dir.glob('*/*.log')
    message = result.stderr[result.stderr.index('mmext: error: ') + len('mmext: error: ') :].strip()
    assert message in log.read_text()
    for file in work_dir.glob('*.pth'):
        state = torch.load(file, weights_only=False)['state_dict']
        assert all(value.isfinite().all() for value in state.values())


def test_a_defect_keeps_its_traceback():
    for error in (ZeroDivisionError, KeyError, ValueError, FileNotFoundError):

        def fail(error=error):
            raise error('x')

        with pytest.raises(error):
            cli.run(fail)


def test_an_interruption(capsys):
    def stop():
        raise KeyboardInterrupt

    assert cli.run(stop) == 130
    assert capsys.readouterr().err == 'mmext: interrupted\n'


def test_another_rank_waits_for_the_first(monkeypatch, capsys):
    waits = []
    monkeypatch.setattr(cli.time, 'sleep', waits.append)
    monkeypatch.setattr(cli.signal, 'signal', lambda *_: None)

    def fail():
        raise mmext.errors.UserError('wrong')

    for rank in ('0', '1'):
        monkeypatch.setenv('RANK', rank)
        assert cli.run(fail) == 2
        assert len(waits) == int(rank)


def test_an_error_that_mmengine_raises_again():
    """mmengine before 0.10.8 adds the class to the message."""

    class Strict:
        def __init__(self, size):
            raise ValueError('size must be even')

    def build():
        try:
            build_from_cfg(dict(type=Strict, size=3), ROOT_MODELS)
        except ValueError as error:
            raise type(error)(f'class `Strict` in tests.py: {error}')  # noqa: B904

    with pytest.raises(ValueError, match='class `Strict`') as error:
        build()
    assert explain(error.value) == 'Strict: size must be even'


def test_the_log_file_gets_what_the_console_does_not(shapes, config, tmp_path, capfd, monkeypatch):
    """The header and the losses on the console; the environment, the config and the hooks in the log file."""
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=2']
    assert main(['train', str(config), '--work-dir', str(tmp_path), '--cfg-options', *options]) == 0
    console = capfd.readouterr()
    lines = console.out.splitlines()
    first = next(index for index, line in enumerate(lines) if 'Epoch(train)' in line)
    assert first <= 15, lines[:first]
    assert '8 images, 3 classes (circle, triangle, star), batch size 4' in console.out
    assert 'loss_bbox mmdet.IoULoss' in console.out and str(tmp_path) in console.out
    assert not [line for line in (console.out + console.err).splitlines() if 'loading annotations' in line]
    (log,) = tmp_path.glob('*/*.log')
    text = log.read_text()
    for part in (
        'System environment',
        'Hooks will be executed',
        'paramwise_options',
        'optimizer=dict(',
        'loading annot',
    ):
        assert part in text and part not in console.out
    assert re.search(r'loss_cls [\d.]+ \(\d+%\)  loss_bbox', lines[first])
