"""Non-maximum suppression on a device for which mmcv has no operators."""

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

from mmcv.ops import batched_nms as mmcv_batched_nms
from mmcv.ops import get_compiling_cuda_version
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor


@cache
def lacks_cuda_ops() -> bool:
    """Whether mmcv was built without CUDA: its operators then fail on CUDA tensors."""
    return get_compiling_cuda_version() == 'not available'


def lacks_ops(tensor: Tensor) -> bool:
    """Whether mmcv has no operators for the tensor's device."""
    return tensor.is_cuda and lacks_cuda_ops()


@cache
def torchvision_nms() -> Callable[..., Tensor] | None:
    """torchvision's batched NMS; None where torchvision is missing, or was built for another torch."""
    if not find_spec('torchvision'):
        return None
    try:
        from torchvision.ops import batched_nms
    except (ImportError, RuntimeError) as error:
        print_log(
            f'torchvision is installed but fails to import ({error}), so NMS runs on the CPU. Install the torchvision '
            'that belongs to your torch, or build mmcv with CUDA',
            logger='current',
            level=logging.WARNING,
        )
        return None
    return batched_nms


def batched_nms(results: InstanceData, nms: ConfigDict | None) -> InstanceData:
    """mmcv's per-class NMS for boxes on a device for which mmcv was built without operators.

    Plain NMS runs on the device, by torchvision's operator. Where torchvision cannot be used, and for any other kind
    of NMS, the boxes are copied to the CPU.

    Args:
        results: `bboxes` (n, 4) in pixels, `scores` (n,) and `labels` (n,), on any device.
        nms: The config of mmcv's `batched_nms`; None: only sort.

    Returns:
        The results kept, by descending score, on the same device.
    """
    plain = nms is not None and nms.get('type', 'nms') == 'nms' and set(nms) <= {'type', 'iou_threshold', 'split_thr'}
    if plain and (device_nms := torchvision_nms()):
        return results[device_nms(results.bboxes, results.scores, results.labels, nms.iou_threshold)]
    boxes, scores, labels = (value.cpu() for value in (results.bboxes, results.scores, results.labels))
    detections, keep = mmcv_batched_nms(boxes, scores, labels, nms)
    results = results[keep.to(results.bboxes.device)]
    results.scores = detections[:, -1].to(results.scores)
    return results
