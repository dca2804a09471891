"""Plot each loss beside its gradient.

Example:
    python tools/plot_losses.py giou FocalLoss --out work_dirs/curves
"""

import argparse
from pathlib import Path

from mmext.visualization.loss_curves import loss_figures, plot_loss


def main(argv: list[str] | None = None) -> None:
    """Plot the named losses, or all of them."""
    parser = build_parser()
    args = parser.parse_args(argv)
    known = list(loss_figures())
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f'there is no loss {", ".join(unknown)}; there are {", ".join(known)}')
    for name in args.names or known:
        print(plot_loss(name, args.out / f'{name}.png'))


def build_parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    parser = argparse.ArgumentParser(description='Plot each loss beside its gradient.')
    parser.add_argument(
        'names', nargs='*', metavar='NAME', help='a variant of IoULoss, such as giou, or a class (default: all)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FOLDER',
        default=Path('work_dirs/curves'),
        help='folder for the figures, NAME.png (default: %(default)s)',
    )
    return parser


if __name__ == '__main__':
    main()
