"""The display of the runs, without training."""

import io
import json

import pytest
from rich.console import Console

from mmext.comparison.plan import Run
from mmext.comparison.progress import Progress, State, duration, read_state


def record(run, *lines):
    file = run.work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join(lines))


def finish(run, ap=0.5):
    run.work_dir.mkdir(parents=True, exist_ok=True)
    run.result_file.write_text(json.dumps({'epochs': 4, 'metrics': {'AP': ap}}))


STEP, EVALUATION = '{"loss": 1, "step": 6, "epoch": 3}', '{"coco/bbox_mAP": 0.25, "step": 2}'


@pytest.fixture
def runs(tmp_path):
    return [Run(tmp_path, name, 0) for name in ('stock', 'focal')]


def test_reads_how_far_a_run_is(runs):
    run, _ = runs
    assert read_state(run) == State()
    record(run, EVALUATION, STEP, '{"loss": 1, "step": 7, "ep')
    assert read_state(run) == State(step=6, epoch=3, ap=0.25)
    # A full disk may leave half a line in the middle.
    record(run, EVALUATION, '{"loss": 1, "step": 5, "ep', STEP)
    assert read_state(run) == State(step=6, epoch=3, ap=0.25)
    finish(run)
    assert read_state(run) == State(epoch=4, ap=0.5)


def display(runs, terminal):
    return Progress(runs, epochs=4, jobs=2, console=Console(file=io.StringIO(), force_terminal=terminal, width=120))


def test_plain_lines_where_there_is_no_terminal(runs):
    stock, focal = runs
    with display(runs, terminal=False) as progress:
        progress.look([focal], [stock])
        record(stock, STEP, EVALUATION, '')
        progress.look([focal], [stock])
        progress.look([focal], [stock])
        finish(stock)
        progress.ended(stock, None)
        progress.ended(focal, 'ValueError: no')
    lines = [line.split(' ', 1)[1] for line in progress.console.file.getvalue().splitlines()]
    assert lines[0] == '2 runs, of which 0 are finished; 2 at once'
    assert lines[1] == 'stock, seed 0: started'
    # Once, though it looked twice.
    assert lines[2].startswith('stock, seed 0: epoch 3 of 4, AP 0.250, 0:00:')
    assert lines[3].startswith('stock, seed 0: AP 0.500; 1 of 2 runs are finished')
    assert lines[4].startswith('focal, seed 0: failed, ValueError: no; 1 of 2 runs are finished, 1 failed')
    assert len(lines) == 5


def test_a_run_that_is_resumed_says_where(runs):
    record(runs[0], STEP, '')
    with display(runs, terminal=False) as progress:
        progress.look([], runs[:1])
    assert 'stock, seed 0: started again after epoch 3' in progress.console.file.getvalue()


def test_a_table_on_a_terminal(runs):
    stock, focal = runs
    finish(stock)
    record(focal, STEP, EVALUATION, '')
    with display(runs, terminal=True) as progress:
        progress.look([], [focal])
        shown = progress.console.file.getvalue()
    assert '2 runs, of which 1 are finished' in shown
    for text in ('focal, seed 0', '3/4', '0.250', '0.500', '1 of 2 runs are finished'):
        assert text in shown, text


def test_time_left(runs, monkeypatch):
    stock, focal = runs
    now = [0.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    progress = display(runs, terminal=False)
    progress.look([focal], [stock])
    record(stock, '{"loss": 1, "step": 6, "epoch": 2}', '')
    now[0] = 20.0
    progress.look([focal], [stock])
    assert progress.eta(stock) == pytest.approx(20)
    finish(stock)
    now[0] = 40.0
    progress.ended(stock, None)
    progress.look([focal], [])
    # One run of 40 seconds, on two lanes.
    assert progress.rest() == pytest.approx(20)
    assert duration(3661.4) == '1:01:01'
