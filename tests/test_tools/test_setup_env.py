"""Setting up without network: what is collected, and what is said where it does not fit. No test needs a network."""

import os
import platform
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, load_tool

HERE = '.'.join(platform.python_version_tuple()[:2])
PLATFORM = 'manylinux_2_28_x86_64'
wheelhouse = load_tool('wheelhouse')


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the script in a folder of its own: what fails to fail must not set up this checkout."""
    (tmp_path / 'a checkout' / 'tools').mkdir(parents=True)
    script = tmp_path / 'a checkout' / 'tools' / 'setup_env.sh'
    script.write_bytes((ROOT / 'tools' / 'setup_env.sh').read_bytes())
    return tmp_path / 'a checkout'


def set_up(checkout: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {
        name: value for name, value in os.environ.items() if name not in ('WHEELHOUSE', 'SYSTEM_TORCH', 'STACK')
    }
    return subprocess.run(
        ['bash', checkout / 'tools' / 'setup_env.sh', *words],
        env={**variables, 'PYTHON': sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def describe(checkout: Path, python: str = HERE, platform_name: str = PLATFORM) -> None:
    (checkout / 'wheelhouse').mkdir()
    (checkout / 'wheelhouse' / 'about.txt').write_text(f'python={python}\nplatform={platform_name}\ntorch=included\n')


def test_without_a_word_it_prints_its_help(checkout):
    result = set_up(checkout)
    assert result.returncode == 2
    for word in ('run', 'dev', 'docs', 'ops', 'WHEELHOUSE'):
        assert word in result.stdout
    assert 'set -euo' not in result.stdout and '#!' not in result.stdout


@pytest.mark.parametrize('word', ['run', 'dev', 'ops'])
def test_no_wheelhouse(checkout, word):
    result = set_up(checkout, word, WHEELHOUSE='nowhere')
    assert result.returncode == 1
    assert 'no wheelhouse in nowhere' in result.stderr and 'make wheelhouse' in result.stderr
    assert not (checkout / '.venv').exists()


def test_a_wheelhouse_for_another_python(checkout):
    describe(checkout, python='3.99')
    result = set_up(checkout, 'run', WHEELHOUSE='wheelhouse')
    assert result.returncode == 1
    assert 'is for Python 3.99' in result.stderr and f'is Python {HERE}' in result.stderr
    assert 'PYTHON=python3.99' in result.stderr
    assert not (checkout / '.venv').exists()


@pytest.mark.parametrize('platform_name', ['manylinux_2_28_abacus', f'manylinux_2_999_{platform.machine()}'])
def test_a_wheelhouse_for_another_platform(checkout, platform_name):
    describe(checkout, platform_name=platform_name)
    result = set_up(checkout, 'run', WHEELHOUSE='wheelhouse')
    assert result.returncode == 1
    assert f'is for {platform_name}' in result.stderr and f'_{platform.machine()}`' in result.stderr


@pytest.mark.skipif(sys.platform != 'linux', reason='wheelhouses are for Linux')
def test_pip_is_shown_the_wheelhouse_alone(checkout):
    # It has nothing in it: pip must miss its first package there, and look nowhere else.
    describe(checkout, platform_name=f'manylinux_2_5_{platform.machine()}')
    (checkout / 'requirements').mkdir()
    (checkout / 'requirements' / 'onedl.txt').write_text('')
    # With the pip of these tests: to install one takes long.
    venv.create(checkout / '.venv', symlinks=True)
    (site,) = checkout.glob('.venv/lib/python*/site-packages')
    (site / 'pip').symlink_to(Path(find_spec('pip').origin).parent)
    # Without pip's own settings: the constraints of a machine change what it says.
    result = set_up(checkout, 'run', WHEELHOUSE='wheelhouse', PIP_CONFIG_FILE=os.devnull)
    assert result.returncode == 1
    assert 'No matching distribution found for' in result.stderr and 'collect the wheelhouse again' in result.stderr
    assert str(checkout / 'wheelhouse') in result.stdout
    # .venv remembers the folder: `make ops` finds it, or says that it has gone.
    (checkout / 'wheelhouse' / 'about.txt').unlink()
    assert f'no wheelhouse in {checkout / "wheelhouse"}' in set_up(checkout, 'ops').stderr


@pytest.mark.parametrize(
    'stack, bounds, version, passes',
    [
        ('onedl', '2.13 or later and below 2.14', '2.9.1+cpu', False),
        ('onedl', '', '2.13.0+cu130', True),
        ('onedl', '2.13 or later and below 2.14', '2.14.0', False),
        ('onedl', '2.13 or later and below 2.14', '2.14', False),
        ('openmmlab', '2.1.2 or later and below 2.7', '2.1.0', False),
        ('openmmlab', '', '2.1.2+cu121', True),
        ('openmmlab-torch2.6', '', '2.6.0', True),
    ],
)
def test_a_system_torch_out_of_bounds_is_refused_and_not_replaced(checkout, tmp_path, stack, bounds, version, passes):
    (checkout / 'setup.cfg').write_bytes((ROOT / 'setup.cfg').read_bytes())
    (checkout / 'requirements').mkdir()
    (checkout / 'requirements' / f'{stack}.txt').write_text('torch==2.13.0\n')
    folder = checkout / ('.venv' if stack == 'onedl' else f'.venv-{stack}')
    venv.create(folder, symlinks=True)
    (tmp_path / 'torch.py').write_text(f'__version__ = {version!r}\n')
    # pip finds nothing, so that the set-up fails at the first installation, after this check.
    nowhere = dict(PIP_NO_INDEX='1', PIP_FIND_LINKS='', PIP_CONFIG_FILE=os.devnull)
    result = set_up(checkout, 'run', SYSTEM_TORCH='1', PYTHONPATH=str(tmp_path), STACK=stack, **nowhere)
    assert result.returncode != 0
    refusal = f'{stack} is tested with torch {bounds}, and the torch of {sys.executable} is {version}'
    assert (refusal in result.stderr) is not passes
    assert (f'using torch {version}' in result.stdout) is passes
    assert list(folder.glob('lib/python*/site-packages/system_torch.pth')) == [] or passes


def test_pip_checks_the_hashes_of_a_lock(checkout):
    """A python that writes down what pip is given; `locked` is what the layer `run` leaves behind."""
    script = '#!/bin/bash\nprintf "%s\\n" "$*" >> "$LOG"\n[[ "$*" != *--requirement* ]] || cat "${@: -1}" >> "$LOG"\n'
    for name, text in {
        '.venv/bin/python': script,
        '.venv/locked': '',
        'requirements/onedl.docs.lock': 'furo==1 \\\n    --hash=sha256:0\n',
    }.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    (checkout / '.venv' / 'bin' / 'python').chmod(0o755)
    log = checkout / 'log'
    assert set_up(checkout, 'docs', LOG=str(log)).returncode == 0
    install, *lock, mmext = log.read_text().splitlines()
    assert '--no-deps' in install and '--require-hashes' in install
    assert lock == ['furo==1 \\', '    --hash=sha256:0']
    assert mmext.endswith('--no-deps --editable .')


@pytest.mark.parametrize('compiler', [None, 'clang++', '/opt/some gcc/bin/g++-13'])
def test_mmcv_is_built_through_the_wrapper(checkout, compiler):
    (checkout / 'requirements').mkdir()
    venv.create(checkout / '.venv', symlinks=True)
    (checkout / '.venv' / 'constraints.txt').write_text('onedl-mmcv==2.3.6\n')
    (checkout / 'tools' / 'mmcv_cxx.sh').touch()
    (site,) = checkout.glob('.venv/lib/python*/site-packages')
    (site / 'torch.py').write_text('class cuda:\n    is_available = lambda: False\nclass version:\n    cuda = None\n')
    # A pip that says how it was called; the wrapper must be there while it runs.
    (site / 'pip.py').write_text(
        'import os, sys\n'
        'print("PIP", *sys.argv[1:])\n'
        'for name in ("CXX", "MMCV_CXX", "MMCV_PCH"):\n    print(name, os.environ[name], sep="=")\n'
        'print("WRAPPER", os.path.realpath(os.environ["CXX"]), sep="=")\n'
    )
    variables = {} if compiler is None else {'CXX': compiler}
    output = set_up(checkout, 'ops', **variables).stdout
    values = dict(line.split('=', 1) for line in output.splitlines() if '=' in line and not line.startswith('PIP'))
    assert 'onedl-mmcv==2.3.6' in output and '--no-cache-dir' in output
    assert values['MMCV_CXX'] == (compiler or 'c++')
    assert Path(values['CXX']).name == Path(compiler or 'c++').name
    assert values['WRAPPER'] == str(checkout / 'tools' / 'mmcv_cxx.sh')
    assert not Path(values['MMCV_PCH']).exists()


needs_gcc = pytest.mark.skipif(
    b'gcc version' not in subprocess.run(['c++', '-v'], capture_output=True, check=False).stderr,
    reason='only gcc takes precompiled headers',
)


@pytest.fixture
def sources(tmp_path) -> Path:
    """Files that include mmcv's header, which returns a macro of the command line."""
    folder = tmp_path / 'csrc'
    for name in ('common', 'pytorch', 'pch', 'bin'):
        (folder / name).mkdir(parents=True)
    include = '#include "pytorch_cpp_helper.hpp"\n'
    (folder / 'common' / 'pytorch_cpp_helper.hpp').write_text('inline int answer() { return ANSWER; }\n')
    main = 'int main() { std::printf("%d", answer()); }\n'
    (folder / 'pytorch' / 'one.cpp').write_text(f'{include}#include <cstdio>\n{main}')
    (folder / 'pytorch' / 'wrong.cpp').write_text(f'{include}int main() {{ return missing(); }}\n')
    return folder


