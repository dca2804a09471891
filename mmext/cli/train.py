"""Train and evaluate a detector; mmdet's command line."""

import argparse
import logging
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope

from mmext.errors import UserError

from .check import check_file
from .common import add_hook, build_runner, leave_group, load_config, make_resumable, one_message, parser, require

ADVICE = '`mmext audit CONFIG` lists all findings; --skip-data-checks trains in spite of them.'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext train`."""
    arguments = parser(__doc__, 'mmext train mmext::yolox/yolox_nano_1xb8-60e_bccd.py --work-dir work_dirs/bccd')
    arguments.add_argument('--amp', action='store_true', help='automatic mixed precision; on a CPU in bfloat16')
    arguments.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the total batch size over auto_scale_lr.base_batch_size',
    )
    arguments.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint; without a value, from the newest in the work dir that loads, or from the '
        'start if there is none',
    )
    arguments.add_argument('--skip-data-checks', action='store_true', help='train even if the annotations have errors')
    return arguments.parse_args(argv)


def apply(args: argparse.Namespace, config: Config) -> None:
    """Apply the arguments to the config.

    Raises:
        UserError: For `--amp` in float16 on a CPU, or `--auto-scale-lr` without a base batch size.
        MissingFileError: If the checkpoint of `--resume` does not exist.
        CheckpointError: If there are checkpoints to resume from, and none loads.
    """
    if args.amp:
        use_amp(config.optim_wrapper)
    if args.auto_scale_lr:
        if 'base_batch_size' not in config.get('auto_scale_lr', {}):
            raise UserError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config: the total batch size '
                'over all GPUs that its learning rate was chosen for'
            )
        config.auto_scale_lr.enable = True
    if args.resume:
        config.resume = True
        config.load_from = None if args.resume == 'auto' else check_file(args.resume, 'checkpoint')
    if config.get('resume') and not config.get('load_from'):
        from mmext.checkpoints import newest_checkpoint

        newest = newest_checkpoint(config.work_dir, args.trust_checkpoint)
        config.load_from = newest and str(newest)


def use_amp(optim_wrapper: dict) -> None:
    """Change the optimizer wrapper to automatic mixed precision: on a CPU to bfloat16, which needs no loss scale.

    Raises:
        UserError: If the config asks for another type on a CPU.
    """
    from mmengine.device import get_device

    if get_device() != 'cpu':
        optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
        return
    dtype = optim_wrapper.pop('dtype', None) or 'bfloat16'
    if str(dtype).removeprefix('torch.') != 'bfloat16':
        raise UserError(
            f'--amp: a CPU trains in bfloat16, but optim_wrapper.dtype is {dtype!r}: remove optim_wrapper.dtype, or '
            'train without --amp'
        )
    optim_wrapper.pop('loss_scale', None)
    optim_wrapper.type = 'mmext.BFloat16OptimWrapper'


def main(argv: Sequence[str] | None = None) -> None:
    """Train and evaluate, and write log, checkpoints, curves and pictures to the work dir."""
    args = parse_args(argv)
    config = load_config(args)
    # Here, since --help should not wait for torch.
    from mmext.audit import data_findings, raise_errors

    require(config, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    with one_message(config.work_dir):
        apply(args, config)
        init_default_scope(config.get('default_scope', 'mmdet'))
        for hook in ('mmext.CheckHook', 'mmext.SummaryHook', 'mmext.LossMonitorHook', 'mmext.ReportHook'):
            add_hook(config, hook)
        make_resumable(config)
        # Each rank reads the same files and raises the same errors, before it waits for any other.
        findings = [] if args.skip_data_checks else data_findings(config, images=False)
        raise_errors(findings, ADVICE)
        runner = build_runner(config)
        for finding in findings:
            if finding.level == 'warning':
                print_log(str(finding), logger='current', level=logging.WARNING)
        runner.train()
        leave_group()
