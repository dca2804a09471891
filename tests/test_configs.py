"""Every shipped config builds and gives all branches a gradient, and an idea changes the head alone."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmdet.registry import DATASETS, HOOKS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import LOOPS, init_default_scope
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader

import mmext
from mmext import losses
from mmext.audit import recipe
from mmext.cli.check import check_types
from mmext.heads import YOLOXHead
from mmext.losses import VARIANTS, IoULoss

CONFIGS = sorted((ROOT / 'configs' / 'yolox').glob('*.py'))
ROOTS = {
    'coco': 'yolox_s_8xb8-300e_coco',
    'bccd': 'yolox_nano_1xb8-60e_bccd',
    'aquarium': 'yolox_nano_1xb8-60e_aquarium',
    'hituav': 'yolox_nano_1xb8-60e_hituav',
    'shapes': 'yolox_nano_1xb8-9e_shapes',
}
# The recommendation for shapes on a longer schedule.
DEMO = 'yolox_nano_recommended_1xb8-15e_shapes'
# The config to copy for data of one's own; tests/test_finetune.py copies it.
FINETUNE = 'yolox_s_finetune_1xb8-30e_custom'
SMALL = [dataset for dataset in ROOTS if dataset != 'coco']
CHILDREN = [path for path in CONFIGS if path.stem not in (*ROOTS.values(), DEMO, FINETUNE)]
# One for each of mmdet's other heads; tests/test_heads/test_other_heads.py trains them.
OTHERS = sorted(path for path in (ROOT / 'configs').glob('[!_]*/*.py') if path not in CONFIGS)


def name(path):
    return path.stem


def idea(path):
    return path.stem.split('_')[2]


def root_file(dataset):
    return ROOT / 'configs' / 'yolox' / f'{ROOTS[dataset]}.py'


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def sample(size, num_classes):
    corner = torch.tensor([[8.0, 8, 40, 30], [50, 20, 90, 80], [20, 60, 40, 100]])
    return DetDataSample(
        gt_instances=InstanceData(bboxes=corner, labels=torch.arange(3) % num_classes),
        metainfo={'img_shape': (size, size), 'batch_input_shape': (size, size)},
    )


def dicts(node):
    """Every dict in a config that names a type."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ()
    found = [each for child in children for each in dicts(child)]
    return [node, *found] if isinstance(node, dict) and 'type' in node else found


@pytest.fixture(scope='module')
def used():
    """The dicts of all shipped configs that name a type of mmext's."""
    nodes = [node for path in CONFIGS + OTHERS for node in dicts(Config.fromfile(path).model.to_dict())]
    return [node for node in nodes if str(node['type']).startswith('mmext.')]


@pytest.mark.parametrize('kind', [name for name in losses.__all__ if inspect.isclass(getattr(losses, name))])
def test_every_loss_and_focus_has_a_config(kind, used):
    assert f'mmext.{kind}' in {node['type'] for node in used}


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_variant_has_a_config(variant, used):
    assert variant in {node.get('variant') for node in used}


@pytest.mark.parametrize('path', CONFIGS + OTHERS, ids=name)
def test_keeps_two_checkpoints(path):
    """With one, the old checkpoint is deleted before the new one is written; -1 keeps all."""
    assert Config.fromfile(path).default_hooks.checkpoint.get('max_keep_ckpts', -1) not in (0, 1)


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_builds_and_learns_in_all_branches(path):
    config = Config.fromfile(path)
    check_types(config.to_dict())
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    head = model.bbox_head
    assert isinstance(head, YOLOXHead)
    size = 128
    samples = [sample(size, head.num_classes) for _ in range(2)]
    losses = model(torch.randn(2, 3, size, size), samples, mode='loss')
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_obj'}
    assert all(loss.item() > 1e-3 for loss in losses.values())
    sum(losses.values()).backward()
    for branch in (head.multi_level_conv_cls, head.multi_level_conv_reg, head.multi_level_conv_obj):
        gradients = [parameter.grad for parameter in branch.parameters()]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert sum(gradient.abs().sum() for gradient in gradients) > 1e-3


@pytest.mark.parametrize('path', CHILDREN, ids=name)
def test_an_idea_differs_from_its_root_in_the_head_alone(path):
    root = Config.fromfile(root_file(path.stem.rsplit('_', 1)[1])).to_dict()
    child = Config.fromfile(path).to_dict()
    assert child['model'].pop('bbox_head') != root['model'].pop('bbox_head')
    assert child == root
    assert 6 <= len(path.read_text().splitlines()) <= 8


