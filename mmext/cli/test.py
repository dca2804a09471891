"""Evaluate a checkpoint; mmdet's command line."""

import argparse
from collections.abc import Sequence
from copy import deepcopy

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmext.errors import UserError

from .check import check_file
from .common import add_hook, build_runner, leave_group, load_config, one_message, parser, require


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext test`."""
    arguments = parser(__doc__, 'mmext test mmext::yolox/yolox_nano_1xb8-60e_bccd.py epoch_60.pth --show-dir pictures')
    arguments.add_argument('checkpoint', help='checkpoint file')
    arguments.add_argument('--out', metavar='FILE.pkl', help='write the predictions to this pickle file')
    arguments.add_argument('--show', action='store_true', help='show the predictions in a window')
    arguments.add_argument('--show-dir', help='draw predictions beside the ground truth into work_dir/TIME/SHOW_DIR')
    arguments.add_argument(
        '--wait-time', type=float, default=2, help='seconds for which --show shows an image (default: 2)'
    )
    arguments.add_argument('--tta', action='store_true', help='test-time augmentation')
    args = arguments.parse_args(argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        arguments.error(f'--out must end in .pkl or .pickle, but is {args.out!r}')
    return args


def add_tta(config: Config) -> None:
    """Wrap the model and the pipeline for test-time augmentation: the config's own, or else a horizontal flip.

    Raises:
        UserError: If the test pipeline does not end in PackDetInputs, which must follow the augmentation.
    """
    dataset = config.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in config:
        config.tta_model = dict(
            type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
        )
    if config.tta_model.type in ('DetTTAModel', 'mmdet.DetTTAModel'):
        config.tta_model.type = 'mmext.DetTTAModel'
    if 'tta_pipeline' not in config:
        config.tta_pipeline = flip(dataset.pipeline)
    config.model = ConfigDict(**config.tta_model, module=config.model)
    dataset.pipeline = config.tta_pipeline


def flip(pipeline: Sequence[dict]) -> list[dict]:
    """The test pipeline for each image and its mirror image.

    The flip comes before the padding: boxes are flipped back within the image, whose padding is at the right and
    bottom.
    """
    *steps, pack = deepcopy(list(pipeline))
    if not pack['type'].endswith('PackDetInputs'):
        raise UserError(
            f'--tta needs a test pipeline that ends in PackDetInputs, but it ends in {pack["type"]}; give the '
            'config a tta_pipeline'
        )
    keys = pack.get('meta_keys', ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
    pack['meta_keys'] = (*keys, 'flip', 'flip_direction')
    start = next((i for i, step in enumerate(steps) if step['type'].endswith('Pad')), len(steps))
    flips = [dict(type='mmdet.RandomFlip', prob=probability) for probability in (1.0, 0.0)]
    return [*steps[:start], dict(type='TestTimeAug', transforms=[flips, *([step] for step in steps[start:]), [pack]])]


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the checkpoint, and log one table of metrics."""
    args = parse_args(argv)
    config = load_config(args)
    require(config, 'model', 'test_dataloader', 'test_evaluator')
    config.load_from = check_file(args.checkpoint, 'checkpoint')
    init_default_scope(config.get('default_scope', 'mmdet'))
    if args.show:
        config.default_hooks.visualization.update(draw=True, show=True, wait_time=args.wait_time)
    if args.tta:
        add_tta(config)
    for hook in ('mmext.CheckHook', 'mmext.SummaryHook', 'mmext.OutageHook'):
        add_hook(config, hook)
    add_hook(config, 'mmext.ReportHook', show_dir=args.show_dir)
    with one_message(config.work_dir):
        runner = build_runner(config)
        if args.out:
            from mmdet.evaluation import DumpDetResults

            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
        runner.test()
        leave_group()
