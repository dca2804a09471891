"""The table of all losses: what each is made of, and the properties that it has not, with the reason.

A variant or a loss that mmext gains is tested by the battery once it is here; a test says where it is not.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmext import losses
from mmext.losses import VARIANTS

ROWS, CLASSES = 6, 3
IMAGE_SIZE = (640, 480)


@dataclass(frozen=True)
class Loss:
    """A row: the class and its arguments, and the parts that its tests count for."""

    name: str
    kind: str
    parts: tuple[str, ...]
    arguments: dict = field(default_factory=dict)

    def __str__(self):
        return self.name

    def build(self, **arguments):
        """The loss in evaluation mode, a running mean where ordinary pairs are on both sides of it."""
        loss = getattr(losses, self.kind)(**{'reduction': 'none', **self.arguments, **arguments}).eval()
        mean = getattr(getattr(loss, 'focus', None), 'mean', None)
        if mean is not None:
            mean.fill_(0.1)
        return loss

    def lacks(self, trait: str) -> str | None:
        """Why the loss has not this property; None where it has."""
        return next((EXEMPT[part, trait] for part in self.parts if (part, trait) in EXEMPT), None)


FOCUSES = {
    'FocalFocus': {'type': 'mmext.FocalFocus'},
    'PIoUFocus': {'type': 'mmext.PIoUFocus'},
    'WiseFocus v1': {'type': 'mmext.WiseFocus', 'version': 1},
    'WiseFocus v2': {'type': 'mmext.WiseFocus', 'version': 2},
    'WiseFocus v3': {'type': 'mmext.WiseFocus', 'version': 3},
}
OF_THE_VARIANT = {'shape': {'scale': 1.0}, 'mpdiou': {'image_size': IMAGE_SIZE}}
CHANGES = {
    '': {},
    'alpha 0.5': {'alpha': 0.5},
    'alpha 3': {'alpha': 3.0},
    'alpha 6': {'alpha': 6.0},
    'inner_ratio 0.7': {'inner_ratio': 0.7},
    'inner_ratio 1.3': {'inner_ratio': 1.3},
    'interval 0.1 0.95': {'interval': (0.1, 0.95)},
    **{name: {'focus': focus} for name, focus in FOCUSES.items()},
    'alpha 2 inner_ratio 0.8 interval 0 0.9 WiseFocus v3': {
        'alpha': 2.0, 'inner_ratio': 0.8, 'interval': (0.0, 0.9), 'focus': FOCUSES['WiseFocus v3']
    },
}  # fmt: skip
PARTS = ('alpha', 'inner_ratio', 'interval', *FOCUSES)

EXEMPT = {
    ('shape', 'symmetric'): "it is weighted by the target's sides",
    ('piou', 'symmetric'): "it measures in the target's sides",
    ('PIoUFocus', 'symmetric'): "it measures in the target's sides",
    ('mpdiou', 'scale'): 'it measures in the diagonal of the image, which does not follow the boxes',
    ('NWDLoss', 'scale'): 'its constant is a length',
    ('FocalFocus', 'monotone'): 'it gives no weight to pairs without overlap',
    ('PIoUFocus', 'monotone'): 'it gives little weight to far pairs',
    ('WiseFocus v3', 'monotone'): 'it gives little weight to outliers',
    ('FocalLoss', 'soft'): 'the balance and the focus are made for t = 0 and t = 1',
    ('PolyFocalLoss', 'soft'): 'the focus and the polynomial are made for t = 0 and t = 1',
    ('AsymmetricLoss', 'soft'): 'positives and negatives have different weights',
}

BOX_LOSSES = [
    Loss(
        f'{variant} {change}'.strip(),
        'IoULoss',
        (variant, *(part for part in PARTS if part in change)),
        {'variant': variant, **OF_THE_VARIANT.get(variant, {}), **arguments},
    )
    for variant in VARIANTS
    for change, arguments in CHANGES.items()
] + [Loss('NWDLoss', 'NWDLoss', ('NWDLoss',)), Loss('NWDLoss 3 px', 'NWDLoss', ('NWDLoss',), {'constant': 3.0})]

WEIGHTS = {'class_weight': [0.5, 1.0, 4.0]}
SIGMOID_LOSSES = [
    Loss(f'{kind} {change}'.strip(), kind, (kind, *(['class_weight'] if arguments is WEIGHTS else [])), arguments)
    for kind, changes in {
        'FocalLoss': {'alpha each': {'alpha': [0.2, 0.5, 0.9]}, 'gamma 0': {'gamma': 0.0}, 'gamma 0.5': {'gamma': 0.5}},
        'PolyFocalLoss': {'gamma 0': {'gamma': 0.0}, 'alpha epsilon -1': {'alpha': 0.25, 'epsilon': -1.0}},
        'AsymmetricLoss': {
            'clip 0': {'clip': 0.0},
            'gammas 0': {'gamma_pos': 0.0, 'gamma_neg': 0.0, 'clip': 0.2},
            'gammas 0.5': {'gamma_pos': 0.5, 'gamma_neg': 0.5, 'clip': 0.0},
        },
        'VarifocalLoss': {
            'alpha each': {'alpha': [0.2, 0.5, 2.0]},
            'gamma 0.5': {'gamma': 0.5},
            'not iou_weighted': {'iou_weighted': False},
        },
        'QualityFocalLoss': {'beta 0': {'beta': 0.0}, 'beta 0.5': {'beta': 0.5}},
    }.items()
    for change, arguments in {'': {}, 'class_weight': WEIGHTS, **changes}.items()
]
SOFTMAX_LOSSES = [
    Loss(f'SoftmaxFocalLoss {change}'.strip(), 'SoftmaxFocalLoss', ('SoftmaxFocalLoss',), arguments)
    for change, arguments in {
        '': {},
        'alpha each': {'alpha': [0.5, 1.0, 4.0]},
        'alpha 0.25': {'alpha': 0.25},
        'gamma 0.5': {'gamma': 0.5},
    }.items()
]
LOSSES = BOX_LOSSES + SIGMOID_LOSSES + SOFTMAX_LOSSES


def inputs(loss: Loss, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Boxes, logits and scores, or logits and labels: what the loss is fed, six rows of it."""
    generator = torch.Generator().manual_seed(0)
    if loss in BOX_LOSSES:
        boxes = torch.rand(2, ROWS, 4, generator=generator, dtype=torch.float64) * 10
        boxes[..., 2:] += boxes[..., :2] + 1
        return boxes[0].to(dtype), boxes[1].to(dtype)
    logit, target = torch.randn(2, ROWS, CLASSES, generator=generator, dtype=torch.float64)
    if loss in SOFTMAX_LOSSES:
        return logit.to(dtype), torch.tensor([0, 1, 2, 2, 1, 0])
    return logit.to(dtype), (target.sigmoid() * (target > 0)).to(dtype)


def per_row(loss: Loss) -> bool:
    """Whether the loss has one value for each row, not for each element."""
    return loss in BOX_LOSSES or loss in SOFTMAX_LOSSES or loss.kind == 'QualityFocalLoss'
