"""The report of a comparison: a table for the terminal, CSV, JSON, Markdown, and a page."""

import csv
import dataclasses
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mmext.checkpoints import write_atomically

from .analysis import Analysis, analyze, p_value, signed, spoken
from .page import render
from .results import load_results
from .statistics import RESAMPLES, Difference, Interval

COLUMNS = (
    'run',
    'metric',
    'seeds',
    'missing_seeds',
    'mean',
    'sd',
    'pairs',
    'difference',
    'difference_sd',
    'low',
    'high',
    'p',
    'p_holm',
    'smallest_difference',
    'images_low',
    'images_high',
    'verdict',
)


@dataclass(frozen=True)
class Report:
    """What :func:`write_report` found and wrote.

    Attributes:
        analysis: All numbers.
        html: The page.
        csv: One line for each run and metric.
        json: All numbers with those of each seed.
    """

    analysis: Analysis
    html: Path
    csv: Path
    json: Path

    def __rich__(self) -> Group:
        """What the terminal shows: headline, table, sentences, what is missing."""
        analysis = self.analysis
        lines = [
            f'{analysis.labels[name]}: {difference.verdict}. {analysis.sentence(name)}'
            for name, difference in analysis.differences['AP'].items()
        ]
        notes = [*analysis.missing(), *map(str, analysis.problems)]
        if analysis.absent:
            notes.append(f'No intervals over images, curves and pictures. {analysis.absent}')
        return Group(
            Text(analysis.headline, style='bold'),
            terminal_table(analysis),
            *map(Text, lines),
            *(Text(f'! {note}', style='yellow') for note in notes),
            Text(f'page: {self.html}'),
        )

    @property
    def markdown(self) -> str:
        """The table of AP for a README."""
        return markdown_table(self.analysis)


def write_report(folder: str | Path, resamples: int = RESAMPLES) -> Report:
    """Write `report.html`, `report.csv` and `report.json` of a comparison, from its finished runs alone.

    Args:
        folder: The folder of the comparison; see :func:`.results.load_results` for its files.
        resamples: Number of bootstrap resamples of the validation images.

    Returns:
        The report; `rich` prints it.

    Raises:
        FileNotFoundError: If the folder has no `comparison.json`.
        ValueError: If that cannot be read, or no run has finished.
    """
    folder = Path(folder)
    analysis = analyze(load_results(folder), resamples)
    report = Report(analysis, folder / 'report.html', folder / 'report.csv', folder / 'report.json')
    record = json.dumps(as_record(analysis), indent=1, allow_nan=False, ensure_ascii=False) + '\n'
    for path, text in ((report.html, render(analysis)), (report.csv, as_csv(analysis)), (report.json, record)):
        write_atomically(path, text.encode())
    return report


def terminal_table(analysis: Analysis, metric: str = 'AP') -> Table:
    """One metric of all runs against the baseline."""
    table = Table(title=metric, title_justify='left')
    for title, justify in zip(
        ('', 'seeds', 'mean ± SD', 'difference', '95 % over seeds', '95 % over images', 'p (Holm)', 'verdict'),
        ('left', *['right'] * 6, 'left'),
    ):
        table.add_column(title, justify=justify)
    for row in _rows(analysis, metric):
        table.add_row(*map(Text, row))
    return table


def markdown_table(analysis: Analysis, metric: str = 'AP') -> str:
    """The same as Markdown, without columns that are empty."""
    head = ['', 'seeds', f'{metric}, mean ± SD', 'difference', '95 % over seeds', '95 % over images', 'p', 'verdict']
    cells = _rows(analysis, metric)
    kept = [index for index in range(len(head)) if not index or any(row[index] for row in cells)]
    rows = [[row[index] for index in kept] for row in (head, ['---', *['--:'] * 6, '---'], *cells)]
    return ''.join(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in row)} |\n' for row in rows)


def _rows(analysis: Analysis, metric: str) -> list[list[str]]:
    rows = []
    for name in analysis.names:
        planned = len(analysis.results.plan.runs[name].seeds)
        summary, difference = analysis.summaries[metric][name], analysis.differences[metric].get(name)
        seeds = len(summary.values)
        mean = f'{summary.mean:.3f}' if seeds else ''
        sd = f' ± {summary.sd:.3f}' if seeds > 1 else ''
        rows.append(
            [
                analysis.labels[name],
                str(seeds) if seeds == planned else f'{seeds} of {planned}',
                mean + sd,
                *(_difference_cells(difference) if difference else [''] * 5),
            ]
        )
    return rows


def _difference_cells(difference: Difference) -> list[str]:
    return [
        signed(difference.mean) if difference.values else '',
        spoken(difference.interval),
        spoken(difference.images),
        '' if difference.p_holm is None else p_value(difference.p_holm).removeprefix('= '),
        difference.verdict,
    ]


def as_csv(analysis: Analysis) -> str:
    """One line for each run and metric, at full precision; empty where there is no value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    for metric in analysis.metrics:
        for name in analysis.names:
            writer.writerow(_line(analysis, metric, name))
    return text.getvalue()


def _line(analysis: Analysis, metric: str, name: str) -> dict[str, object]:
    summary, difference = analysis.summaries[metric][name], analysis.differences[metric].get(name)
    line: dict[str, object] = dict(
        run=name,
        metric=metric,
        seeds=' '.join(map(str, summary.values)),
        missing_seeds=' '.join(map(str, analysis.results.missing.get(name, []))),
        mean=_number(summary.mean),
        sd=_number(summary.sd),
    )
    if difference:
        line |= dict(
            pairs=len(difference.values),
            difference=_number(difference.mean),
            difference_sd=_number(difference.sd),
            **_ends(difference.interval, 'low', 'high'),
            p=difference.p,
            p_holm=difference.p_holm,
            smallest_difference=difference.smallest,
            **_ends(difference.images, 'images_low', 'images_high'),
            verdict=difference.verdict,
        )
    return line


def _ends(interval: Interval | None, low: str, high: str) -> dict[str, float]:
    return {low: interval.low, high: interval.high} if interval else {}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_record(analysis: Analysis) -> dict[str, object]:
    """All numbers for a program: `report.json`."""
    plan = analysis.results.plan
    return dict(
        format=1,
        headline=analysis.headline,
        baseline=plan.baseline,
        missing=analysis.results.missing,
        problems=[dataclasses.asdict(problem) for problem in analysis.problems],
        commands={name: analysis.command(name) for name in analysis.names},
        metrics={
            metric: {name: _entry(analysis, metric, name) for name in analysis.names} for metric in analysis.metrics
        },
    )


def _entry(analysis: Analysis, metric: str, name: str) -> dict[str, object]:
    summary, difference = analysis.summaries[metric][name], analysis.differences[metric].get(name)
    entry: dict[str, object] = dict(values=summary.values, mean=_number(summary.mean), sd=_number(summary.sd))
    if difference:
        numbers = dataclasses.asdict(difference)
        numbers |= dict(mean=_number(difference.mean), sd=_number(difference.sd), verdict=difference.verdict)
        entry['difference'] = numbers
    return entry
