"""Tiny detectors with random weights, their configs and checkpoints."""

from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmext.checkpoints import register_loaders
from mmext.cli.common import read_config
from mmext.deployment.inference import Inferencer

CLASSES = ('circle', 'triangle', 'star')
EXPERIMENT = """
_base_ = 'mmext::yolox/{base}.py'
data_root = {root!r}
metainfo = dict(classes={classes!r})
test_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
model = dict(
    backbone=dict(widen_factor=0.125),
    neck=dict(in_channels=[32, 64, 128], out_channels=16),
    bbox_head=dict(num_classes={number}, in_channels=16, feat_channels=16, {head}),
    test_cfg=dict(score_thr=0.3))
"""
SIGMOID, SOFTMAX = 'yolox_nano_1xb8-9e_shapes', 'yolox_nano_recommended_1xb8-9e_shapes'


def write_config(folder: Path, root: Path, base: str = SIGMOID, classes: tuple[str, ...] = CLASSES) -> Path:
    """The config of a tiny detector on the shapes data set."""
    head = f'loss_cls=dict(alpha={[1.0] * len(classes)})' if base == SOFTMAX else ''
    file = folder / f'{base}_{len(classes)}.py'
    file.write_text(EXPERIMENT.format(base=base, root=f'{root}/', classes=classes, number=len(classes), head=head))
    return file


def build(config: Config, seed: int = 0) -> torch.nn.Module:
    """A detector with random weights whose outputs have a trained one's range: scores all over [0, 1], sane boxes."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config.model).eval()
    head = model.bbox_head
    with torch.no_grad():
        outputs = head(model.extract_feat(torch.rand(2, 3, 96, 96) * 255))
        layers = head.multi_level_conv_cls, head.multi_level_conv_reg, head.multi_level_conv_obj
        for kind, levels, deviation in zip(layers, outputs, (3, 0.5, 3)):
            for layer, level in zip(kind, levels):
                layer.weight *= deviation / level.std()
                layer.bias.zero_()
    return model


def write_checkpoint(file: Path, model: torch.nn.Module, classes: tuple[str, ...] | None = CLASSES) -> Path:
    """A checkpoint as mmengine saves it with an EMA: `state_dict` has the average."""
    torch.save(
        dict(
            meta=dict(epoch=3, iter=12, **({} if classes is None else dict(dataset_meta=dict(classes=classes)))),
            state_dict=model.state_dict(),
            ema_state_dict={f'module.{key}': value * 0 for key, value in model.state_dict().items()},
            optimizer=dict(state={}),
            message_hub=dict(),
        ),
        file,
    )
    return file


def detector(folder: Path, root: Path, base: str = SIGMOID, classes: tuple[str, ...] = CLASSES) -> tuple[Path, Path]:
    """The files of a tiny detector, its config and its checkpoint."""
    config = write_config(folder, root, base, classes)
    return config, write_checkpoint(config.with_suffix('.pth'), build(read_config(str(config))), classes)


def load(config: Path, checkpoint: Path) -> Inferencer:
    """The detector of these files."""
    register_loaders()
    return Inferencer(read_config(str(config)), str(checkpoint), 'cpu')
