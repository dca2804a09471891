"""The regression experiment from the command line."""

import csv

import numpy as np
import pytest
from conftest import load_tool

from mmext.visualization import regression

simulate_regression = load_tool('simulate_regression')


def test_errors_and_figures(tmp_path, capsys):
    simulate_regression.main(['giou', 'ciou alpha 2', '--points', '2', '--jobs', '1', '--out', str(tmp_path / 'new')])
    rows = list(csv.reader((tmp_path / 'new' / 'regression.csv').open()))
    assert rows[0] == ['iteration', 'giou', 'ciou alpha 2']
    expected = regression.simulate(regression.Setting('giou'), regression.spread_points(2))
    np.testing.assert_allclose([float(row[1]) for row in rows[1:]], expected.errors, rtol=1e-4)
    printed = capsys.readouterr().out
    assert f'{expected.errors[-1]:.4f}  giou' in printed
    assert (tmp_path / 'new' / 'regression_variants.png').read_bytes()[:4] == b'\x89PNG'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['goiu'], "there is no setting 'goiu'; there are iou alpha 0.5, iou, iou alpha 2"),
        (['--points', '0'], '--points must be at least 1, but is 0'),
        (['--jobs', '0'], '--jobs must be at least 1, but is 0'),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match='2'):
        simulate_regression.main(arguments)
    assert message in capsys.readouterr().err
