"""Draw the data set "shapes": circles, triangles and stars on a cluttered background.

The classes are as imbalanced as in many real data sets (85, 10 and 5 % of the objects), and many objects are small or
partly hidden. A small detector learns it in minutes.
"""

import colorsys
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mmext.errors import UserError

# The distances of the corners from the center, in turn, for a shape about 2 wide.
OUTLINES = {
    'circle': np.ones(48),
    'triangle': np.full(3, 1.2),
    'star': np.tile([1.1, 0.45], 5),
}
CLASSES = tuple(OUTLINES)
SHARES = (0.85, 0.10, 0.05)
SPLITS = ('train', 'val')
SMALLEST_SIDE = 16
SMALL_SIDE = 32
SMALL_SHARE = 0.3
MIN_VISIBLE = 0.6
HIDDEN_BELOW = 0.95
MIN_CONTRAST = 90
MAX_TILT = np.pi / 6
# Raise it with every change to the drawing, so that an older data set is drawn afresh.
VERSION = 1


@dataclass
class Shape:
    """A drawn object.

    Attributes:
        name: The class.
        bbox: The box [x, y, width, height] of the part within the image, hidden or not.
        area: The pixels of the whole shape, those outside the image included.
        seen: The mask of the pixels still visible, on the padded canvas.
    """

    name: str
    bbox: list[int]
    area: int
    seen: np.ndarray

    @property
    def visible(self) -> float:
        """The visible fraction of the whole shape."""
        return np.count_nonzero(self.seen) / self.area


def draw(out_dir: Path, counts: dict[str, int], size: int, seed: int) -> str | None:
    """Draw the data set, unless the same one is there already.

    Args:
        out_dir: The folder of the data set.
        counts: The number of images of each split.
        size: The width and height of an image, in pixels; 64 or more.
        seed: The same seed gives the same files.

    Returns:
        The size and the shares of the data set in words, or None if the same data set was there already.

    Raises:
        UserError: If the folder has annotations that this function did not write. They are left as they are.
        OSError: If an image cannot be written.
    """
    infos = {split: describe(split, counts[split], size, seed) for split in SPLITS}
    existing = {split: read_annotations(out_dir, split) for split in SPLITS}
    if all(is_complete(out_dir, existing[split], infos[split]) for split in SPLITS):
        return None
    for split in SPLITS:
        annotation_path(out_dir, split).unlink(missing_ok=True)
    drawn = {split: make_split(out_dir, split, counts[split], size, seed) for split in SPLITS}
    # Last, so that an interrupted run leaves no annotations, and the next run draws the data set again.
    for split in SPLITS:
        write_annotations(out_dir, split, drawn[split])
    return summarize(drawn.values())


def describe(split: str, count: int, size: int, seed: int) -> dict:
    """Return the "info" block, which holds all that the split depends on."""
    return dict(description='shapes', version=VERSION, split=split, count=count, size=size, seed=seed)


def annotation_path(out_dir: Path, split: str) -> Path:
    """Return the path of the annotations of a split."""
    return out_dir / 'annotations' / f'{split}.json'


def read_annotations(out_dir: Path, split: str) -> dict | None:
    """Return what an earlier run wrote, or None.

    Raises:
        UserError: If mmext did not write the file, and so must not overwrite it.
    """
    path = annotation_path(out_dir, split)
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        ours = data['info']['description'] == 'shapes'
    except (ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise UserError(f'{path} was not written by `mmext shapes`: choose another folder with --out, or move the file')
    return data


def is_complete(out_dir: Path, data: dict | None, info: dict) -> bool:
    """Tell whether the split was drawn with these parameters and has all its images."""
    return (
        data is not None
        and data['info'] == info
        and all((out_dir / info['split'] / image['file_name']).is_file() for image in data['images'])
    )


def make_split(out_dir: Path, split: str, count: int, size: int, seed: int) -> dict:
    """Draw and write the images of a split.

    Args:
        out_dir: The folder of the data set; the images go into its subfolder ``split``.
        split: 'train' or 'val'; each has a random stream of its own.
        count: The number of images.
        size: The width and height of an image.
        seed: The seed of the data set.

    Returns:
        The annotations in COCO format, with the visible fraction of every object.
    """
    folder = Path(out_dir) / split
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in range(count):
        image, objects = draw_image(rng, size)
        file_name = f'{image_id:06d}.jpg'
        if not cv2.imwrite(str(folder / file_name), image, [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise OSError(f'could not write {folder / file_name}; is the disk full?')
        images.append(dict(id=image_id, file_name=file_name, width=size, height=size))
        for item in objects:
            # From 1 up: COCOeval takes a match with annotation 0 for no match.
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=CLASSES.index(item.name) + 1,
                    bbox=item.bbox,
                    area=item.bbox[2] * item.bbox[3],
                    iscrowd=0,
                    visible=round(item.visible, 4),
                )
            )
    return dict(
        info=describe(split, count, size, seed),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)],
    )


