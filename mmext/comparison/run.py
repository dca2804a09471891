"""One training of a comparison: equal initial weights and data order for a seed, and its result."""

import logging
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from platform import machine, python_version

import torch
from filelock import FileLock
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from mmengine.structures import BaseDataElement
from torch import nn

from mmext.checkpoints import newest_checkpoint, register_loaders
from mmext.cli.common import add_hook, build_runner, make_resumable
from mmext.deployment.results import coco_results
from mmext.visualization.curves import AP_NAMES
from mmext.visualization.scalars import read_scalars

from .conditions import code_hash, config_hash, data_hash
from .metrics import coco_metrics
from .plan import FORMAT, Plan, Run, write_json

LIBRARIES = ('mmext', 'torch', 'mmdet', 'mmengine', 'mmcv', 'numpy')
LOCK_FILE = 'run.lock'
NOT_LOSSES = ('base_lr', 'lr', 'data_time', 'grad_norm', 'time', 'epoch', 'iter', 'memory', 'step')


class DetectionsHook(Hook):
    """Keeps the detections of the last evaluation in COCO's result format."""

    priority = 'LOWEST'

    def __init__(self):
        self.detections: list[dict] | None = None

    def before_val_epoch(self, runner: Runner) -> None:
        """Drop the detections of the previous evaluation."""
        self.detections = []

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keep the detections of a batch."""
        category_ids = runner.val_dataloader.dataset.cat_ids
        for sample in outputs:
            self.detections += coco_results(sample.pred_instances, category_ids, image_id=sample.img_id)


def train(folder: str, name: str, seed: int) -> None:
    """Train a variant with a seed, resume it if it was interrupted, and write its result.

    It waits while another process trains the same run, and returns at once if the run is finished.

    Args:
        folder: The folder of the comparison.
        name: The variant.
        seed: The seed.
    """
    run = Run(Path(folder), name, seed)
    run.work_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run.work_dir / LOCK_FILE):
        if not run.result_file.is_file():
            write_json(run.result_file, _train(run, Plan.load(run.folder)))


def _train(run: Run, plan: Plan) -> dict:
    start = time.monotonic()
    config = run_config(run)
    init_default_scope(config.get('default_scope', 'mmdet'))
    register_loaders()
    latest = newest_checkpoint(run.work_dir)
    if latest:
        config.update(resume=True, load_from=str(latest))
    runner = build_runner(config)
    share_initial_weights(runner.model, run, plan)
    hook = DetectionsHook()
    runner.register_hook(hook)
    runner.train()
    return result(run, plan, runner, hook.detections, seconds=time.monotonic() - start, resumed=bool(latest))


def run_config(run: Run) -> Config:
    """The config of a run, with a checkpoint after each epoch."""
    config = Config.fromfile(run.config_file)
    config.work_dir = str(run.work_dir)
    # mmengine's logger, message hub and visualizer are kept by their names in a process.
    config.experiment_name = f'{run.name}_seed_{run.seed}'
    config.visualizer = {
        **config.get('visualizer', {'type': 'mmdet.DetLocalVisualizer'}),
        'name': config.experiment_name,
    }
    config.randomness = {**config.get('randomness', {}), 'seed': run.seed}
    checkpoint = config.default_hooks.checkpoint
    if checkpoint.get('by_epoch', True):
        checkpoint.interval = 1
    add_hook(config, 'mmext.CheckHook')
    make_resumable(config)
    return config


def share_initial_weights(model: nn.Module, run: Run, plan: Plan) -> None:
    """Draw the initial weights, those of the baseline with the same seed wherever name and shape agree."""
    model.init_weights()
    if run.name == plan.baseline:
        return
    baseline = initial_model(run_config(Run(run.folder, plan.baseline, run.seed)))
    weights = dict(baseline.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in weights and weights[name].shape == weight.shape:
                weight.copy_(weights[name])


def initial_model(config: Config) -> nn.Module:
    """The model of a config with the initial weights of its seed, as mmengine's runner draws them."""
    set_random_seed(config.randomness.seed)
    # mmengine logs a line for each weight.
    logging.disable(logging.INFO)
    try:
        model = MODELS.build(config.model)
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    return model


def result(
    run: Run, plan: Plan, runner: Runner, detections: list[dict], seconds: float, resumed: bool
) -> dict[str, object]:
    """The content of `result.json`."""
    variant, dataset = plan.runs[run.name], runner.val_dataloader.dataset
    image_ids = [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))]
    return dict(
        format=FORMAT,
        name=run.name,
        seed=run.seed,
        config=variant.config,
        options=variant.options,
        metrics=coco_metrics(plan.annotations, detections, dataset.cat_ids, image_ids),
        curve=curve(read_scalars(Path(runner.log_dir), resumed=True), len(runner.train_dataloader)),
        detections=detections,
        versions=versions(),
        hashes=hashes(run),
        device=torch.cuda.get_device_name() if get_device() == 'cuda' else f'{get_device()} {machine()}',
        epochs=runner.max_epochs,
        seconds=round(seconds, 1),
        resumed=resumed,
    )


def curve(records: Sequence[dict], iterations: int) -> dict[str, list[dict]]:
    """The losses over the epochs, and the AP after each evaluation.

    Args:
        records: mmengine's records.
        iterations: The number of iterations of an epoch.
    """
    losses = [
        dict(epoch=round(record['step'] / iterations, 4), iter=record['step'])
        | {name: round(value, 4) for name, value in record.items() if name not in NOT_LOSSES}
        for record in records
        if 'loss' in record
    ]
    evaluations = [
        dict(epoch=record['step']) | {AP_NAMES[name]: value for name, value in record.items() if name in AP_NAMES}
        for record in records
        if 'loss' not in record
    ]
    return dict(train=losses, val=evaluations)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {name: import_module(name).__version__ for name in LIBRARIES} | {'python': python_version()}


def hashes(run: Run) -> dict[str, str]:
    """Hashes of what a result depends on."""
    config = Config.fromfile(run.config_file)
    return dict(config=config_hash(config), data=data_hash(config), code=code_hash())
