"""Export a YOLOX detector to ONNX, and check the file with onnxruntime."""

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from mmdet.models.dense_heads import YOLOXHead
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmext.errors import UserError
from mmext.heads.ops import flatten_levels
from mmext.heads.yolox_softmax_head import SOFTMAX_KEY

from .inference import Inferencer
from .publishing import TOLERANCE, Agreement, difference

OPSET = 18
NEEDED = ('onnx', 'onnxruntime', 'onnxscript')
OUTPUTS = ('boxes', 'scores')


class OnnxDetector(nn.Module):
    """A YOLOX detector from pixels to decoded boxes and scores, without NMS.

    Args:
        model: mmdet's YOLOX, with mmdet's head or a subclass.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict a batch of images.

        Args:
            images: BGR pixels in [0, 255], (B, 3, H, W), float32; H and W are multiples of the largest stride.

        Returns:
            Boxes (x1, y1, x2, y2) in pixels of the input, (B, A, 4), and scores, (B, A, classes): the probability of
            the class times the objectness.
        """
        head, preprocessor = self.model.bbox_head, self.model.data_preprocessor
        if preprocessor._channel_conversion:
            images = images.flip(1)
        if preprocessor._enable_normalize:
            images = (images - preprocessor.mean) / preprocessor.std
        levels = head(self.model.extract_feat(images))
        sizes = [level.shape[2:] for level in levels[0]]
        priors = head.prior_generator.grid_priors(sizes, images.dtype, images.device, with_stride=True)
        classes, offsets, objectness = map(flatten_levels, levels)
        probabilities = classes.softmax(-1) if hasattr(head, SOFTMAX_KEY) else classes.sigmoid()
        return head._bbox_decode(torch.cat(priors), offsets), probabilities * objectness.reshape(
            *classes.shape[:2], 1
        ).sigmoid()


def check_exportable(model: nn.Module) -> None:
    """Refuse what cannot be exported, before anything is written.

    Raises:
        UserError: If the model has no YOLOX head, or a package is missing.
    """
    missing = [name for name in NEEDED if not find_spec(name)]
    if missing:
        raise UserError(f'--onnx needs {" and ".join(missing)}: pip install {" ".join(missing)}')
    if not isinstance(getattr(model, 'bbox_head', None), YOLOXHead):
        raise UserError(
            f'--onnx exports detectors with a YOLOX head, and this is a {type(model).__name__}: use mmdeploy'
        )


def export_onnx(inferencer: Inferencer, opset: int = OPSET) -> bytes:
    """Export a detector; batch, height and width are dynamic.

    Args:
        inferencer: The detector.
        opset: The version of ONNX's operators.

    Returns:
        The content of the file. Its metadata say what :func:`onnx_metadata` lists.
    """
    import onnx

    stride = max(map(max, inferencer.model.bbox_head.prior_generator.strides))
    detector = OnnxDetector(inferencer.model)
    shapes = {
        0: torch.export.Dim('batch'),
        2: stride * torch.export.Dim('rows'),
        3: stride * torch.export.Dim('columns'),
    }
    # It warns that torchvision is not installed, which YOLOX does not use.
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    program = torch.onnx.export(
        detector,
        # All sizes differ and none is 1, which torch.export would take for constants.
        (torch.rand(2, 3, 3 * stride, 4 * stride),),
        dynamo=True,
        verbose=False,
        opset_version=opset,
        input_names=['images'],
        output_names=OUTPUTS,
        dynamic_shapes=(shapes,),
    )
    content = program.model_proto
    onnx.helper.set_model_props(content, onnx_metadata(inferencer, stride))
    return content.SerializeToString()


