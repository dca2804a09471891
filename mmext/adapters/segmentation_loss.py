"""A classification loss as `loss_decode` of mmsegmentation's heads."""

from torch import Tensor

from mmext.registry import MODELS

from .base import LossAdapter


@MODELS.register_module()
class SegmentationLoss(LossAdapter):
    """A classification loss for each pixel, as `loss_decode` of mmsegmentation's decode heads.

    It moves the classes to the last dimension, ignores the pixels that have the head's `ignore_index` as label, and
    has a name for the log. The mean is that of mmsegmentation's `CrossEntropyLoss`: over all pixels, or with
    `avg_non_ignore` over those that are not ignored. A loss over a sigmoid averages over the classes, too, except
    :class:`QualityFocalLoss`, which sums over them.

    With one logit per pixel, for binary segmentation with `out_channels=1`, label 1 is the foreground.

    Shape:
        pred: logits (N, C, H, W). target: labels (N, H, W). weight: (N, H, W). The loss is a scalar; with
        `reduction='none'` it is (N, H, W), summed over the classes, as `OHEMPixelSampler` needs it.

    Args:
        loss: The config of the loss, with its `reduction` and its `loss_weight`.
        loss_name: The name in the log. mmengine trains only what has `loss` in its name.
        avg_non_ignore: Average over the pixels that are not ignored.

    Raises:
        TypeError: For something else than one of mmext's losses for classes.
        ValueError: For a name without `loss`.

    Example:
        >>> loss = MODELS.build(dict(type='mmext.SegmentationLoss', loss=dict(type='mmext.SoftmaxFocalLoss', gamma=0)))
        >>> labels = torch.tensor([[[0, 255], [1, 1]]])
        >>> loss(torch.zeros(1, 2, 2, 2), labels, ignore_index=255)  # 3/4 of ln 2: one of four pixels is ignored
        tensor(0.5199)
    """

    def __init__(self, loss: dict, loss_name: str = 'loss_seg', avg_non_ignore: bool = False):
        super().__init__(loss)
        if 'loss' not in loss_name:
            raise ValueError(
                f"SegmentationLoss: loss_name must have 'loss' in it, or mmengine does not train it, but is "
                f"{loss_name!r}; use 'loss_{loss_name}'"
            )
        self.loss_name = loss_name
        self.avg_non_ignore = avg_non_ignore

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """The weighted and reduced loss.

        Args:
            pred: Logits (N, C, H, W).
            target: Labels (N, H, W). For a loss over a sigmoid, a label outside 0..C-1 that is not `ignore_index` is
                a pixel without a class.
            weight: A factor on each pixel, (N, H, W).
            avg_factor: The divisor of `'mean'`.
            reduction_override: Replaces the reduction given at construction.
            ignore_index: The label of the pixels to ignore; the head passes its own.

        Raises:
            ValueError: For shapes that do not fit.
        """
        if target.shape != (*pred.shape[:1], *pred.shape[2:]):
            raise ValueError(
                f'SegmentationLoss: the target of logits (N, C, H, W) must be labels (N, H, W), but the shapes are '
                f'{tuple(pred.shape)} and {tuple(target.shape)}; give integer labels, not one-hot masks'
            )
        if pred.shape[1] == 1 and not self.loss.use_sigmoid:
            raise ValueError(
                f'SegmentationLoss: {type(self.loss).__name__} is a softmax loss, but the head gives one logit per '
                'pixel; set out_channels=2, or use a loss over a sigmoid, such as mmext.FocalLoss'
            )
        counted = target != ignore_index
        logit = pred.movedim(1, -1)
        reduction = reduction_override or self.reduction
        if reduction == 'mean' and avg_factor is None and self.avg_non_ignore:
            avg_factor = counted.sum() * (1 if self.loss.per_row else pred.shape[1])
        if pred.shape[1] == 1:
            target = (target == 1).unsqueeze(-1).to(pred.dtype)
        weight = counted if weight is None else counted * weight
        loss = self.loss(logit, target, weight, avg_factor, reduction_override)
        return loss.sum(-1) if loss.dim() == pred.dim() else loss
