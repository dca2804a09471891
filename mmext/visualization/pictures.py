"""Predictions beside the ground truth."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import mmcv
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer

SMALLEST_SIDE = 480


def draw_predictions(
    samples: Sequence[BaseDataElement], visualizer: Visualizer, out_dir: Path, score_thr: float = 0.3
) -> Path:
    """Draw each image twice, the ground truth on the left and the predictions on the right.

    Args:
        samples: mmdet's data samples with `img_path`, `pred_instances` and, where the pipeline loads it,
            `gt_instances`, in pixels of the image.
        visualizer: mmdet's, which knows the names of the classes.
        out_dir: The folder for the PNGs, named as the images are; it is made.
        score_thr: The lowest score of a drawn prediction.

    Returns:
        `out_dir`.
    """
    for sample in samples:
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        height, width = image.shape[:2]
        zoom = max(1, -(-SMALLEST_SIDE // min(height, width)))
        sample = deepcopy(sample).cpu()
        for instances in (sample.get('gt_instances'), sample.pred_instances):
            if instances is not None:
                # Within the image, or the drawing grows a margin: an untrained model predicts boxes of any size.
                edge = instances.bboxes.new_tensor([width, height, width, height]) * zoom - 1
                instances.bboxes = (instances.bboxes.nan_to_num() * zoom).clamp(min=0).minimum(edge)
        visualizer.add_datasample(
            'picture',
            mmcv.imresize(image, (width * zoom, height * zoom)),
            data_sample=sample,
            pred_score_thr=score_thr,
            out_file=str(out_dir / f'{Path(sample.img_path).stem}.png'),
        )
    return out_dir
