"""Trainings on several ranks: the same result as on one, and the end if a rank fails."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from conftest import ROOT
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from ranks import LIMIT, on_ranks, start_ranks, statuses
from toy_training import differences, toy_runner

from mmext.audit.ranks import FACTS, checksum
from mmext.audit.ranks import differences as differences_of_ranks
from mmext.checkpoints import load_checkpoint

# Without dropout, which each rank draws for itself.
PLAIN = {'dropout': 0}
# Some of four ranks have no sample; the noise would be of each rank.
VAL = {'length': 3, 'noise': 0}


def train(work_dir, world_size, **options):
    """Train on so many ranks, four samples in each iteration, and return the last checkpoint."""
    options = {'model': PLAIN, **options}

    def work(rank=0):
        toy_runner(work_dir, batch_size=4 // world_size, **options).train()

    if world_size == 1:
        work()
    else:
        on_ranks(world_size, work, work_dir.with_name('ranks'), init=False)
    return load_checkpoint(work_dir / 'epoch_3.pth')


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp('alone') / 'run', 1, val=VAL)


@pytest.mark.parametrize('world_size', [2, 4])
def test_a_training_equals_one_of_a_single_process(world_size, alone, tmp_path):
    """Weights, averaged weights, optimizer and metrics. In the validation four ranks have 1, 1, 1 and 0 samples."""
    ours = train(tmp_path / 'run', world_size, val=VAL)
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        torch.testing.assert_close(ours[part], alone[part], rtol=1e-6, atol=1e-6)
    metrics = [each['message_hub']['log_scalars']['val/toy/sum'].data[0] for each in (ours, alone)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)


NORMALIZED = {'model': {**PLAIN, 'normalize': True}}


def test_ranks_validate_and_resume_the_model_that_is_saved(tmp_path):
    """The running statistics of batch normalization are of each rank, until they are averaged."""

    def work(rank, work_dir=tmp_path / 'run', resume=False):
        runner = toy_runner(work_dir, resume, batch_size=2, **NORMALIZED)
        runner.train()
        (average,) = [hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model')]
        return runner.model.module.state_dict(), average.state_dict()

    first, second = on_ranks(2, work, tmp_path / 'first', init=False)
    assert first[0]['norm.running_mean'].abs().min() > 0.1
    assert differences(first, second) == []
    again = tmp_path / 'again'
    again.mkdir()
    shutil.copy(tmp_path / 'run' / 'epoch_2.pth', again)
    on_ranks(2, partial(work, work_dir=again, resume=True), tmp_path / 'second', init=False)
    assert differences(*(load_checkpoint(path / 'epoch_3.pth') for path in (again, tmp_path / 'run'))) == []


class TestRanksThatDiffer:
    """They would wait for each other forever, or train different models."""

    SAME = dict.fromkeys(FACTS, 5)

    @pytest.mark.parametrize('name', FACTS)
    def test_are_refused(self, name):
        (finding,) = differences_of_ranks([self.SAME, {**self.SAME, name: 4}])
        assert finding.level == 'error' and finding.key == FACTS[name][0]
        assert finding.message == f'the ranks differ in {name}: 5 on rank 0, 4 on rank 1'

    def test_equal_ranks_are_not(self):
        assert differences_of_ranks([self.SAME, self.SAME, self.SAME]) == []

    def test_the_checksum_sees_a_bit_and_the_order(self):
        weights = [torch.zeros(3), torch.ones((), dtype=torch.float16), torch.ones(2, 2)[:, :1]]
        seen = {checksum(weights), checksum(weights[::-1]), checksum([])}
        weights[0][1] = 1e-45
        assert len(seen | {checksum(weights)}) == 4

    def test_in_a_training(self, tmp_path):
        """All ranks end, with one message, before the first iteration."""

        def work(rank):
            runner = toy_runner(tmp_path / 'run', hooks=[dict(type='OtherWeights'), dict(type='CheckRanks')])
            runner.train()

        folder = tmp_path / 'ranks'
        assert statuses(start_ranks(2, work, folder), folder) == [2, 2]
        assert 'the ranks differ in checksum of the weights' in (folder / '0.out').read_text()
        assert not list((tmp_path / 'run').glob('*.pth'))


@HOOKS.register_module()
class OtherWeights(Hook):
    """A checkpoint that one machine has and another has not."""

    priority = 'HIGH'

    def before_train(self, runner):
        if int(os.environ['RANK']):
            runner.model.module.layer.bias.data += 1


@HOOKS.register_module()
class CheckRanks(Hook):
    """What CheckHook does beside its checks of detectors."""

    def before_train(self, runner):
        from mmext.audit import check_ranks, enforce

        enforce(check_ranks(runner))


class TestARankThatFails:
    """Here without a launcher, which would end the other rank."""

    def train(self, tmp_path, failure, **options):
        """The exit statuses, and the output of rank 0, if rank 1 fails in its second iteration."""

        def work(rank):
            call_hook = Runner.call_hook

            def call(runner, name, **arguments):
                if rank and name == 'before_train_iter' and runner.iter == 1:
                    failure()
                call_hook(runner, name, **arguments)

            Runner.call_hook = call
            toy_runner(tmp_path / 'run', batch_size=1, **options).train()

        folder = tmp_path / 'ranks'
        processes = start_ranks(2, work, folder)
        (first,) = statuses(processes[:1], folder)
        processes[1].kill()
        return first, (folder / '0.out').read_text()

    def test_that_ends(self, tmp_path):
        status, output = self.train(tmp_path, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert status == 2 and 'mmext: error: another rank has ended' in output
        assert 'Traceback' not in output

    def test_that_hangs(self, tmp_path):
        """The config says how long the others wait for it."""
        env_cfg = dict(dist_cfg=dict(timeout=5))
        status, output = self.train(tmp_path, lambda: time.sleep(LIMIT), env_cfg=env_cfg)
        assert status == 2 and 'mmext: error: another rank did not answer in time' in output
        assert 'env_cfg.dist_cfg.timeout' in output and 'Traceback' not in output


FAILING = """
import os, signal, time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