def test_the_demo_differs_from_the_recommendation_in_its_schedule_alone():
    demo, recommended = (
        Config.fromfile(ROOT / 'configs' / 'yolox' / f'{stem}.py').to_dict()
        for stem in (DEMO, DEMO.replace('15e', '9e'))
    )
    assert f'{DEMO}.py' in (ROOT / 'Makefile').read_text()
    assert demo.pop('param_scheduler')[-1]['end'] == demo['train_cfg']['max_epochs'] == 15
    del recommended['param_scheduler']
    for key in ('train_cfg', 'default_hooks'):
        assert demo.pop(key) != recommended.pop(key)
    assert demo == recommended


def without_class_weights(head):
    """The head's losses and targets; class weights and widths belong to the data and the model."""
    losses = {key: dict(value) for key, value in head.items() if key.startswith('loss')}
    if isinstance(losses['loss_cls'].get('alpha'), list):
        assert len(losses['loss_cls'].pop('alpha')) == head['num_classes']
    return {**losses, **{key: value for key, value in head.items() if key.endswith('_target')}}


# The recommendation may depend on the data.
@pytest.mark.parametrize('name', sorted({idea(path) for path in CHILDREN} - {'recommended'}))
def test_an_idea_is_the_same_on_all_data(name):
    paths = [path for path in CHILDREN if idea(path) == name]
    heads = [without_class_weights(Config.fromfile(path).to_dict()['model']['bbox_head']) for path in paths]
    assert all(head == heads[0] for head in heads)


@pytest.mark.parametrize('dataset', ['bccd', 'aquarium', 'hituav'])
def test_the_real_data_are_compared_on_the_same_ideas(dataset):
    ideas = {idea(path) for path in CHILDREN if path.stem.endswith(dataset)}
    compared = {'obj-focal', 'obj-varifocal', 'obj-iou-varifocal', 'cls-softmax-focal', 'alpha-ciou', 'recommended'}
    assert compared <= ideas


class TestSmallRoots:
    VARIABLES = dict(data_root='elsewhere/', classes=('one', 'two'), size=96, max_epochs=40, val_interval=4)

    @pytest.fixture(params=SMALL)
    def config(self, request, tmp_path):
        """A copy of a root in another folder, with other values of the variables at its top."""
        text, found = re.subn(r"'\.\./_base_/", "'mmext::_base_/", root_file(request.param).read_text())
        assert found == 1
        for key, value in self.VARIABLES.items():
            text, found = re.subn(rf'^{key} = .*$', f'{key} = {value!r}', text, flags=re.MULTILINE)
            assert found == 1, key
        (tmp_path / 'mine.py').write_text(text)
        return Config.fromfile(tmp_path / 'mine.py')

    def test_data_follow_the_variables(self, config):
        for loader in (config.train_dataloader, config.val_dataloader, config.test_dataloader):
            assert loader.dataset.data_root == 'elsewhere/'
            assert loader.dataset.metainfo.classes == ('one', 'two')
            (resize,) = [transform for transform in loader.dataset.pipeline if transform.type == 'mmdet.Resize']
            assert resize.scale == (96, 96)
        assert config.val_evaluator.ann_file == config.test_evaluator.ann_file == 'elsewhere/annotations/val.json'
        assert config.model.bbox_head.num_classes == 2
        assert [resize.scale for resize in config.tta_pipeline[1].transforms[0]] == [(72, 72), (96, 96), (120, 120)]

    def test_schedule_follows_the_variables(self, config):
        assert config.train_cfg.max_epochs == 40
        assert config.train_cfg.val_interval == config.default_hooks.checkpoint.interval == 4
        warmup, cosine = config.param_scheduler
        assert warmup.end == cosine.begin < cosine.end == 40


@pytest.mark.parametrize('dataset', ['bccd', 'aquarium', 'hituav'])
def test_the_last_tenth_is_evaluated_at_least_three_times(dataset):
    """Otherwise nobody could tell whether AP is flat by then."""
    train_cfg = Config.fromfile(root_file(dataset)).train_cfg
    epochs = []
    runner = SimpleNamespace(
        model=torch.nn.Identity(),
        val_loop=SimpleNamespace(run=lambda: epochs.append(loop.epoch)),
        call_hook=lambda *_, **__: None,
    )
    loop = LOOPS.build(train_cfg, default_args=dict(runner=runner, dataloader=DataLoader([])))
    loop.run()
    last = loop.max_epochs
    assert 6 <= len(epochs) <= 10
    assert epochs[-1] == last
    assert sum(epoch >= 0.9 * last for epoch in epochs) >= 3


@pytest.mark.parametrize('dataset', ROOTS)
def test_a_root_has_the_stock_losses_of_mmdet(dataset):
    root = Config.fromfile(root_file(dataset)).model
    stock = Config.fromstring("_base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'", '.py').model
    assert root.bbox_head.type == 'mmext.YOLOXHead'
    assert root.train_cfg.assigner == {'type': 'mmext.BatchSimOTAAssigner', 'center_radius': 2.5}
    assert root.data_preprocessor.non_blocking
    for loss in ('loss_cls', 'loss_bbox', 'loss_obj', 'loss_l1'):
        assert root.bbox_head[loss] == stock.bbox_head[loss]


