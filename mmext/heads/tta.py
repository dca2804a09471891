"""Test-time augmentation."""

from mmdet.models import DetTTAModel as MMDetDetTTAModel
from mmdet.structures import DetDataSample

from mmext.registry import MODELS

from .nms import lacks_cuda_ops


@MODELS.register_module()
class DetTTAModel(MMDetDetTTAModel):
    """mmdet's test-time augmentation; merges on the CPU where mmcv was built without CUDA operators.

    The arguments are mmdet's.
    """

    def merge_preds(self, data_samples_list: list[list[DetDataSample]]) -> list[DetDataSample]:
        """Merge the predictions for the views of each image.

        Args:
            data_samples_list: For each image the predictions for each of its views.

        Returns:
            One prediction for each image.
        """
        if lacks_cuda_ops():
            data_samples_list = [[sample.cpu() for sample in views] for views in data_samples_list]
        return super().merge_preds(data_samples_list)
