import json
import sys

import pytest
from conftest import run

from mmext.cli.main import main as mmext

FEW = ['--train', '2', '--val', '1', '--size', '64']


def images(folder) -> int:
    return len(json.loads((folder / 'annotations' / 'train.json').read_text())['images'])


def test_draws_once(tmp_path, capsys):
    mmext(['shapes', '--out', str(tmp_path), *FEW])
    assert '2 + 1 images' in capsys.readouterr().out and images(tmp_path) == 2
    mmext(['shapes', '--out', str(tmp_path), *FEW])
    assert capsys.readouterr().out == f'{tmp_path} already holds this data set; nothing to do\n'


def test_the_default_folder_is_the_one_of_the_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mmext(['shapes', *FEW])
    assert images(tmp_path / 'data' / 'shapes') == 2


def test_the_seed_is_passed_on(tmp_path):
    files = []
    for seed in ('0', '1'):
        mmext(['shapes', '--out', str(tmp_path / seed), *FEW, '--seed', seed])
        files.append((tmp_path / seed / 'train' / '000000.jpg').read_bytes())
    assert files[0] != files[1]


@pytest.mark.parametrize(
    'option, value, minimum',
    [('--size', '63', 64), ('--train', '0', 1), ('--val', '0', 1), ('--val', 'many', 1), ('--seed', '-1', 0)],
)
def test_bad_arguments(option, value, minimum, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        mmext(['shapes', '--out', str(tmp_path), option, value])
    assert error.value.code == 2
    assert f'argument {option}: {value!r}: give an integer of {minimum}' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_needs_no_torch(tmp_path):
    script = 'import sys; from mmext.cli.main import main; main(sys.argv[1:]); print("torch" in sys.modules)'
    assert run(sys.executable, '-c', script, 'shapes', '--out', tmp_path, *FEW).stdout.endswith('False\n')