def compile_one(folder: Path, *flags: str, name: str = 'one', compiler: str = 'c++') -> subprocess.CompletedProcess:
    """Run the wrapper as ninja does. -H lists the headers: `!` is a precompiled one, `x` one that does not fit."""
    target = folder / 'one.o'
    target.unlink(missing_ok=True)
    # torch writes -c twice.
    files = ['-MMD', '-MF', f'{target}.d', '-c', '-c', folder / 'pytorch' / f'{name}.cpp', '-o', target]
    return subprocess.run(
        [ROOT / 'tools' / 'mmcv_cxx.sh', '-H', '-g', '-O1', f'-I{folder / "common"}', *files, *flags],
        env={**os.environ, 'MMCV_CXX': compiler, 'MMCV_PCH': str(folder / 'pch')},
        capture_output=True,
        text=True,
        check=False,
    )


def answer(folder: Path) -> str:
    """Link with the wrapper and run."""
    program = folder / 'one'
    environment = {**os.environ, 'MMCV_CXX': 'c++', 'MMCV_PCH': str(folder / 'pch')}
    subprocess.run([ROOT / 'tools' / 'mmcv_cxx.sh', folder / 'one.o', '-o', program], env=environment, check=True)
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


@needs_gcc
def test_the_header_is_compiled_once_and_used_where_it_fits(sources):
    header = sources / 'pch' / 'pytorch_cpp_helper.hpp.gch'
    assert f'! {header}' in compile_one(sources, '-DANSWER=1').stderr
    assert answer(sources) == '1'
    assert b'.debug_info' not in (sources / 'one.o').read_bytes()
    made = header.stat().st_mtime_ns
    assert f'! {header}' in compile_one(sources, '-DANSWER=1').stderr
    assert header.stat().st_mtime_ns == made
    # Other macros, another language: gcc reads the header itself.
    assert f'x {header}' in compile_one(sources, '-DANSWER=2').stderr
    assert answer(sources) == '2'
    assert f'x {header}' in compile_one(sources, '-DANSWER=1', '-std=c++14').stderr
    assert answer(sources) == '1'


