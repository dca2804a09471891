#!/usr/bin/env python3
"""Download what `make install-offline` needs on a machine without network; `make wheelhouse` calls it.

The folder gets wheels for one Python and one platform, which may differ from this machine's, and source distributions
of the packages that publish no wheels. Those are built on the target machine. mmext itself is installed from the
checkout.
"""

import argparse
import configparser
import email
import json
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Packages that publish no wheels.
SOURCES = ('onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation')
# Build dependencies, which setup_env.sh installs first.
BUILD = ('setuptools', 'wheel', 'ninja', 'psutil')
# pip evaluates markers such as `tomli; python_version < "3.11"` for the running Python, whatever --python-version says.
# This evaluates them for the target.
PIP_FOR_TARGET = """
import json, runpy, sys
from pip._vendor.packaging import markers
target, own = json.loads(sys.argv.pop(1)), markers.default_environment
markers.default_environment = lambda: {**own(), **target}
sys.argv[0] = 'pip'
runpy.run_module('pip', run_name='__main__', alter_sys=True)
"""


def say(text: str) -> None:
    """Print a line of progress."""
    print(f'[wheelhouse] {text}', flush=True)


def fail(text: str) -> None:
    """Exit with a message."""
    sys.exit(f'\nno wheelhouse: {text}')


def platforms(name: str) -> list[str]:
    """All platform tags whose wheels run on this platform, including those of older C libraries."""
    minor, machine = re.fullmatch(r'manylinux_2_(\d+)_(\w+)', name).groups()
    older = [f'manylinux_2_{number}_{machine}' for number in range(int(minor), 4, -1)]
    aliases = {17: 'manylinux2014', 12: 'manylinux2010', 5: 'manylinux1'}
    return older + [f'{alias}_{machine}' for number, alias in aliases.items() if number <= int(minor)]


def environment(python: str, machine: str) -> dict[str, str]:
    """The environment markers of the target."""
    return {
        'python_version': python,
        # The oldest patch release: some backports are required below a certain release.
        'python_full_version': f'{python}.0',
        'implementation_name': 'cpython',
        'implementation_version': f'{python}.0',
        'platform_python_implementation': 'CPython',
        'os_name': 'posix',
        'sys_platform': 'linux',
        'platform_system': 'Linux',
        'platform_machine': machine,
    }


