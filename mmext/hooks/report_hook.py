"""End-of-run report: a table of metrics, curves and pictures."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from terminaltables import AsciiTable

from mmext.registry import HOOKS
from mmext.visualization import draw_predictions, plot_curves
from mmext.visualization.scalars import NAMES, read_scalars

LEFT_OUT = ('bbox_mAP_s', 'bbox_mAP_m', 'bbox_mAP_l', 'bbox_mAP_copypaste')


def summarize(metrics: dict[str, float]) -> dict[str, float]:
    """AP, AP50, AP75, then the AP of each class, of mmdet's CocoMetric; other metrics keep their names."""
    overall, classes = {}, {}
    for key, value in metrics.items():
        name = key.split('/', 1)[-1]
        if name.endswith('_precision'):
            classes[f'AP {name.removesuffix("_precision")}'] = value
        elif name not in LEFT_OUT and isinstance(value, (int, float)):
            overall[NAMES.get(name, name)] = value
    return {**overall, **classes}


@HOOKS.register_module()
class ReportHook(Hook):
    """Log a table of the last evaluation, and the paths of all results, at the end of a run.

    After training it also writes the curves of losses and AP, `curves.png`, and predictions beside the ground truth,
    `pictures/`, to the work dir.

    Args:
        num_pictures: The number of images of the last evaluation to draw, at least 0.
        score_thr: The lowest score of a drawn prediction, in [0, 1].
        show_dir: Folder for the images drawn during a test, relative to WORK_DIR/TIMESTAMP. With several GPUs, only
            rank 0's images are drawn. None: draw none.

    Raises:
        ValueError: If an argument is outside its range.
    """

    priority = 'LOWEST'

    def __init__(self, num_pictures: int = 8, score_thr: float = 0.3, show_dir: str | None = None):
        if num_pictures < 0 or not 0 <= score_thr <= 1:
            raise ValueError(
                'ReportHook: num_pictures must be at least 0 and score_thr in [0, 1], but they are '
                f'{num_pictures!r} and {score_thr!r}'
            )
        self.num_pictures = num_pictures
        self.score_thr = score_thr
        self.show_dir = show_dir
        self.metrics: dict[str, float] = {}
        self.samples: list[BaseDataElement] = []
        self.first_iter: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Note the first iteration: above 0, the run is resumed and continues earlier curves."""
        self.first_iter = runner.iter

    def before_val_epoch(self, runner: Runner) -> None:
        """Drop the pictures of the previous evaluation."""
        self.samples = []

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keep the first predictions for the pictures."""
        self.samples += [sample.cpu() for sample in outputs[: self.num_pictures - len(self.samples)]]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the metrics for the table."""
        self.metrics = metrics or {}

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw the batch if there is a `show_dir`."""
        if self.show_dir:
            draw_predictions(outputs, runner.visualizer, Path(runner.log_dir, self.show_dir), self.score_thr)

    after_test_epoch = after_val_epoch

    @master_only
    def after_run(self, runner: Runner) -> None:
        """Write the pictures and log the table."""
        places = {'log': Path(runner.log_dir, f'{runner.timestamp}.log')}
        if self.first_iter is not None:
            places.update(self._after_training(runner))
        elif self.show_dir:
            places['pictures'] = Path(runner.log_dir, self.show_dir)
        rows = [[name, f'{value:.3f}'] for name, value in summarize(self.metrics).items()]
        table = (
            AsciiTable([['metric', 'value'], *rows], title='evaluation').table
            if rows
            else 'no metrics: nothing was evaluated, or nothing was detected'
        )
        lines = [f'{name + ":":12}{path}' for name, path in places.items()]
        runner.logger.info('\n'.join(['', table, *lines]))

    def _after_training(self, runner: Runner) -> dict[str, Path]:
        places = {}
        work_dir = Path(runner.work_dir)
        last = work_dir / 'last_checkpoint'
        if last.is_file():
            places['checkpoint'] = Path(last.read_text().strip())
        records = read_scalars(Path(runner.log_dir), resumed=self.first_iter > 0)
        if records:
            places['curves'] = plot_curves(records, work_dir / 'curves.png')
        if self.samples:
            places['pictures'] = draw_predictions(
                self.samples, runner.visualizer, work_dir / 'pictures', self.score_thr
            )
        return places
