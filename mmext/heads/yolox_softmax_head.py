"""mmdet's YOLOX head that predicts with a softmax over the classes.

This file needs mmdet, and nothing of mmext: `mmext publish` copies it beside the config of a model that was trained
with a softmax.
"""

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import YOLOXHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor

# A buffer of each head that predicts with a softmax. The other keys of its state dict are those of mmdet's YOLOXHead,
# which would take the logits for those of sigmoids. Because of this key strict loading into mmdet's head fails, and
# mmengine's loading reports an unexpected key.
SOFTMAX_KEY = 'predicts_with_softmax'


@MODELS.register_module(force=True)
class YOLOXSoftmaxHead(YOLOXHead):
    """mmdet's `YOLOXHead` with its arguments, whose class probabilities are a softmax instead of sigmoids.

    It is made for prediction: train with `mmext.YOLOXHead` and `cls_target='label'`.

    Args:
        *args: mmdet's.
        **kwargs: mmdet's.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        mark_softmax(self)

    def predict_by_feat(self, cls_scores: Sequence[Tensor], *args, **kwargs) -> list[InstanceData]:
        """mmdet's prediction, with a softmax.

        Args:
            cls_scores: Class logits of each level, (B, num_classes, H, W).
            *args: mmdet's.
            **kwargs: mmdet's.
        """
        return super().predict_by_feat([sigmoid_logits(score, dim=1) for score in cls_scores], *args, **kwargs)


def mark_softmax(head: YOLOXHead) -> None:
    """Register the buffer :data:`SOFTMAX_KEY` of a head that predicts with a softmax."""
    # An integer: an EMA of the weights does not average it.
    head.register_buffer(SOFTMAX_KEY, torch.ones((), dtype=torch.uint8))


def sigmoid_logits(logits: Tensor, dim: int) -> Tensor:
    """Logits whose sigmoid is the softmax of the given logits, since mmdet's head takes the sigmoid; in float32."""
    return logits.float().softmax(dim).logit()
