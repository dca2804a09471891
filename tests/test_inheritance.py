"""How others build on mmext: by `mmext::`, by mmengine's hub, by new-style configs, and from a package of their own."""

import re
import sys
from pathlib import Path

import mmengine
import pytest
from conftest import ROOT, run
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.utils import digit_version

import mmext
from mmext.heads import YOLOXHead

NEW_STYLE = sorted((ROOT / 'mmext' / 'configs').rglob('*.py'))
PAGE = (ROOT / 'docs' / 'add_a_loss.md').read_text()
HUB = """
{imports}
config = get_config('mmext::yolox/yolox_nano_1xb8-60e_bccd.py')
model = get_model('mmext::yolox/yolox_nano_1xb8-60e_bccd.py')
print(config.train_cfg.max_epochs, type(model).__module__, type(model.bbox_head).__module__)
"""


class TestMmengine:
    @pytest.mark.parametrize(
        'imports',
        [
            'import mmext\nfrom mmengine.hub import get_config, get_model',
            'from mmengine.hub import get_config, get_model\nimport mmext',
        ],
        ids=['mmext first', 'mmengine first'],
    )
    def test_gets_a_config_and_a_model(self, imports):
        output = run(sys.executable, '-c', HUB.format(imports=imports)).stdout.split()
        assert output[-3:] == ['60', 'mmdet.models.detectors.yolox', 'mmext.heads.yolox_head']

    def test_loads_as_without_mmext(self):
        """The module that mmext waits for is the one that Python finds, and the finder is gone afterwards."""
        script = (
            'import sys, mmext\n'
            'assert [f for f in sys.meta_path if "mmext.packages" in type(f).__module__]\n'
            'import mmengine.config.utils as utils\n'
            'assert not [f for f in sys.meta_path if "mmext.packages" in type(f).__module__]\n'
            'assert utils.__spec__.loader.get_filename() == utils.__file__\n'
            'print(utils.MODULE2PACKAGE["mmext"], utils.MODULE2PACKAGE["mmdet"])'
        )
        assert run(sys.executable, '-c', script).stdout.split()[-2:] == ['mmext.registry', 'mmdet']

    def test_a_later_import_does_not_overwrite_the_list(self):
        from mmengine.config.utils import MODULE2PACKAGE

        assert MODULE2PACKAGE['mmext'] == 'mmext.registry'
        mmext.announce()
        assert MODULE2PACKAGE['mmext'] == 'mmext.registry'


def packages(page):
    """The files of a page, by the names that stand before their blocks."""
    return dict(re.findall(r'^`([\w/]+\.py)`:\n\n```python\n(.*?)```', page, re.S | re.MULTILINE))


class TestAnotherPackage:
    """The package `cells` of docs/add_a_loss.md, in processes that know nothing else of it."""

    @pytest.fixture(scope='class')
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp('third')
        files = packages(PAGE)
        (folder / 'cells').mkdir()
        (folder / 'cells' / '__init__.py').touch()
        for name in ('cells/registry.py', 'cells/losses.py', 'cells_config.py'):
            (folder / name).write_text(files[name])
        return folder

    def test_inherits_and_overrides_one_loss(self, folder):
        script = (
            'import sys\n'
            'from mmext.cli.common import read_config\n'
            'from mmdet.registry import MODELS\n'
            f'config = read_config({str(folder / "cells_config.py")!r})\n'
            'assert "cells" not in sys.modules\n'
            'head = MODELS.build(config.model).bbox_head\n'
            'print(type(head.loss_bbox).__module__, head.loss_bbox.loss_weight, type(head.loss_cls).__module__)\n'
        )
        output = run(sys.executable, '-c', script, PYTHONPATH=f'{folder}:{ROOT}').stdout.split()
        assert output[-3:] == ['cells.losses', '10.0', 'mmdet.models.losses.cross_entropy_loss']

    def test_trains(self, folder, shapes):
        loader = dict(batch_size=4, num_workers=0, persistent_workers=False)
        options = [
            f'{name}_dataloader.{key}={value}' for name in ('train', 'val', 'test') for key, value in loader.items()
        ]
        options += [f'{name}_dataloader.dataset.data_root={shapes}' for name in ('train', 'val', 'test')]
        options += [f'{name}_evaluator.ann_file={shapes}/annotations/val.json' for name in ('val', 'test')]
        options += ['train_cfg.max_epochs=2', 'param_scheduler.1.end=2', 'train_cfg.val_interval=2']
        options += ['default_hooks.checkpoint.interval=2', 'default_hooks.logger.interval=1']
        command = [sys.executable, '-m', 'mmext', 'train', folder / 'cells_config.py', '--work-dir', folder / 'work']
        result = run(*command, '--cfg-options', *options, PYTHONPATH=f'{folder}:{ROOT}')
        assert (folder / 'work' / 'epoch_2.pth').is_file()
        assert 'cells.CellIoULoss' in result.stdout + result.stderr


