#!/usr/bin/env python
"""Compare mmext with mmdet, mmcv, torchvision and torch.compile: time, memory, operations, bytes and host syncs.

All providers of a case get the same inputs and take turns, so that changes of the clock affect all of them alike. The
CSV has one row per measurement, with all columns and versions; the PNG shows the ratios of the times. The exit status
is 1 if outputs differ from mmdet's in float32 on the same inputs; mmext's must not in half precision either, mmdet's
may, since its decoded boxes are coarse there. A loss that mmdet does not have is compared with `plain`.

Providers:
    mmdet         mmdet's loss, assigner, head or model
    mmext         mmext's
    mmext_losses  mmext's head with mmext's losses instead of the stock ones
    mmext_silu    a step with mmext's head, and SiLU as one operation in place of Swish's two, as in the root configs
    mmext_channels_last   the same with the weights in channels_last, as ChannelsLastHook does
    mmext_bf16    the same in bfloat16, as `mmext train --amp` does on a CPU
    plain         mmext's loss without its blockwise sum: reduction='none', then .sum()
    mmcv          mmcv's operator, on a GPU
    torchvision   torchvision's function
    compiled      mmext's loss or head under torch.compile

Columns:
    ms        median time of a call, forward and backward, and its quartiles
    / mmdet   median ratio to the time of mmdet's call in the same turn
    / plain   the same for `plain`, where mmdet does not have the loss
    images/s  of a training step
    MiB       peak memory of a call, by torch's allocator on a GPU and torch's profiler on a CPU
    ops       operations, as mmext.testing.OpCounter counts them
    MB        bytes that the operations must access, in millions, as mmext.testing.OpCounter counts them
    projected milliseconds on a GPU, a projection and no measurement: the larger of 5 us for each operation (eager mode,
              small kernels) and of the bytes at 2 TB/s (an A100)
    syncs     host syncs, as mmext.testing.OpCounter counts them
    warned    host syncs that torch's debug mode reports on a GPU
    GB/s      bytes of the inputs and outputs, each counted once, per time
    of copy   that bandwidth relative to a copy's in the same run
    differs   largest difference, relative to the largest value; for the assigner the number of priors
    ties      priors assigned differently because of a tie, which is no difference

Example:
    python tools/benchmark.py assigner loss_by_feat --batch 8 --boxes 10 30
"""

import argparse
import csv
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate, product
from pathlib import Path
from statistics import median, quantiles

import torch
from benchmark_cases import CASES, LOSSES, NETWORKS, STRIDES, Run, Setting, Skip
from matplotlib.figure import Figure
from terminaltables import AsciiTable

from mmext.compat import start_of
from mmext.testing import OpCounter

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MARKERS = {'fp32': 'o', 'fp16': '^', 'bf16': 's'}
PROVIDERS = ('mmdet', 'mmext', 'mmext_losses', *NETWORKS, 'plain', 'mmcv', 'torchvision', 'compiled')
# In half precision their differences from float32 are reported, but do not fail the run.
PEERS = ('mmdet', 'mmcv', 'torchvision')
# Their kernels are not launched through torch's dispatcher.
NOT_DISPATCHED = ('mmcv', 'compiled')
COUNTS = ('operations', 'bytes_accessed', 'syncs')
# Of the projection: seconds per operation in eager mode, and bytes per second of an A100.
LAUNCH, BANDWIDTH = 5e-6, 2e12
LIBRARIES = ('mmext', 'torch', 'torchvision', 'mmdet', 'mmcv')
DEFAULTS = {
    'cpu': dict(batch=[2], boxes=[0, 10, 30], size=320, repeats=5, model='nano'),
    'cuda': dict(batch=[1, 8, 16, 64], boxes=[0, 1, 10, 30, 100], size=640, repeats=20, model='s'),
}


