"""What differs between the supported versions of torch and mmengine, and what a torch that is too old is told."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import digit_version, get_installed_path, is_installed

import mmext
from mmext import compat
from mmext.deployment.onnx_export import check_exportable
from mmext.errors import UserError
from mmext.heads import YOLOXHead


@pytest.fixture
def old_torch(monkeypatch):
    monkeypatch.setattr(compat, 'TORCH', digit_version('2.6.0'))


@pytest.mark.parametrize('version, able', [('2.1.2', False), ('2.12.1', False), ('2.13.0', True), ('2.13.0+cpu', True)])
def test_what_a_torch_can(monkeypatch, version, able):
    monkeypatch.setattr(compat, 'TORCH', digit_version(version))
    assert compat.torch_can('compile') is able


def test_an_old_torch_refuses_to_compile(old_torch):
    message = rf'bbox_head\.compile=True needs torch 2\.13 or later, and this is torch {re.escape(torch.__version__)}'
    with pytest.raises(UserError, match=message):
        YOLOXHead(num_classes=1, in_channels=8, compile=True)
    YOLOXHead(num_classes=1, in_channels=8)


def test_an_old_torch_refuses_to_export(old_torch):
    with pytest.raises(UserError, match=r'--onnx needs torch 2\.13 or later'):
        check_exportable(torch.nn.Identity())


def test_each_feature_is_tested_with_its_oldest_torch():
    pinned = [re.search(r'^torch==(\d+\.\d+)', path.read_text(), re.M)[1] for path in ROOT.glob('requirements/*.txt')]
    assert set(compat.OLDEST_TORCH.values()) <= set(pinned)


def test_events_are_in_order_whatever_torch_calls_their_start():
    events = [SimpleNamespace(start_ns=lambda: 2000), SimpleNamespace(start_us=lambda: 2)]
    assert [compat.start_of(event) for event in events] == [2000, 2]


@pytest.mark.parametrize('bad', [None, float('nan'), float('-inf')])
@pytest.mark.parametrize('version', ['2.1.2', torch.__version__])
def test_the_check_for_non_finite_values(monkeypatch, version, bad):
    monkeypatch.setattr(compat, 'TORCH', digit_version(version))
    # The squares of the finite ones overflow.
    tensors = [torch.full((2, 3), 1e30), torch.tensor([-1e30, 1.0])]
    if bad is not None:
        tensors[1][1] = bad
    copies = [tensor.clone() for tensor in tensors]
    for before in (0.0, 1.0):
        found = torch.full((1,), before)
        if version == '2.1.2':
            monkeypatch.delattr(torch, '_amp_foreach_non_finite_check_and_unscale_', raising=False)
        compat.mark_non_finite(tensors, found, torch.ones(1))
        assert found.item() == (before if bad is None else 1)
    for tensor, copy in zip(tensors, copies):
        torch.testing.assert_close(tensor, copy, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize('text', ['flags\t\t: fpu avx512_bf16', 'Features\t: fp asimd bf16'])
def test_the_capabilities_without_torchs_function(monkeypatch, tmp_path, text):
    monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    monkeypatch.setattr(compat, 'CPU_INFO', tmp_path / 'cpuinfo')
    assert compat.cpu_capabilities() == {'cpu_name': None}
    (tmp_path / 'cpuinfo').write_text(f'model name\t: A CPU\n{text}\n\n')
    found = compat.cpu_capabilities()
    assert found['cpu_name'] == 'A CPU' and any('bf16' in name for name in found)


def test_mmengine_finds_the_configs_of_an_editable_install():
    """mmengine 0.10.7 looks for a distribution in site-packages alone."""
    name = MODULE2PACKAGE['mmext']
    assert is_installed(name)
    assert Path(get_installed_path(name)) == Path(mmext.__file__).parent
