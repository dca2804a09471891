"""What the checks of a config and its data report."""

import logging
import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmengine.logging import print_log

from mmext.errors import UserError

# How the remedy in an error message starts.
REMEDIES = 'add|check|convert|did you mean|give|if|install|leave|make|merge|please|remove|rename|rewrite|set|use|write'

Level = Literal['error', 'warning', 'note']


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks wrong.

    Attributes:
        level: `error` if training would fail or learn the wrong thing, `warning` if that is likely, else `note`.
        key: Where it is: a key of the config, such as `model.bbox_head.loss_cls.reduction`, or a place in a file, such
            as `train.json: annotations[12].bbox`.
        message: What is wrong, with the value.
        remedy: What to do.
    """

    level: Level
    key: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.key}: {self.message}. {self.remedy}'

    @classmethod
    def of_error(cls, key: str, error: Exception) -> 'Finding':
        """The finding of an exception.

        The message of a ValueError or TypeError ends with the remedy: what follows the last colon, semicolon or full
        stop before one of :data:`REMEDIES`. Other exceptions have none, so the finding says where they were raised.
        """
        if not isinstance(error, (ValueError, TypeError)):
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f'It was raised in {Path(frame.filename).name}, line {frame.lineno}'
            return cls('error', key, f'{type(error).__name__}: {error}'.rstrip('.'), where)
        message = str(error)
        parts = re.fullmatch(rf'(.+)[:;.] ((?:{REMEDIES}) .+)', message, re.S | re.I)
        what, remedy = parts.groups() if parts else (message.rstrip('.'), 'Change what it names')
        return cls('error', key, what, f'{remedy[0].upper()}{remedy[1:]}')


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are errors."""
    return [finding for finding in findings if finding.level == 'error']


def raise_errors(findings: Iterable[Finding], advice: str = '', shown: int = 10) -> None:
    """Raise the errors among the findings as one UserError.

    Args:
        findings: Of any level.
        advice: A sentence for the end of the message.
        shown: How many errors the message lists.

    Raises:
        UserError: If there is an error.
    """
    found = errors(findings)
    if not found:
        return
    lines = [f'{number}. {finding}' for number, finding in enumerate(found[:shown], start=1)]
    if len(found) == 1:
        lines = [str(found[0])]
    else:
        lines.insert(0, f'{len(found)} errors:')
    if len(found) > shown:
        lines.append(f'... and {len(found) - shown} more')
    raise UserError('\n'.join([*lines, advice] if advice else lines))


def enforce(findings: Iterable[Finding]) -> None:
    """Log the warnings, and raise the errors.

    Raises:
        UserError: If there is an error.
    """
    findings = list(findings)
    for finding in findings:
        if finding.level == 'warning':
            print_log(str(finding), logger='current', level=logging.WARNING)
    raise_errors(findings)
