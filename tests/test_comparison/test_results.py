"""What is read from a folder of runs, and what is named instead."""

import json

import pytest
import records

from mmext.comparison.plan import Plan
from mmext.comparison.results import load_results, write_record

NAMES = ('stock', 'giou')


@pytest.fixture
def folder(tmp_path):
    """Two runs with three seeds each, without detections, in work dirs."""
    plan = records.plan(NAMES, range(3), tmp_path / 'val.json', tmp_path)
    records.write(tmp_path / 'comparison.json', plan)
    for name in NAMES:
        for seed in range(3):
            records.write(tmp_path / name / f'seed_{seed}' / 'result.json', content(plan, name, seed))
    return tmp_path


def content(plan, name, seed):
    metrics = dict(AP=0.4 + 0.01 * seed, APl=None)
    return records.result(name, seed, plan['runs'][name], metrics, records.np.random.default_rng(0), detections=[])


def change(path, **changes):
    records.write(path, {**json.loads(path.read_text()), **changes})


def found(results):
    return {name: list(runs) for name, runs in results.runs.items()}


def only(results):
    """The only problem of the results."""
    (problem,) = results.problems
    return str(problem)


ALL = {'stock': [0, 1, 2], 'giou': [0, 1, 2]}
WITHOUT_ONE = {'stock': [0, 1, 2], 'giou': [0, 2]}


def test_work_dirs(folder):
    results = load_results(folder)
    assert found(results) == ALL
    assert (results.missing, results.problems) == ({}, [])
    assert results.plan.variants == ['giou']
    assert results.scores('giou', 'AP') == pytest.approx({0: 0.4, 1: 0.41, 2: 0.42})
    assert results.scores('giou', 'APl') == {}
    assert results.runs['giou'][1].detections == []
    assert 'detections' not in results.runs['giou'][1].record


def test_record_without_detections(folder):
    for path in list(folder.glob('*/seed_*/result.json')):
        content = json.loads(path.read_text())
        del content['detections']
        records.write(path.parent.with_suffix('.json'), content)
        path.unlink()
    results = load_results(folder)
    assert found(results) == ALL
    assert results.problems == []
    assert all(run.detections is None for run in results.all_runs)


def test_both_layouts(folder):
    """The same run twice counts once, the one with detections; another run under its name is a problem."""
    path = folder / 'giou' / 'seed_1' / 'result.json'
    record = json.loads(path.read_text())
    records.write(folder / 'giou' / 'seed_1.json', {**record, 'detections': None})
    results = load_results(folder)
    assert found(results) == ALL
    assert results.problems == []
    assert results.runs['giou'][1].detections == []
    change(folder / 'giou' / 'seed_1.json', metrics=dict(AP=0.9))
    results = load_results(folder)
    assert results.scores('giou', 'AP')[1] == pytest.approx(0.41)
    assert 'seed_1.json is left out' in only(results) and 'delete one of them' in only(results)


def test_missing_seeds_are_named(folder):
    (folder / 'giou' / 'seed_1' / 'result.json').unlink()
    results = load_results(folder)
    assert found(results) == WITHOUT_ONE
    assert results.missing == {'giou': [1]}


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(format=2), 'has format 2, and this mmext reads format 1, and is left out: delete it, and run `mmext'),
        (dict(seed=2), "it says that it is 'giou' with seed 2: move it back"),
        (dict(name='stock'), "it says that it is 'stock' with seed 1: move it back"),
        (dict(config='other.py'), 'it was trained as other.py with options {}, but the plan has mmext::yolox/giou.py'),
        (dict(options={'a': 1}), "with options {'a': 1}, but the plan has"),
        (dict(hashes=dict(config='sha256:giou', data='new', code='sha256:code')), 'with other data than most runs'),
        (
            dict(hashes=dict(config='new', data='sha256:data', code='sha256:code')),
            'with another version of the config than most runs of this name (new): move it to another folder',
        ),
    ],
    ids=['format', 'seed', 'name', 'config', 'options', 'data', 'config hash'],
)
def test_a_run_that_does_not_belong_is_named(folder, changes, message):
    path = folder / 'giou' / 'seed_1' / 'result.json'
    change(path, **changes)
    results = load_results(folder)
    assert found(results) == WITHOUT_ONE
    assert results.missing == {'giou': [1]}
    assert str(path) in only(results) and message in only(results)


