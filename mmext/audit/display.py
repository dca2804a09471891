"""The report of an audit on a terminal, and as plain lines."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmext.comparison.analysis import count

from .advice import describe
from .findings import Finding
from .losses import as_table
from .report import Report

STYLES = {'error': 'bold red', 'warning': 'yellow', 'note': 'cyan'}
LEFT = ('loss', 'class', 'target', 'reduction')


def show(report: Report, console: Console) -> None:
    """Print a report; colors and a table on a terminal, else plain lines that are not wrapped."""
    for when, rows in report.tables.items():
        _say(console, f'Losses {when}', 'bold')
        _show_table(as_table(rows), console)
        _say(console, '')
    for finding in sorted(report.findings, key=lambda each: list(STYLES).index(each.level)):
        _show_finding(finding, console)
    numbers = {level: sum(each.level == level for each in report.findings) for level in STYLES}
    said = ', '.join(count(number, level) for level, number in numbers.items() if number)
    _say(console, said or 'Nothing found', 'bold')
    lines = report.advice.lines if report.advice else describe(report.boxes) if report.boxes else []
    if lines:
        _say(console, '')
    for line in lines:
        _say(console, line)
    if report.advice and report.advice.command:
        _say(console, report.advice.command, 'bold')


def _say(console: Console, text: str, style: str = '') -> None:
    console.print(Text(text, style), soft_wrap=True)


def _show_finding(finding: Finding, console: Console) -> None:
    line = Text.assemble((f'{finding.level}: ', STYLES[finding.level]), (finding.key, 'bold'), f': {finding.message}. ')
    console.print(line.append(finding.remedy), soft_wrap=not console.is_terminal)


def _show_table(rows: Sequence[Mapping[str, str]], console: Console) -> None:
    if not rows:
        return
    if console.is_terminal:
        table = Table(box=None)
        for title in rows[0]:
            table.add_column(title, justify='left' if title in LEFT else 'right')
        for row in rows:
            table.add_row(*map(Text, row.values()))
        console.print(table)
        return
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        cells = [
            cell.ljust(width) if title in LEFT else cell.rjust(width)
            for title, cell, width in zip(rows[0], line, widths)
        ]
        _say(console, '  '.join(cells).rstrip())
