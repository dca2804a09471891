"""Every config in docs/projects.md builds its head, and the checks accept it."""

import re

import pytest
from conftest import ROOT
from mmengine import Config
from mmengine.config.utils import MODULE2PACKAGE
from projects import require
from torch import nn

from mmext.audit import check_wiring

BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'projects.md').read_text(), re.S)
PROJECTS = [re.search(r"_base_ = '(\w+)::", block)[1] for block in BLOCKS]


def test_there_are_configs():
    assert {'mmyolo', 'mmseg'} <= set(PROJECTS)


@pytest.mark.parametrize(('project', 'block'), zip(PROJECTS, BLOCKS), ids=PROJECTS)
def test_a_config_builds_its_head(project, block, tmp_path, monkeypatch):
    # mmengine looks for the package mmsegmentation; onedl-mmsegmentation has another name.
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmseg')
    registry = require(project).registry.MODELS
    file = tmp_path / 'config.py'
    file.write_text(block)
    model = Config.fromfile(file).model
    part = 'decode_head' if project == 'mmseg' else 'bbox_head'
    setting = {name: value for name, value in model[part].items() if name != 'norm_cfg'}
    train_cfg = {'train_cfg': model.get('train_cfg')} if project == 'mmyolo' else {}
    owner = nn.Module()
    setattr(owner, part, registry.build(dict(setting, **train_cfg, _scope_=project)))
    assert not check_wiring(owner)
    written = re.findall(r"type='mmext\.(\w+)'", block)
    assert {type(module).__name__ for module in owner.modules()} >= set(written)
