"""Whether the weights of a checkpoint fit a model."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .findings import Finding

# With fewer of its tensors in the checkpoint, a model that is not trained further has nothing to do with it.
RELATED = 0.5
# How many tensors a message names.
SHOWN = 3


def weights_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The weights of a checkpoint by their names, as mmengine loads them: without the prefix of a wrapper."""
    weights = checkpoint.get('state_dict', checkpoint)
    return {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}


def checkpoint_findings(model: nn.Module, checkpoint: Mapping, key: str, to_finetune: bool) -> list[Finding]:
    """Compare the weights of a checkpoint with those of a model; mmengine logs what differs and trains on.

    Args:
        model: The model.
        checkpoint: The content of the file.
        key: What the file was given as, such as `load_from`.
        to_finetune: Whether the model is trained on from it, so that a layer may start anew.

    Returns:
        An error if the weights are of another model, or, unless `to_finetune`, if any tensor differs; a warning if a
        part of the model starts anew.
    """
    own, weights = model.state_dict(), weights_of(checkpoint)
    shared = [name for name in own if name in weights]
    reshaped = [name for name in shared if weights[name].shape != own[name].shape]
    missing = [name for name in own if name not in weights]
    matching = len(shared) - len(reshaped)
    counts = f'{matching} of {len(own)} tensors match, {len(reshaped)} have another shape, {len(missing)} are missing'
    # A training may start from a backbone.
    if matching == 0 or (not to_finetune and matching < RELATED * len(own)):
        return [Finding('error', key, f'the weights are those of another model: {counts}', 'Give a checkpoint of this')]
    if not reshaped and not missing:
        return []
    shapes = [f'{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}' for name in reshaped]
    message = f'{counts} ({_first([*shapes, *missing])}), and keep their initial weights'
    if to_finetune:
        return [
            Finding('warning', key, message, 'Intended if the data have other classes; else load a checkpoint of it')
        ]
    return [Finding('error', key, message, 'Give a checkpoint of this config')]


def class_findings(checkpoint: Mapping, classes: Sequence[str], key: str) -> list[Finding]:
    """Compare the classes that a checkpoint was trained on with those of the data.

    Args:
        checkpoint: The content of the file.
        classes: The classes of the data, in the order of the labels.
        key: What the file was given as.
    """
    trained = tuple(((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes') or ())
    if trained == tuple(classes) or set(trained) != set(classes):
        return []
    return [
        Finding(
            'error',
            key,
            f'it was trained on the classes in another order, {trained}, and the data have {tuple(classes)}',
            'Give the data in that order, or another checkpoint',
        )
    ]


def _first(names: Sequence[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return f'{", ".join(names[:SHOWN])}{more}'
