"""Work dirs of trainings and comparisons, with drawn data, and records and detections that are made up."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mmext.comparison.matching import GroundTruth, Matches

CLASSES = ('disc', 'square', 'cross')
SIDE = 96
VERSIONS = dict(mmext='0.1.0', torch='2.13.0', mmdet='3.5.1', mmengine='0.10.12', mmcv='2.3.6', numpy='2.2.6')


def ground_truth(folder: Path, images: int = 12, seed: int = 0, pictures: bool = False) -> Path:
    """A COCO file with three classes, ids out of order, a crowd, an image without objects; returns its path."""
    rng = np.random.default_rng(seed)
    categories = [dict(id=category, name=name) for category, name in zip((7, 3, 5), CLASSES)]
    data = dict(images=[], annotations=[], categories=categories)
    for image in range(images):
        name = f'{image:03}.png'
        data['images'].append(dict(id=10 + image, file_name=name, width=SIDE, height=SIDE))
        for _ in range(rng.integers(1, 7) if image else 0):
            width, height = rng.integers(6, 48, 2).tolist()
            x, y = int(rng.integers(0, SIDE - width)), int(rng.integers(0, SIDE - height))
            category = categories[rng.choice(3, p=(0.7, 0.2, 0.1))]['id']
            box = [x, y, width, height]
            data['annotations'].append(
                dict(
                    id=len(data['annotations']) + 1,
                    image_id=10 + image,
                    category_id=category,
                    bbox=box,
                    area=width * height,
                    iscrowd=0,
                )
            )
    data['annotations'][-1]['iscrowd'] = 1
    path = folder / 'annotations' / 'val.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    if pictures:
        draw(data, folder / 'images')
    return path


def draw(data: Mapping, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image in data['images']:
        picture = Image.new('RGB', (SIDE, SIDE), 'gray')
        for thing in data['annotations']:
            if thing['image_id'] == image['id']:
                x, y, width, height = thing['bbox']
                ImageDraw.Draw(picture).ellipse((x, y, x + width, y + height), 'white')
        picture.save(folder / image['file_name'])


def detections(data: Mapping, rng: np.random.Generator, skill: float = 0.7, false_boxes: float = 3) -> list[dict]:
    """The objects with noise, some missed, and false boxes; scores do not repeat."""
    sizes = {image['id']: (image['width'], image['height']) for image in data['images']}
    categories = [category['id'] for category in data['categories']]
    found = []
    for thing in data['annotations']:
        for _ in range(1 + (rng.random() < 0.15)):
            if rng.random() < skill + 0.15:
                _, _, width, height = thing['bbox']
                noise = (1 - skill) * 0.32 * rng.standard_normal(4) * (width, height, width, height)
                box = np.maximum(np.array(thing['bbox']) + noise, (0, 0, 1, 1))
                category = thing['category_id'] if rng.random() < 0.85 + skill / 8 else rng.choice(categories)
                score = 1 / (1 + np.exp(-rng.normal(3.5 * skill - 1.2, 1.1)))
                found.append((thing['image_id'], category, box, score))
    for image, (width, height) in sizes.items():
        for _ in range(rng.poisson(false_boxes)):
            w, h = rng.uniform(0.05, 0.4, 2) * (width, height)
            box = (rng.uniform(0, width - w), rng.uniform(0, height - h), w, h)
            found.append((image, rng.choice(categories), box, 1 / (1 + np.exp(-rng.normal(-2.2, 1.0)))))
    return [
        dict(
            image_id=int(image),
            category_id=int(category),
            bbox=[round(float(value), 2) for value in box],
            score=float(score),
        )
        for image, category, box, score in found
    ]


def curve(metrics: Mapping, rng: np.random.Generator, epochs: int = 60) -> dict:
    """A learning curve that ends at these metrics."""
    val = []
    for epoch in range(5, epochs + 1, 5):
        rise = 1 - np.exp(-epoch / 12)
        jitter = 0 if epoch == epochs else rng.normal(0, 0.012)
        scores = {key: (metrics.get(key) or 0) * rise / (1 - np.exp(-epochs / 12)) for key in ('AP', 'AP50', 'AP75')}
        val.append({'epoch': epoch, **{key: max(value + jitter, 0) for key, value in scores.items()}})
    train = [
        dict(
            epoch=step / 2,
            iter=13 * step,
            loss=float(4 + 9 * np.exp(-step / 25) + rng.normal(0, 0.2)),
            loss_cls=1.0,
            loss_bbox=2.0,
            loss_obj=1.0,
        )
        for step in range(1, 2 * epochs + 1)
    ]
    return dict(train=train, val=val)


def result(name: str, seed: int, run: Mapping, metrics: Mapping, rng: np.random.Generator, **extra: object) -> dict:
    """What one finished run writes."""
    return dict(
        format=1,
        name=name,
        seed=seed,
        config=run['config'],
        options=run['options'],
        metrics=metrics,
        curve=curve(metrics, rng),
        versions=VERSIONS,
        hashes=dict(config=f'sha256:{name}', data='sha256:data', code='sha256:code'),
        device='CPU x86_64',
        epochs=60,
        seconds=400.0 + seed,
        resumed=False,
        **extra,
    )


def plan(names: Sequence[str], seeds: Sequence[int], annotations: Path, images: Path, classes=CLASSES) -> dict:
    runs = {name: dict(config=f'mmext::yolox/{name}.py', options={}, seeds=list(seeds)) for name in names}
    return dict(
        format=1,
        baseline=names[0],
        runs=runs,
        classes=list(classes),
        annotations=str(annotations),
        images=str(images),
        amp=False,
        data='0',
        command='mmext compare ...',
    )


def write(path: Path, content: Mapping) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def comparison(
    folder: Path,
    annotations: Path,
    images: Path,
    skills: Mapping[str, float],
    seeds: Sequence[int] = range(5),
    classes: Sequence[str] = CLASSES,
    false_boxes: float = 3,
    seed_noise: float = 0.02,
) -> Path:
    """A whole folder of runs with detections; the first of `skills` is the baseline."""
    outline = plan(list(skills), seeds, annotations, images, classes)
    write(folder / 'comparison.json', outline)
    data, truth = json.loads(annotations.read_text()), GroundTruth(annotations, classes)
    for seed in seeds:
        luck = np.random.default_rng(seed).normal(0, seed_noise)
        for position, (name, skill) in enumerate(skills.items()):
            rng = np.random.default_rng([seed, position])
            found = detections(data, rng, skill + luck + rng.normal(0, seed_noise / 2), false_boxes)
            scores = Matches(truth, found).scores(np.ones((1, len(truth.images)), np.int32))
            metrics = {key: None if np.isnan(value[0]) else float(value[0]) for key, value in scores.items()}
            content = result(name, seed, outline['runs'][name], metrics, rng, detections=found)
            write(folder / name / f'seed_{seed}' / 'result.json', content)
    return folder


CONFIG = """
default_scope = 'mmdet'
data = dict(
    type='CocoDataset', ann_file={annotations!r}, data_prefix=dict(img={images!r}), metainfo=dict(classes={classes!r}),
    pipeline=[])
