"""The `mmext` command: it runs the commands, and prints a user's mistake in one message."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module

from mmext import __version__
from mmext.errors import UserError

COMMANDS = {
    'train': 'train and evaluate a detector',
    'test': 'evaluate a checkpoint',
    'audit': 'check a config, its data and its losses before training',
    'shapes': 'draw the data set of the demo',
    'compare': 'compare configs over several seeds',
    'plot': 'plot trainings: curves, loss shares, PR curves, confusion matrices, labels',
    'predict': 'pictures and detections of images',
    'publish': 'a config and weights that need no mmext; ONNX',
    'class-weights': 'class weights from the number of objects of each class',
    'list': 'the configs that mmext ships, and what each is for',
}
# What a shell expects of a mistake in a command line, and what argparse exits with.
MISTAKE = 2
# By what the launchers tell a process its rank: torchrun, Slurm, Open MPI.
RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
# The time in which a launcher ends the other ranks once rank 0 has failed.
SECONDS_FOR_RANK_0 = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mmext COMMAND ...`: the `main` of the module of that name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='mmext',
        description='Better losses for YOLOX in MMDetection.\n\ncommands:\n'
        + '\n'.join(f'  {name:15} {text}' for name, text in COMMANDS.items()),
        epilog='`mmext COMMAND --help` explains a command. A mistake in a command line, a config or data ends with one '
        'message\nand status 2; add --traceback to any command to see where it was found.\n\n'
        'example:\n  mmext train mmext::yolox/yolox_nano_1xb8-60e_bccd.py\n  mmext train --help',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmext {__version__}')
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, metavar='...')
    given = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args([argument for argument in given if argument != '--traceback'])
    # The parser of the command names itself by it.
    sys.argv[0] = f'mmext {args.command}'
    module = f'mmext.cli.{args.command.replace("-", "_")}'
    return run(lambda: import_module(module).main(args.arguments), '--traceback' in given)


def run(command: Callable[[], int | None], traceback: bool = False) -> int:
    """Run a command, and return its exit status.

    A user's mistake prints one message and gives status 2; any other exception is raised. If several ranks fail, only
    rank 0 reports, since the others wait until the launcher ends them. If another rank fails alone, it reports after
    that wait, and names itself.

    Args:
        command: What to run.
        traceback: Raise the exception of a mistake, too.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        if traceback:
            raise
        print('mmext: interrupted', file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        from mmext.cli.explain import explain, lost_rank

        rank = rank_of_launcher()
        if not lost_rank(error):
            record_for_torchrun(error)
        if rank:
            wait_for_rank_0()
        message = explain(error)
        if traceback or message is None:
            if rank is not None:
                print(f'mmext: error on rank {rank}: {type(error).__name__}, raised here:', file=sys.stderr)
            raise
        if not isinstance(error, UserError):
            # Raised by other code while it built what the config says: most likely, but not surely, a mistake there.
            message += ' (--traceback shows where it was raised)'
        write_to_log(message)
        place = f' on rank {rank}' if rank else ''
        print(f'mmext: error{place}: {message}', file=sys.stderr)
        return MISTAKE


def rank_of_launcher() -> int | None:
    """The rank that a launcher gave this process; None without a launcher."""
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), None)


def record_for_torchrun(error: Exception) -> None:
    """Let torchrun's report of the ranks that failed contain the error; the first one is reported as the cause."""
    if 'TORCHELASTIC_ERROR_FILE' in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def wait_for_rank_0() -> None:
    """Wait to be ended by the launcher: rank 0 fails alike, or else waits for this rank."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(SECONDS_FOR_RANK_0)


def write_to_log(message: str) -> None:
    """Write the message to the log files of a run that has begun."""
    logging = sys.modules.get('mmengine.logging')
    if logging is None or not logging.MMLogger._instance_dict:
        return
    logger = logging.MMLogger.get_current_instance()
    record = logger.makeRecord(logger.name, 40, __file__, 0, message, (), None, 'main')
    for handler in logger.handlers:
        if hasattr(handler, 'baseFilename'):
            handler.handle(record)


if __name__ == '__main__':
    sys.exit(main())