def onnx_metadata(inferencer: Inferencer, stride: int) -> dict[str, str]:
    """What a user of the file has to know, as text.

    Args:
        inferencer: The detector.
        stride: The largest stride.
    """
    head = inferencer.model.bbox_head
    nms = head.test_cfg.get('nms') or {}
    resize = next((step for step in inferencer.cfg.test_dataloader.dataset.pipeline if 'Resize' in step['type']), {})
    metadata = dict(
        input='BGR pixels in [0, 255], float32, (batch, 3, height, width)',
        size_divisor=stride,
        padding='right and bottom',
        pad_value=padding_color(inferencer.model),
        resize_scale=resize.get('scale'),
        resize_keep_ratio=resize.get('keep_ratio', False),
        boxes='(x1, y1, x2, y2) in pixels of the input, (batch, priors, 4)',
        scores='class probability times objectness, (batch, priors, classes)',
        classes=inferencer.model.dataset_meta['classes'],
        score_threshold=head.test_cfg.score_thr,
        nms_iou_threshold=nms.get('iou_threshold'),
    )
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}


def padding_color(model: nn.Module) -> list[float]:
    """The BGR pixel that the padding has, which mmdet adds after normalization."""
    preprocessor = model.data_preprocessor
    color = torch.full((3,), float(preprocessor.pad_value))
    if preprocessor._enable_normalize:
        color = color * preprocessor.std.flatten().cpu() + preprocessor.mean.flatten().cpu()
    return (color.flip(0) if preprocessor._channel_conversion else color).tolist()


def check_onnx(content: bytes, inferencer: Inferencer, images: Sequence[str | np.ndarray]) -> Agreement:
    """Compare an ONNX file in onnxruntime with the detector in torch, before NMS.

    Args:
        content: The content of the file.
        inferencer: The detector.
        images: Paths, or pixels (H, W, 3) as OpenCV reads them.

    Returns:
        The number of images and of boxes that were compared, and the largest difference.

    Raises:
        RuntimeError: If a coordinate or a score differs by more than :data:`~.publishing.TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])

    def run(batch: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(OUTPUTS, {'images': batch.numpy()})]

    detector, largest, count = OnnxDetector(inferencer.model), 0.0, 0
    for image in images:
        sample = inferencer.prepare(image)
        boxes, scores = run(padded(sample['inputs'], inferencer.model)[None])
        expected = dense_predictions(inferencer, sample)
        count += len(expected.scores)
        largest = max(
            largest,
            box_difference(expected.bboxes, boxes[0]),
            difference(expected.scores, scores[0].amax(-1)),
        )
    # Several images at once, and the scores of all classes.
    stride = max(map(max, inferencer.model.bbox_head.prior_generator.strides))
    batch = torch.rand(3, 3, 5 * stride, 2 * stride, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        largest = max(largest, *map(difference, detector(batch), run(batch)))
    if not largest <= TOLERANCE:
        raise RuntimeError(f'the ONNX file differs from torch by {largest:.1e}, and the limit is {TOLERANCE}')
    return Agreement(len(images) + len(batch), count, largest)


def box_difference(expected: Tensor, found: Tensor) -> float:
    """The largest difference of a coordinate, relative to the largest coordinate of its box where that is above 1.

    On random pixels a trained YOLOX predicts boxes far outside the image and sides of 1e19 pixels, at scores of 0. There
    torch in float32 differs from float64 by as much as from onnxruntime.

    Args:
        expected: Boxes, (..., 4).
        found: The boxes to check, in the same order.
    """
    return difference(torch.zeros(()), (expected - found) / expected.abs().amax(-1, keepdim=True).clamp(min=1))


def padded(image: Tensor, model: nn.Module) -> Tensor:
    """An image (3, H, W) as the input of the ONNX file: float32, padded at the right and bottom."""
    stride = max(map(max, model.bbox_head.prior_generator.strides))
    sizes = [-(-size // stride) * stride for size in image.shape[1:]]
    result = torch.tensor(padding_color(model))[:, None, None].repeat(1, *sizes)
    result[:, : image.shape[1], : image.shape[2]] = image
    return result


@torch.no_grad()
def dense_predictions(inferencer: Inferencer, sample: dict) -> object:
    """The boxes, scores and labels of all priors of an image, by mmdet's own prediction without NMS."""
    model = inferencer.model
    inputs = model.data_preprocessor(inferencer.collate_fn([sample]), False)['inputs']
    outputs = model.bbox_head(model.extract_feat(inputs))
    everything = ConfigDict(score_thr=-1.0, nms=None)
    return model.bbox_head.predict_by_feat(*outputs, batch_img_metas=[{}], cfg=everything, with_nms=False)[0]
