"""Each symptom on the page of troubles is produced again, or is on the short list of those that cannot be here."""

import json
import linecache
import math
import re
import socket
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmdet.models.losses import CIoULoss
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import HOOKS, DefaultScope, init_default_scope
from mmengine.structures import InstanceData

from mmext import checkpoints
from mmext.audit import check_order, label_orders_of_config
from mmext.audit.wiring import check_wiring
from mmext.cli.common import merge_settings
from mmext.errors import UserError
from mmext.hooks import LossMonitorHook

PAGE = (ROOT / 'docs' / 'troubleshooting.md').read_text()
SYMPTOMS = [block.strip() for block in re.findall(r'```text\n(.*?)```', PAGE, re.S)]
YOLOX = "_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'\n"
# What it would take to produce a symptom.
NOT_HERE = {
    'isinstance(target, torch.LongTensor)': 'mmdet below 3.0',
    'unsafe to autocast': 'a GPU',
    'CUDA out of memory': 'a GPU',
    'Weights only load failed': 'mmengine 0.10.7 with a newer torch',
    "No module named 'mmcv._ext'": 'an mmcv without operators; tests/test_cli has the message of mmext',
    'MMCV==2.2.0 is used but incompatible': 'mmdet 3.3.0 with mmcv 2.2',
    "No module named 'pkg_resources'": 'setuptools 82',
    'torchvision::nms does not exist': 'a torchvision that does not fit torch',
    'is not a valid package style': "mmdet's analyze_logs.py with a newer matplotlib",
    "'mmext.YOLOXHead is not in the mmdet::model registry": 'an environment without mmext',
}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def config(folder, text, name='mine.py'):
    (folder / name).write_text(text)
    return Config.fromfile(folder / name)


def losses(folder, text):
    """The losses of a YOLOX head of mmdet with these changes, as a log has them."""
    parts = config(folder, YOLOX + text).model
    torch.manual_seed(0)
    head = MODELS.build(dict(parts.bbox_head, train_cfg=parts.train_cfg, test_cfg=parts.test_cfg))
    head.init_weights()
    outputs = head([torch.randn(2, 64, size, size) for size in (16, 8, 4)])
    boxes = torch.tensor([[8.0, 8, 60, 50], [50, 20, 90, 80]])
    truth = [InstanceData(bboxes=boxes, labels=torch.tensor([1, 2])) for _ in range(2)]
    return '  '.join(f'{key}: {value:.4f}' for key, value in head.loss_by_feat(*outputs, truth, [{}, {}]).items())


def class_loss(text):
    return lambda folder: losses(folder, f'model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, {text})))')


def two_bases(folder):
    for name in 'ab':
        (folder / f'{name}.py').write_text(f"model = dict({name}='x')")
    config(folder, "_base_ = ['a.py', 'b.py']")


def a_key_that_was_none(folder):
    (folder / 'base.py').write_text('clip_grad = None')
    config(folder, "_base_ = 'base.py'\nclip_grad = dict(max_norm=35)")


def a_dict_on_the_command_line(folder):
    mine = config(folder, YOLOX)
    merge_settings(mine, {'model.bbox_head.loss_cls': "dict(type='mmext.VarifocalLoss')"})
    MODELS.build(mine.model)


def mmext_unknown(folder):
    from mmengine.config.utils import MODULE2PACKAGE

    known = MODULE2PACKAGE.pop('mmext')
    try:
        config(folder, "_base_ = 'mmext::yolox/yolox_s_8xb8-300e_coco.py'")
    finally:
        MODULE2PACKAGE['mmext'] = known


def a_hook_in_the_scope_of_a_package(folder):
    with DefaultScope.overwrite_default_scope('mmext'):
        HOOKS.build(dict(type='YOLOXModeSwitchHook', _scope_='mmext'))


def a_class_registered_again(folder):
    MODELS.register_module(module=type('IoULoss', (CIoULoss,), {}))


def a_mean_in_mmdets_head(folder):
    mine = config(folder, YOLOX + "model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='FocalLoss')))")
    return '\n'.join(str(finding) for finding in check_wiring(MODELS.build(mine.model)))


