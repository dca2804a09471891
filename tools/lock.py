#!/usr/bin/env python3
"""Pin every package that `make` installs, with the hashes of its files; `make lock` calls it.

It writes requirements/onedl.LAYER.lock, with what each layer of tools/setup_env.sh adds to the ones before, and their
licenses to requirements/licenses.json, for the table in docs/dependencies.md. requirements/onedl.txt says which
versions of the main packages to take.

torch and CUDA's packages are left out: their files depend on the machine (CPU, CUDA, ROCm), and often come from an
index of their own.
"""

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / 'requirements'
# The layers of setup_env.sh, and the extras of setup.cfg that each installs.
LAYERS = {'run': ['onedl'], 'dev': ['dev', 'onedl-dev'], 'docs': ['docs'], 'maintain': ['maintain']}
# What setup_env.sh needs to build mmcv.
BUILD = ['setuptools', 'wheel', 'ninja', 'psutil']
TORCH = re.compile(r'(torch|torchvision|triton|nvidia-.*|cuda-.*)$')


def main() -> None:
    """Write the locks and the licenses."""
    known: dict[str, str] = {}
    rows = []
    for layer in LAYERS:
        # One layer may need a package on Windows alone, and a later one everywhere.
        blocks = {name: block for name, block in resolve(layer).items() if known.get(name) != block}
        rows += [row(name, layer, block) for name, block in blocks.items() if name not in known]
        known |= blocks
        (REQUIREMENTS / f'onedl.{layer}.lock').write_text(''.join(blocks.values()))
        print(f'requirements/onedl.{layer}.lock: {len(blocks)} packages', file=sys.stderr)
    (REQUIREMENTS / 'licenses.json').write_text(json.dumps(rows, indent=2) + '\n')


def resolve(layer: str) -> dict[str, str]:
    """The packages that mmext needs with a layer: the lines of a requirements file, by name."""
    extras = [word for extra in {*LAYERS['run'], *LAYERS[layer]} for word in ('--extra', extra)]
    flags = ['--universal', '--python-version', '3.11', '--generate-hashes', '--no-header', '--no-annotate']
    with tempfile.NamedTemporaryFile('w', suffix='.in') as build:
        build.write('\n'.join(BUILD))
        build.flush()
        command = [sys.executable, '-m', 'uv', 'pip', 'compile', '--quiet', *flags, *extras]
        command += ['--constraint', REQUIREMENTS / 'onedl.txt', ROOT / 'setup.cfg', build.name]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    blocks: dict[str, str] = {}
    for block in re.findall(r'^\S.*\n(?:[ ].*\n)*', text, re.MULTILINE):
        name = block.partition('==')[0]
        # A package of which two Pythons take two versions has two blocks.
        blocks[name] = blocks.get(name, '') + block
    return {name: block for name, block in blocks.items() if not TORCH.match(name)}


def row(name: str, layer: str, block: str) -> dict[str, str]:
    """A row of the table of licenses."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return dict(package=name, license='not installed on Linux', layer=layer)
    if f'=={package.version} ' not in block:
        print(f'{name}: its license is that of {package.version}, not of the locked version', file=sys.stderr)
    return dict(package=name, license=license_of(package), layer=layer)


def license_of(package: Distribution) -> str:
    """The license as the package's metadata give it."""
    about = package.metadata
    classifiers = [line.rpartition(' :: ')[2] for line in about.get_all('Classifier') or [] if 'License :: ' in line]
    known = [name for name in classifiers if name not in ('OSI Approved', 'DFSG approved')]
    field = about.get('License') or ''
    text = 'Apache-2.0' if 'Apache License' in field else field.split('\n')[0]
    expression = (about.get('License-Expression') or '').replace('LicenseRef-Apache-2.0', 'Apache-2.0')
    return expression or ', '.join(known) or text or 'not stated'


if __name__ == '__main__':
    main()
