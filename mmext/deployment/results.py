"""Detections in COCO's result format."""

from collections.abc import Sequence
from pathlib import Path

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import load
from mmengine.structures import InstanceData

from mmext.audit import leaves


def coco_results(instances: InstanceData, category_ids: Sequence[int], **image: object) -> list[dict[str, object]]:
    """The detections of an image in COCO's result format.

    Args:
        instances: `bboxes` (n, 4) as (x1, y1, x2, y2) in pixels of the image, `scores` (n,) and `labels` (n,).
        category_ids: The category of each label.
        **image: What each detection says of its image, such as `image_id`.

    Returns:
        A dict of each detection: the image, `category_id`, `bbox` as (x, y, width, height), and `score`.
    """
    instances = instances.cpu()
    columns = (instances.bboxes.tolist(), instances.scores.tolist(), instances.labels.tolist())
    return [
        dict(
            **image,
            category_id=category_ids[label],
            bbox=[round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            score=round(score, 5),
        )
        for (x1, y1, x2, y2), score, label in zip(*columns)
    ]


class CocoIds:
    """The ids of images and categories: those of an annotation file where it has them, else numbers from 1.

    Args:
        classes: The name of each label.
        annotations: The content of a COCO annotation file; None: there is none.
        folder: What the file names in it are relative to.

    Attributes:
        category_ids: The category of each label.
        has_categories: Whether they are the file's. They are if it has all classes: a number given here could be the id
            of another of its categories.
        unknown: How many images the file does not have.
    """

    def __init__(self, classes: Sequence[str], annotations: dict | None = None, folder: str | Path = ''):
        annotations = annotations or dict(images=[], categories=[])
        known = {category['name']: category['id'] for category in annotations['categories']}
        self.has_categories = set(classes) <= set(known)
        self.category_ids = [known[name] if self.has_categories else i for i, name in enumerate(classes, 1)]
        self.unknown = 0
        self._images = {Path(folder, image['file_name']).resolve(): image['id'] for image in annotations['images']}
        self._first = max((number for number in self._images.values() if isinstance(number, int)), default=0) + 1

    def image_id(self, path: Path) -> object:
        """The id of an image file; it is new if the annotations do not have the file."""
        known = self._images.get(path.resolve())
        if known is not None:
            return known
        self.unknown += 1
        return self._first + self.unknown - 1


def inference_dataset(config: Config) -> BaseDataset:
    """The test data of a config, whose annotations are not read."""
    leaf = next(iter(leaves(config.test_dataloader.dataset).values()))
    return DATASETS.build({**leaf, 'lazy_init': True})


def read_ids(classes: Sequence[str], config: Config) -> CocoIds:
    """The ids that the test data of a config give, if their annotation file is here.

    Args:
        classes: The name of each label.
        config: The config.
    """
    dataset = inference_dataset(config)
    path = getattr(dataset, 'ann_file', '')
    if not path.endswith('.json') or not Path(path).is_file():
        return CocoIds(classes)
    content = load(path)
    if not isinstance(content, dict) or not {'images', 'categories'} <= set(content):
        return CocoIds(classes)
    return CocoIds(classes, content, dataset.data_prefix.get('img', ''))
