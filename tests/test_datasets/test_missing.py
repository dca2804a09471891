"""The message about data that are not there."""

from pathlib import Path

from conftest import ROOT

from mmext.datasets.missing import how_to_get


def test_the_command_that_makes_data(tmp_path, monkeypatch):
    """In a checkout, and where only a wheel is installed."""
    assert how_to_get('data/shapes/annotations/train.json').endswith('`mmext shapes`')
    path = 'data/hituav/annotations/train.json'
    monkeypatch.chdir(ROOT)
    assert '`python tools/prepare_data.py hituav ' in how_to_get(path)
    monkeypatch.chdir(tmp_path)
    script = Path(how_to_get(path).split('`python ')[1].split()[0])
    assert script.is_absolute() and script.is_file()
    assert 'mim download mmdet --dataset coco2017' in how_to_get('data/coco/annotations/instances_train2017.json')
    assert 'Set data_root' in how_to_get('mine/train.json')
