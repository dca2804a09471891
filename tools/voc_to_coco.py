r"""Convert annotations in Pascal VOC layout (such as the original BCCD) to one COCO file.

MMDetection numbers the classes in the order of the COCO file, so --config takes that order from the config that will be
trained.

Example:
    python tools/voc_to_coco.py BCCD data/bccd/annotations/train.json --split train \
        --config configs/yolox/yolox_nano_1xb8-60e_bccd.py
"""

import argparse
import json
import logging
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import cv2

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> None:
    """Convert, and print the number of images and boxes."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        classes = read_config_classes(args.config) if args.config else args.classes
        data = convert(args.voc_root, args.split, classes)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    args.out_json.parent.mkdir(parents=True, exist_ok=True)
    args.out_json.write_text(json.dumps(data))

    numbers = Counter(item['category_id'] for item in data['annotations'])
    boxes = ', '.join(f'{numbers[category["id"]]} {category["name"]}' for category in data['categories'])
    print(f'{len(data["images"])} images, boxes: {boxes}; {args.out_json}')


def build_parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    description, _, example = __doc__.partition('Example:\n')
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f'example:\n{example}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'voc_root', type=Path, metavar='VOC_ROOT', help='folder with Annotations/, JPEGImages/ and ImageSets/Main/'
    )
    parser.add_argument('out_json', type=Path, metavar='OUT_JSON', help='file to write')
    parser.add_argument(
        '--split',
        metavar='NAME',
        help='convert the images in ImageSets/Main/NAME.txt (default: every xml file, sorted by name)',
    )
    order = parser.add_mutually_exclusive_group()
    order.add_argument(
        '--config',
        metavar='CONFIG',
        help='take the class names and their order from the training data of this config (file or mmext::yolox/....py)',
    )
    order.add_argument(
        '--classes',
        nargs='+',
        metavar='CLASS',
        help='class names in the order of their ids (default: all names in Annotations/, in alphabetical order)',
    )
    return parser


def read_config_classes(name: str) -> list[str]:
    """Return the class names in the order of the training data of a config.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it names no classes, or its data sets differ.
    """
    # Without --config this script needs no OpenMMLab stack.
    from mmext.audit import leaves
    from mmext.cli.common import read_config

    dataset = (read_config(name).get('train_dataloader') or {}).get('dataset')
    data_sets = leaves(dataset).values() if dataset else []
    found = {tuple(leaf.get('metainfo', {}).get('classes', ())) for leaf in data_sets}
    if len(found) != 1 or found == {()}:
        raise ValueError(f'{name} has no single train_dataloader.dataset.metainfo.classes: name them with --classes')
    return list(found.pop())


def convert(root: Path, split: str | None = None, classes: list[str] | None = None) -> dict:
    """Convert a data set in Pascal VOC layout.

    Args:
        root: The folder with Annotations/, JPEGImages/ and ImageSets/Main/.
        split: The name of a file in ImageSets/Main/, or None for every xml file.
        classes: The class names in the order of their ids, or None for all names in the folder, sorted.

    Returns:
        The annotations in COCO format. Difficult objects carry ``ignore=1``: MMDetection
        leaves them out of the training, but COCOeval counts them.

    Raises:
        FileNotFoundError: If a folder, the split, an xml file or an image is missing.
        ValueError: If an xml file cannot be understood or names a class not in ``classes``.
    """
    paths = list_annotations(root, split)
    if classes is None:
        # From all files, so that every split has the same ids.
        classes = find_classes(sorted((root / 'Annotations').glob('*.xml')))
    images, annotations, dropped = [], [], 0
    # Ids start at 1: COCOeval takes a match with annotation 0 for no match.
    for image_id, path in enumerate(paths, start=1):
        tree = read_xml(path)
        image_path = find_image(root, path, tree)
        width, height = read_size(tree, image_path)
        images.append(dict(id=image_id, file_name=image_path.name, width=width, height=height))
        for node in tree.iter('object'):
            bbox = read_box(node, path, width, height)
            if bbox[2] <= 0 or bbox[3] <= 0:
                dropped += 1
                continue
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=read_class(node, path, classes) + 1,
                    bbox=bbox,
                    area=bbox[2] * bbox[3],
                    iscrowd=0,
                    ignore=int(node.findtext('difficult', '0').strip() == '1'),
                )
            )
    if dropped:
        logger.warning('dropped %d boxes without area', dropped)
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, start=1)]
    return dict(images=images, annotations=annotations, categories=categories)


def list_annotations(root: Path, split: str | None) -> list[Path]:
    """Return the xml files of a split, or all of them."""
    for folder in (root / 'Annotations', root / 'JPEGImages'):
        if not folder.is_dir():
            raise FileNotFoundError(
                f'{folder} is missing; VOC_ROOT must be the folder that holds Annotations/ and JPEGImages/'
            )
    if split is None:
        paths = sorted((root / 'Annotations').glob('*.xml'))
        if not paths:
            raise FileNotFoundError(f'{root / "Annotations"} holds no xml file; check VOC_ROOT')
        return paths
    split_path = root / 'ImageSets' / 'Main' / f'{split}.txt'
    if not split_path.is_file():
        names = ', '.join(sorted(path.stem for path in split_path.parent.glob('*.txt')))
        raise FileNotFoundError(f'{split_path} is missing; available splits: {names or "none"}')
    stems = [line.strip() for line in split_path.read_text().splitlines()]
    paths = [root / 'Annotations' / f'{stem}.xml' for stem in stems if stem]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f'{path} is missing, but {split_path} names it; add the file or take the name out')
    return paths


def find_classes(paths: list[Path]) -> list[str]:
    """Return the class names in the files in alphabetical order."""
    return sorted({read_text(node, 'name', path) for path in paths for node in read_xml(path).iter('object')})


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an xml file."""
    try:
        # Expat 2.4.1 and later, of Python 3.10 and later, refuse entities that expand without end.
        return ElementTree.parse(path).getroot()  # noqa: S314
    except ElementTree.ParseError as error:
        raise ValueError(f'{path} is not valid xml ({error}); download it again') from error


