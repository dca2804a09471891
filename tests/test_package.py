"""The wheel carries code, configs and tools."""

import subprocess
import sys
import zipfile

from conftest import ROOT, run

import mmext


def test_the_wheel_carries_the_configs(tmp_path):
    # From a copy: a build leaves folders behind in the tree that it builds.
    tree = tmp_path / 'tree'
    files = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.split():
        source, copy = ROOT / name, tree / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            copy.symlink_to(source.readlink())
        elif source.is_file():
            copy.write_bytes(source.read_bytes())
    run(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, tree)
    (wheel,) = tmp_path.glob('mmext-*.whl')
    assert wheel.name.startswith(f'mmext-{mmext.__version__}')
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = (
        f'import sys; sys.path.insert(0, {str(site)!r})\n'
        'import mmext; from mmengine.config import Config\n'
        f'assert mmext.__file__.startswith({str(site)!r}), mmext.__file__\n'
        'print(Config.fromfile(mmext.config("yolox/yolox_s_obj-varifocal_8xb8-300e_coco.py")).model.bbox_head.loss_obj.type)'
    )
    assert run(sys.executable, '-c', script).stdout.strip().endswith('mmext.VarifocalLoss')
    shipped, configs = site / 'mmext' / '.mim' / 'configs', ROOT / 'configs'
    assert {path.relative_to(shipped) for path in shipped.rglob('*.py')} == {
        path.relative_to(configs) for path in configs.rglob('*.py')
    }
    assert (site / 'mmext' / '.mim' / 'tools' / 'train.py').is_file()
    assert (site / 'mmext' / '.mim' / 'model-index.yml').is_file()
    package = ROOT / 'mmext'
    parts = {path.relative_to(package) for kind in ('jinja', 'css') for path in package.rglob(f'*.{kind}')}
    assert len(parts) >= 5
    assert all((site / 'mmext' / part).is_file() for part in parts)


def test_the_package_imports_nothing_heavy():
    script = (
        'import sys, mmext; print([name for name in ("torch", "mmengine", "mmcv", "mmdet") if name in sys.modules])'
    )
    assert run(sys.executable, '-c', script).stdout.strip() == '[]'
