"""What the console shows of mmengine's log: the log file keeps the full text."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

from mmengine.logging import MMLogger
from termcolor import colored

# Starts of records that go to the log file alone: mmengine logs the environment, the whole config, the hooks of each
# stage, and a line for each weight.
LONG = (
    '\n------------------------------------------------------------\nSystem environment',
    'Checkpoints will be saved to',
    'Config:',
    'Distributed training is not used',
    'Exp name:',
    'Hooks will be executed',
    'paramwise_options',
)
# Warnings of third parties that a user can do nothing about.
IDLE = re.compile(
    'will be deprecated|is deprecated|deprecated, please|faster_coco_eval is not installed|torch.meshgrid|OneDL'
)
IDLE_KINDS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
# A line of mmengine's LogProcessor: `Epoch(train) [1][ 5/100]  lr: 1e-2  eta: 0:01:51  time: 0.1  ...  loss: 10.9`.
PROGRESS = re.compile(r'(?:Epoch|Iter)\(train\)[^:]*\]  (?=\S+: )')
PAIR = re.compile(r'(\S+): (\S+)')
# What was printed before there was a logger.
_early: list[str] = []


@contextlib.contextmanager
def keep_for_the_log() -> Iterator[None]:
    """Keep what is printed or warned of meanwhile, at the import of third parties, for the log file."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(record=True) as caught:
        yield
    _early.extend(printed.getvalue().splitlines())
    _early.extend(f'{each.category.__name__}: {each.message}' for each in caught)


def tidy(logger: MMLogger) -> None:
    """Make the console of a logger short, and its warnings single; send warnings and prints of third parties there."""
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler and not any(isinstance(each, Filter) for each in handler.filters):
            handler.addFilter(Filter())
            handler.setFormatter(Formatter(datefmt='%H:%M:%S'))
    warnings.showwarning = _log_warning
    _quiet_pycocotools()
    while _early:
        to_file(_early.pop(0))


def to_file(*words: object, **_: object) -> None:
    """Log a line that the console does not show; called like `print`."""
    MMLogger.get_current_instance().info(' '.join(map(str, words)), extra={'file_only': True})


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    """Log a warning of Python's: :func:`warnings.showwarning`."""
    idle = issubclass(category, IDLE_KINDS)
    text = f'{category.__name__}: {message} ({filename}:{lineno})'
    MMLogger.get_current_instance().warning(text, extra={'file_only': idle})


def _quiet_pycocotools() -> None:
    """Send to the log file what pycocotools prints whenever it reads annotations or evaluates."""
    from pycocotools import coco, cocoeval

    coco.print = cocoeval.print = to_file


class Filter(logging.Filter):
    """Keeps from the console what a user does not need."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the console shows the record."""
        text = str(record.msg)
        if getattr(record, 'file_only', False) or text.startswith(LONG):
            return False
        return record.levelno != logging.WARNING or not IDLE.search(text)


class Formatter(logging.Formatter):
    """The time and the message; for a warning or an error, its level in color."""

    COLORS = {'WARNING': 'yellow', 'ERROR': 'red', 'CRITICAL': 'red'}

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        color = self.COLORS.get(record.levelname)
        level = f'{colored(record.levelname, color)}: ' if color else ''
        return f'{self.formatTime(record, self.datefmt)} {level}{progress(record.getMessage())}'


def progress(text: str) -> str:
    """Rewrite a line of training progress: the losses first, with their shares, then what is left.

    Other text is returned as it is.

    Example:
        >>> progress('Epoch(train) [1][ 5/100]  base_lr: 1.0000e-02 lr: 1.0000e-02  eta: 0:01:51  time: 0.1246  '
        ...          'data_time: 0.0087  loss: 4.0000  loss_cls: 1.0000  loss_obj: 3.0000  share_cls: 0.2500  '
        ...          'share_obj: 0.7500')
        'Epoch(train) [1][ 5/100]  loss 4.0000  loss_cls 1.0000 (25%)  loss_obj 3.0000 (75%)  lr 1.00e-02  0.125 s  \
eta 0:01:51'
    """
    head = PROGRESS.match(text)
    if not head:
        return text
    values = dict(PAIR.findall(text, head.end()))
    shares = {name: values.pop(name) for name in list(values) if 'share' in name}
    lines = []
    for name in [name for name in values if 'loss' in name]:
        share = shares.pop(name.replace('loss', 'share', 1), None)
        lines.append(f'{name} {values.pop(name)}' + (f' ({float(share):.0%})' if share else ''))
    # Those of several layers.
    values.update(shares)
    values.pop('base_lr', None)
    values.pop('data_time', None)
    rate, time, eta = (values.pop(name, None) for name in ('lr', 'time', 'eta'))
    lines += [f'{name} {value}' for name, value in values.items()]
    lines += [f'lr {float(rate):.2e}'] if rate else []
    lines += [f'{float(time):.3f} s'] if time else []
    lines += [f'eta {eta}'] if eta else []
    return f'{head[0].rstrip()}  {"  ".join(lines)}'
