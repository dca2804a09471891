"""What the checks of a config and its data report."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mmext.errors import UserError

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