@dataclass
class Result:
    """A row of the CSV."""

    case: str
    provider: str
    dtype: str
    batch: int
    boxes: int | None
    peak_mib: float
    operations: int | None
    bytes_accessed: int | None
    syncs: int | None
    warned_syncs: int | None
    difference: float
    ties: int
    baseline: str
    ms: float = math.nan
    ms_q25: float = math.nan
    ms_q75: float = math.nan
    ratio: float | None = None
    images_per_s: float | None = None
    gb_per_s: float | None = None
    share_of_copy: float | None = None

    def add_times(self, times: list[float], baseline: list[float] | None, moved: int | None, copy: float) -> None:
        """Fill in the columns that depend on the times.

        Args:
            times: Seconds of each call.
            baseline: Seconds of the baseline's call in the same turn; None: not measured.
            moved: Bytes that a call must read and write; None: not stated.
            copy: Bytes per second of a copy.
        """
        self.ms_q25, self.ms, self.ms_q75 = (
            1e3 * value for value in (quantiles(times, n=4, method='inclusive') if len(times) > 1 else times * 3)
        )
        if baseline:
            self.ratio = median(own / theirs for own, theirs in zip(times, baseline))
        if self.case == 'step':
            self.images_per_s = 1e3 * self.batch / self.ms
        if moved is not None:
            self.gb_per_s = moved / self.ms / 1e6
            self.share_of_copy = 1e9 * self.gb_per_s / copy


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == 'cuda':
        torch.cuda.synchronize()


def interleave(runs: dict[str, Run], repeats: int, device: str) -> dict[str, list[float]]:
    """Time the providers in turns, on a GPU with a cold L2 cache; returns the seconds of each call."""
    times = {name: [] for name in runs}
    flush = torch.empty(2**28 if device == 'cuda' else 0, dtype=torch.uint8, device=device)
    for _ in range(repeats):
        for name, run in runs.items():
            flush.zero_()
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    return times


def peak_memory(run: Run, device: str) -> int:
    """Peak memory of a call in bytes, above what was allocated before it."""
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((start_of(event), event.nbytes()) for event in events if event.name() == '[memory]')
    return max(accumulate((change for _, change in changes), initial=0))


def warned_syncs(run: Run, device: str) -> int | None:
    """The number of host syncs that torch's debug mode reports on a GPU."""
    if device != 'cuda':
        return None
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            run()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return sum('synchroniz' in str(warning.message) for warning in caught)


