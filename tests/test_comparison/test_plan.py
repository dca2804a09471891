"""The plan of a comparison, and its files."""

import json

import pytest

from mmext.comparison.plan import Plan, Run, Variant, write_json


def plan(**changes):
    runs = {'base': Variant('base.py', seeds=[0, 1]), 'other': Variant('other.py', {'a': 1}, [0, 1])}
    values = dict(
        baseline='base',
        runs=runs,
        classes=['cat'],
        annotations='val.json',
        images='val/',
        amp=False,
        data='1234',
        command='mmext compare',
    )
    return Plan(**{**values, **changes})


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan().save(tmp_path)
    assert Plan.load(tmp_path) == plan()
    with pytest.raises(FileNotFoundError, match='give the folder of a comparison'):
        Plan.load(tmp_path / 'none')


def test_a_comparison_grows_by_variants_and_seeds(tmp_path):
    more = plan(runs={'base': Variant('base.py', seeds=[0, 1, 2]), 'new': Variant('new.py', seeds=[0])})
    grown = plan().extended_by(more, tmp_path)
    assert {name: variant.seeds for name, variant in grown.runs.items()} == {
        'base': [0, 1, 2], 'other': [0, 1], 'new': [0]
    }  # fmt: skip


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'baseline': 'other'}, "baseline is 'base', not 'other'"),
        ({'amp': True}, 'amp is False, not True'),
        ({'data': '5678'}, 'annotations of training or validation have changed'),
    ],
)
def test_refuses_the_folder_of_another_comparison(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        plan().extended_by(plan(**changes), tmp_path)
    assert 'choose another --work-dir' in str(error.value)


def test_a_file_is_replaced_at_once(tmp_path):
    path = tmp_path / 'result.json'
    write_json(path, {'a': 1})
    with pytest.raises(TypeError):
        write_json(path, {'a': object()})
    assert json.loads(path.read_text()) == {'a': 1}


def test_each_run_has_its_folder(tmp_path):
    run = Run(tmp_path, 'ciou', 3)
    assert run.result_file == tmp_path / 'ciou' / 'seed_3' / 'result.json'
    assert run.config_file == tmp_path / 'ciou' / 'config.py'
    assert str(run) == 'ciou, seed 3'