def annotations(folder, *names):
    categories = [dict(id=index, name=name) for index, name in enumerate(names)]
    (folder / 'a.json').write_text(json.dumps(dict(images=[], annotations=[], categories=categories)))


def checked_order(folder, *classes):
    annotations(folder, 'cat', 'dog')
    dataset = dict(type='CocoDataset', ann_file=str(folder / 'a.json'), metainfo=dict(classes=classes))
    check_order(label_orders_of_config(dataset, 'train_dataloader.dataset'))


def no_objects(folder):
    """A data set whose classes are not those of its file loses all boxes; the head then has nothing to learn from."""
    parts = config(folder, YOLOX).model
    head = MODELS.build(dict(parts.bbox_head, train_cfg=parts.train_cfg, test_cfg=parts.test_cfg))
    outputs = head([torch.randn(1, 64, size, size) for size in (16, 8, 4)])
    truth = [InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))]
    return '  '.join(f'{key}: {value:.4f}' for key, value in head.loss_by_feat(*outputs, truth, [{}]).items())


def a_hundred_iterations_without_priors(folder):
    hook, lines = LossMonitorHook(), []
    runner = SimpleNamespace(logger=SimpleNamespace(warning=lines.append))
    for _ in range(100):
        hook._warn_without_priors(runner, {'loss_bbox': 0.0})
    return '\n'.join(lines)


def a_loss_that_is_nan(folder):
    from mmext.hooks.loss_monitor_hook import Event, explain

    optim_wrapper = SimpleNamespace(get_lr=lambda: {'lr': [0.01]})
    runner = SimpleNamespace(optim_wrapper=optim_wrapper, train_dataloader=[0], work_dir=str(folder))
    return explain(runner, Event(0, f'loss_bbox is {math.nan}', (), 0, is_loss=True))


def soft_targets(folder):
    mine = config(
        folder, YOLOX + "model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='FocalLoss', reduction='sum')))"
    )
    return '\n'.join(str(finding) for finding in check_wiring(MODELS.build(mine.model)))


def a_missing_file(folder):
    from mmext.cli.explain import explain

    model = config(folder, "_base_ = 'mmext::yolox/yolox_nano_1xb8-9e_shapes.py'").train_dataloader.dataset
    from mmdet.registry import DATASETS

    try:
        DATASETS.build(dict(model, data_root='data/shapes/'))
    except FileNotFoundError as error:
        return explain(error)


def another_number_of_classes(folder):
    from mmengine.runner import load_checkpoint

    model = config(folder, YOLOX).model
    torch.save(dict(state_dict=MODELS.build(model).state_dict(), meta={}), folder / 'coco.pth')
    model.bbox_head.num_classes = 3
    load_checkpoint(MODELS.build(model), str(folder / 'coco.pth'))


class Code:
    def __reduce__(self):
        import os

        return os.mkdir, ('never',)


def code_in_a_checkpoint(folder):
    torch.save(dict(state_dict={}, code=Code()), folder / 'epoch_12.pth')
    checkpoints.load_checkpoint(folder / 'epoch_12.pth')


def amp_on_a_cpu(folder):
    from mmengine.optim import AmpOptimWrapper

    AmpOptimWrapper(optimizer=torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1))


def a_port_in_use(folder):
    with socket.socket() as busy:
        busy.bind(('127.0.0.1', 0))
        busy.listen()
        torch.distributed.TCPStore('127.0.0.1', busy.getsockname()[1], is_master=True)