@needs_gcc
@pytest.mark.parametrize('part', [0, 0.5, None])
def test_without_a_readable_header_the_build_is_the_plain_one(sources, part):
    assert compile_one(sources, '-DANSWER=1').returncode == 0
    header = sources / 'pch' / 'pytorch_cpp_helper.hpp.gch'
    content = header.read_bytes()
    header.unlink()
    if part is not None:
        header.write_bytes(content[: int(len(content) * part)])
    result = compile_one(sources, '-DANSWER=1')
    assert result.returncode == 0 and answer(sources) == '1'
    assert ('cannot read PCH file' in result.stderr) is (part == 0.5)
    # It is not made a second time.
    assert header.is_file() is (part is not None)


@needs_gcc
def test_a_header_that_does_not_compile_alone_is_left_to_the_files(sources):
    (sources / 'common' / 'pytorch_cpp_helper.hpp').write_text('inline int answer() { return BEFORE; }\n')
    file = sources / 'pytorch' / 'one.cpp'
    file.write_text('#define BEFORE 4\n' + file.read_text())
    assert compile_one(sources).returncode == 0
    assert answer(sources) == '4'


@needs_gcc
@pytest.mark.parametrize('kind', ['nvcc', 'clang'])
def test_for_nvcc_and_other_compilers_the_header_is_not_precompiled(sources, kind):
    compiler = sources / 'bin' / 'clang++'
    compiler.write_text('#!/bin/sh\n[ "$*" = -v ] && echo clang version 1 || exec c++ "$@"\n')
    compiler.chmod(0o755)
    flags, name = (['-DMMCV_WITH_CUDA'], 'c++') if kind == 'nvcc' else ([], str(compiler))
    assert compile_one(sources, '-DANSWER=3', *flags, compiler=name).returncode == 0
    assert list((sources / 'pch').iterdir()) == []
    assert b'.debug_info' not in (sources / 'one.o').read_bytes()
    assert answer(sources) == '3'