@HOOKS.register_module()
class FailOnRank1(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if os.environ['RANK'] == '1' and runner.iter == 1:
            open(os.environ['FAILED_AT'], 'w').write(str(time.time()))
            {failure}
"""
CONFIG = """
_base_ = 'mmext::yolox/yolox_nano_recommended_1xb8-9e_shapes.py'
custom_imports = dict(imports=['failing'])
custom_hooks = [dict(type='FailOnRank1', priority='VERY_HIGH')]
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}))
val_evaluator = dict(ann_file={root!r} + '/annotations/val.json')
"""
FAILURES = {
    'a mistake': (
        "from mmext.errors import UserError; raise UserError('no sample 7')",
        [r'mmext: error on rank 1: no sample 7'],
    ),
    'an exception': (
        "raise RuntimeError('no sample 7')",
        [r'mmext: error on rank 1: RuntimeError', r'rank +: 1 \(local_rank: 1\)', r'RuntimeError: no sample 7'],
    ),
    'kill -9': (
        'os.kill(os.getpid(), signal.SIGKILL)',
        [r'rank +: 1 \(local_rank: 1\)\s+exitcode +: -9', r'Signal 9 \(SIGKILL\)'],
    ),
}


@pytest.mark.parametrize('failure', FAILURES)
def test_a_rank_that_fails_ends_the_job(failure, shapes, tmp_path, free_port):
    """The message names the rank and its error; the other rank ends within seconds, not minutes."""
    statement, patterns = FAILURES[failure]
    (tmp_path / 'failing.py').write_text(FAILING.format(failure=statement))
    (tmp_path / 'mine.py').write_text(CONFIG.format(root=str(shapes)))
    process = subprocess.run(
        [ROOT / 'tools' / 'dist_train.sh', tmp_path / 'mine.py', '2', '--work-dir', tmp_path / 'run'],
        cwd=ROOT,
        env={
            **os.environ,
            'PATH': f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}',
            'PYTHONPATH': f'{tmp_path}:{ROOT}',
            'PORT': str(free_port()),
            'CUDA_VISIBLE_DEVICES': '',
            'FAILED_AT': str(tmp_path / 'failed_at'),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    waited = time.time() - float((tmp_path / 'failed_at').read_text())
    output = process.stdout + process.stderr
    assert process.returncode not in (0, None), output
    for pattern in patterns:
        assert re.search(pattern, output), output
    # The failing rank lets rank 0 report first, for 5 s; torchrun then ends rank 0.
    assert waited < 60
    print(f'{failure}: the job ended after {waited:.1f} s')
