"""Publish a model: config and weights that mmdet loads where mmext is not installed, and ONNX."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config

from mmext.checkpoints import register_loaders

from .check import check_file, check_types
from .common import example, read_config
from .predict import add_config_arguments

if TYPE_CHECKING:
    from mmext.deployment.inference import Inferencer

RANDOM_SIZES = ((320, 320), (100, 260), (480, 350), (64, 64))
REAL_IMAGES = 4


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `mmext publish`."""
    arguments = argparse.ArgumentParser(
        description=__doc__,
        **example(
            'mmext publish mmext::yolox/yolox_nano_1xb8-60e_bccd.py work_dirs/bccd/epoch_60.pth published --onnx'
        ),
    )
    add_config_arguments(arguments)
    arguments.add_argument('out', help='new folder for config and weights')
    arguments.add_argument('--name', help='name of the files (default: the name of the config)')
    arguments.add_argument('--onnx', action='store_true', help='write an ONNX file too; for YOLOX alone')
    arguments.add_argument('--opset', type=int, default=18, help="version of ONNX's operators (default: 18)")
    arguments.add_argument(
        '--images',
        metavar='IMAGE_OR_FOLDER',
        help='compare predictions before and after on up to four of these images, besides random ones (default: the '
        "config's test images, if they are here)",
    )
    return arguments.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder, and compare what was written with the original."""
    args = parse_args(argv)
    register_loaders(args.trust_checkpoint)
    config = read_config(args.config)
    config.merge_from_dict(args.cfg_options or {})
    check_types(config.to_dict())
    # They import mmdet, which read_config checks.
    from mmext.deployment.inference import Inferencer
    from mmext.deployment.publishing import compare, publish, random_images

    original = Inferencer(config, check_file(args.checkpoint, 'checkpoint'), 'cpu')
    if args.onnx:
        from mmext.deployment.onnx_export import check_exportable

        check_exportable(original.model)
    images = real_images(original, args.images)
    files = publish(original, args.trust_checkpoint, Path(args.out), args.name or Path(args.config).stem)
    published = Inferencer(Config.fromfile(files.config), str(files.weights), 'cpu')
    agreement = compare(original, published, [*random_images(RANDOM_SIZES), *images])
    print(f'config: {files.config}')
    print(f'weights: {files.weights}')
    if files.module:
        print(f'head: {files.module}, which the config imports: keep it beside the config')
    print(
        f'predictions are the same: {agreement.detections} detections on {len(RANDOM_SIZES)} random images and '
        f'{len(images)} real ones, largest difference {agreement.difference:.1e}'
    )
    if not images:
        print('there were no real images to compare on: name some by --images')
    if args.onnx:
        write_onnx(published, images, files.weights.parent / f'{files.config.stem}.onnx', args.opset)


def write_onnx(published: 'Inferencer', images: Sequence[str], path: Path, opset: int) -> None:
    """Export the published detector, compare the result with it, and write the file."""
    from mmext.deployment.onnx_export import check_onnx, export_onnx
    from mmext.deployment.publishing import write_with_hash

    content = export_onnx(published, opset)
    agreement = check_onnx(content, published, images)
    print(f'ONNX: {write_with_hash(path, content)}, opset {opset}; batch, height and width are dynamic')
    print(
        f'onnxruntime and torch agree on {agreement.images} images: largest difference {agreement.difference:.1e} '
        f'in the boxes and scores of {agreement.detections} priors'
    )


def real_images(original: 'Inferencer', source: str | None) -> list[str]:
    """Some images to compare on: of the source, or of the config's test data; none if they are not here."""
    from mmext.deployment.inference import find_images
    from mmext.deployment.results import inference_dataset

    folder = source or inference_dataset(original.cfg).data_prefix.get('img', '')
    if not source and not Path(folder or '/dev/null').is_dir():
        return []
    return [str(path) for path in find_images(folder)[:REAL_IMAGES]]
