#!/usr/bin/env python
"""Measure mmext beside mmdet, mmcv, torchvision and torch.compile: time, memory, operations and host syncs.

Every provider of a case is given the same numbers, and they take turns, so that a change of the clock meets all of
them. The CSV has a row for each, with all columns and versions, the PNG the ratios to mmdet's time. The exit status is
1 where outputs differ from mmdet's in float32 on the same numbers. In half precision only mmext's must not: mmdet's
decoded boxes are coarse there.

Columns:
    ms        median of the time of a call, forward and backward, and its quartiles
    / mmdet   median of its ratio to the call of mmdet beside it
    images/s  of a training step
    MiB       highest memory above that before the call, by torch's allocator (on a CPU by torch's profiler)
    ops       operations, and
    syncs     host syncs, as mmext.testing.OpCounter counts them
    warned    host syncs that torch's debug mode sees on a GPU
    GB/s      the bytes of inputs and outputs, each once, over the time
    of copy   its share of what a copy reaches in the same run
    differs   largest difference, relative to the largest value; for the assigner the number of priors
    ties      priors that are assigned otherwise because costs tie, which is no difference

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
from benchmark_cases import CASES, LOSSES, STRIDES, Run, Setting, Skip
from matplotlib.figure import Figure
from terminaltables import AsciiTable

from mmext.testing import OpCounter

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
MARKERS = {'fp32': 'o', 'fp16': '^', 'bf16': 's'}
PROVIDERS = ('mmdet', 'mmext', 'mmext_losses', 'mmcv', 'torchvision', 'compiled')
# In half precision they may differ from float32 as they please, and do: that is shown, and no failure.
PEERS = ('mmdet', 'mmcv', 'torchvision')
# What they launch does not pass torch's dispatcher.
NOT_DISPATCHED = ('mmcv', 'compiled')
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
    syncs: int | None
    warned_syncs: int | None
    difference: float
    ties: int
    ms: float = math.nan
    ms_q25: float = math.nan
    ms_q75: float = math.nan
    ratio_to_mmdet: float | None = None
    images_per_s: float | None = None
    gb_per_s: float | None = None
    share_of_copy: float | None = None

    def add_times(self, times: list[float], mmdet: list[float] | None, moved: int | None, copy: float) -> None:
        """Fill in what follows from the seconds of each call, and from those of mmdet's beside it.

        Args:
            times: Of this provider.
            mmdet: Of mmdet's, where it was measured.
            moved: The bytes that a call must move; None: not stated.
            copy: The bytes per second that a copy moves.
        """
        self.ms_q25, self.ms, self.ms_q75 = (
            1e3 * value for value in (quantiles(times, n=4, method='inclusive') if len(times) > 1 else times * 3)
        )
        if mmdet:
            self.ratio_to_mmdet = median(own / theirs for own, theirs in zip(times, mmdet))
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
    """The seconds of each call; the providers take turns, on a GPU with an empty L2 cache."""
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
    """The most bytes that were allocated at once during a call, beyond those before it."""
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == '[memory]')
    return max(accumulate((change for _, change in changes), initial=0))


def warned_syncs(run: Run, device: str) -> int | None:
    """How many host syncs torch's debug mode sees on a GPU."""
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
    """Bytes per second that a copy reads and writes."""
    source = torch.ones(2 ** (30 if device == 'cuda' else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    (times,) = interleave({'copy': lambda: target.copy_(source)}, 20, device).values()
    return 2 * source.numel() / median(times)


def count(run: Run) -> tuple[int, int]:
    """The operations of a call, and its host syncs."""
    with OpCounter() as counter:
        run()
    return counter.operations.total(), counter.syncs.total()


def measure(name: str, setting: Setting, args: argparse.Namespace, copy: float) -> tuple[list[Result], list[str]]:
    """The results of a case at a setting, and what there is to say of outputs that differ."""
    workload = CASES[name].setup(setting)
    runs = workload.providers
    if not runs:
        raise Skip('none of the providers is here')
    results, failures = {}, []
    for provider, run in runs.items():
        reference = workload.reference(provider)
        found = workload.compare(reference, run())
        if not found.agrees and (setting.dtype == torch.float32 or provider not in PEERS):
            failures.append(f'{place(name, setting)}: {provider} differs by {found.difference:.2g}')
        operations, syncs = (None, None) if provider in NOT_DISPATCHED else count(run)
        results[provider] = Result(
            case=name,
            provider=provider,
            dtype=DTYPE_NAMES[setting.dtype],
            batch=setting.batch,
            boxes=setting.boxes if 'boxes' in CASES[name].axes else None,
            peak_mib=peak_memory(run, setting.device) / 2**20,
            operations=operations,
            syncs=syncs,
            warned_syncs=warned_syncs(run, setting.device),
            difference=found.difference,
            ties=found.ties,
        )
        moved = sum(tensor.nbytes for tensor in (*workload.inputs, *reference.values())) if workload.inputs else None
    times = interleave(runs, args.repeats, setting.device)
    for provider, result in results.items():
        result.add_times(times[provider], times.get('mmdet'), moved, copy)
    return list(results.values()), failures


COLUMNS = {
    'provider': lambda row: row.provider,
    'dtype': lambda row: row.dtype,
    'B': lambda row: row.batch,
    'G': lambda row: row.boxes,
    'ms': lambda row: f'{row.ms:.3g} ({row.ms_q25:.3g}-{row.ms_q75:.3g})',
    '/ mmdet': lambda row: row.ratio_to_mmdet and f'{row.ratio_to_mmdet:.3f}',
    'images/s': lambda row: row.images_per_s and f'{row.images_per_s:.1f}',
    'MiB': lambda row: f'{row.peak_mib:.4g}',
    'ops': lambda row: row.operations,
    'syncs': lambda row: row.syncs,
    'warned': lambda row: row.warned_syncs,
    'GB/s': lambda row: row.gb_per_s and f'{row.gb_per_s:.3g}',
    'of copy': lambda row: row.share_of_copy and f'{row.share_of_copy:.1%}',
    'differs': lambda row: f'{row.difference:.1e}' if row.difference % 1 else f'{row.difference:.0f}',
    'ties': lambda row: row.ties,
}


def place(name: str, setting: Setting) -> str:
    """The case and its sizes, for a message."""
    boxes = f', {setting.boxes} boxes each' if 'boxes' in CASES[name].axes else ''
    return f'{name}, {setting.batch} images{boxes}, {DTYPE_NAMES[setting.dtype]}'


def table(title: str, results: Sequence[Result]) -> str:
    """The results of a case, without columns that are empty."""
    cells = [['' if (cell := show(row)) is None else str(cell) for show in COLUMNS.values()] for row in results]
    columns = [column for column in zip(COLUMNS, *cells) if any(column[1:])]
    return f'\n{title}\n{AsciiTable(list(zip(*columns))).table}'


def environment(device: str, copy: float) -> dict[str, object]:
    """What the numbers depend on."""
    versions = {name: import_module(name).__version__ for name in LIBRARIES if find_spec(name)}
    return dict(
        device=torch.cuda.get_device_name() if device == 'cuda' else f'CPU {platform.machine()}',
        threads=torch.get_num_threads(),
        copy_gb_per_s=round(copy / 1e9, 2),
        **dict.fromkeys(LIBRARIES) | versions,
        time=datetime.now().astimezone().isoformat(timespec='seconds'),
    )


def draw(results: Sequence[Result], out_file: Path) -> None:
    """The ratios to mmdet's time over the sizes: a panel for each case, a colour for each provider."""
    panels = {}
    for row in results:
        if row.ratio_to_mmdet and row.provider != 'mmdet':
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
                [row.ratio_to_mmdet for row in line],
                color=f'C{PROVIDERS.index(provider)}',
                marker=MARKERS[dtype],
                label=f'{provider} {dtype}',
            )
        labels = [f'{batch}' if boxes is None else f'{batch}x{boxes}' for batch, boxes in sizes]
        axes.set_xticks(range(len(sizes)), labels, rotation=45)
        axes.axhline(1, color='black', linewidth=0.8)
        axes.set(title=case, xlabel='images x boxes', ylabel="time / mmdet's")
        axes.set_yscale('log', base=2)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.5), max(high, 2))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.grid(alpha=0.3)
        axes.legend(fontsize='small')
    figure.savefig(out_file, dpi=120)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with what it leaves open filled in for the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ['losses', *CASES]
    add = parser.add_argument
    add(
        'cases',
        nargs='*',
        metavar='CASE',
        help=f'{", ".join(names)}; losses: the {len(LOSSES)} after it (default: all)',
    )
    add('--device', choices=list(DEFAULTS), default='cuda' if torch.cuda.is_available() else 'cpu')
    add('--batch', type=at_least(1), nargs='+', metavar='B', help=f'how many images ({default("batch")})')
    add('--boxes', type=at_least(0), nargs='+', metavar='G', help=f'how many boxes in each ({default("boxes")})')
    add('--dtype', choices=DTYPES, nargs='+', default=['fp32'], help='of the logits; half under autocast (fp32)')
    add('--providers', choices=PROVIDERS, nargs='+', default=PROVIDERS[:-1], help='(all but compiled, which is slow)')
    add('--size', type=at_least(1), metavar='PIXELS', help=f'of the images, a multiple of 32 ({default("size")})')
    add('--classes', type=at_least(1), default=80, metavar='N', help='how many classes (%(default)s)')
    add('--stage', choices=('early', 'late'), default='late', help='predictions: random or good (%(default)s)')
    add('--model', choices=('nano', 'tiny', 's', 'm', 'l', 'x'), help=f'the YOLOX of step ({default("model")})')
    add('--repeats', type=at_least(1), metavar='N', help=f'calls of each provider ({default("repeats")})')
    add('--out', type=Path, default=Path('work_dirs/benchmark'), metavar='FOLDER', help='(%(default)s)')
    args = parser.parse_args(argv)
    for name, value in DEFAULTS[args.device].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    unknown = set(args.cases) - set(names)
    if unknown:
        parser.error(f'there is no case {", ".join(sorted(unknown))}; there are {", ".join(names)}')
    if args.size % STRIDES[-1]:
        parser.error(f'--size must be a multiple of {STRIDES[-1]}, but is {args.size}')
    args.cases = list(
        dict.fromkeys(case for name in args.cases or CASES for case in (LOSSES if name == 'losses' else [name]))
    )
    return args


