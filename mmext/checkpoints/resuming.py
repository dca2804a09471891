"""Find the newest checkpoint that loads."""

import logging
import os
import re
from pathlib import Path

from mmengine.logging import print_log

from .loading import CheckpointError, load_checkpoint

# What a run is continued from; the best checkpoint has no optimizer.
PARTS = ('meta', 'state_dict', 'optimizer', 'message_hub')


def newest_checkpoint(work_dir: str | os.PathLike, trust: bool = False) -> Path | None:
    """The newest checkpoint in the work dir that loads and can be resumed; None if there are no checkpoints at all.

    The file `last_checkpoint` is a candidate like any other: it may name a checkpoint in another folder (`out_dir`),
    one that has been deleted, or one that is older than the newest.

    Args:
        work_dir: The folder of the run.
        trust: Load the checkpoints whatever their pickles say.

    Raises:
        CheckpointError: If there are checkpoints, and none loads.
    """
    skipped = []
    for path in _candidates(Path(work_dir)):
        try:
            missing = [part for part in PARTS if part not in load_checkpoint(path, trust=trust)]
        except (CheckpointError, OSError) as error:
            skipped.append(str(error))
            continue
        if missing:
            skipped.append(f'{path} cannot be resumed: it has no {", ".join(missing)}')
            continue
        for reason in skipped:
            print_log(f'Skipped a checkpoint: {reason}', logger='current', level=logging.WARNING)
        return path
    if skipped:
        reasons = '\n'.join(f'  {reason}' for reason in skipped)
        raise CheckpointError(
            f'no checkpoint in {work_dir} can be resumed:\n{reasons}\nTo start again, train without --resume'
        )
    return None


def _candidates(work_dir: Path) -> list[Path]:
    """All checkpoints but the best ones, the newest first."""
    last = work_dir / 'last_checkpoint'
    named = last.read_text().strip().splitlines() if last.is_file() else []
    paths = [*map(Path, named), *work_dir.glob('*.pth')]
    files = {path.absolute(): path for path in paths if not path.name.startswith('best_')}
    # One that was deleted comes last: to be mentioned if there is no other.
    return sorted(files.values(), key=_age, reverse=True)


def _age(path: Path) -> tuple[int, int]:
    number = re.search(r'(\d+)\.pth$', path.name)
    return path.stat().st_mtime_ns if path.is_file() else 0, int(number[1]) if number else 0
