"""Convert the public sources of Aquarium and HIT-UAV to COCO format, as the configs expect them.

aquarium: YOLO labels and photographs. They are resized to a long side of 448 px; the boxes are scaled and rounded to
0.01 px. All images of the splits train and valid are kept, in the order of their names.

hituav: infrared views of 640 x 512 px with COCO-like annotations. They are cut into quadrants of 320 x 256 px. A
quadrant keeps the objects of which it shows at least 40 %; those of the class DontCare are dropped. Written are the
quadrants whose objects hituav_quadrants.json lists (480 for training, 200 for validation), or all that keep an object.

Checked against the public annotations of hituav: the keys, the splits, the cutting and the order, on 15 images. Checked
for aquarium: the order of the classes. Not checked: aquarium's labels, the order of its images and their interpolation,
and the gray values of hituav's images.

Example:
    python tools/prepare_data.py aquarium Underwater-Object-Detection-YOLO-V8/aquarium_pretrain data/aquarium
    python tools/prepare_data.py hituav HIT-UAV-Infrared-Thermal-Dataset/normal_json data/hituav
"""

import argparse
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import yaml

SPLITS = ('train', 'val')
AQUARIUM_FOLDERS = {'train': 'train', 'val': 'valid'}
LONG_SIDE = 448
HITUAV_FILES = {'train': ('train.json',), 'val': ('val.json', 'instances_val.json')}
QUADRANT = (320, 256)
CORNERS = ((0, 0), (0, 256), (320, 0), (320, 256))
MIN_VISIBLE = 0.4
DROPPED_CLASS = 'DontCare'
# The JPEG quality of each data set.
QUALITY = {'aquarium': 88, 'hituav': 92}


def main(argv: list[str] | None = None) -> None:
    """Convert both splits, and print the number of images and boxes."""
    parser = build_parser()
    args = parser.parse_args(argv)
    annotations = args.out_dir / 'annotations'
    if annotations.exists():
        parser.error(f'{annotations} exists; choose another OUT_DIR or remove that folder')
    try:
        splits = {split: convert(args, split) for split in SPLITS}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    # Last, so that an interrupted run leaves nothing that looks complete.
    annotations.mkdir(parents=True)
    for split, data in splits.items():
        (annotations / f'{split}.json').write_text(json.dumps(data))
        numbers = Counter(item['category_id'] for item in data['annotations'])
        boxes = ', '.join(f'{numbers[category["id"]]} {category["name"]}' for category in data['categories'])
        print(f'{split}: {len(data["images"])} images, boxes: {boxes}')


def build_parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    description, _, example = __doc__.partition('Example:\n')
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=f'example:\n{example}', formatter_class=formatter)
    commands = parser.add_subparsers(dest='dataset', required=True, metavar='DATASET')
    aquarium = commands.add_parser('aquarium', help='YOLO labels and photographs, resized')
    aquarium.add_argument('source', type=Path, metavar='SOURCE', help='folder with data.yaml, train/ and valid/')
    hituav = commands.add_parser('hituav', help='infrared views from a drone, cut into quadrants')
    hituav.add_argument('source', type=Path, metavar='SOURCE', help='folder with annotations/, train/ and val/')
    hituav.add_argument(
        '--all', action='store_true', help='write all quadrants that keep an object, not only the listed ones'
    )
    for command in (aquarium, hituav):
        command.add_argument('out_dir', type=Path, metavar='OUT_DIR', help='where to write annotations/ and images/')
    return parser


