"""The distributions: what they hold, and how they behave once installed."""

import json
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, run

import mmext

# What no user of the source distribution needs.
NOT_IN_SDIST = {'.ci/run'}


def tracked_files() -> list[str]:
    command = ['git', 'ls-files', '-co', '--exclude-standard']
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in files if (ROOT / name).is_symlink() or (ROOT / name).is_file()]


@pytest.fixture(scope='module')
def dist(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel that was made from it."""
    if not (ROOT / '.git').exists():
        pytest.skip('needs a git checkout')
    # From a copy: a build leaves folders behind in the tree that it builds.
    tree = tmp_path_factory.mktemp('tree')
    for name in tracked_files():
        source, copy = ROOT / name, tree / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            copy.symlink_to(source.readlink())
        else:
            copy.write_bytes(source.read_bytes())
            copy.chmod(source.stat().st_mode)
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', tree / 'dist', tree)
    return tree / 'dist'


@pytest.fixture(scope='module')
def wheel(dist) -> Path:
    (wheel,) = dist.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> Path:
    """The interpreter of an environment where pip has installed the wheel; all else comes from this environment."""
    folder = tmp_path_factory.mktemp('venv')
    venv.create(folder, symlinks=True)
    python = folder / 'bin' / 'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', '--no-compile', wheel)
    (site,) = folder.glob('lib/python*/site-packages')
    # Paths in a .pth file do not have their own .pth files read, so an editable mmext stays out.
    (site / 'stack.pth').write_text('\n'.join(path for path in sys.path if path.endswith('-packages')) + '\n')
    return python


def test_names_and_metadata(wheel):
    assert wheel.name == f'mmext-{mmext.__version__}-py3-none-any.whl'
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f'mmext-{mmext.__version__}.dist-info/METADATA').decode()
    for line in ('License-Expression: Apache-2.0', 'License-File: LICENSE', 'Classifier: Typing :: Typed'):
        assert line in metadata.splitlines()


def test_the_wheel_holds_configs_tools_and_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for link in ('configs', 'tools'):
        files = {name for name in tracked_files() if name.startswith(f'{link}/')}
        assert files
        for folder in ('mmext/.mim', '+mmext'):
            assert {name.removeprefix(f'{folder}/') for name in names if name.startswith(f'{folder}/{link}/')} == files
    assert {'mmext/py.typed', 'mmext/.mim/model-index.yml'} <= names
    new_style = {name for name in tracked_files() if name.startswith('mmext/configs/')}
    assert new_style and new_style <= names
    templates = {name for name in tracked_files() if name.startswith('mmext/') and name.endswith(('.jinja', '.css'))}
    assert templates and templates <= names


def test_the_sdist_holds_all_that_git_tracks(dist):
    (sdist,) = dist.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    files = {name for name in tracked_files() if not (ROOT / name).is_dir()}
    assert files - names == NOT_IN_SDIST


def test_the_wheel_alone_provides_mmext(installed, tmp_path):
    """In another folder than the checkout, and without its path."""
    script = (
        'import mmext; from mmext.cli.common import read_config\n'
        'config = read_config("mmext::yolox/yolox_s_obj-varifocal_8xb8-300e_coco.py")\n'
        'print(mmext.__file__, config.model.bbox_head.loss_obj.type)'
    )
    run(installed.with_name('mmext'), 'shapes', '--out', tmp_path, '--train', '1', '--val', '1', PYTHONPATH='')
    assert (tmp_path / 'annotations' / 'train.json').is_file()
    path, kind = run(installed, '-I', '-c', script).stdout.split()[-2:]
    assert Path(path).is_relative_to(installed.parents[1])
    assert kind == 'mmext.VarifocalLoss'


def test_onedl_mim_finds_configs_and_tools(installed):
    """It looks for them in the folder of RECORD's first path, which pip has sorted."""
    script = 'from importlib.metadata import files; f = files("mmext")[0]; print(f.locate().parents[len(f.parts) - 2])'
    folder = Path(run(installed, '-I', '-c', script).stdout.strip())
    assert (folder / 'tools' / 'train.py').is_file()
    assert (folder / 'configs' / 'yolox' / 'yolox_nano_1xb8-60e_bccd.py').is_file()
    assert (folder / 'model-index.yml').is_file()


def test_the_import_is_light():
    script = (
        'import sys, time; start = time.perf_counter(); import mmext; seconds = time.perf_counter() - start\n'
        'heavy = [name for name in ("torch", "mmengine", "mmcv", "mmdet", "numpy") if name in sys.modules]\n'
        'import json; print(json.dumps([seconds, heavy]))'
    )
    runs = [json.loads(run(sys.executable, '-c', script).stdout) for _ in range(3)]
    assert all(heavy == [] for _, heavy in runs)
    # The best of three: other processes slow an import down.
    assert min(seconds for seconds, _ in runs) < 0.05


def test_submodules_are_attributes():
    script = 'import mmext; print(mmext.losses.iou_loss.__name__, mmext.registry.SCOPE, "losses" in dir(mmext))'
    assert run(sys.executable, '-c', script).stdout.split() == ['iou_loss', 'mmext', 'True']
    with pytest.raises(AttributeError, match="module 'mmext' has no attribute 'loses'"):
        mmext.loses  # noqa: B018
    subpackages = {path.parent.name for path in Path(mmext.__file__).parent.glob('*/__init__.py')}
    assert subpackages - {'cli'} == set(mmext.__all__) - {'CONFIGS', '__version__', 'config', 'registry'}