def copy_speed(device: str) -> float:
    """Bandwidth of a copy, bytes read and written per second."""
    source = torch.ones(2 ** (30 if device == 'cuda' else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    (times,) = interleave({'copy': lambda: target.copy_(source)}, 20, device).values()
    return 2 * source.numel() / median(times)


def count(run: Run) -> dict[str, int]:
    """The numbers of operations, of bytes that they access, and of host syncs of a call."""
    with OpCounter() as counter:
        run()
    return dict(
        operations=counter.operations.total(), bytes_accessed=counter.bytes.total(), syncs=counter.syncs.total()
    )


def measure(name: str, setting: Setting, args: argparse.Namespace, copy: float) -> tuple[list[Result], list[str]]:
    """Measure a case at a setting; returns the results, and a message for each provider whose outputs differ."""
    workload = CASES[name].setup(setting)
    runs = workload.providers
    if not runs:
        raise Skip('none of the providers is available')
    results, failures = {}, []
    for provider, run in runs.items():
        reference = workload.reference(provider)
        found = workload.compare(reference, run())
        if not found.agrees and (setting.dtype == torch.float32 or provider not in PEERS):
            failures.append(f'{describe(name, setting)}: {provider} differs by {found.difference:.2g}')
        counts = dict.fromkeys(COUNTS) if provider in NOT_DISPATCHED else count(run)
        results[provider] = Result(
            case=name,
            provider=provider,
            dtype=DTYPE_NAMES[setting.dtype],
            batch=setting.batch,
            boxes=setting.boxes if 'boxes' in CASES[name].axes else None,
            peak_mib=peak_memory(run, setting.device) / 2**20,
            **counts,
            warned_syncs=warned_syncs(run, setting.device),
            difference=found.difference,
            ties=found.ties,
            baseline=workload.baseline,
        )
        moved = sum(tensor.nbytes for tensor in (*workload.inputs, *reference.values())) if workload.inputs else None
    times = interleave(runs, args.repeats, setting.device)
    for provider, result in results.items():
        result.add_times(times[provider], times.get(workload.baseline), moved, copy)
    return list(results.values()), failures


COLUMNS = {
    'provider': lambda row: row.provider,
    'dtype': lambda row: row.dtype,
    'B': lambda row: row.batch,
    'G': lambda row: row.boxes,
    'ms': lambda row: f'{row.ms:.3g} ({row.ms_q25:.3g}-{row.ms_q75:.3g})',
    '/ mmdet': lambda row: show_ratio(row, 'mmdet'),
    '/ plain': lambda row: show_ratio(row, 'plain'),
    'images/s': lambda row: row.images_per_s and f'{row.images_per_s:.1f}',
    'MiB': lambda row: f'{row.peak_mib:.4g}',
    'ops': lambda row: row.operations,
    'MB': lambda row: row.bytes_accessed and f'{row.bytes_accessed / 1e6:.4g}',
    'projected': lambda row: row.operations and f'{1e3 * projected(row.operations, row.bytes_accessed):.3g}',
    'syncs': lambda row: row.syncs,
    'warned': lambda row: row.warned_syncs,
    'GB/s': lambda row: row.gb_per_s and f'{row.gb_per_s:.3g}',
    'of copy': lambda row: row.share_of_copy and f'{row.share_of_copy:.1%}',
    'differs': lambda row: f'{row.difference:.1e}' if row.difference % 1 else f'{row.difference:.0f}',
    'ties': lambda row: row.ties,
}


def projected(operations: int, bytes_accessed: int) -> float:
    """The least seconds on a GPU, as `projected` in the module's docstring; no measurement."""
    return max(operations * LAUNCH, bytes_accessed / BANDWIDTH)


def show_ratio(row: Result, baseline: str) -> str | None:
    """The ratio as a cell, if it is to this baseline."""
    return f'{row.ratio:.3f}' if row.ratio and row.baseline == baseline else None


def describe(name: str, setting: Setting) -> str:
    """The case and its sizes, for a message."""
    boxes = f', {setting.boxes} boxes each' if 'boxes' in CASES[name].axes else ''
    return f'{name}, {setting.batch} images{boxes}, {DTYPE_NAMES[setting.dtype]}'


def table(title: str, results: Sequence[Result]) -> str:
    """The results of a case as a table, without its empty columns."""
    cells = [['' if (cell := show(row)) is None else str(cell) for show in COLUMNS.values()] for row in results]
    columns = [column for column in zip(COLUMNS, *cells) if any(column[1:])]
    return f'\n{title}\n{AsciiTable(list(zip(*columns))).table}'


def environment(device: str, copy: float) -> dict[str, object]:
    """The device and the versions, which the numbers depend on."""
    versions = {name: import_module(name).__version__ for name in LIBRARIES if find_spec(name)}
    return dict(
        device=torch.cuda.get_device_name() if device == 'cuda' else f'CPU {platform.machine()}',
        threads=torch.get_num_threads(),
        copy_gb_per_s=round(copy / 1e9, 2),
        **dict.fromkeys(LIBRARIES) | versions,
        time=datetime.now().astimezone().isoformat(timespec='seconds'),
    )


def draw(results: Sequence[Result], out_file: Path) -> None:
    """Plot the ratios over the sizes: a panel for each case, a color for each provider."""
    panels = {}
    for row in results:
        if row.ratio and row.provider != row.baseline:
            panels.setdefault(row.case, []).append(row)
    columns = max(1, min(3, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout='constrained')
    for number, (case, points) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        sizes = list(dict.fromkeys((row.batch, row.boxes) for row in points))
        for provider, dtype in dict.fromkeys((row.provider, row.dtype) for row in points):
            line = [row for row in points if (row.provider, row.dtype) == (provider, dtype)]
            axes.plot(
                [sizes.index((row.batch, row.boxes)) for row in line],
                [row.ratio for row in line],
                color=f'C{PROVIDERS.index(provider)}',
                marker=MARKERS[dtype],
                label=f'{provider} {dtype}',
            )
        labels = [f'{batch}' if boxes is None else f'{batch}x{boxes}' for batch, boxes in sizes]
        axes.set_xticks(range(len(sizes)), labels, rotation=45)
        axes.axhline(1, color='black', linewidth=0.8)
        axes.set(title=case, xlabel='images x boxes', ylabel=f"time / {points[0].baseline}'s")
        axes.set_yscale('log', base=2)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.5), max(high, 2))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')
    figure.savefig(out_file, dpi=120)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; missing options get the defaults of the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ['losses', *CASES]
    add = parser.add_argument
    add(
        'cases',
        nargs='*',
        metavar='CASE',
        help=f'{", ".join(names)}; losses stands for the {len(LOSSES)} after it (default: all)',
    )
    add('--device', choices=list(DEFAULTS), default='cuda' if torch.cuda.is_available() else 'cpu')
    add('--batch', type=at_least(1), nargs='+', metavar='B', help=f'number of images ({default("batch")})')
    add('--boxes', type=at_least(0), nargs='+', metavar='G', help=f'number of boxes per image ({default("boxes")})')
    add(
        '--dtype',
        choices=DTYPES,
        nargs='+',
        default=['fp32'],
        help='type of the logits; half precision runs under autocast (fp32)',
    )
    add(
        '--providers',
        choices=PROVIDERS,
        nargs='+',
        default=PROVIDERS[:-1],
        help='see above (all but compiled, which is slow)',
    )
    add('--size', type=at_least(1), metavar='PIXELS', help=f'side of the images, a multiple of 32 ({default("size")})')
    add('--classes', type=at_least(1), default=80, metavar='N', help='number of classes (%(default)s)')
    add(
        '--stage',
        choices=('early', 'late'),
        default='late',
        help='predictions of an untrained or of a trained model (%(default)s)',
    )
    add(
        '--model',
        choices=('nano', 'tiny', 's', 'm', 'l', 'x'),
        help=f'YOLOX model of the case step ({default("model")})',
    )
    add('--repeats', type=at_least(1), metavar='N', help=f'number of calls of each provider ({default("repeats")})')
    add(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmark'),
        metavar='FOLDER',
        help='folder of the CSV and the PNG (%(default)s)',
    )
    args = parser.parse_args(argv)
    for name, value in DEFAULTS[args.device].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    unknown = set(args.cases) - set(names)
    if unknown:
        parser.error(f'unknown case {", ".join(sorted(unknown))}; choose from {", ".join(names)}')
    if args.size % STRIDES[-1]:
        parser.error(f'--size must be a multiple of {STRIDES[-1]}, but is {args.size}')
    args.cases = list(
        dict.fromkeys(case for name in args.cases or CASES for case in (LOSSES if name == 'losses' else [name]))
    )
    return args


def default(name: str) -> str:
    """The default of an option on each device, for its help."""
    values = {device: defaults[name] for device, defaults in DEFAULTS.items()}
    values = {device: value if isinstance(value, list) else [value] for device, value in values.items()}
    return '; '.join(f'{device}: {" ".join(map(str, value))}' for device, value in values.items())


def at_least(low: int) -> Callable[[str], int]:
    """The type of an integer argument with a lower limit."""

    def integer(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f'must be at least {low}, but is {text}')
        return int(text)

    return integer


def plan(args: argparse.Namespace) -> Iterator[tuple[str, Setting]]:
    """The cases and their settings; a case is not repeated for what it does not depend on."""
    for name in args.cases:
        axes = CASES[name].axes
        sizes = product(args.dtype if 'dtype' in axes else ['fp32'], args.batch, args.boxes if 'boxes' in axes else [0])
        for dtype, batch, boxes in sizes:
            yield (
                name,
                Setting(
                    device=args.device,
                    dtype=DTYPES[dtype],
                    batch=batch,
                    boxes=boxes,
                    size=args.size,
                    classes=args.classes,
                    late=args.stage == 'late',
                    model=args.model,
                    providers=tuple(args.providers),
                ),
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the CSV and the PNG; return 1 if outputs differ, else 0."""
    args = parse_args(argv)
    # Suppress the profiler's log.
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')
    args.out.mkdir(parents=True, exist_ok=True)
    copy = copy_speed(args.device)
    constants = environment(args.device, copy) | dict(size=args.size, classes=args.classes, stage=args.stage)
    print(', '.join(f'{name} {value}' for name, value in constants.items()))
    results, failures = [], []
    with (args.out / 'benchmark.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, [*(each.name for each in fields(Result)), *constants])
        writer.writeheader()
        for name, setting in plan(args):
            try:
                found, differences = measure(name, setting, args, copy)
            except (Skip, torch.cuda.OutOfMemoryError) as error:
                print(f'{describe(name, setting)}: skipped, {error}', flush=True)
                continue
            times = ', '.join(f'{row.provider} {row.ms:.3g} ms' for row in found)
            print(f'{describe(name, setting)}: {times}', flush=True)
            # Flushed for each setting, so that an interrupted run leaves its results.
            writer.writerows(asdict(row) | constants for row in found)
            file.flush()
            results += found
            failures += differences
    for name in args.cases:
        rows = [row for row in results if row.case == name]
        if rows:
            print(table(name, rows))
    draw(results, args.out / 'benchmark.png')
    print(f'\n{args.out / "benchmark.csv"}, {args.out / "benchmark.png"}')
    print('\n'.join(['outputs differ:', *failures]) if failures else 'all outputs agree with the reference')
    return 1 if failures else 0


if __name__ == '__main__':
    raise SystemExit(main())