def convert(args: argparse.Namespace, split: str) -> dict:
    """Write the images of a split, and return its annotations in COCO format.

    Raises:
        FileNotFoundError: If a file of the source is missing.
        ValueError: If a file of the source cannot be understood, or a listed quadrant is not in it.
        OSError: If an image cannot be written.
    """
    if args.dataset == 'aquarium':
        names, samples = read_aquarium(args.source, AQUARIUM_FOLDERS[split])
    else:
        names, samples = read_hituav(args.source, split, None if args.all else read_listed(split))
    folder = args.out_dir / 'images'
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    # Ids start at 1: COCOeval takes a match with annotation 0 for no match.
    for image_id, (image, objects) in enumerate(samples, start=1):
        file_name = f'{split}_{image_id - 1:03d}.jpg'
        if not cv2.imwrite(str(folder / file_name), image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY[args.dataset]]):
            raise OSError(f'could not write {folder / file_name}; is the disk full?')
        images.append(dict(id=image_id, file_name=file_name, width=image.shape[1], height=image.shape[0]))
        for category_id, box in objects:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category_id,
                    bbox=[round(value, 2) for value in box],
                    area=round(box[2] * box[3], 2),
                    iscrowd=0,
                )
            )
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    return dict(images=images, annotations=annotations, categories=categories)


def read_aquarium(source: Path, folder: str) -> tuple[list[str], Iterator[tuple[np.ndarray, list]]]:
    """Read a split of a YOLO data set.

    Args:
        source: The folder with data.yaml.
        folder: The folder of the split, with images/ and labels/.

    Returns:
        The class names, and for each image the resized image and its objects: category id, [x, y, width, height].
    """
    names = yaml.safe_load(existing(source / 'data.yaml').read_text())['names']
    paths = sorted(existing(source / folder / 'images').glob('*.jpg'))
    if not paths:
        raise FileNotFoundError(f'{source / folder / "images"} holds no jpg file; check SOURCE')

    labels = existing(source / folder / 'labels')

    def samples():
        for path in paths:
            image = resize(read_image(path, cv2.IMREAD_COLOR))
            yield image, read_yolo(labels / f'{path.stem}.txt', len(names), image.shape[1], image.shape[0])

    return names, samples()


def resize(image: np.ndarray) -> np.ndarray:
    """Return the image with a long side of 448 px."""
    scale = LONG_SIDE / max(image.shape[:2])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def read_yolo(path: Path, num_classes: int, width: int, height: int) -> list[tuple[int, list[float]]]:
    """Read a file of YOLO labels.

    Args:
        path: The file; a line has the class and the box's center and size, relative to the image.
        num_classes: The number of classes.
        width: The width of the image, in pixels.
        height: The height of the image, in pixels.

    Returns:
        The category id (from 1) and the box [x, y, width, height], within the image, in pixels.
    """
    objects = []
    # An image without objects may lack the file.
    text = path.read_text() if path.exists() else ''
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            label, x, y, w, h = (float(word) for word in line.split())
        except ValueError:
            raise ValueError(f'{path}, line {number}: {line!r} is not "class x y width height"') from None
        if label not in range(num_classes):
            raise ValueError(f'{path}, line {number}: class {label:g} is not one of the {num_classes} in data.yaml')
        left, top = max(0, (x - w / 2) * width), max(0, (y - h / 2) * height)
        right, bottom = min(width, (x + w / 2) * width), min(height, (y + h / 2) * height)
        objects.append((int(label) + 1, [left, top, right - left, bottom - top]))
    return objects


def read_hituav(
    source: Path, split: str, listed: list[str] | None
) -> tuple[list[str], Iterator[tuple[np.ndarray, list]]]:
    """Read a split of HIT-UAV, cut into quadrants.

    Args:
        source: The folder with annotations/ and the images of each split.
        split: 'train' or 'val'.
        listed: The fingerprints of the quadrants to return, in order, or None for all that keep an object.

    Returns:
        The class names, and for each quadrant the gray image and its objects: category id, [x, y, width, height].
    """
    paths = [source / 'annotations' / name for name in HITUAV_FILES[split]]
    path = existing(next((path for path in paths if path.is_file()), paths[0]))
    data = json.loads(path.read_text())
    names = {item['id']: item['name'] for item in data['categories'] if item['name'] != DROPPED_CLASS}
    ids = {source_id: number for number, source_id in enumerate(sorted(names), start=1)}
    objects = {}
    for item in read_key(data, path, 'annotation', 'annotations'):
        if item['category_id'] in ids:
            objects.setdefault(item['image_id'], []).append((ids[item['category_id']], item['bbox']))
    images = sorted((read_key(item, path, 'filename', 'file_name'), item['id']) for item in data['images'])
    quadrants = [
        (source / split / name, corner, kept)
        for name, image_id in images
        for corner in CORNERS
        if (kept := cut(objects.get(image_id, []), corner))
    ]
    if listed is not None:
        quadrants = select(quadrants, listed, path)
    return [names[source_id] for source_id in ids], ((crop(path, corner), kept) for path, corner, kept in quadrants)