@pytest.mark.parametrize('dataset', ROOTS)
def test_a_root_passes_the_check_of_its_hooks(dataset, monkeypatch):
    """On many GPUs too: no hook of YOLOX's is lost, and none would stop the training at its switch."""
    config = Config.fromfile(root_file(dataset))
    monkeypatch.setattr(recipe, 'get_world_size', lambda: 2)
    kind = DATASETS.get(config.train_dataloader.dataset.type)
    hooks = [HOOKS.build({key: hook[key] for key in hook if key != 'priority'}) for hook in config.custom_hooks]
    assert not recipe.check_hooks(MODELS.build(config.model), kind.__new__(kind), hooks)


@pytest.mark.parametrize('base', ["'mmext::{}'", "__import__('mmext').config('{}')"])
@pytest.mark.parametrize(
    'path', [path for path in CONFIGS if path.stem in ROOTS.values() or idea(path) == 'cls-focal'], ids=name
)
def test_is_inherited_by_name(path, base, tmp_path):
    """`mmext::` adds a scope to the dicts of our files: every type in them must still be found."""
    child = tmp_path / 'experiment.py'
    child.write_text(f'_base_ = {base.format(f"yolox/{path.name}")}\nmodel = dict(bbox_head=dict(obj_target="iou"))\n')
    config = Config.fromfile(child)
    head = MODELS.build(config.model).bbox_head
    assert isinstance(head, YOLOXHead)
    assert head.obj_target == 'iou'
    if 'coco' not in path.stem:
        config.train_dataloader.dataset.lazy_init = True
        assert len(DATASETS.build(config.train_dataloader.dataset).pipeline.transforms) >= 4


def head_of(model):
    return model['bbox_head'] if 'bbox_head' in model else model['roi_head']['bbox_head']


@pytest.mark.parametrize('path', OTHERS, ids=name)
def test_another_head_differs_from_mmdet_in_its_losses_alone(path):
    (base,) = re.findall(r"_base_ = 'mmdet::(.*)'", path.read_text())
    stock, config = Config.fromstring(f"_base_ = 'mmdet::{base}'", '.py').to_dict(), Config.fromfile(path).to_dict()
    check_types(config)
    ours, theirs = (
        {key: head.pop(key) for key in list(head) if 'loss' in key or key == 'reg_decoded_bbox'}
        for head in (head_of(config['model']), head_of(stock['model']))
    )
    assert config == stock
    assert ours.keys() >= theirs.keys()
    assert all(ours[loss]['type'].startswith('mmext.') for loss in ('loss_cls', 'loss_bbox'))
    assert 6 <= len(path.read_text().splitlines()) <= 8
    # mmdet's folder, and its name with the idea before the schedule.
    assert path.parent.name == base.split('/')[0]
    before, schedule = re.fullmatch(r'(.*)_([^_]*_coco)', Path(base).stem).groups()
    assert re.fullmatch(f'{before}_[a-z-]+_{schedule}', path.stem)


@pytest.mark.parametrize('path', OTHERS, ids=name)
def test_another_head_is_inherited_by_name(path, tmp_path):
    child = tmp_path / 'experiment.py'
    child.write_text(f"_base_ = 'mmext::{path.parent.name}/{path.name}'\n")
    model = Config.fromfile(child).model
    assert model == Config.fromfile(path).model
    if model.backbone.type == 'ResNet':
        # A smaller one is built faster.
        model.backbone.depth = 18
    detector = MODELS.build(model)
    head = detector.bbox_head if hasattr(detector, 'bbox_head') else detector.roi_head.bbox_head
    assert isinstance(head.loss_bbox, IoULoss)


def test_config_names_what_is_there():
    assert mmext.config('yolox/yolox_s_8xb8-300e_coco.py').endswith('.mim/configs/yolox/yolox_s_8xb8-300e_coco.py')
    with pytest.raises(FileNotFoundError, match=r'yolox_s_8xb8-300e_coco\.py'):
        mmext.config('yolox/yolox_s_focal.py')


def test_mosaic_is_switched_off():
    """mmdet's hook compares raw strings: a type with a scope would never be switched off."""
    config = Config.fromfile(ROOT / 'configs' / 'yolox' / 'yolox_s_8xb8-300e_coco.py')
    (switch,) = [hook for hook in config.custom_hooks if hook.type.endswith('YOLOXModeSwitchHook')]
    skipped = switch.get('skip_type_keys', ('Mosaic', 'RandomAffine', 'MixUp'))
    types = [transform.type for transform in config.train_dataloader.dataset.pipeline]
    assert [kind for kind in types if kind.split('.')[-1] in ('Mosaic', 'RandomAffine', 'MixUp')] == list(skipped)
