"""Checks of a model, its data and its hooks, for mistakes that training would not report.

* :mod:`~mmext.audit.wiring`: do the losses, the assigner and mmcv's operators fit the heads?
* :mod:`~mmext.audit.data`: do the labels mean the classes that the config names?
* :mod:`~mmext.audit.recipe`: are YOLOX's hooks there, and are checkpoints safe?

Each check raises a UserError that names the setting and the remedy, or logs a warning.
"""

from .data import (
    LabelOrder,
    check_num_classes,
    check_order,
    label_names,
    label_orders,
    label_orders_of_config,
    labels_follow_file,
    leaves,
    read_categories,
)
from .recipe import check_checkpoints, check_hooks
from .wiring import check_assigner, check_losses, check_operators, check_reduction, has_soft_targets, yolox_head

__all__ = [
    'LabelOrder',
    'check_assigner',
    'check_checkpoints',
    'check_hooks',
    'check_losses',
    'check_num_classes',
    'check_operators',
    'check_order',
    'check_reduction',
    'has_soft_targets',
    'label_names',
    'label_orders',
    'label_orders_of_config',
    'labels_follow_file',
    'leaves',
    'read_categories',
    'yolox_head',
]
