"""Predict on images: pictures with the boxes, and the detections in COCO's result format."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import DictAction

from mmext.checkpoints import register_loaders, write_atomically

from .check import check_file, check_types
from .common import example, read_config
from .progress import track

if TYPE_CHECKING:
    from mmext.deployment.inference import Inferencer, Outcome

# What OpenCV writes with the colors of a picture.
PICTURES = ('.jpg', '.jpeg', '.png')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext predict`."""
    arguments = argparse.ArgumentParser(
        description=__doc__,
        **example(
            'mmext predict mmext::yolox/yolox_nano_1xb8-60e_bccd.py work_dirs/bccd/epoch_60.pth data/bccd/images'
        ),
    )
    add_config_arguments(arguments)
    arguments.add_argument(
        'source', metavar='IMAGE_OR_FOLDER', help='an image, or a folder: all images in it and in the folders below it'
    )
    arguments.add_argument(
        '--out', help='folder for pictures and predictions.json (default: predictions/NAME_OF_CONFIG)'
    )
    arguments.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of a box in the pictures; predictions.json has all that the config keeps (default: 0.3)',
    )
    arguments.add_argument('--no-pictures', action='store_true', help='write predictions.json alone')
    arguments.add_argument('--batch-size', type=int, default=1, help='images in one batch (default: 1)')
    arguments.add_argument('--device', help='where to run, such as cpu or cuda:1 (default: a GPU, if there is one)')
    args = arguments.parse_args(argv)
    if args.batch_size < 1:
        arguments.error(f'--batch-size must be at least 1, but is {args.batch_size}')
    return args


def add_config_arguments(arguments: argparse.ArgumentParser) -> None:
    """Add the arguments that name a trained model."""
    arguments.add_argument('config', help='config: a file, or the name of one that mmext ships, mmext::yolox/....py')
    arguments.add_argument('checkpoint', help='checkpoint file')
    arguments.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='settings that override the config'
    )
    arguments.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load a checkpoint that holds more than data, which can run any code: only files of people you trust',
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, and write pictures and JSON.

    Returns:
        0, or 1 if an image could not be read.
    """
    args = parse_args(argv)
    register_loaders(args.trust_checkpoint)
    config = read_config(args.config)
    config.merge_from_dict(args.cfg_options or {})
    check_types(config.to_dict())
    # They import mmdet, which read_config checks.
    from mmext.deployment.inference import Inferencer, find_images, predict_images

    images = find_images(args.source)
    inferencer = Inferencer(config, check_file(args.checkpoint, 'checkpoint'), args.device)
    outcomes = track(predict_images(inferencer, images, args.batch_size), len(images), 'images')
    out = Path(args.out or Path('predictions', Path(args.config).stem))
    return write_predictions(inferencer, outcomes, Path(args.source), out, None if args.no_pictures else args.score_thr)


def write_predictions(
    inferencer: 'Inferencer', outcomes: Iterable['Outcome'], source: Path, out: Path, score_thr: float | None
) -> int:
    """Write the pictures as they come and the detections at the end, and print what was found.

    Args:
        inferencer: The detector.
        outcomes: What became of each image.
        source: The image, or the folder of images.
        out: The folder to write to.
        score_thr: The lowest score of a box in the pictures; None: no pictures.

    Returns:
        0, or 1 if an image could not be read.
    """
    from mmext.deployment.inference import write_picture
    from mmext.deployment.results import coco_results, read_ids

    classes = inferencer.model.dataset_meta['classes']
    ids = read_ids(classes, inferencer.cfg)
    detections, failures, pictures = [], {}, 0
    for path, prediction, failure in outcomes:
        if prediction is None:
            failures[path] = failure
            continue
        name = path.relative_to(source) if source.is_dir() else Path(path.name)
        image = dict(image_id=ids.image_id(path), file_name=name.as_posix())
        detections += coco_results(prediction.pred_instances, ids.category_ids, **image)
        if score_thr is not None:
            write_picture(out / 'pictures' / picture_name(name), inferencer.draw(path, prediction, score_thr))
            pictures += 1
    file = out / 'predictions.json'
    write_atomically(file, json.dumps(detections).encode())
    print(summary(file, detections, dict(zip(ids.category_ids, classes)), pictures))
    if not ids.has_categories:
        print('category_id counts the classes from 1: the annotation file of the test data is not here, or lacks one')
    if ids.unknown:
        print(f'image_id is new for {ids.unknown} images that are not in the annotation file of the test data')
    for path, failure in failures.items():
        print(f'mmext: error: {path} was not read: {failure}', file=sys.stderr)
    return 1 if failures else 0


def picture_name(name: Path) -> Path:
    """The name of the picture of an image; PNG unless the image is a JPEG or a PNG."""
    return name if name.suffix.lower() in PICTURES else name.with_name(f'{name.name}.png')


def summary(file: Path, detections: Sequence[dict], names: dict[int, str], pictures: int) -> str:
    """What was written and found, one line each."""
    counts = Counter(detection['category_id'] for detection in detections)
    classes = ', '.join(f'{names[category]} {counts[category]}' for category in names)
    lines = [f'detections: {file} ({len(detections)}: {classes})']
    if pictures:
        lines.append(f'pictures: {file.parent / "pictures"} ({pictures})')
    return '\n'.join(lines)
