"""COCO's metrics of detections, at full precision."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# The positions of COCO's metrics in COCOeval.stats.
STATS = {'AP': 0, 'AP50': 1, 'AP75': 2, 'APs': 3, 'APm': 4, 'APl': 5}


def coco_metrics(
    annotations: str,
    detections: Sequence[dict],
    category_ids: Sequence[int] | None = None,
    image_ids: Sequence[int] | None = None,
) -> dict[str, float | None]:
    """Evaluate detections by pycocotools.

    Args:
        annotations: A COCO annotation file.
        detections: In COCO's result format.
        category_ids: The categories to evaluate; None: all of the file.
        image_ids: The images to evaluate; None: all of the file.

    Returns:
        `AP` (IoU .50 to .95), `AP50`, `AP75`, `APs`, `APm` and `APl` (areas below 32², to 96², above), and
        `AP CLASS` of each class, in [0, 1]; None where there are no objects.
    """
    with redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        # Copies, to which pycocotools adds keys.
        found = truth.loadRes([dict(each) for each in detections]) if detections else COCO()
        if not detections:
            found.dataset = dict(images=truth.dataset['images'], annotations=[], categories=truth.dataset['categories'])
            found.createIndex()
        evaluation = COCOeval(truth, found, 'bbox')
        evaluation.params.catIds = list(category_ids or truth.getCatIds())
        evaluation.params.imgIds = list(image_ids or truth.getImgIds())
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = {name: evaluation.stats[index] for name, index in STATS.items()}
    # Precision at IoU, recall, class, area, number of detections; the last of all areas is "all", of 1, 10, 100: 100.
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    for index, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, index]
        values = values[values > -1]
        metrics[f'AP {truth.cats[category]["name"]}'] = values.mean() if values.size else -1
    return {name: None if value == -1 or np.isnan(value) else float(value) for name, value in metrics.items()}