def plain(node):
    """A config as nested dicts: types by the end of their names, of mmext's or not; no scopes."""
    if isinstance(node, dict):
        return {
            key: kind(value) if key in ('type', 'ema_type') else plain(value)
            for key, value in node.items()
            if key != '_scope_'
        }
    return [plain(each) for each in node] if isinstance(node, (list, tuple)) else node


def kind(value):
    name = value if isinstance(value, str) else f'{value.__module__}.{value.__name__}'
    return name.startswith('mmext.'), name.rpartition('.')[2]


class TestNewStyle:
    def test_there_are_the_three_of_the_page(self):
        assert {path.stem for path in NEW_STYLE} == set(re.findall(r'`(yolox_s_\w+_coco)`', PAGE))
        assert len(NEW_STYLE) == 3

    @pytest.mark.parametrize('path', NEW_STYLE, ids=lambda path: path.stem)
    def test_equals_the_old_style(self, path):
        (old,) = re.findall(r'configs/(yolox/\S+\.py)', path.read_text().splitlines()[0])
        assert path.stem == old.removeprefix('yolox/').removesuffix('.py').replace('-', '_')
        old, new = Config.fromfile(ROOT / 'configs' / old).to_dict(), Config.fromfile(path).to_dict()
        # What mmdet's root only computes other keys from.
        helpers = {'img_scales', 'img_scale', 'dataset_type', 'train_dataset', 'max_epochs', 'num_last_epochs'}
        helpers |= {'interval', 'base_lr', 'data_root', 'backend_args', 'train_pipeline', 'test_pipeline'}
        assert set(old) - helpers <= set(new)
        for key in set(old) - helpers:
            assert plain(new[key]) == plain(old[key]), key

    @pytest.mark.parametrize('path', NEW_STYLE, ids=lambda path: path.stem)
    def test_builds(self, path):
        init_default_scope('mmdet')
        model = MODELS.build(Config.fromfile(path).model)
        assert type(model.bbox_head) is YOLOXHead
        assert type(model.bbox_head.assigner).__name__ == 'BatchSimOTAAssigner'

    def test_mosaic_is_named(self):
        """YOLOXModeSwitchHook compares strings: it would never switch a class off."""
        (root,) = [path for path in NEW_STYLE if path.stem == 'yolox_s_8xb8_300e_coco']
        pipeline = Config.fromfile(root).train_dataloader.dataset.pipeline
        assert [transform['type'] for transform in pipeline[:3]] == ['Mosaic', 'RandomAffine', 'MixUp']

    @pytest.mark.skipif(
        digit_version(mmengine.__version__) < digit_version('0.10.8') and Path(mmext.__file__).parents[1] == ROOT,
        reason='mmengine 0.10.7 does not find new-style bases of an editable installation',
    )
    def test_is_inherited_by_read_base(self, tmp_path):
        (tmp_path / 'new_style.py').write_text(packages(PAGE)['new_style.py'])
        loss = Config.fromfile(tmp_path / 'new_style.py').model.bbox_head.loss_obj
        assert loss.gamma == 1.5
        assert loss.alpha == 0.75
