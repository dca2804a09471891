"""Checks before training and testing."""

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmext.audit import (
    check_checkpoints,
    check_hooks,
    check_num_classes,
    check_operators,
    check_order,
    check_ranks,
    check_wiring,
    enforce,
    label_orders,
    label_orders_of_config,
)
from mmext.audit.checkpoint import checkpoint_findings
from mmext.registry import HAS_MMDET, HOOKS


@HOOKS.register_module()
class CheckHook(Hook):
    """Stop before the first iteration if training or testing would run but give wrong results.

    `mmext train` and `mmext test` add it. Under other tools add it to the hooks of the base, which a plain list would
    replace::

        custom_hooks = [*_base_.custom_hooks, dict(type='mmext.CheckHook')]
    """

    # Before EMAHook, which fails on a checkpoint without weights.
    priority = 'VERY_HIGH'

    def __init__(self):
        self.trained_classes: tuple[str, ...] | None = None

    def before_train(self, runner: Runner) -> None:
        """Check the wiring of the model, the label order of all data, the hooks, the checkpoints and the ranks.

        Raises:
            UserError: See :mod:`mmext.audit`.
        """
        model = detector(runner)
        dataset = runner.train_dataloader.dataset
        hooks = [*check_hooks(model, dataset, runner.hooks), *check_checkpoints(runner.hooks)]
        enforce([*check_wiring(model), *hooks])
        data = {'train_dataloader.dataset': dataset}
        if runner.val_loop is not None:
            data['val_dataloader.dataset'] = runner.val_dataloader.dataset
        check_data(model, data, runner.cfg.get('test_dataloader'))
        # Last: a rank that fails before does not answer.
        enforce(check_ranks(runner))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check that the weights are those of the model, and note the classes that they were trained on.

        Raises:
            UserError: If a weight is missing, unexpected or of another shape, in a test or when a training is resumed;
                if no weight at all fits, when a training starts from them.
        """
        meta = checkpoint.get('meta', {}).get('dataset_meta') or {}
        self.trained_classes = meta.get('classes')
        if HAS_MMDET:
            starts = isinstance(runner._train_loop, BaseLoop) and not runner._resume
            check_checkpoint(detector(runner), checkpoint, str(runner._load_from), starts)

    def before_test(self, runner: Runner) -> None:
        """Check the operators and the label order; warn if the checkpoint names its classes in another order.

        Raises:
            UserError: See :mod:`mmext.audit`.
        """
        model = detector(runner)
        enforce(check_operators(model))
        dataset = runner.test_dataloader.dataset
        check_data(model, {'test_dataloader.dataset': dataset})
        trained, tested = tuple(self.trained_classes or ()), tuple(getattr(dataset, 'metainfo', {}).get('classes', ()))
        if trained != tested and set(trained) == set(tested):
            print_log(
                f'The checkpoint was trained with the classes {trained}, but the test data have {tested}. If the '
                'training annotations are in the first order, results are reported under the wrong names',
                logger='current',
                level=logging.WARNING,
            )


def detector(runner: Runner) -> nn.Module:
    """The detector of a runner, without the wrappers for several processes and for test-time augmentation."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model.module if isinstance(model, BaseTTAModel) else model


def check_checkpoint(model: nn.Module, checkpoint: dict, name: str, starts_training: bool) -> None:
    """Check that the weights of a checkpoint are those of the detector.

    Args:
        model: The detector.
        checkpoint: The content of the file.
        name: What to call it in messages.
        starts_training: Whether a training starts from it, so that a layer may start anew.

    Raises:
        UserError: If it has no weights; if a weight is missing, unexpected or of another shape; if none fits, where a
            training starts from it.
    """
    from mmext.deployment.weights import check_weights, model_weights

    weights = {key.removeprefix('module.'): value for key, value in model_weights(checkpoint, name).items()}
    if starts_training:
        enforce(checkpoint_findings(model, {'state_dict': weights}, 'load_from', to_finetune=True))
    else:
        check_weights(model, weights, name)


def check_data(model: nn.Module, data: dict[str, object], test_dataloader: dict | None = None) -> None:
    """Check the classes of data sets against each other and against the heads.

    Args:
        model: The detector.
        data: Data sets by their place in the config.
        test_dataloader: The config of the test data, which training does not build. Their number of classes is not
            checked: a config may still have its base's test data.

    Raises:
        UserError: See :func:`mmext.audit.label_names`, :func:`mmext.audit.check_order` and
            :func:`mmext.audit.check_num_classes`.
    """
    orders = [order for place, dataset in data.items() for order in label_orders(dataset, place)]
    for place, dataset in data.items():
        classes = getattr(dataset, 'metainfo', {}).get('classes', ())
        if classes:
            check_num_classes(model, classes, place)
    if test_dataloader:
        orders += label_orders_of_config(test_dataloader['dataset'], 'test_dataloader.dataset')
    check_order(orders)