@pytest.mark.parametrize(
    'text, message', [('{"format": 1', 'cannot be read'), ('[]', 'is not a JSON object'), ('{"format": 1}', 'has no ')]
)
def test_unreadable_file(folder, text, message):
    """Such as a file copied in half."""
    (folder / 'giou' / 'seed_1' / 'result.json').write_text(text)
    results = load_results(folder)
    assert found(results) == WITHOUT_ONE
    assert message in only(results) and 'delete it' in only(results)


def test_runs_outside_the_plan(folder):
    plan = json.loads((folder / 'comparison.json').read_text())
    records.write(folder / 'giou' / 'seed_7.json', content(plan, 'giou', 7))
    plan['runs']['ciou'] = plan['runs']['giou']
    records.write(folder / 'ciou' / 'seed_0.json', content(plan, 'ciou', 0))
    results = load_results(folder)
    assert found(results) == ALL
    assert sorted(str(problem).split('left out: ')[1].split(':')[0] for problem in results.problems) == [
        "the plan has no run 'ciou' with seed 0",
        "the plan has no run 'giou' with seed 7",
    ]


def test_differences_between_runs_are_told(folder):
    change(folder / 'giou' / 'seed_1' / 'result.json', device='GPU', epochs=30)
    results = load_results(folder)
    assert found(results) == ALL
    assert [str(problem).split(':')[0] for problem in results.problems] == [
        'the runs differ in the device',
        'the runs differ in the number of epochs',
    ]
    assert 'CPU x86_64 (stock seed 0), GPU (giou seed 1)' in str(results.problems[0])


def test_baseline_comes_first(folder):
    change(folder / 'comparison.json', baseline='giou')
    assert [run.name for run in load_results(folder).all_runs] == ['giou'] * 3 + ['stock'] * 3


def test_runs_with_seeds_of_their_own(folder):
    """As ten for the baseline, and five for the others."""
    plan = json.loads((folder / 'comparison.json').read_text())
    plan['runs']['giou']['seeds'] = [0, 1]
    records.write(folder / 'comparison.json', plan)
    results = load_results(folder)
    assert found(results) == {'stock': [0, 1, 2], 'giou': [0, 1]}
    assert results.missing == {}
    assert "the plan has no run 'giou' with seed 2" in only(results)


def test_no_plan(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'comparison\.json does not exist: give the folder of a comparison'):
        Plan.load(tmp_path)


@pytest.mark.parametrize(
    'changes, message',
    [(dict(format=None), 'has format None'), (dict(baseline='x'), "'x', is none of its runs: stock, giou")],
)
def test_bad_plan(folder, changes, message):
    change(folder / 'comparison.json', **changes)
    with pytest.raises(ValueError, match=message):
        Plan.load(folder)


def test_a_record_has_all_but_the_detections(folder):
    path = folder / 'stock' / 'seed_0' / 'result.json'
    records.write(path, {**json.loads(path.read_text()), 'detections': [{'image_id': 1}]})
    results = load_results(folder)
    assert results.runs['stock'][0].detections
    write_record(folder, folder / 'record')
    recorded = load_results(folder / 'record')
    assert Plan.load(folder / 'record') == Plan.load(folder)
    assert [(run.name, run.seed) for run in recorded.all_runs] == [(run.name, run.seed) for run in results.all_runs]
    assert [run.record for run in recorded.all_runs] == [run.record for run in results.all_runs]
    assert all(run.detections is None for run in recorded.all_runs)
    assert recorded.scores('stock', 'AP') == results.scores('stock', 'AP')