def read_key(item: dict, path: Path, *names: str) -> object:
    """Return the value of the first of the names that the dict has: the source's, then COCO's."""
    for name in names:
        if name in item:
            return item[name]
    raise ValueError(f'{path} has neither {" nor ".join(map(repr, names))}; is it an annotation file of HIT-UAV?')


def cut(objects: list[tuple[int, list[int]]], corner: tuple[int, int]) -> list[tuple[int, list[int]]]:
    """Return the objects of which a quadrant shows at least 40 %, in its coordinates.

    Args:
        objects: The category ids and the boxes [x, y, width, height] of the whole image.
        corner: The quadrant's left and upper edge.
    """
    kept = []
    for category_id, (x, y, width, height) in objects:
        left, top = max(x - corner[0], 0), max(y - corner[1], 0)
        right, bottom = min(x - corner[0] + width, QUADRANT[0]), min(y - corner[1] + height, QUADRANT[1])
        if right > left and bottom > top and (right - left) * (bottom - top) >= MIN_VISIBLE * width * height:
            kept.append((category_id, [left, top, right - left, bottom - top]))
    return kept


def read_listed(split: str) -> list[str]:
    """Return the fingerprints of the quadrants of a split, in the order of their images."""
    return json.loads(Path(__file__).with_name('hituav_quadrants.json').read_text())[split]


def fingerprint(objects: list[tuple[int, list[int]]]) -> str:
    """Return a short hash of the objects of a quadrant, which differs between all listed quadrants."""
    return f'{zlib.crc32(json.dumps([[category_id, *box] for category_id, box in objects]).encode()):08x}'


def select(quadrants: list[tuple], listed: list[str], path: Path) -> list[tuple]:
    """Return the quadrants with these fingerprints, in the order of the list."""
    found = {}
    for quadrant in quadrants:
        found.setdefault(fingerprint(quadrant[-1]), quadrant)
    missing = [code for code in listed if code not in found]
    if missing:
        raise ValueError(
            f'{path} lacks {len(missing)} of the {len(listed)} listed quadrants; check out the documented commit, or '
            'write all quadrants with --all'
        )
    return [found[code] for code in listed]


def crop(path: Path, corner: tuple[int, int]) -> np.ndarray:
    """Return a quadrant of an image, in gray."""
    image = read_image(path, cv2.IMREAD_GRAYSCALE)
    if image.shape != (2 * QUADRANT[1], 2 * QUADRANT[0]):
        raise ValueError(f'{path} is {image.shape[1]} x {image.shape[0]} px, not 640 x 512; is it of HIT-UAV?')
    return image[corner[1] : corner[1] + QUADRANT[1], corner[0] : corner[0] + QUADRANT[0]]


def read_image(path: Path, mode: int) -> np.ndarray:
    """Return an image, as stored: without the rotation that its metadata may ask for."""
    image = cv2.imread(str(existing(path)), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f'{path} is not a readable image; download it again')
    return image


def existing(path: Path) -> Path:
    """Return a path that must exist."""
    if not path.exists():
        raise FileNotFoundError(f'{path} is missing; check SOURCE')
    return path


if __name__ == '__main__':
    main()