def default(name: str) -> str:
    """What an option is on each device."""
    values = {device: defaults[name] for device, defaults in DEFAULTS.items()}
    values = {device: value if isinstance(value, list) else [value] for device, value in values.items()}
    return '; '.join(f'{device}: {" ".join(map(str, value))}' for device, value in values.items())


def at_least(low: int) -> Callable[[str], int]:
    """A type of an argument."""

    def integer(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f'must be at least {low}, but is {text}')
        return int(text)

    return integer


def plan(args: argparse.Namespace) -> Iterator[tuple[str, Setting]]:
    """The cases and the settings at which they are measured; a case goes once over what it does not depend on."""
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
    """Measure, print the tables, write the CSV and the PNG; return 1 where outputs differ, else 0."""
    args = parse_args(argv)
    # The profiler's own log lines.
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
                print(f'{place(name, setting)}: skipped, {error}', flush=True)
                continue
            times = ', '.join(f'{row.provider} {row.ms:.3g} ms' for row in found)
            print(f'{place(name, setting)}: {times}', flush=True)
            # Row by row: a run that is cut off leaves what it measured.
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
    print('\n'.join(['outputs differ:', *failures]) if failures else "all outputs agree with mmdet's in float32")
    return 1 if failures else 0


if __name__ == '__main__':
    raise SystemExit(main())
