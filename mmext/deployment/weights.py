"""The weights and the class names of a checkpoint."""

from collections.abc import Mapping

from mmengine.config import Config
from torch import Tensor, nn

from mmext.errors import UserError
from mmext.heads.yolox_softmax_head import SOFTMAX_KEY

from .results import inference_dataset


def model_weights(checkpoint: dict, name: str) -> dict[str, Tensor]:
    """The weights of a checkpoint for inference.

    They are the averaged weights if the model was trained with mmengine's EMAHook: it swaps them when a checkpoint is
    saved, so that `state_dict` has the average and `ema_state_dict` has what the optimizer works on.

    Args:
        checkpoint: The checkpoint.
        name: What to call it in messages.

    Raises:
        UserError: If the checkpoint has no weights.
    """
    weights = checkpoint.get('state_dict')
    if not isinstance(weights, Mapping) or not weights:
        keys = ', '.join(map(str, list(checkpoint)[:8])) or 'nothing'
        raise UserError(
            f"{name} has no weights in 'state_dict', only {keys}: give a checkpoint that mmext or mmdet saved"
        )
    return dict(weights)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Load the weights into the model, all of them.

    Args:
        model: The detector.
        weights: The weights by their keys.
        name: The checkpoint in messages.

    Raises:
        UserError: See :func:`check_weights`.
    """
    check_weights(model, weights, name)
    model.load_state_dict(weights, strict=False)


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    """Check that weights are those of the model.

    mmengine's loading skips what does not fit, and leaves random weights in its place. Here only the state of losses,
    which inference does not use, may be left out or left over.

    Args:
        model: The detector.
        weights: The weights by their keys.
        name: The checkpoint in messages.

    Raises:
        UserError: If a key is missing or unexpected, or a shape differs.
    """
    own = model.state_dict()
    if any(_is_softmax_key(key) and key not in own for key in weights):
        raise UserError(
            f"{name} was trained with a softmax over the classes, but the config's head predicts with sigmoids: give "
            'the config that it was trained with'
        )
    missing = [f'{key} is missing' for key in own if key not in weights and not _may_be_missing(key)]
    unexpected = [f'{key} is unexpected' for key in weights if key not in own and not is_loss_state(key)]
    reshaped = [
        f'{key} has the shape {tuple(weights[key].shape)}, and the model needs {tuple(value.shape)}'
        for key, value in own.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if missing or unexpected or reshaped:
        counts = f'{len(missing)} tensors are missing, {len(unexpected)} unexpected, {len(reshaped)} of another shape'
        # One of each kind.
        shown = [each for kind in (missing, unexpected, reshaped) for each in kind[:1]]
        raise UserError(
            f'{name} does not fit the config: {counts} ({"; ".join(shown)}). Give the config that it was trained with'
        )


def is_loss_state(key: str) -> bool:
    """Whether a key is the state of a loss, such as the running mean of WiseFocus."""
    return any(part.startswith('loss') for part in key.split('.'))


def _is_softmax_key(key: str) -> bool:
    return key.split('.')[-1] == SOFTMAX_KEY


def _may_be_missing(key: str) -> bool:
    return is_loss_state(key) or _is_softmax_key(key)


def class_metainfo(checkpoint: dict, config: Config) -> dict[str, object]:
    """The `classes` and, if known, the `palette`: of the checkpoint's meta, or else of the config's test data.

    Args:
        checkpoint: The checkpoint.
        config: The config.
    """
    meta = checkpoint.get('meta') or {}
    # MMDetection 2 saved CLASSES.
    found = {key.lower(): value for key, value in {**meta, **meta.get('dataset_meta', {})}.items()}
    if not found.get('classes'):
        found = inference_dataset(config).metainfo
    return {key: found[key] for key in ('classes', 'palette') if found.get(key)}
