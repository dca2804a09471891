"""Non-maximum suppression where mmcv has no operators for the device."""

from functools import cache
from importlib.util import find_spec

from mmcv.ops import batched_nms, get_compiling_cuda_version
from mmdet.models import DetTTAModel as MMDetDetTTAModel
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from mmext.registry import MODELS


@cache
def lacks_cuda_ops() -> bool:
    """Whether mmcv was built without CUDA: then its operators fail on CUDA tensors."""
    return get_compiling_cuda_version() == 'not available'


def suppress(results: InstanceData, nms: ConfigDict) -> InstanceData:
    """mmdet's per-class NMS, for boxes on a device for which mmcv was built without operators.

    torchvision's operator keeps the work on the device; where it is missing, or for more than the plain `nms`, the
    boxes make a trip to the CPU.

    Args:
        results: `bboxes` (n, 4), `scores` (n,) and `labels` (n,), on any device.
        nms: The config of mmcv's `batched_nms`.

    Returns:
        The results that stay, from the highest score down.
    """
    if (
        nms.get('type', 'nms') == 'nms'
        and set(nms) <= {'type', 'iou_threshold', 'split_thr'}
        and find_spec('torchvision')
    ):
        from torchvision.ops import batched_nms as device_nms

        return results[device_nms(results.bboxes, results.scores, results.labels, nms.iou_threshold)]
    boxes, scores, labels = (value.cpu() for value in (results.bboxes, results.scores, results.labels))
    detections, keep = batched_nms(boxes, scores, labels, nms)
    results = results[keep.to(results.bboxes.device)]
    results.scores = detections[:, -1].to(results.scores)
    return results


@MODELS.register_module()
class DetTTAModel(MMDetDetTTAModel):
    """mmdet's test-time augmentation; where mmcv has no operators for the device, it merges on the CPU."""

    def merge_preds(self, data_samples_list: list[list[DetDataSample]]) -> list[DetDataSample]:
        """One prediction for each image from those of its views."""
        if lacks_cuda_ops():
            data_samples_list = [[sample.cpu() for sample in views] for views in data_samples_list]
        return super().merge_preds(data_samples_list)