def draw_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[Shape]]:
    """Draw one image.

    Args:
        rng: The source of all that is random.
        size: The width and height of the image.

    Returns:
        The image (BGR, uint8) and its objects, the lowest first.
    """
    # Drawn with a margin, so that the parts of a shape outside the image can be counted.
    pad = size // 8
    canvas = draw_background(rng, size + 2 * pad)
    objects: list[Shape] = []
    for _ in range(rng.integers(4, 10)):
        add_shape(rng, canvas, pad, objects)
    for _ in range(rng.integers(0, 3)):
        add_bar(rng, canvas, objects)
    image = canvas[pad:-pad, pad:-pad] * np.float32(rng.uniform(0.85, 1.1))
    image += 4 * rng.standard_normal((size, size, 1), dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), objects


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a square canvas with a color gradient, soft spots and faint clutter."""
    corners = np.array([[muted_color(rng) for _ in range(2)] for _ in range(2)], np.float32)
    colors: np.ndarray = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    for cells, strength in ((5, 14), (24, 5)):
        spots = rng.normal(0, strength, size=(cells, cells)).astype(np.float32)
        colors += cv2.resize(spots, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    canvas = np.clip(colors, 0, 255).astype(np.uint8)

    clutter = canvas.copy()
    for _ in range(rng.integers(6, 13)):
        thickness = int(rng.integers(1, 3))
        start, end = rng.integers(0, size, size=(2, 2)).tolist()
        cv2.line(clutter, start, end, muted_color(rng), thickness, cv2.LINE_AA)
    for _ in range(rng.integers(4, 9)):
        rectangle = cv2.boxPoints(
            (rng.uniform(0, size, 2).tolist(), rng.uniform(size / 16, size / 3, 2).tolist(), rng.uniform(0, 90))
        )
        fill(clutter, rectangle, muted_color(rng))
    return cv2.addWeighted(clutter, 0.35, canvas, 0.65, 0)


def add_shape(rng: np.random.Generator, canvas: np.ndarray, pad: int, objects: list[Shape]) -> None:
    """Draw a random shape onto the canvas and append it, if a place is found in 20 tries."""
    size = canvas.shape[0] - 2 * pad
    # Not anew at every try, or the class that finds a place most easily would gain.
    name = rng.choice(CLASSES, p=SHARES).item()
    for _ in range(20):
        side = draw_side(rng, size)
        center = pad + rng.uniform(side / 4, size - side / 4, 2)
        points = outline(name, center, side, rng.uniform(-MAX_TILT, MAX_TILT))
        mask = fill(np.zeros(canvas.shape[:2], np.uint8), points, 255)
        seen = np.zeros(mask.shape, bool)
        seen[pad:-pad, pad:-pad] = mask[pad:-pad, pad:-pad] > 127
        x, y, width, height = cv2.boundingRect(seen.astype(np.uint8))
        shape = Shape(name, [x - pad, y - pad, width, height], np.count_nonzero(mask > 127), seen)
        if shape.visible >= MIN_VISIBLE and cover(objects, mask):
            paint(rng, canvas, points, mask)
            objects.append(shape)
            return


def draw_side(rng: np.random.Generator, size: int) -> float:
    """Return a random side length from 16 px to a third of the image, often below 32 px."""
    largest = size / 3
    limit = min(SMALL_SIDE, largest)
    if rng.random() < SMALL_SHARE:
        return rng.uniform(SMALLEST_SIDE, limit)
    return rng.uniform(limit, largest)


def outline(name: str, center: np.ndarray, side: float, angle: float) -> np.ndarray:
    """Return the corners (N, 2) of a shape, the first at the top but for a turn by ``angle``."""
    radii = side / 2 * OUTLINES[name]
    angles = angle - np.pi / 2 + np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def paint(rng: np.random.Generator, canvas: np.ndarray, points: np.ndarray, mask: np.ndarray) -> None:
    """Fill a shape with a color that stands out from what lies below, and rim some."""
    below = np.array(cv2.mean(canvas, mask))[:3]
    color = vivid_color(rng)
    while np.linalg.norm(color - below) < MIN_CONTRAST:
        color = vivid_color(rng)
    fill(canvas, points, color.tolist())
    if rng.random() < 0.5:
        cv2.polylines(canvas, [fixed_point(points)], True, (0.6 * color).tolist(), 1, cv2.LINE_AA, shift=4)


def add_bar(rng: np.random.Generator, canvas: np.ndarray, objects: list[Shape]) -> None:
    """Draw a bar over the shapes, if a place is found in 20 tries that leaves them visible."""
    size = canvas.shape[0]
    for _ in range(20):
        bar = cv2.boxPoints(
            (
                rng.uniform(0, size, 2).tolist(),
                (rng.uniform(0.3, 0.8) * size, rng.uniform(0.015, 0.04) * size),
                rng.uniform(0, 180),
            )
        )
        if cover(objects, fill(np.zeros((size, size), np.uint8), bar, 255)):
            fill(canvas, bar, muted_color(rng))
            return


def cover(objects: list[Shape], mask: np.ndarray) -> bool:
    """Hide the masked pixels of all objects, unless one would be hidden too much."""
    remaining = [item.seen & (mask <= 127) for item in objects]
    if any(np.count_nonzero(seen) < MIN_VISIBLE * item.area for item, seen in zip(objects, remaining)):
        return False
    for item, seen in zip(objects, remaining):
        item.seen = seen
    return True


def fill(canvas: np.ndarray, points: np.ndarray, color: float | list[float]) -> np.ndarray:
    """Fill a polygon on the canvas, with smooth edges, and return the canvas."""
    return cv2.fillPoly(canvas, [fixed_point(points)], color, cv2.LINE_AA, shift=4)


def fixed_point(points: np.ndarray) -> np.ndarray:
    """Return coordinates in 1/16 px, as OpenCV takes them with ``shift=4``."""
    return np.round(16 * points).astype(np.int32)


def muted_color(rng: np.random.Generator) -> list[float]:
    """Return a grayish color (BGR), for the background and the clutter."""
    hue, saturation, value = rng.random(3).tolist()
    rgb = colorsys.hsv_to_rgb(hue, 0.05 + 0.3 * saturation, 0.3 + 0.55 * value)
    return [255 * level for level in rgb[::-1]]


def vivid_color(rng: np.random.Generator) -> np.ndarray:
    """Return a strong color (BGR), for a shape."""
    hue, saturation, value = rng.random(3).tolist()
    rgb = colorsys.hsv_to_rgb(hue, 0.5 + 0.5 * saturation, 0.45 + 0.55 * value)
    return 255 * np.array(rgb[::-1])


def write_annotations(out_dir: Path, split: str, data: dict) -> None:
    """Write the annotations of a split in one step."""
    path = annotation_path(out_dir, split)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix('.tmp')
    draft.write_text(json.dumps(data))
    draft.replace(path)


def summarize(splits: Iterable[dict]) -> str:
    """Return the size and the shares of the data set in words."""
    splits = list(splits)
    items = [item for data in splits for item in data['annotations']]
    images = ' + '.join(str(len(data['images'])) for data in splits)
    numbers = Counter(CLASSES[item['category_id'] - 1] for item in items)
    classes = ', '.join(f'{numbers[name]} {name} ({numbers[name] / len(items):.1%})' for name in CLASSES)
    small = np.mean([item['area'] < SMALL_SIDE**2 for item in items])
    hidden = np.mean([item['visible'] < HIDDEN_BELOW for item in items])
    return (
        f'{images} images, {len(items)} objects: {classes}\n'
        f'{small:.1%} under {SMALL_SIDE} px, {hidden:.1%} partly hidden'
    )
