"""Training in bfloat16 learns as well as in float32."""

import os

import numpy as np
import pytest
from toy_training import in_a_process, status_of, write_detector

from mmext.cli import train as cli_train
from mmext.visualization.scalars import points_of, read_scalars

SEEDS = range(3)


def final_loss(config, work_dir, *options, seed):
    """The mean loss of the last 50 of 200 iterations of `mmext train`."""
    settings = ['optim_wrapper.optimizer.lr=0.005', f'randomness.seed={seed}', 'train_cfg.val_interval=100']
    for loader in ('train_dataloader', 'val_dataloader'):
        settings += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']

    def train():
        os.environ.pop('LOCAL_RANK', None)
        cli_train.main([str(config), '--work-dir', str(work_dir), *options, '--cfg-options', *settings])

    output = work_dir.with_suffix('.out')
    assert status_of(in_a_process(train, output), 3000) == 0, output.read_text()
    (log_dir,) = (path.parents[1] for path in work_dir.glob('*/vis_data/scalars.json'))
    # Each record is the mean of ten iterations.
    losses = points_of(read_scalars(log_dir, resumed=False), 'loss')
    assert [step for step, _ in losses] == list(range(10, 201, 10))
    return np.mean([loss for _, loss in losses[-5:]]), losses[0][1]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_bfloat16_is_within_the_noise_of_float32(tmp_path):
    """The noise is what another seed changes. A seed has the same data and initial weights in both precisions.

    With a high learning rate, rounding errors alone change the loss by more than that.
    """
    config = write_detector(tmp_path, epochs=10)
    results = {
        name: np.array([final_loss(config, tmp_path / f'{name}_{seed}', *options, seed=seed) for seed in SEEDS])
        for name, options in {'fp32': (), 'bf16': ('--amp',)}.items()
    }
    (exact, first), (mixed, _) = (losses.T for losses in results.values())
    print(f'float32 {exact}, bfloat16 {mixed}, at the start {first}')
    noise = exact.std(ddof=1)
    assert (mixed != exact).all()
    assert abs((mixed - exact).mean()) < noise
    # It has learned.
    assert mixed.max() < 0.7 * first.min()
