"""The metafile says what the record says, and mim and mmengine can read it."""

import json
from pathlib import Path
from statistics import mean

import pytest
import yaml
from conftest import ROOT, load_tool
from mmengine.hub import get_config

make_metafile = load_tool('make_metafile')
NANO = 'yolox_nano_1xb8-9e_shapes'


def write_runs(folder: Path, name: str, config: str, scores: dict[int, float], options: dict | None = None) -> None:
    """A record with runs of one variant."""
    plan = json.loads((ROOT / 'evidence' / 'fast-path' / 'shapes' / 'comparison.json').read_text())
    variant = dict(config=config, options=options or {}, seeds=list(scores))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'comparison.json').write_text(json.dumps({**plan, 'baseline': name, 'runs': {name: variant}}))
    example = json.loads((ROOT / 'evidence' / 'fast-path' / 'shapes' / NANO / 'seed_0.json').read_text())
    (folder / name).mkdir(exist_ok=True)
    for seed, score in scores.items():
        run = {**example, 'name': name, 'seed': seed, 'config': config, 'metrics': dict(AP=score)}
        (folder / name / f'seed_{seed}.json').write_text(json.dumps(run))


def test_the_file_is_up_to_date():
    written = yaml.safe_load(make_metafile.METAFILE.read_text())
    assert written == make_metafile.content(ROOT / 'evidence'), 'the record has changed: run tools/make_metafile.py'


def test_numbers_are_means_over_the_seeds():
    """Read from the files themselves."""
    written = yaml.safe_load(make_metafile.METAFILE.read_text())
    (entry,) = [entry for entry in written['Models'] if entry['Name'] == NANO]
    files = list((ROOT / 'evidence').rglob(f'{NANO}/seed_*.json'))
    scores = [json.loads(file.read_text())['metrics']['AP'] for file in files]
    assert entry['Metadata'] == {'Training Data': 'shapes', 'Epochs': 9, 'Seeds': len(files)}
    assert entry['Results'][0]['Metrics']['box AP'] == pytest.approx(100 * mean(scores), abs=0.051)


def test_configs_as_shipped_with_the_most_seeds(tmp_path):
    config = f'mmext::yolox/{NANO}.py'
    write_runs(tmp_path / 'a', NANO, config, {0: 0.25, 1: 0.75})
    write_runs(tmp_path / 'b' / 'few', NANO, config, {0: 0.1})
    write_runs(tmp_path / 'other-options', 'fast', config, {0: 0.1, 1: 0.2, 2: 0.3}, options={'model.x': 1})
    write_runs(tmp_path / 'not-shipped', 'mine', 'configs/mine.py', {0: 0.1})
    (entry,) = make_metafile.content(tmp_path)['Models']
    assert entry['Metadata']['Seeds'] == 2
    assert entry['Results'][0]['Metrics'] == {'box AP': 50.0}


def test_a_variant_without_finished_runs_is_left_out(tmp_path):
    write_runs(tmp_path, NANO, f'mmext::yolox/{NANO}.py', {})
    assert make_metafile.content(tmp_path)['Models'] == []


def test_the_index_lists_files_that_exist():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert set(index['Import']) == {str(path.relative_to(ROOT)) for path in ROOT.glob('configs/*/metafile.yml')}
    for name in index['Import']:
        metafile = yaml.safe_load((ROOT / name).read_text())
        collections = {collection['Name']: collection for collection in metafile['Collections']}
        assert all((ROOT / each['README']).is_file() for each in collections.values())
        for entry in metafile['Models']:
            assert entry['In Collection'] in collections
            assert (ROOT / entry['Config']).is_file()


def test_mmengine_reads_it():
    config = get_config(f'mmext::yolox/{NANO}.py')
    assert config.train_cfg.max_epochs == 9
