"""The locks of what `make` installs, and the licenses of it. Making a lock needs a network, so that is not tested."""

import configparser
import json
import re
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from conftest import ROOT, load_tool

lock = load_tool('lock')
LOCKS = {layer: (ROOT / 'requirements' / f'onedl.{layer}.lock').read_text() for layer in lock.LAYERS}
LICENSES = {row['package']: row['license'] for row in json.loads((lock.REQUIREMENTS / 'licenses.json').read_text())}
PERMISSIVE = re.compile(
    r'\b(Apache|MIT(-CMU)?|(3-Clause )?BSD|FreeBSD|PSF|Python Software Foundation|0BSD|CC0|ISC|MPL|Public Domain)'
)


def requirements() -> set[str]:
    """The packages that setup.cfg asks for, in the layers."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    extras = {'compare', 'onnx', *(extra for extras in lock.LAYERS.values() for extra in extras)}
    lines = '\n'.join(settings['options.extras_require'][extra] for extra in extras)
    return set(re.findall(r'^([a-z][\w-]*)', lines, re.MULTILINE))


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r'^([\w.-]+)==([\w.]+)', text, re.MULTILINE))


LOCKED = {name: version for text in LOCKS.values() for name, version in pins(text).items()}


@pytest.mark.parametrize('layer', LOCKS)
class TestLock:
    def test_each_package_has_its_hashes(self, layer):
        blocks = re.split(r'\n(?=\S)', LOCKS[layer].strip())
        assert len(blocks) >= 10
        for block in blocks:
            name, *hashes = block.split(' \\\n')
            assert re.fullmatch(r'[\w.-]+==[\w.]+( ; .+)?', name)
            assert hashes and all(re.fullmatch('    --hash=sha256:[0-9a-f]{64}', line) for line in hashes), block

    def test_takes_the_versions_of_the_constraints(self, layer):
        wanted = pins((ROOT / 'requirements' / 'onedl.txt').read_text())
        locked = pins(LOCKS[layer])
        assert {name: wanted[name] for name in locked if name in wanted}.items() <= locked.items()

    def test_leaves_out_what_depends_on_the_machine(self, layer):
        assert not [name for name in pins(LOCKS[layer]) if name.startswith(('torch', 'nvidia', 'triton', 'cuda'))]


def test_what_mmext_asks_for_is_locked():
    """`make` installs the lock and then mmext without its requirements."""
    constraints = pins((ROOT / 'requirements' / 'onedl.txt').read_text())
    wanted = requirements() | set(constraints) | set(lock.BUILD)
    assert wanted - {'mmext', 'torch', 'torchvision'} <= set(LOCKED)


def test_layers_agree_on_versions():
    """Each layer is resolved with the first one, and their packages are installed into one environment."""
    for name, version in ((name, version) for text in LOCKS.values() for name, version in pins(text).items()):
        assert LOCKED[name] == version


def test_each_locked_package_has_a_license():
    assert list(LICENSES) == list(LOCKED)


@pytest.mark.parametrize('name, license', [item for item in LICENSES.items() if item[1] != 'not installed on Linux'])
def test_licenses_are_compatible_and_as_installed(name, license):
    assert PERMISSIVE.search(license), license
    # docutils has one file under the GPL in its source, and none in its wheel.
    assert 'GPL' not in license or name == 'docutils'
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        pytest.skip(f'{name} is not installed')
    if installed.version == LOCKED[name]:
        assert lock.license_of(installed) == license
