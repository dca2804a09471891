"""The `mmext` command: its help, and the list of configs."""

import subprocess
import sys

import pytest
from conftest import ROOT, run

import mmext
from mmext.cli.list import configs
from mmext.cli.main import COMMANDS, main


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as error:
        main(['--help'])
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert all(f'  {name} ' in text and purpose in text for name, purpose in COMMANDS.items())
    assert '--traceback' in text


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_a_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as error:
        main([command, '--help'])
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert f'usage: mmext {command}' in text and f'example:\n  mmext {command}' in text


@pytest.mark.parametrize('command', ['', 'train', 'test', 'list'])
def test_the_help_imports_nothing_slow(command):
    """`import torch` alone takes a second or more."""
    script = (
        'import sys\nfrom mmext.cli.main import main\n'
        f'try:\n    main([*{command.split()}, "--help"])\n'
        'except SystemExit:\n    print([name for name in ("torch", "mmcv", "mmdet") if name in sys.modules])'
    )
    assert run(sys.executable, '-c', script).stdout.splitlines()[-1] == '[]'


def test_the_package_is_a_command():
    assert run(sys.executable, '-m', 'mmext', '--version').stdout == f'mmext {mmext.__version__}\n'


class TestList:
    def test_every_config_and_its_purpose(self):
        found = configs()
        assert len(found) == len(list((ROOT / 'configs').glob('[!_]*/*.py')))
        assert all(text and '\n' not in text for text in found.values())
        name = 'mmext::yolox/yolox_s_giou_8xb8-300e_coco.py'
        assert found[name] == 'GIoU for the boxes: a gradient also for boxes that do not overlap'
        assert mmext.config(name.removeprefix('mmext::'))

    def test_words(self, capsys):
        assert main(['list', 'FOCAL', 'bccd']) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == 'mmext::yolox/yolox_nano_cls-focal_1xb8-60e_bccd.py'
        assert lines[1].startswith('    Focal loss for the classes')
        assert all('bccd' in name for name in lines[::2]) and len(lines) >= 2 * 6
        assert main(['list', 'nothing']) == 1

    def test_a_pipe_that_is_closed(self):
        """As `mmext list | head -1` closes it."""
        command = [sys.executable, '-m', 'mmext', 'list']
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline()
            process.stdout.close()
            assert 'Error' not in process.stderr.read()
