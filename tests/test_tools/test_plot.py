"""`mmext plot` on work dirs as `mmext train` and `mmext compare` leave them."""

import json
from collections import Counter

import numpy as np
import pytest
import records
from html_page import Page

from mmext.cli.plot import main, parse_args
from mmext.errors import UserError


@pytest.fixture(scope='module')
def annotations(tmp_path_factory):
    return records.ground_truth(tmp_path_factory.mktemp('data'))


def found_in(annotations):
    return records.detections(json.loads(annotations.read_text()), np.random.default_rng(0))


def test_runs_with_and_without_detections(annotations, tmp_path, capsys):
    stock = records.work_dir(tmp_path / 'stock', records.training(), annotations)
    other = records.work_dir(tmp_path / 'other', records.training(scale=0.8), annotations)
    records.write(stock / 'detections.bbox.json', found_in(annotations))
    main([str(stock), str(other), '--name', 'before', 'after'])
    # mmdet prints when it is imported.
    notes, *paths = [line for line in capsys.readouterr().out.splitlines() if 'OneDL' not in line]
    assert notes.startswith(f'! after: no PR curves and no confusion matrix. {other} has no detections; this command')
    assert paths[0] == str(stock / 'plots' / 'plots.html')
    names = {'metrics', 'losses', 'loss_shares', 'learning_rate', 'precision_recall', 'confusion_matrix', 'labels'}
    assert {path.name for path in (stock / 'plots').iterdir()} == {'plots.html', *(f'{name}.png' for name in names)}
    page = Page(stock / 'plots' / 'plots.html')
    assert 'before, score ≥' in page.text and 'after, score ≥' not in page.text
    assert notes.removeprefix('! ') in page.text


def test_labels_are_those_of_the_data(annotations, tmp_path):
    folder = records.work_dir(tmp_path / 'run', records.training(), annotations)
    main([str(folder)])
    data = json.loads(annotations.read_text())
    names = {category['id']: category['name'] for category in data['categories']}
    counts = Counter(names[thing['category_id']] for thing in data['annotations'] if not thing['iscrowd'])
    total = sum(counts.values())
    cells = {name: f'{counts[name]} {100 * counts[name] / total:.1f} %' for name in names.values()}
    # The images are those of training and validation alike, the order that of the file.
    rows = ' '.join(f'{name} {cell} {cell}' for name, cell in cells.items())
    assert f'class train val {rows}' in Page(folder / 'plots' / 'plots.html').text


def test_detections_of_a_comparison(annotations, tmp_path, capsys):
    folder = records.work_dir(tmp_path / 'seed_0', records.training(), annotations)
    records.write(folder / 'result.json', dict(detections=found_in(annotations)))
    main([str(folder), '--out', str(tmp_path / 'out')])
    assert '!' not in capsys.readouterr().out
    assert (tmp_path / 'out' / 'confusion_matrix.png').is_file()


def test_data_that_are_not_there(annotations, tmp_path, capsys):
    folder = records.work_dir(tmp_path / 'run', records.training(), tmp_path / 'moved' / 'val.json')
    records.write(folder / 'detections.bbox.json', found_in(annotations))
    main([str(folder)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('! ')]
    assert f'The annotations {tmp_path}/moved/val.json are not there: run this in the folder' in lines[0]
    assert 'no label distribution' in lines[1] and 'moved/val.json' in lines[1]
    assert Page(folder / 'plots' / 'plots.html').text.count('moved/val.json') == 2


def test_detections_of_other_data(annotations, tmp_path, capsys):
    folder = records.work_dir(tmp_path / 'run', records.training(), annotations)
    records.write(folder / 'detections.bbox.json', [{**found_in(annotations)[0], 'image_id': 999}])
    main([str(folder)])
    assert 'detections.bbox.json do not fit' in capsys.readouterr().out


def test_without_a_config(tmp_path, capsys):
    folder = records.work_dir(tmp_path / 'run', records.training())
    main([str(folder)])
    assert f'run: no PR curves, confusion matrix and labels, since {folder} has no config' in capsys.readouterr().out


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match='give the work dir of a training'):
        main([str(tmp_path / 'nowhere')])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['a', 'b', '--name', 'one'], '--name needs one name for each work dir: 2, but there are 1'),
        (['a', 'b', '--name', 'one', 'one'], "two runs are named 'one'"),
        (['a', 'a'], "two runs are named 'a'"),
        ([], 'the following arguments are required: WORK_DIR'),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match='2'):
        parse_args(arguments)
    assert message in capsys.readouterr().err