def find_image(root: Path, path: Path, tree: ElementTree.Element) -> Path:
    """Return the image of an xml file."""
    # Some copies of BCCD leave out the extension in <filename>.
    names = (tree.findtext('filename', '').strip(), f'{path.stem}.jpg')
    for name in names:
        if (root / 'JPEGImages' / name).is_file():
            return root / 'JPEGImages' / name
    raise FileNotFoundError(
        f'{root / "JPEGImages"} holds neither {names[0]!r} nor {names[1]!r}, '
        f'the image of {path.name}; add it or remove the xml file'
    )


def read_size(tree: ElementTree.Element, image_path: Path) -> tuple[int, int]:
    """Return width and height, from the image itself if the xml has none."""
    texts = [tree.findtext(f'size/{side}', '').strip() for side in ('width', 'height')]
    if all(text.isdecimal() and int(text) > 0 for text in texts):
        return int(texts[0]), int(texts[1])
    image = cv2.imread(str(image_path))
    if image is None:
        raise ValueError(
            f'{image_path} is not a readable image, and its xml file has no size; download the image again'
        )
    return image.shape[1], image.shape[0]


def read_box(node: ElementTree.Element, path: Path, width: int, height: int) -> list[float]:
    """Return [x, y, width, height] within the image; VOC coordinates start at 1 and include the end."""
    xmin, ymin, xmax, ymax = (read_number(node, f'bndbox/{side}', path) for side in ('xmin', 'ymin', 'xmax', 'ymax'))
    left, top = max(xmin - 1, 0), max(ymin - 1, 0)
    return [left, top, min(xmax, width) - left, min(ymax, height) - top]


def read_class(node: ElementTree.Element, path: Path, classes: list[str]) -> int:
    """Return the index of the class of an object."""
    name = read_text(node, 'name', path)
    if name not in classes:
        raise ValueError(
            f'class {name!r} in {path} is not one of {" ".join(classes)}; add it to --classes or to the config'
        )
    return classes.index(name)


def read_number(node: ElementTree.Element, tag: str, path: Path) -> float:
    """Return the number in a tag of an object."""
    text = read_text(node, tag, path)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f'{path}: <{tag}> is {text!r}; make it a number') from None


def read_text(node: ElementTree.Element, tag: str, path: Path) -> str:
    """Return the text in a tag of an object."""
    text = node.findtext(tag, '').strip()
    if not text:
        raise ValueError(f'{path}: an object lacks <{tag}>; add it or remove the object')
    return text


if __name__ == '__main__':
    main()
