"""Predict with mmdet's DetInferencer on many images, some of which may be unreadable."""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from mmext.audit.wiring import check_operators
from mmext.errors import UserError

from .weights import class_metainfo, load_weights, model_weights


class Inferencer(DetInferencer):
    """mmdet's DetInferencer that refuses a checkpoint that does not fit, and takes class names from it or the config.

    mmdet's loads what fits, leaves the rest random, and without names in the checkpoint uses those of COCO.

    Args:
        config: The config. Its `test_dataloader.dataset` has the pipeline.
        checkpoint: The checkpoint file. mmengine's loaders read it: see :func:`mmext.checkpoints.register_loaders`.
        device: Where to run the model; None: on a GPU, if there is one.

    Raises:
        UserError: If the config has no test data, the checkpoint does not fit it, or the model needs operators that
            mmcv lacks on the device.

    Attributes:
        source_config: The config as given; mmdet changes the pipeline of its own copy, `cfg`.
    """

    def __init__(self, config: Config, checkpoint: str, device: str | None = None):
        if not (config.get('test_dataloader') or {}).get('dataset'):
            raise UserError(
                'the config has no test_dataloader.dataset, whose pipeline prepares the images: give it one, such as '
                'test_dataloader = val_dataloader'
            )
        self.source_config = config
        config = deepcopy(config)
        # Pictures are returned, not stored by the visualizer. mmengine keeps visualizers by their names in a process:
        # under the name in the config, a training that follows would get this one, and store no curves.
        config.visualizer.update(vis_backends=None, name=f'{type(self).__name__}-{id(self)}')
        self.checkpoint = checkpoint
        super().__init__(config, checkpoint, device, show_progress=False)
        try:
            check_operators(self.model)
        except ValueError as error:
            raise UserError(str(error)) from error
        # The loader is called by itself: what it raises is the image's fault, anything else is not.
        self.load, self.transforms = self.pipeline.transforms[0], self.pipeline.transforms[1:]

    def _load_weights_to_model(self, model: nn.Module, checkpoint: dict, cfg: Config) -> None:
        load_weights(model, model_weights(checkpoint, self.checkpoint), self.checkpoint)
        model.dataset_meta = {'palette': 'random', **class_metainfo(checkpoint, cfg)}

    def _init_collate(self, cfg: Config) -> Callable:
        # mmdet has no registry of functions, and mmengine would warn about that.
        return super()._init_collate(cfg) if 'collate_fn' in cfg.test_dataloader else pseudo_collate

    def prepare(self, image: str | np.ndarray) -> dict[str, object]:
        """The input of the model.

        Args:
            image: The path of an image, or its pixels as OpenCV reads them: (H, W, 3), BGR, uint8.

        Raises:
            UnreadableImageError: If there is no image in the file.
        """
        try:
            sample = self.load(image)
        # The content of a file is arbitrary, and so is the exception.
        except Exception as error:
            raise UnreadableImageError(_reason(image, error)) from error
        for transform in self.transforms:
            sample = transform(sample)
        return sample

    @torch.no_grad()
    def predict(self, samples: list[dict[str, object]]) -> list[DetDataSample]:
        """The predictions for prepared images, as one batch."""
        return self.model.test_step(self.collate_fn(samples))

    def draw(self, path: Path, prediction: DetDataSample, score_thr: float) -> np.ndarray:
        """The image with the predicted boxes, (H, W, 3), RGB.

        Args:
            path: The image.
            prediction: Its prediction.
            score_thr: The lowest score of a box that is drawn.
        """
        prediction = deepcopy(prediction).cpu()
        # mmengine warns of each box that reaches over the edge.
        height, width = prediction.ori_shape
        boxes = prediction.pred_instances.bboxes
        edge = boxes.new_tensor([width, height, width, height]) - 1
        prediction.pred_instances.bboxes = boxes.nan_to_num().clamp(min=0).minimum(edge)
        return self.visualize([str(path)], [prediction], return_vis=True, pred_score_thr=score_thr)[0]


class UnreadableImageError(Exception):
    """An image file that cannot be read."""


class Outcome(NamedTuple):
    """What became of an image."""

    path: Path
    prediction: DetDataSample | None
    """None: the image could not be read."""
    failure: str = ''
    """Why not."""


def find_images(source: str) -> list[Path]:
    """The image files of a folder and the folders below it, in the order of their names; or the file itself.

    Raises:
        UserError: If there is no such file or folder, or no image in it.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f'there is no image or folder {source!r} below {Path.cwd()}')
    images = sorted(file for file in path.rglob('*') if file.suffix.lower() in IMG_EXTENSIONS and file.is_file())
    if not images:
        raise UserError(f'the folder {source} has no images: files that end in {", ".join(IMG_EXTENSIONS)}')
    return images


def predict_images(inferencer: Inferencer, paths: Iterable[Path], batch_size: int = 1) -> Iterator[Outcome]:
    """Predict image by image; an image that cannot be read does not stop the others.

    Args:
        inferencer: The detector.
        paths: The image files.
        batch_size: How many images the model is given at once.

    Yields:
        What became of each image.
    """
    batch = []
    for path in paths:
        try:
            batch.append((path, inferencer.prepare(str(path))))
        except UnreadableImageError as error:
            yield Outcome(path, None, str(error))
        if len(batch) == batch_size:
            yield from _predict_batch(inferencer, batch)
            batch = []
    if batch:
        yield from _predict_batch(inferencer, batch)


def _predict_batch(inferencer: Inferencer, batch: list[tuple[Path, dict]]) -> list[Outcome]:
    predictions = inferencer.predict([sample for _, sample in batch])
    return [Outcome(path, prediction) for (path, _), prediction in zip(batch, predictions)]


def _reason(image: object, error: Exception) -> str:
    if isinstance(image, str) and isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(image, str) and not Path(image).stat().st_size:
        return 'the file is empty'
    return 'it is damaged, or no image'


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB image; its folder is made."""
    mmcv.imwrite(image[..., ::-1], str(path))