train_dataloader = dict(dataset=dict(type='MultiImageMixDataset', dataset=data, pipeline=[]))
val_dataloader = dict(dataset=dict(**data, test_mode=True))
test_dataloader = val_dataloader
"""


def work_dir(
    folder: Path, steps: Sequence[Mapping], annotations: Path | None = None, time: str = '20260101_000000'
) -> Path:
    """What `mmext train` leaves in its work dir: these records, and a config with these annotations."""
    data = folder / time / 'vis_data'
    data.mkdir(parents=True, exist_ok=True)
    (data / 'scalars.json').write_text(''.join(json.dumps(step) + '\n' for step in steps))
    if annotations:
        images = str(annotations.parents[1] / 'images')
        (data / 'config.py').write_text(CONFIG.format(annotations=str(annotations), images=images, classes=CLASSES))
    return folder


def training(epochs: int = 4, scale: float = 1.0) -> list[dict]:
    """Records of four iterations of each epoch, and an evaluation after it; the losses have the shares 1 : 2 : 1."""
    steps = []
    for epoch in range(1, epochs + 1):
        for step in range(4 * epoch - 3, 4 * epoch + 1):
            loss = scale * 8 / step
            losses = dict(loss=loss, loss_cls=loss / 4, loss_bbox=loss / 2, loss_obj=loss / 4)
            steps.append(dict(lr=0.01 / step, data_time=0.1, **losses, epoch=epoch, iter=step, step=step))
        ap = round(0.5 * scale * epoch / epochs, 3)
        scores = {'bbox_mAP': ap, 'bbox_mAP_50': ap + 0.2, 'bbox_mAP_75': ap - 0.05, 'bbox_mAP_s': 0.1}
        evaluation = {'disc_precision': 0.3, **scores, 'bbox_mAP_copypaste': '0.1 0.2'}
        steps.append({**{f'coco/{key}': value for key, value in evaluation.items()}, 'time': 0.2, 'step': epoch})
    return steps
