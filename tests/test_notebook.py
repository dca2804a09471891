"""The notebook of the docs runs from its first cell to its last, with small settings."""

import json
import re
import sys

import pytest
from conftest import ROOT, run

NOTEBOOK = json.loads((ROOT / 'docs' / 'demo.ipynb').read_text())
CELLS = [cell for cell in NOTEBOOK['cells'] if cell['cell_type'] == 'code']
# Two epochs of two iterations.
SETTINGS = 'train_images, val_images, size, epochs, workers = 16, 4, 96, 2, 0\n'


def source(cell):
    return ''.join(cell['source'])


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    """A folder where all cells have run in one process, with the settings after the cell of the parameters."""
    folder = tmp_path_factory.mktemp('notebook')
    parts = ['import matplotlib\nmatplotlib.use("Agg")\nimport os\nos.chdir(os.environ["FOLDER"])\n']
    for cell in CELLS:
        parts.append(source(cell))
        if 'parameters' in cell['metadata'].get('tags', ()):
            parts.append(SETTINGS)
    script = folder / 'notebook.py'
    script.write_text('\n'.join(parts))
    return folder, run(sys.executable, script, FOLDER=str(folder)).stdout


def test_the_settings_are_those_of_the_notebook():
    (parameters,) = [cell for cell in CELLS if 'parameters' in cell['metadata'].get('tags', ())]
    names = {name for line in (source(parameters), SETTINGS) for name in re.findall(r'(\w+)(?=,.* = | = )', line)}
    small = set(re.findall(r'(\w+)(?=[,\s])', SETTINGS.partition('=')[0]))
    assert small < names
    assert names - small == {'recipe', 'work_dir'}


def test_it_has_no_stored_output():
    """Outputs of another version, or of another machine's paths, would be misleading."""
    assert all(not cell['outputs'] and cell['execution_count'] is None for cell in CELLS)


def test_it_trains_and_predicts(ran):
    folder, output = ran
    work_dir = folder / 'work_dirs' / 'notebook'
    assert (work_dir / 'epoch_2.pth').is_file()
    assert (work_dir / 'curves.png').is_file()
    assert list((work_dir / 'pictures').iterdir())
    assert len(list((folder / 'predictions' / 'notebook' / 'pictures').iterdir())) == 4
    assert 'Losses at the initial weights' in output