BOXES = torch.tensor([[0.0, 0, 4, 4]])
# How to produce a symptom: what is raised, logged, printed or returned.
PRODUCED = {
    'does not support to load mmext config': mmext_unknown,
    'Failed to import custom modules': lambda folder: config(
        folder, "custom_imports = dict(imports=['my_losses'], allow_failed_imports=False)"
    ),
    'Duplicate key': two_bases,
    'cannot inherit from base': a_key_that_was_none,
    'cfg should be a dict': a_dict_on_the_command_line,
    'mmext.VarifocalLos is not': lambda folder: MODELS.build(dict(type='mmext.VarifocalLos')),
    'YOLOXModeSwitchHook is not': a_hook_in_the_scope_of_a_package,
    'is already registered': a_class_registered_again,
    "unexpected keyword argument 'mode'": lambda folder: losses(
        folder, "model = dict(bbox_head=dict(loss_bbox=dict(type='GIoULoss')))"
    ),
    "takes no argument 'mode'": lambda folder: losses(
        folder, "model = dict(bbox_head=dict(loss_bbox=dict(type='mmext.IoULoss', variant='ciou')))"
    ),
    "argument '_delete_'": lambda folder: MODELS.build(dict(type='GIoULoss', _delete_=True)),
    'can not be used with reduction': lambda folder: MODELS.build(dict(type='GIoULoss', reduction='sum'))(
        BOXES, BOXES, avg_factor=2.0
    ),
    'does not divide, so it takes no avg_factor': lambda folder: MODELS.build(
        dict(type='mmext.IoULoss', reduction='sum')
    )(BOXES, BOXES, avg_factor=2.0),
    'tensors used as indices': class_loss("type='EQLV2Loss', num_classes=80"),
    'self.num_classes + 2': class_loss("type='SeesawLoss', num_classes=80"),
    'The size of tensor a (3)': class_loss(
        "type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', class_weight=[1.0] * 3"
    ),
    'only integer tensors': class_loss(
        "type='CrossEntropyLoss', use_sigmoid=True, reduction='sum', loss_weight=[1.0] * 80"
    ),
    'loss_cls: 0.0003': class_loss("type='FocalLoss'"),
    "it is 'mean'": a_mean_in_mmdets_head,
    'loss_cls: 0.0000  loss_bbox: 0.0000': no_objects,
    "has no class 'Cat'": lambda folder: checked_order(folder, 'Cat', 'Dog'),
    'no prior was assigned': a_hundred_iterations_without_priors,
    'minimum in the wrong place': soft_targets,
    'loss_bbox is nan': a_loss_that_is_nan,
    "classes ('dog', 'cat')": lambda folder: checked_order(folder, 'dog', 'cat'),
    'there is no file': a_missing_file,
    'size mismatch': another_number_of_classes,
    'was not loaded: it holds': code_in_a_checkpoint,
    'AmpOptimizerWrapper': amp_on_a_cpu,
    'server socket has failed': a_port_in_use,
}


def key_of(symptom, table):
    return [key for key in table if key in symptom]


@pytest.mark.parametrize('symptom', SYMPTOMS, ids=lambda text: text[:40])
def test_each_symptom_is_produced_or_excused(symptom):
    assert len(key_of(symptom, PRODUCED) + key_of(symptom, NOT_HERE)) == 1


@pytest.mark.parametrize('key', [*PRODUCED, *NOT_HERE])
def test_each_key_is_a_symptom(key):
    assert any(key in symptom for symptom in SYMPTOMS)


def text_of(error):
    """An error as a traceback ends, with the line that was asserted."""
    frame = error.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    line = linecache.getline(frame.tb_frame.f_code.co_filename, frame.tb_lineno).strip()
    return f'{type(error).__name__}: {error}\n{line}'


def squeezed(text):
    """The text with single spaces, and paths without their folders."""
    text = re.sub(r'\s+', ' ', text)
    return re.sub(r'/\S*?([\w.]+\.(?:json|pth))', r'\1', text)


@pytest.mark.parametrize('key', PRODUCED)
def test_a_symptom_is_printed_like_that(key, tmp_path, capfd, monkeypatch):
    (symptom,) = [symptom for symptom in SYMPTOMS if key in symptom]
    monkeypatch.chdir(tmp_path)
    try:
        printed = str(PRODUCED[key](tmp_path))
    except (Exception, UserError) as error:
        printed = text_of(error)
    captured = capfd.readouterr()
    printed = squeezed(printed + captured.out + captured.err)
    for line in symptom.splitlines():
        assert squeezed(line).rstrip('.}') in printed