def download(pip_python: object, folder: Path, python: str, platform_name: str, *words: str) -> None:
    """Download wheels for the target with their dependencies, and print names and sizes."""
    target = environment(python, platform_name.split('_', 3)[3])
    command = [pip_python, '-c', PIP_FOR_TARGET, json.dumps(target), 'download', '--disable-pip-version-check']
    command += ['--only-binary=:all:', '--progress-bar=off', '--dest', folder, '--python-version', python]
    command += [f'--platform={name}' for name in platforms(platform_name)]
    with subprocess.Popen([*map(str, command), *words], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            match = re.match(r'\s*(?:Downloading|Using cached) (?:\S*/)?(\S+\.whl) (\(.*\))', line)
            if match:
                print('  ', *match.groups(), flush=True)
    if process.returncode:
        fail(
            f'pip did not find every package for Python {python} on {platform_name}; the lines above name what is '
            'missing. A package without wheels belongs in SOURCES of tools/wheelhouse.py'
        )


def name_of(requirement: str) -> str:
    """The package name of a requirement."""
    return re.match(r'[\w.-]+', requirement)[0].lower()


def extras(*names: str) -> list[str]:
    """The requirements of mmext's extras, and of the extras that they name, but not torch: the system may have one."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / 'setup.cfg')
    found = []
    for line in '\n'.join(settings['options.extras_require'][name] for name in names).splitlines():
        inner = re.fullmatch(r'mmext\[(.+)\]', line)
        if inner:
            found += extras(inner[1])
        elif line and name_of(line) != 'torch':
            found.append(line)
    return found


def needs_of(source: Path) -> list[str]:
    """The requirements of a source distribution, without building it."""
    with tarfile.open(source) as archive:
        # NAME-VERSION.tar.gz has one PKG-INFO in NAME-VERSION/, and others deeper.
        path = source.name.removesuffix('.tar.gz') + '/PKG-INFO'
        about = email.message_from_bytes(archive.extractfile(path).read())
    return about.get_all('Requires-Dist', [])


def collect(folder: Path, python: str, platform_name: str, system_torch: bool) -> None:
    """Download everything."""
    pins = [line for line in (ROOT / 'requirements' / 'onedl.txt').read_text().splitlines() if '==' in line]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        say('preparing pip (seconds)')
        venv.create(scratch / 'venv', with_pip=True)
        pip_python = scratch / 'venv' / 'bin' / 'python'
        pip = [pip_python, '-m', 'pip', '--disable-pip-version-check', '--quiet']

        def constraints(lines: list[str]) -> list[str]:
            (scratch / 'constraints.txt').write_text('\n'.join(lines))
            return ['--constraint', str(scratch / 'constraints.txt')]

        say(f'downloading source distributions: {", ".join(SOURCES)}')
        try:
            subprocess.run([*pip, 'install', *constraints(pins), 'setuptools', 'wheel'], check=True)
            flags = ['--no-deps', '--no-binary=:all:', '--no-build-isolation', '--dest', folder]
            subprocess.run([*pip, 'download', *flags, *constraints(pins), *SOURCES], check=True)
        except subprocess.CalledProcessError:
            fail('pip could not download; the lines above say why')

        def requirements(*names: str) -> list[str]:
            direct = extras(*names)
            wanted = [line for line in direct if name_of(line) not in SOURCES]
            for line in pins:
                name, _, version = line.partition('==')
                if name in SOURCES and name in map(name_of, direct):
                    wanted += needs_of(folder / f'{name.replace("-", "_")}-{version}.tar.gz')
            # Requirements of the source packages' own extras are not needed; pip would warn of each.
            return [*(line for line in wanted if 'extra ==' not in line), *BUILD, 'numpy']

        say('downloading wheels (about 300 MB; minutes)')
        torch = [] if system_torch else ['torch', 'torchvision']
        words = [*requirements('onedl', 'onedl-dev', 'dev'), *torch, *constraints(pins)]
        download(pip_python, folder, python, platform_name, *words)
        # The system's torch may have been built for numpy 1, which has no wheels for later Pythons. The extra dev is
        # left out, since onedl-mmsegmentation requires numpy 2.
        if system_torch and int(python.split('.')[1]) <= 12:
            say('downloading wheels for a system torch built with numpy 1')
            unpinned = [line for line in pins if name_of(line) != 'numpy']
            words = [*requirements('onedl'), *constraints([*unpinned, 'numpy<2'])]
            download(pip_python, folder, python, platform_name, *words)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, refuse to mix two wheelhouses, and download."""
    here = platform.machine()
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', type=Path, nargs='?', default=ROOT / 'wheelhouse')
    parser.add_argument(
        '--python', default='.'.join(platform.python_version_tuple()[:2]), help="the machine's Python, such as 3.11"
    )
    parser.add_argument(
        '--platform',
        default='manylinux_2_28_' + {'arm64': 'aarch64'}.get(here, here),
        help="manylinux_2_N_MACHINE, for a C library of 2.N or later; default: %(default)s, this machine's processor",
    )
    parser.add_argument(
        '--system-torch',
        action='store_true',
        help='without torch: the machine has its own, as new as install_requires in setup.cfg asks for',
    )
    args = parser.parse_args(arguments)
    if not re.fullmatch(r'3\.[1-9]\d', args.python):
        parser.error(f'the Python must read like 3.11, from 3.10 on, not {args.python}')
    if not re.fullmatch(r'manylinux_2_\d+_\w+', args.platform):
        parser.error(f'the platform must read like manylinux_2_28_x86_64, not {args.platform}')

    about = args.folder / 'about.txt'
    lines = [
        f'python={args.python}',
        f'platform={args.platform}',
        f'torch={"system" if args.system_torch else "included"}',
    ]
    if about.exists() and about.read_text().splitlines() != lines:
        fail(
            f'{args.folder} was made for {", ".join(about.read_text().split())}, not for {", ".join(lines)}: '
            'remove it, or name another folder with WHEELHOUSE='
        )
    collect(args.folder, args.python, args.platform, args.system_torch)
    # Written last, so that an interrupted run does not pass for a complete wheelhouse.
    about.write_text('\n'.join(lines) + '\n')
    sizes = [path.stat().st_size for path in args.folder.iterdir()]
    say(f'{args.folder}: {len(sizes) - 1} files, {sum(sizes) / 1e6:.0f} MB, for {", ".join(lines)}')
    say('copy it into the checkout on the other machine, and run `make install-offline` there')


if __name__ == '__main__':
    main()
