"""`mmext publish`: the same predictions where mmext cannot be imported."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from detectors import CLASSES, SIGMOID, SOFTMAX, detector, load
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from toy_training import toy_runner

from mmext.cli.common import read_config
from mmext.cli.publish import main
from mmext.deployment.conversion import convert_config, convert_weights
from mmext.deployment.publishing import compare, difference, random_images
from mmext.deployment.weights import is_loss_state
from mmext.errors import UserError

# A detector with sigmoids; with a softmax that needs a head of its own; with softmaxes that sigmoids can express.
KINDS = {
    'sigmoid': (SIGMOID, CLASSES),
    'softmax': (SOFTMAX, CLASSES),
    'two': (SOFTMAX, CLASSES[:2]),
    'one': (SOFTMAX, CLASSES[:1]),
}
PREDICT_WITHOUT_MMEXT = """
import json, sys
sys.modules['mmext'] = None
try:
    import mmext
except ImportError:
    pass
else:
    sys.exit('mmext can be imported')
from mmdet.apis import DetInferencer

results = {}
for name, (config, checkpoint, images) in json.loads(sys.argv[1]).items():
    inferencer = DetInferencer(config, checkpoint, device='cpu', show_progress=False)
    results[name] = inferencer(images)['predictions']
assert sys.modules['mmext'] is None
print('RESULTS', json.dumps(results))
"""


@pytest.fixture(scope='module')
def originals(shapes, tmp_path_factory):
    """Config and checkpoint of each kind."""
    return {name: detector(tmp_path_factory.mktemp(name), shapes, *kind) for name, kind in KINDS.items()}


@pytest.fixture(scope='module')
def published(originals, tmp_path_factory):
    """The folder of each kind."""
    folders = {name: tmp_path_factory.mktemp('published') / name for name in originals}
    for name, files in originals.items():
        main([*map(str, files), str(folders[name]), '--name', name])
    return folders


def weights_of(folder):
    (file,) = folder.glob('*.pth')
    return file


def test_predicts_the_same_without_mmext(originals, published, shapes, tmp_path):
    images = [str(path) for path in sorted((shapes / 'val').iterdir())]
    task = {name: (str(folder / f'{name}.py'), str(weights_of(folder)), images) for name, folder in published.items()}
    result = subprocess.run(
        [sys.executable, '-c', PREDICT_WITHOUT_MMEXT, json.dumps(task)],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': ''},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith('RESULTS '))
    predictions = json.loads(line.removeprefix('RESULTS '))
    for name, files in originals.items():
        inferencer, count = load(*files), 0
        for image, found in zip(images, predictions[name]):
            expected = inferencer.predict([inferencer.prepare(image)])[0].pred_instances
            assert expected.labels.tolist() == found['labels'], name
            # Sums in another order: the layers are not the same.
            tolerance = 1e-5 if name in ('two', 'one') else 0
            assert difference(expected.scores, torch.tensor(found['scores'])) <= tolerance, name
            assert difference(expected.bboxes, torch.tensor(found['bboxes'])) <= tolerance, name
            count += len(expected)
        assert count > 20, name


@pytest.mark.parametrize('name', KINDS)
def test_holds_what_inference_needs(name, originals, published):
    folder, file = published[name], weights_of(published[name])
    content = file.read_bytes()
    assert file.name == f'{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    module = {'yolox_softmax_head.py'} if name == 'softmax' else set()
    assert {path.name for path in folder.iterdir()} == {file.name, f'{name}.py'} | module
    text = (folder / f'{name}.py').read_text()
    for word in ('mmext', '_base_', '_scope_', 'optim_wrapper', 'train_dataloader', 'custom_hooks'):
        assert word not in text
    checkpoint = torch.load(file, weights_only=True)
    assert set(checkpoint) == {'meta', 'state_dict'}
    assert checkpoint['meta']['epoch'] == 3
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == KINDS[name][1]
    config = Config.fromfile(folder / f'{name}.py')
    assert config.test_dataloader.dataset.metainfo.classes == KINDS[name][1]
    own = torch.load(originals[name][1], weights_only=True)['state_dict']
    extra = {'bbox_head.predicts_with_softmax'}
    if name in ('sigmoid', 'softmax'):
        assert all(torch.equal(value, own[key]) for key, value in checkpoint['state_dict'].items())
    assert set(checkpoint['state_dict']) ^ set(own) == (extra if name in ('two', 'one') else set())


def test_mmdets_head_does_not_take_a_softmax_for_sigmoids(published):
    """Strict loading fails; without a module for the softmax, so does the config."""
    weights = torch.load(weights_of(published['softmax']), weights_only=True)['state_dict']
    config = Config.fromfile(published['softmax'] / 'softmax.py')
    config.model.bbox_head.type = 'YOLOXHead'
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*predicts_with_softmax'):
        model.load_state_dict(weights)


def test_builds_mmdets_own_types(published):
    for name, folder in published.items():
        config = Config.fromfile(folder / f'{name}.py')
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(config.model)
        assert type(model.bbox_head).__name__ == ('YOLOXSoftmaxHead' if name == 'softmax' else 'YOLOXHead')
        for module in (*model.modules(), model.bbox_head.assigner):
            assert not type(module).__module__.startswith('mmext.')


def test_the_saved_state_dict_is_the_average(tmp_path):
    """mmengine's EMAHook swaps the weights when a checkpoint is saved."""
    runner = toy_runner(tmp_path, seed=0)
    runner.train()
    (hook,) = (hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    saved = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    average, source = hook.ema_model.module.layer.weight, runner.model.layer.weight
    assert torch.equal(saved['state_dict']['layer.weight'], average)
    assert torch.equal(saved['ema_state_dict']['module.layer.weight'], source)
    assert not torch.equal(average, source)


def test_leaves_a_folder_that_is_not_empty_alone(originals, tmp_path):
    (tmp_path / 'mine.txt').touch()
    with pytest.raises(UserError, match='is not an empty folder'):
        main([*map(str, originals['sigmoid']), str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_refuses_a_type_without_a_replacement(originals):
    inferencer = load(*originals['sigmoid'])
    config = inferencer.source_config.copy()
    config.model.neck.type = 'mmext.Neck'
    with pytest.raises(UserError, match=r'model\.neck\.type is mmext.Neck'):
        convert_config(config, inferencer.model, {})


def test_notices_predictions_that_differ(originals, shapes):
    ours, theirs = (load(*originals['sigmoid']) for _ in range(2))
    images = random_images([(64, 96)])
    assert compare(ours, theirs, images).difference == 0
    theirs.model.bbox_head.multi_level_conv_reg[0].bias.data += 1e-3
    with pytest.raises(RuntimeError, match='differ by'):
        compare(ours, theirs, images)
    theirs.model.bbox_head.multi_level_conv_obj[0].bias.data += 100
    with pytest.raises(RuntimeError, match='finds'):
        compare(ours, theirs, images)


OTHERS = [
    'atss/atss_r50_fpn_focal-diou_1x_coco.py',
    'faster_rcnn/faster-rcnn_r50_fpn_softmax-focal-giou_1x_coco.py',
    'fcos/fcos_r50-caffe_fpn_gn-head_focal-giou_1x_coco.py',
    'gfl/gfl_r50_fpn_quality-diou_1x_coco.py',
    'retinanet/retinanet_r50_fpn_focal-giou_1x_coco.py',
    'rtmdet/rtmdet_s_varifocal_8xb32-300e_coco.py',
    'tood/tood_r50_fpn_quality-diou_1x_coco.py',
    'vfnet/vfnet_r50_fpn_varifocal-diou_1x_coco.py',
    'yolox/yolox_s_wise-iou_8xb8-300e_coco.py',
]


@pytest.mark.parametrize('name', OTHERS)
def test_converts_the_other_detectors(name):
    """mmdet's losses take the places of mmext's, and the layers stay."""
    config = read_config(f'mmext::{name}')
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        model = MODELS.build(config.model)
        converted = convert_config(config, model, dict(classes=('a',)))
        assert 'mmext' not in converted.pretty_text
        theirs = MODELS.build(converted.model)
    if 'faster' in name:
        assert converted.model.roi_head.bbox_head.loss_cls.use_sigmoid is False
    kept = {key for key in model.state_dict() if not is_loss_state(key)}
    assert set(theirs.state_dict()) == kept == set(convert_weights(model.state_dict(), model))
    assert any(is_loss_state(key) for key in model.state_dict()) == ('wise' in name)
    assert {key: value.shape for key, value in theirs.state_dict().items()} == {
        key: model.state_dict()[key].shape for key in kept
    }
