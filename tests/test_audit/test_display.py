"""The report on a terminal and in a file."""

import io

from rich.console import Console

from mmext.audit.advice import Advice
from mmext.audit.display import show
from mmext.audit.findings import Finding
from mmext.audit.losses import LossRow
from mmext.audit.report import Report

ROW = LossRow(
    name='loss_cls',
    key='model.bbox_head.loss_cls',
    kind='FocalLoss',
    package='mmext',
    target='one-hot',
    reduction='sum',
    divisor=112.0,
    own_divisor=1.0,
    divisions=1,
    weight=1.0,
    value=0.5,
    share=0.25,
    gradient=3.0,
    gradient_share=0.75,
)
REPORT = Report(
    'mine.py',
    [
        Finding('warning', 'max_epochs', 'it changes nothing', 'Set train_cfg.max_epochs'),
        Finding('error', 'model', 'a very long message ' * 10, 'Mend [it]'),
    ],
    {'at the initial weights': [ROW]},
    None,
    Advice(['Data: few'], 'mmext compare mine.py --seeds 5 ' + '--variant long key=value ' * 10),
)


def printed(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    show(REPORT, console)
    return console.file.getvalue()


def test_plain_lines_are_aligned_and_not_wrapped():
    lines = printed(terminal=False).splitlines()
    assert lines == [
        'Losses at the initial weights',
        'loss      class            target   reduction  divided by  weight  value  share  gradient',
        'loss_cls  mmext.FocalLoss  one-hot  sum               112       1    0.5  25.0%     75.0%',
        '',
        f'error: model: {"a very long message " * 10}. Mend [it]',
        'warning: max_epochs: it changes nothing. Set train_cfg.max_epochs',
        '1 error, 1 warning',
        '',
        'Data: few',
        ('mmext compare mine.py --seeds 5 ' + '--variant long key=value ' * 10),
    ]


def test_a_terminal_has_colors():
    text = printed(terminal=True)
    assert '\x1b[1;31merror: ' in text
    assert 'Mend [it]' in text
    assert 'mmext.FocalLoss' in text


def test_nothing_found():
    console = Console(file=io.StringIO(), force_terminal=False)
    show(Report('mine.py'), console)
    assert console.file.getvalue() == 'Nothing found\n'
