"""Compare configs over several seeds: train them under equal conditions, and say which differ from the first."""

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.console import Console

from mmext.comparison.conditions import (
    UNTRAINED_KEYS,
    apply_options,
    check_equal_conditions,
    check_name,
    check_unchanged,
    coco_leaf,
    data_hash,
    lazy_dataset,
)
from mmext.comparison.executor import EXECUTORS, Resources, execute
from mmext.comparison.plan import PLAN_FILE, Plan, Run, Variant
from mmext.comparison.progress import Progress
from mmext.comparison.report import write_report
from mmext.comparison.results import write_record
from mmext.comparison.run import initial_model
from mmext.errors import UserError

from .check import check_types
from .common import Settings, example, read_config
from .train import use_amp

WIDTH = 160

EXAMPLES = (
    'mmext compare mmext::yolox/yolox_nano_1xb8-60e_bccd.py mmext::yolox/yolox_nano_obj-focal_1xb8-60e_bccd.py '
    '--seeds 5',
    'mmext compare my_config.py --seeds 5 --variant ciou model.bbox_head.loss_bbox.type=mmext.IoULoss '
    'model.bbox_head.loss_bbox.variant=ciou',
    'mmext compare --report work_dirs/compare/my_config',
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext compare`."""
    arguments = argparse.ArgumentParser(description=__doc__, **example(*EXAMPLES))
    add = arguments.add_argument
    add(
        'configs',
        nargs='*',
        metavar='CONFIG',
        help='configs: files, or names mmext::yolox/....py; the first is the baseline',
    )
    add('--seeds', type=int, default=3, metavar='N', help='train each with the seeds 0 to N - 1 (default: 3)')
    add(
        '--variant',
        nargs='+',
        action='append',
        default=[],
        metavar=('NAME', 'KEY=VALUE'),
        help='one more variant: the baseline with these settings, written as for --cfg-options; repeatable',
    )
    add(
        '--cfg-options',
        nargs='+',
        action=Settings,
        default={},
        metavar='KEY=VALUE',
        help='settings that override all configs: key=value, key=a,b or key="[a,b]", without spaces',
    )
    add('--amp', action='store_true', help='automatic mixed precision in all runs; on a CPU in bfloat16')
    add('--work-dir', type=Path, help='folder of the comparison (default: work_dirs/compare/NAME_OF_BASELINE)')
    add('--executor', choices=EXECUTORS, default='local', help='where the runs train (default: local)')
    add(
        '--jobs',
        type=int,
        metavar='N',
        help='how many runs train at once (default: one for each GPU; with Slurm all)',
    )
    add(
        '--slurm',
        nargs='+',
        action=Settings,
        default={},
        metavar='OPTION=VALUE',
        help="sbatch's options, such as partition=gpu time=240 (default: one GPU for each run)",
    )
    add(
        '--record',
        type=Path,
        metavar='DIR',
        help='also write the plan and the results to this folder, without detections: a few KB for each run',
    )
    add('--report', type=Path, metavar='DIR', help='make the report of a folder anew, from its finished runs alone')
    args = arguments.parse_args(argv)
    if args.report is None and not args.configs:
        arguments.error('give at least one config, or --report DIR')
    for name in ('seeds', 'jobs'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            arguments.error(f'--{name} must be at least 1, but is {getattr(args, name)}')
    return args


def read_variants(args: argparse.Namespace) -> tuple[dict[str, Variant], dict[str, Config]]:
    """The variants, and their configs with all options applied.

    Raises:
        UserError: If two variants have one name, or an option is wrong.
    """
    given = [(Path(config).stem, config, {}) for config in args.configs]
    given += [(name, args.configs[0], parse_options(name, options)) for name, *options in args.variant]
    variants, configs = {}, {}
    for name, path, options in given:
        if check_name(name) in variants:
            raise UserError(f'two variants are named {name}: rename a config file, or use --variant')
        config = read_config(path)
        apply_options(config, args.cfg_options, '--cfg-options', UNTRAINED_KEYS)
        if args.amp:
            use_amp(config.optim_wrapper)
        apply_options(config, options, f'--variant {name}')
        check_types(config.to_dict())
        variants[name] = Variant(path, {**args.cfg_options, **options}, list(range(args.seeds)))
        configs[name] = config
    return variants, configs


def parse_options(name: str, options: Sequence[str]) -> dict[str, object]:
    """The options of `--variant NAME KEY=VALUE ...`.

    Raises:
        UserError: If there are none, or one has no `=`.
    """
    if not options or not all('=' in option for option in options):
        raise UserError(f'--variant {name}: give settings as key=value, not {" ".join(options) or "nothing"}')
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=DictAction)
    return parser.parse_args(['--options', *options]).options


def make_plan(args: argparse.Namespace, command: str) -> tuple[Plan, dict[str, Config]]:
    """The plan and the configs, checked as far as this is possible without training.

    Raises:
        UserError: If the comparison would not be one of equals.
    """
    variants, configs = read_variants(args)
    baseline = next(iter(variants))
    config = configs[baseline]
    init_default_scope(config.get('default_scope', 'mmdet'))
    dataset = lazy_dataset(coco_leaf(config))
    check_equal_conditions(configs, baseline)
    for config in configs.values():
        initial_model(Config({**config.to_dict(), 'randomness': dict(seed=0)}))
    return (
        Plan(
            baseline=baseline,
            runs=variants,
            classes=list(dataset.metainfo['classes']),
            annotations=dataset.ann_file,
            images=dataset.data_prefix['img'],
            amp=args.amp,
            data=data_hash(configs[baseline]),
            command=command,
        ),
        configs,
    )


def prepare(plan: Plan, configs: dict[str, Config], folder: Path) -> Plan:
    """Write the plan and the configs to the folder, which may hold an earlier part of the same comparison.

    Raises:
        UserError: If it holds another comparison, or a run of another config or of other data.
    """
    if (folder / PLAN_FILE).is_file():
        plan = Plan.load(folder).extended_by(plan, folder)
    for name, config in configs.items():
        check_unchanged(Run(folder, name, 0).config_file, config, name)
    for name, config in configs.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        config.dump(Run(folder, name, 0).config_file)
    plan.save(folder)
    return plan


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not finished, and write the report."""
    args = parse_args(argv)
    if args.report:
        show_report(args.report, args.record)
        return 0
    # What ends the command stops its jobs, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    plan, configs = make_plan(args, shlex.join(['mmext', 'compare', *(sys.argv[1:] if argv is None else argv)]))
    folder = args.work_dir or Path('work_dirs', 'compare', plan.baseline)
    plan = prepare(plan, configs, folder)
    # All variants with one seed before the next seed, so that pairs are complete early.
    seeds = sorted({seed for name in configs for seed in plan.runs[name].seeds})
    runs = [Run(folder, name, seed) for seed in seeds for name in configs if seed in plan.runs[name].seeds]
    # A cluster has a queue of its own.
    jobs = len(runs) if args.executor == 'slurm' else None
    resources = Resources(args.executor, args.jobs or jobs, args.slurm)
    epochs = configs[plan.baseline].train_cfg.max_epochs
    with Progress(runs, epochs, resources.jobs) as progress:
        try:
            failures = execute([run for run in runs if not run.result_file.is_file()], folder, resources, progress)
        except KeyboardInterrupt:
            progress.say('stopped; the same command continues')
            return 128 + signal.SIGINT
    if len(failures) < len(runs):
        show_report(folder, args.record)
    return 1 if failures else 0


def show_report(folder: Path, record: Path | None) -> None:
    """Write the report of a folder and show its summary; keep a record of its results."""
    # What is not a terminal has no width; rich would break the table's words at 80 columns.
    Console(width=None if sys.stdout.isatty() else WIDTH).print(write_report(folder))
    if record:
        write_record(folder, record)
