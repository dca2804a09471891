"""Checks of a model, its data and its hooks, for mistakes that training would not report.

* :mod:`~mmext.audit.wiring`: do the losses, the assigner and mmcv's operators fit the heads?
* :mod:`~mmext.audit.data`: are the annotations and images of a config right, and does training get boxes from them?
* :mod:`~mmext.audit.labels`: do the labels mean the classes that the config names?
* :mod:`~mmext.audit.recipe`: are YOLOX's hooks there, and are checkpoints safe?
* :mod:`~mmext.audit.ranks`: do all ranks begin a training alike?
* :mod:`~mmext.audit.losses`: what does each loss contribute to the training?
* :mod:`~mmext.audit.keys`: does anything read the keys of the config?
* :mod:`~mmext.audit.checkpoint`: do the weights of a checkpoint fit the model?
* :mod:`~mmext.audit.report`: all of these, for `mmext audit`.

`check_order` and `check_num_classes` raise a UserError that names the setting and the remedy. All other checks return
findings with both; `enforce` raises the errors among them, and logs the warnings.
"""

from .data import data_findings
from .findings import Finding, enforce, raise_errors
from .labels import (
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
from .ranks import check_ranks
from .recipe import check_checkpoints, check_hooks
from .wiring import check_operators, check_wiring, yolox_head

__all__ = [
    'Finding',
    'LabelOrder',
    'check_checkpoints',
    'check_hooks',
    'check_num_classes',
    'check_operators',
    'check_order',
    'check_ranks',
    'check_wiring',
    'data_findings',
    'enforce',
    'label_names',
    'label_orders',
    'label_orders_of_config',
    'labels_follow_file',
    'leaves',
    'raise_errors',
    'read_categories',
    'yolox_head',
]
