"""The folder of a published model, and the check that its predictions are those of the original."""

import hashlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mmengine
import numpy as np
import torch

import mmext
from mmext.checkpoints import load_checkpoint, write_atomically
from mmext.errors import UserError

from .conversion import SOFTMAX_MODULE, convert_config, convert_weights, needs_softmax
from .inference import Inferencer
from .weights import class_metainfo, model_weights

TOLERANCE = 1e-4
# Before the config of a model that comes with a module; mmengine substitutes the folder of the config.
MODULE_LINES = """\
# Where custom_imports finds the module beside this file.
import sys

sys.path.insert(0, '{{ fileDirname }}')

"""


class Published(NamedTuple):
    """The files of a published model."""

    config: Path
    weights: Path
    module: Path | None
    """The head with a softmax; None: mmdet's own head is used."""


def publish(original: Inferencer, trust: bool, folder: Path, name: str) -> Published:
    """Write config and weights for mmdet alone.

    The folder gets `NAME.py`, `NAME-SHA.pth`, where SHA is the start of the SHA-256 of the file as in mmdet's
    `publish_model.py`, and for a head with a softmax over three or more classes `yolox_softmax_head.py`.

    Args:
        original: The trained detector.
        trust: Load its checkpoint whatever the pickle says.
        folder: The folder; it is made.
        name: The name of the files.

    Raises:
        UserError: If the folder is not empty, or a type of mmext's has no replacement.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f'{folder} exists and is not an empty folder: name a new one, or remove it')
    checkpoint = load_checkpoint(original.checkpoint, trust=trust)
    metainfo = class_metainfo(checkpoint, original.cfg)
    config = convert_config(original.source_config, original.model, metainfo)
    text, module = f'{config.pretty_text.strip()}\n', None
    if needs_softmax(original.model):
        text = MODULE_LINES + text
        folder.mkdir(parents=True, exist_ok=True)
        module = Path(shutil.copyfile(SOFTMAX_MODULE, folder / SOFTMAX_MODULE.name))
    file = folder / f'{name}.py'
    write_atomically(file, text.encode())
    meta = dict(
        cfg=text,
        dataset_meta=metainfo,
        **{key: checkpoint['meta'][key] for key in ('epoch', 'iter') if key in checkpoint.get('meta', {})},
        mmengine_version=mmengine.__version__,
        mmext_version=mmext.__version__,
    )
    weights = convert_weights(model_weights(checkpoint, original.checkpoint), original.model)
    buffer = io.BytesIO()
    torch.save(dict(meta=meta, state_dict=weights), buffer)
    return Published(file, write_with_hash(folder / f'{name}.pth', buffer.getvalue()), module)


def write_with_hash(path: Path, content: bytes) -> Path:
    """Write a file whose name ends in the first 8 digits of its SHA-256.

    Returns:
        Its path.
    """
    path = path.with_name(f'{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}{path.suffix}')
    write_atomically(path, content)
    return path


class Agreement(NamedTuple):
    """How well two detectors agree."""

    images: int
    detections: int
    difference: float
    """The largest difference of a coordinate or score, relative where the value is above 1."""


def compare(original: Inferencer, published: Inferencer, images: Sequence[str | np.ndarray]) -> Agreement:
    """Compare the predictions of two detectors.

    Args:
        original: The trained detector.
        published: The published one.
        images: Paths, or pixels (H, W, 3) as OpenCV reads them.

    Raises:
        RuntimeError: If the detections differ in number or labels, or a coordinate or score by more than
            :data:`TOLERANCE`.
    """
    count, largest = 0, 0.0
    for image in images:
        ours, theirs = (each.predict([each.prepare(image)])[0].pred_instances.cpu() for each in (original, published))
        if len(ours) != len(theirs) or not torch.equal(ours.labels, theirs.labels):
            raise RuntimeError(
                f'the published model finds {len(theirs)} objects and the original {len(ours)}, or of other classes: '
                'do not use it, and report this'
            )
        count += len(ours)
        for name in ('bboxes', 'scores'):
            largest = max(largest, difference(ours[name], theirs[name]))
    if largest > TOLERANCE:
        raise RuntimeError(f'the predictions of the published model differ by {largest:.1e}: do not use it')
    return Agreement(len(images), count, largest)


def difference(expected: torch.Tensor, found: torch.Tensor, scale: torch.Tensor | None = None) -> float:
    """The largest difference of two tensors; inf if only one of them is infinite or NaN.

    Args:
        expected: The one.
        found: The other, of the same shape.
        scale: What each difference is relative to where that is above 1; None: the expected value.
    """
    if not expected.numel():
        return 0.0
    scale = (expected if scale is None else scale).abs().clamp(min=1)
    same = (expected == found) | (expected.isnan() & found.isnan())
    return torch.where(same, 0, (expected - found).abs() / scale).nan_to_num(torch.inf).max().item()


def random_images(sizes: Sequence[tuple[int, int]], seed: int = 0) -> list[np.ndarray]:
    """Images of random pixels, as OpenCV reads them.

    Args:
        sizes: Height and width of each image.
        seed: The seed.
    """
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
