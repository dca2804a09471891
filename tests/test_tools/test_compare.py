"""`mmext compare` trains, survives, and reports for real, on a few shapes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, run

from mmext.cli import compare
from mmext.comparison.plan import Plan

TOOL = ROOT / 'tools' / 'compare_losses.py'
EXPERIMENT = """
_base_ = 'mmext::yolox/yolox_nano_1xb8-9e_shapes.py'
train_dataloader = dict(batch_size=4, dataset=dict(data_root={root!r}))
val_dataloader = dict(batch_size=4, dataset=dict(data_root={root!r}))
val_evaluator = dict(ann_file={root!r} + '/annotations/val.json')
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
"""
LOSS = 'model.bbox_head.loss_obj'
FOCAL = ('--variant', 'focal', f'{LOSS}._delete_=True', f'{LOSS}.type=mmext.FocalLoss')
BROKEN = ('--variant', 'broken', 'optim_wrapper.optimizer.lr=fast')


@pytest.fixture(scope='module')
def experiment(shapes, tmp_path_factory):
    file = tmp_path_factory.mktemp('experiment') / 'stock.py'
    file.write_text(EXPERIMENT.format(root=str(shapes)))
    return file


@pytest.fixture(scope='module')
def compared(experiment):
    """Three variants, one of which fails, by submitit's local executor; two at once."""
    folder = experiment.parent / 'comparison'
    command = [sys.executable, TOOL, experiment, *FOCAL, *BROKEN, '--seeds', 1, '--jobs', 2, '--work-dir', folder]
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    return folder, result


def test_trains_all_and_reports_the_one_that_failed(compared):
    folder, result = compared
    assert result.returncode == 1, result.stderr[-2000:]
    assert (folder / 'stock' / 'seed_0' / 'result.json').is_file()
    assert (folder / 'focal' / 'seed_0' / 'result.json').is_file()
    assert not (folder / 'broken' / 'seed_0' / 'result.json').exists()
    assert 'broken, seed 0: failed' in result.stdout
    assert '_log.err)' in result.stdout
    assert '2 of 3 runs are finished, 1 failed' in result.stdout
    assert '3 runs, of which 0 are finished; 2 at once' in result.stdout


def test_says_that_one_seed_is_no_verdict(compared):
    folder, result = compared
    assert 'no verdict' in result.stdout
    for name in ('report.html', 'report.csv', 'report.json'):
        assert (folder / name).stat().st_size > 100


def test_the_report_is_made_anew(compared):
    folder, _ = compared
    (folder / 'report.html').unlink()
    assert compare.main(['--report', str(folder)]) == 0
    assert 'focal' in (folder / 'report.html').read_text()


def test_a_second_seed_is_added_and_nothing_trained_twice(compared, experiment):
    folder, _ = compared
    before = (folder / 'focal' / 'seed_0' / 'result.json').stat().st_mtime_ns
    result = run(sys.executable, TOOL, experiment, *FOCAL, '--seeds', 2, '--jobs', 2, '--work-dir', folder)
    assert '4 runs, of which 2 are finished' in result.stdout
    assert (folder / 'focal' / 'seed_0' / 'result.json').stat().st_mtime_ns == before
    assert (folder / 'focal' / 'seed_1' / 'result.json').is_file()
    plan = Plan.load(folder)
    assert {name: variant.seeds for name, variant in plan.runs.items()} == {
        'stock': [0, 1], 'focal': [0, 1], 'broken': [0]
    }  # fmt: skip


def test_killed_at_once_and_started_again(experiment, tmp_path):
    """All processes are killed in the second epoch; the same command finishes, and resumes."""
    words = [sys.executable, TOOL, experiment, '--seeds', 1, '--jobs', 2, '--work-dir', tmp_path, '--cfg-options']
    command = [str(word) for word in (*words, 'train_cfg.max_epochs=6')]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    work_dir, deadline = tmp_path / 'stock' / 'seed_0', time.monotonic() + 120
    try:
        while not (work_dir / 'epoch_2.pth').exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    trained = max(int(path.stem.split('_')[1]) for path in work_dir.glob('epoch_*.pth'))
    assert trained < 6
    result = run(*command)
    assert 'stock, seed 0: started again after epoch' in result.stdout
    record = json.loads((work_dir / 'result.json').read_text())
    assert record['resumed']
    assert [entry['epoch'] for entry in record['curve']['val']] == list(range(1, 7))


def test_stops_its_jobs_at_sigterm(experiment, tmp_path):
    """They save a checkpoint within the epoch."""
    words = [sys.executable, TOOL, experiment, '--seeds', 1, '--jobs', 2, '--work-dir', tmp_path, '--cfg-options']
    command = [str(word) for word in (*words, 'train_cfg.max_epochs=500', 'train_cfg.val_interval=500')]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    work_dir, deadline = tmp_path / 'stock' / 'seed_0', time.monotonic() + 120
    try:
        while not (work_dir / 'epoch_1.pth').exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.terminate()
        assert process.wait(90) == 128 + signal.SIGTERM
        assert any(work_dir.glob('*.pth'))
        before = sorted(work_dir.glob('*.pth'))
        time.sleep(3)
        assert sorted(work_dir.glob('*.pth')) == before
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


class TestWrongUseNamesTheRemedy:
    """Before anything trains."""

    def fail(self, tmp_path, *words):
        with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
            compare.main([*map(str, words), '--work-dir', str(tmp_path / 'none')])
        assert not (tmp_path / 'none').exists()
        return str(error.value)

    def test_an_option_that_changes_nothing(self, experiment, tmp_path):
        message = self.fail(tmp_path, experiment, '--variant', 'same', f'{LOSS}.reduction=sum')
        assert 'changes nothing' in message

    def test_another_schedule(self, experiment, tmp_path):
        other = tmp_path / 'longer.py'
        other.write_text(f'_base_ = {str(experiment)!r}\ntrain_cfg = dict(max_epochs=3)\n')
        assert 'train_cfg.max_epochs is 3, not 2' in self.fail(tmp_path, experiment, other)

    def test_an_argument_that_a_loss_does_not_take(self, experiment, tmp_path):
        message = self.fail(tmp_path, experiment, *FOCAL, f'{LOSS}.gama=1')
        assert "takes no argument 'gama'" in message

    def test_two_of_one_name(self, experiment, tmp_path):
        assert 'two variants are named focal' in self.fail(tmp_path, experiment, *FOCAL, *FOCAL)

    def test_a_setting_without_value(self, experiment, tmp_path):
        assert 'key=value, not nothing' in self.fail(tmp_path, experiment, '--variant', 'focal')

    def test_no_folder_of_a_comparison(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='give the folder of a comparison'):
            compare.main(['--report', str(tmp_path)])

    @pytest.mark.parametrize(
        'words, message', [([], 'at least one config'), (['a.py', '--seeds', '0'], 'must be at least 1')]
    )
    def test_the_command_line(self, words, message, capsys):
        with pytest.raises(SystemExit):
            compare.parse_args(words)
        assert message in capsys.readouterr().err
