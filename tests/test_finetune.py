"""docs/finetune.md, followed from Pascal VOC to a checkpoint: the config to copy, and what the log says."""

import json
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO
from xml.etree import ElementTree

import pytest
import torch
from conftest import ROOT, load_tool
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmext.cli import train

CONFIG = ROOT / 'configs' / 'yolox' / 'yolox_s_finetune_1xb8-30e_custom.py'
PAGE = (ROOT / 'docs' / 'finetune.md').read_text()
CLASSES = ('circle', 'triangle', 'star')
# A network of an eighth of the width, so that a step takes a fraction of a second.
SMALL_MODEL = [
    'model.backbone.widen_factor=0.0625',
    'model.neck.in_channels=[16,32,64]',
    'model.neck.out_channels=16',
    'model.bbox_head.in_channels=16',
    'model.bbox_head.feat_channels=16',
]
SMALL_DATA = [
    'train_dataloader.batch_size=4',
    *(f'{loader}_dataloader.num_workers=0' for loader in ('train', 'val', 'test')),
    *(f'{loader}_dataloader.persistent_workers=False' for loader in ('train', 'val', 'test')),
    'train_dataloader.dataset.pipeline.0.img_scale=(96,96)',
    'train_dataloader.dataset.pipeline.1.border=(-48,-48)',
    'train_dataloader.dataset.pipeline.2.img_scale=(96,96)',
    'train_dataloader.dataset.pipeline.5.scale=(96,96)',
    'val_dataloader.dataset.pipeline.1.scale=(96,96)',
    'test_dataloader.dataset.pipeline.1.scale=(96,96)',
]


def with_variables(text, **values):
    """The config with other values of the variables at its top."""
    for name, value in values.items():
        text, found = re.subn(rf'^{name} = .*$', f'{name} = {value!r}', text, flags=re.MULTILINE)
        assert found == 1, name
    return text


def variables():
    """The variables at the top of the config, before what follows from them."""
    return re.findall(r'^([a-z]\w*) = ', CONFIG.read_text().partition('# What follows')[0], re.MULTILINE)


def write_voc(shapes, folder):
    """The data set as Pascal VOC: one folder of images, an XML file for each, lists of the splits."""
    for part in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (folder / part).mkdir(parents=True)
    for split in ('train', 'val'):
        coco = json.loads((shapes / 'annotations' / f'{split}.json').read_text())
        names = {category['id']: category['name'] for category in coco['categories']}
        stems = []
        for image in coco['images']:
            stem = f'{split}_{image["id"]}'
            stems.append(stem)
            shutil.copy(shapes / split / image['file_name'], folder / 'JPEGImages' / f'{stem}.jpg')
            root = ElementTree.Element('annotation')
            ElementTree.SubElement(root, 'filename').text = f'{stem}.jpg'
            for box in (each for each in coco['annotations'] if each['image_id'] == image['id']):
                item = ElementTree.SubElement(root, 'object')
                ElementTree.SubElement(item, 'name').text = names[box['category_id']]
                corners = ElementTree.SubElement(item, 'bndbox')
                x, y, width, height = box['bbox']
                for name, value in dict(xmin=x + 1, ymin=y + 1, xmax=x + width, ymax=y + height).items():
                    ElementTree.SubElement(corners, name).text = str(round(value))
            ElementTree.ElementTree(root).write(folder / 'Annotations' / f'{stem}.xml')
        (folder / 'ImageSets' / 'Main' / f'{split}.txt').write_text('\n'.join(stems))


def write_coco_checkpoint(path):
    """Weights of the small network with COCO's 80 classes, all of them 0.01."""
    init_default_scope('mmdet')
    config = Config.fromfile(CONFIG)
    config.merge_from_dict(settings(SMALL_MODEL))
    config.model.bbox_head.num_classes = 80
    state = {key: torch.full_like(value, 0.01) for key, value in MODELS.build(config.model).state_dict().items()}
    torch.save(dict(state_dict=state, meta={}), path)


def settings(words):
    pairs = (word.split('=') for word in words)
    return {key: DictAction._parse_iterable(value) for key, value in pairs}