@needs_gcc
def test_errors_of_the_compiler_reach_the_build(sources):
    result = compile_one(sources, '-DANSWER=1', name='wrong')
    assert result.returncode != 0 and 'missing' in result.stderr
    result = compile_one(sources, '-DANSWER=1', compiler='no-such-compiler')
    assert result.returncode != 0 and 'no-such-compiler: not found' in result.stderr


def test_git_ignores_the_wheelhouse():
    assert subprocess.run(['git', 'check-ignore', '-q', 'wheelhouse/about.txt'], cwd=ROOT, check=False).returncode == 0


def test_platforms_go_back_to_the_oldest():
    names = wheelhouse.platforms(PLATFORM)
    assert {PLATFORM, 'manylinux_2_17_x86_64', 'manylinux2014_x86_64', 'manylinux1_x86_64'} < set(names)
    assert 'manylinux2014_aarch64' not in wheelhouse.platforms('manylinux_2_12_aarch64')
    assert wheelhouse.platforms(PLATFORM)[0] == PLATFORM


def test_the_extras_name_every_source():
    assert set(wheelhouse.SOURCES) <= set(map(wheelhouse.name_of, wheelhouse.extras('onedl', 'onedl-dev', 'dev')))


def test_the_extras_hold_the_extras_that_they_name_and_no_torch():
    names = list(map(wheelhouse.name_of, wheelhouse.extras('onedl', 'onedl-dev', 'dev')))
    assert {'scipy', 'submitit', 'onnxruntime', 'pytest'} < set(names)
    assert not {'torch', 'mmext'} & set(names)


def make_wheel(folder: Path, name: str, *requirements: str, tag: str = 'py3-none-any') -> None:
    about = f'{name}-1.dist-info'
    with zipfile.ZipFile(folder / f'{name}-1-{tag}.whl', 'w') as archive:
        lines = ['Metadata-Version: 2.1', f'Name: {name}', 'Version: 1', *(f'Requires-Dist: {r}' for r in requirements)]
        archive.writestr(f'{about}/METADATA', '\n'.join(lines) + '\n')
        archive.writestr(f'{about}/WHEEL', f'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n')
        archive.writestr(f'{about}/RECORD', '')


@pytest.mark.parametrize('python, backport', [('3.10', {'old'}), ('3.13', {'new'})])
def test_wheels_are_those_of_the_target(tmp_path, monkeypatch, python, backport):
    index, folder = tmp_path / 'index', tmp_path / 'wheelhouse'
    index.mkdir()
    make_wheel(index, 'top', 'old; python_version < "3.11"', 'new; python_version >= "3.11"', 'built')
    make_wheel(index, 'top2', 'arm; platform_machine == "aarch64"', 'win; sys_platform == "win32"')
    for name in ('old', 'new', 'arm', 'win'):
        make_wheel(index, name)
    for number in ('310', '313'):
        make_wheel(index, 'built', tag=f'cp{number}-cp{number}-manylinux_2_17_aarch64')
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(index))
    monkeypatch.setenv('PIP_CONFIG_FILE', os.devnull)
    wheelhouse.download(sys.executable, folder, python, 'manylinux_2_28_aarch64', 'top', 'top2')
    number = python.replace('.', '')
    assert {path.name.split('-1-')[0] for path in folder.iterdir()} == {'top', 'top2', 'built', 'arm', *backport}
    assert (folder / f'built-1-cp{number}-cp{number}-manylinux_2_17_aarch64.whl').is_file()
    with pytest.raises(SystemExit, match='did not find every package'):
        wheelhouse.download(sys.executable, folder, python, PLATFORM, 'top')


def test_two_wheelhouses_do_not_mix(tmp_path):
    (tmp_path / 'about.txt').write_text(f'python=3.10\nplatform={PLATFORM}\ntorch=included\n')
    with pytest.raises(SystemExit, match=r'was made for python=3\.10'):
        wheelhouse.main([str(tmp_path), '--python', '3.11', '--platform', PLATFORM])
