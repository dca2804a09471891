"""Export a YOLOX detector to ONNX, and check the file with onnxruntime."""

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from mmdet.models.dense_heads import YOLOXHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmext.compat import check_torch_can
from mmext.errors import UserError
from mmext.heads.ops import flatten_levels
from mmext.heads.yolox_softmax_head import SOFTMAX_KEY

from .inference import Inferencer
from .publishing import TOLERANCE, Agreement, difference

OPSET = 18
NEEDED = ('onnx', 'onnxruntime', 'onnxscript')
METADATA_KEY = 'detector'
OUTPUTS = ('boxes', 'scores')
# Batch size, and rows and columns of the last level.
RANDOM_BATCHES = ((1, 10, 10), (3, 5, 8), (2, 2, 3))


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
        UserError: If the model has no YOLOX head, a package is missing, or torch is too old.
    """
    check_torch_can('onnx', '--onnx')
    missing = [name for name in NEEDED if not find_spec(name)]
    if missing:
        raise UserError(f'--onnx needs {" and ".join(missing)}: pip install {" ".join(missing)}')
    if not isinstance(getattr(model, 'bbox_head', None), YOLOXHead):
        raise UserError(
            f'--onnx exports detectors with a YOLOX head, but this is a {type(model).__name__}: mmdeploy exports others'
        )


def export_onnx(inferencer: Inferencer, opset: int = OPSET) -> bytes:
    """Export a detector; batch, height and width are dynamic.

    Args:
        inferencer: The detector.
        opset: The version of ONNX's operators.

    Returns:
        The content of the file. Its metadata have :func:`onnx_metadata` as JSON under the key :data:`METADATA_KEY`.
    """
    import onnx

    stride = largest_stride(inferencer.model)
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
    onnx.helper.set_model_props(content, {METADATA_KEY: json.dumps(onnx_metadata(inferencer))})
    return content.SerializeToString()


def onnx_metadata(inferencer: Inferencer) -> dict[str, object]:
    """What a user of the file has to know.

    Args:
        inferencer: The detector.
    """
    head = inferencer.model.bbox_head
    resize = next((step for step in inferencer.cfg.test_dataloader.dataset.pipeline if 'Resize' in step['type']), {})
    return dict(
        input='BGR pixels in [0, 255], float32, (batch, 3, height, width)',
        boxes='(x1, y1, x2, y2) in pixels of the input, (batch, priors, 4)',
        scores='class probability times objectness, (batch, priors, classes)',
        resize_scale=resize.get('scale'),
        resize_keep_ratio=resize.get('keep_ratio', False),
        padding='right and bottom',
        pad_value=padding_color(inferencer.model),
        size_divisor=largest_stride(inferencer.model),
        classes=inferencer.model.dataset_meta['classes'],
        score_threshold=head.test_cfg.score_thr,
        nms_iou_threshold=(head.test_cfg.get('nms') or {}).get('iou_threshold'),
    )


def padding_color(model: nn.Module) -> list[float]:
    """The BGR pixel that the padding has, which mmdet adds after normalization."""
    preprocessor = model.data_preprocessor
    color = torch.full((3,), float(preprocessor.pad_value))
    if preprocessor._enable_normalize:
        color = color * preprocessor.std.flatten().cpu() + preprocessor.mean.flatten().cpu()
    return (color.flip(0) if preprocessor._channel_conversion else color).tolist()


def check_onnx(content: bytes, inferencer: Inferencer, images: Sequence[str]) -> Agreement:
    """Compare an ONNX file in onnxruntime with the detector in torch, before NMS.

    The detector predicts by mmdet's own code. Besides the images it is given random pixels, one batch of several sizes
    each.

    Args:
        content: The content of the file.
        inferencer: The detector.
        images: Paths.

    Returns:
        The number of images and of boxes that were compared, and the largest difference.

    Raises:
        RuntimeError: If a score, or a coordinate in proportion to the largest of its box, differs by more than
            :data:`~.publishing.TOLERANCE`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    stride = largest_stride(inferencer.model)
    random = torch.Generator().manual_seed(0)
    batches = [
        (torch.rand(batch, 3, rows * stride, columns * stride, generator=random) * 255,) * 2
        for batch, rows, columns in RANDOM_BATCHES
    ]
    for image in images:
        inputs = inferencer.prepare(image)['inputs']
        batches.append((inputs[None], padded(inputs, inferencer.model)[None]))
    largest, count = 0.0, 0
    for pixels, pixels_padded in batches:
        found = session.run(OUTPUTS, {'images': pixels_padded.numpy()})
        for expected, boxes, scores in zip(dense_predictions(inferencer.model, pixels), *map(torch.from_numpy, found)):
            box_scale = expected.bboxes.abs().amax(-1, keepdim=True)
            largest = max(
                largest,
                difference(expected.bboxes, boxes, box_scale),
                difference(expected.scores, scores.amax(-1)),
                difference(expected.scores, scores.gather(1, expected.labels[:, None])[:, 0]),
            )
            count += len(boxes)
    if not largest <= TOLERANCE:
        raise RuntimeError(f'the ONNX file differs from torch by {largest:.1e}, and the limit is {TOLERANCE}')
    return Agreement(sum(len(pixels) for pixels, _ in batches), count, largest)


def padded(image: Tensor, model: nn.Module) -> Tensor:
    """An image (3, H, W) as the input of the ONNX file: float32, padded at the right and bottom."""
    stride = largest_stride(model)
    sizes = [-(-size // stride) * stride for size in image.shape[1:]]
    result = torch.tensor(padding_color(model))[:, None, None].repeat(1, *sizes)
    result[:, : image.shape[1], : image.shape[2]] = image
    return result


@torch.no_grad()
def dense_predictions(model: nn.Module, pixels: Tensor) -> list[InstanceData]:
    """The boxes, scores and labels of all priors, by mmdet's own prediction without NMS.

    Args:
        model: The detector.
        pixels: Images of one size, (B, 3, H, W), which mmdet pads and normalizes.
    """
    inputs = model.data_preprocessor(dict(inputs=list(pixels), data_samples=None), False)['inputs']
    outputs = model.bbox_head(model.extract_feat(inputs))
    everything = ConfigDict(score_thr=-1.0, nms=None)
    metas = [{}] * len(pixels)
    return model.bbox_head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=everything, with_nms=False)


def largest_stride(model: nn.Module) -> int:
    """The largest stride of a YOLOX head, which divides the sizes of its input."""
    return max(map(max, model.bbox_head.prior_generator.strides))