@pytest.fixture(scope='module')
def followed(shapes, tmp_path_factory):
    """A folder where the page was followed, with two epochs and next to no learning rate; what the training printed."""
    folder = tmp_path_factory.mktemp('finetune')
    write_voc(shapes, folder / 'VOC')
    for split in ('train', 'val'):
        arguments = [str(folder / 'VOC'), str(folder / f'data/annotations/{split}.json'), '--split', split]
        load_tool('voc_to_coco').main([*arguments, '--classes', *CLASSES])
    shutil.copytree(folder / 'VOC' / 'JPEGImages', folder / 'data' / 'images')
    write_coco_checkpoint(folder / 'coco.pth')
    values = dict(classes=CLASSES, data_root=f'{folder}/data/', checkpoint=str(folder / 'coco.pth'), max_epochs=2)
    (folder / 'mine.py').write_text(with_variables(CONFIG.read_text(), lr=1e-12, **values))
    output = StringIO()
    with redirect_stdout(output):
        arguments = [str(folder / 'mine.py'), '--work-dir', str(folder / 'work')]
        train.main([*arguments, '--cfg-options', *SMALL_MODEL, *SMALL_DATA])
    return folder, output.getvalue()


def test_the_variables_are_those_of_the_page():
    assert variables() == ['classes', 'data_root', 'checkpoint', 'lr', 'max_epochs']
    assert re.findall(r'^\| `(\w+)` \|', PAGE, re.MULTILINE) == variables()


def test_everything_follows_from_the_variables(tmp_path):
    values = dict(classes=('a', 'b'), data_root='mine/', checkpoint='coco.pth', lr=0.5, max_epochs=60)
    (tmp_path / 'mine.py').write_text(with_variables(CONFIG.read_text(), **values))
    config = Config.fromfile(tmp_path / 'mine.py')
    assert config.load_from == 'coco.pth'
    assert config.model.bbox_head.num_classes == 2
    datasets = [config.train_dataloader.dataset.dataset, config.val_dataloader.dataset, config.test_dataloader.dataset]
    assert {dataset.data_root for dataset in datasets} == {'mine/'}
    assert all(dataset.metainfo.classes == ('a', 'b') for dataset in datasets)
    assert config.val_evaluator.ann_file == config.test_evaluator.ann_file == 'mine/annotations/val.json'
    assert config.optim_wrapper.optimizer.lr == 0.5
    warmup, cosine = config.param_scheduler
    assert (warmup.end, cosine.end, cosine.eta_min, config.train_cfg.max_epochs) == (1, 50, 0.025, 60)
    (switch,) = [hook for hook in config.custom_hooks if hook.type == 'YOLOXModeSwitchHook']
    assert switch.num_last_epochs == 10
    assert len(config.custom_hooks) == 3


def test_it_prints_what_the_page_says(followed):
    """The page quotes it for YOLOX-s; these are the same keys of the small network."""
    _, log = followed
    quoted = re.search(r'```text\n(The model and.*?)```', PAGE, re.S)[1]
    keys = re.findall(r'size mismatch for (\S+):', quoted)
    assert len(keys) == 6
    # Twice, as the averaged weights are loaded, too.
    assert re.findall(r'size mismatch for (\S+):', log) == 2 * keys
    assert quoted.splitlines()[0] in log
    shapes = re.findall(r'torch.Size\(\[[\d, ]*\]\)', log.partition('size mismatch')[2].splitlines()[0])
    assert shapes == ['torch.Size([80, 16, 1, 1])', 'torch.Size([3, 16, 1, 1])']
    sentence = re.search(r'(size mismatch for \S+: copying.*), the shape', quoted)[1]
    assert re.sub(r'\d+', 'N', sentence) in re.sub(r'\d+', 'N', log)


def test_everything_but_the_last_class_layer_is_loaded(followed):
    """With a learning rate of next to nothing the weights after the training are those of the checkpoint."""
    folder, _ = followed
    trained = torch.load(folder / 'work' / 'epoch_2.pth', weights_only=False)['state_dict']
    weights = {key: value for key, value in trained.items() if key.endswith(('conv.weight', '.0.weight'))}
    loaded = {key for key, value in weights.items() if (value - 0.01).abs().max() < 1e-6}
    assert len(loaded) > 50
    assert {key for key in set(weights) - loaded if 'conv_cls' not in key} == set()
    assert 'bbox_head.multi_level_conv_cls.0.weight' not in loaded


def test_it_is_evaluated(followed):
    folder, _ = followed
    (log,) = (folder / 'work').glob('*/*.log')
    assert re.search(r'Epoch\(val\) +\[2\]\[1/1\]', log.read_text())
