"""Checks of the images of a COCO file."""

import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path

from mmengine.fileio import LocalBackend, get_file_backend
from PIL import Image, UnidentifiedImageError

from .findings import Finding
from .records import Records, named

# What a whole file ends in; a file that does not is decoded to see whether it is truncated.
END_MARKS = {'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}
# Orientations of EXIF that swap width and height.
TURNED = range(5, 9)
ORIENTATION = 0x0112
BITS_PER_SAMPLE = 258
# The level, what is wrong, and the remedy of each fault of an image.
FAULTS = {
    'unreadable': (
        'error',
        'no decoder reads the file',
        'Replace the files, or remove their records',
    ),
    'truncated': ('error', 'the file is truncated', 'Copy the files again, or remove their records'),
    'size': (
        'error',
        'the file has another size than the annotations state, so the boxes are in the wrong place',
        'Correct width and height, and scale the boxes to the images as they are',
    ),
    'turned': (
        'error',
        'the EXIF data turn the image when it is loaded, but the annotations have the size before, so the boxes are in '
        'the wrong place',
        "Turn the pixels and remove the EXIF orientation, or set color_type='color_ignore_orientation' in "
        'LoadImageFromFile',
    ),
    '16-bit': (
        'warning',
        'the file has 16 bits for each value, of which training reads the upper 8: images with a small range are black',
        'Scale the values to 8 bits',
    ),
    'alpha': (
        'warning',
        'the file has an alpha channel, which training ignores: it sees the colors behind transparent pixels',
        'Put the images on a background, and save them without alpha',
    ),
}


def are_local(folder: str, backend_args: dict | None) -> bool:
    """Whether images below a folder are files of this machine."""
    return isinstance(get_file_backend(folder, backend_args=backend_args), LocalBackend)


def missing_images(records: Records, folder: str) -> list[Finding]:
    """Check that the images of a COCO file exist, by one listing of each folder.

    Args:
        records: From :func:`~mmext.audit.records.read_records`.
        folder: `data_prefix['img']` of the data set, joined with its `data_root`.
    """
    names = defaultdict(list)
    for image in records.images:
        path = Path(folder, image['file_name'])
        names[path.parent].append((path.name, image['id']))
    found = {parent: set(os.listdir(parent)) if parent.is_dir() else set() for parent in names}
    missing = [
        (parent, name, image_id)
        for parent, children in names.items()
        for name, image_id in children
        if name not in found[parent]
    ]
    if not missing:
        return []
    parent, name, _ = missing[0]
    ids = [image_id for *_, image_id in missing]
    message = f'{named(ids, "images")} have no file, such as {parent / name}'
    remedy = f'Check data_prefix and file_name{_hint(parent, name, found[parent])}'
    return [Finding('error', f'{records.path}: images.file_name', message, remedy)]


def _hint(parent: Path, name: str, found: Iterable[str]) -> str:
    if not parent.is_dir():
        return f': there is no folder {parent}'
    near = get_close_matches(name.lower(), [each.lower() for each in found], n=1, cutoff=0.8)
    like = [each for each in found if near and each.lower() == near[0]]
    return f': the folder has {like[0]}' if like else ''


def image_findings(records: Records, folder: str, orientation: bool = True) -> list[Finding]:
    """Open the images of a COCO file and check them.

    The headers are read, and the end of each file. The pixels are decoded only where the end is not that of a whole
    JPEG or PNG.

    Args:
        records: From :func:`~mmext.audit.records.read_records`.
        folder: Where the images are.
        orientation: Whether the pipeline turns images as their EXIF data say.
    """
    images = [image for image in records.images if Path(folder, image['file_name']).is_file()]
    with ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1))) as pool:
        faults = pool.map(lambda image: image_faults(Path(folder, image['file_name']), image, orientation), images)
        grouped = defaultdict(list)
        for image, found in zip(images, faults):
            for fault, detail in found.items():
                grouped[fault].append((image, detail))
    findings = []
    for fault, (level, text, remedy) in FAULTS.items():
        if hits := grouped[fault]:
            first, detail = hits[0]
            ids = named([image['id'] for image, _ in hits], 'images')
            message = f'{ids}, the first {first["file_name"]} ({detail}): {text}'
            findings.append(Finding(level, f'{records.path}: images', message, remedy))
    return findings


def image_faults(path: Path, stated: dict, orientation: bool = True) -> dict[str, str]:
    """The faults of an image, keys of :data:`FAULTS`, with details.

    Args:
        path: The file.
        stated: Its record in the annotations.
        orientation: Whether the pipeline turns images as their EXIF data say.
    """
    try:
        with Image.open(path) as image:
            faults = _header_faults(image, (stated['width'], stated['height']), orientation)
            bits = _bits(path, image)
            if bits > 8:
                faults['16-bit'] = f'{bits} bits'
            if not _ends_whole(path, image.format):
                try:
                    image.load()
                except (OSError, SyntaxError, ValueError) as error:
                    faults['truncated'] = str(error)
            return faults
    except Image.DecompressionBombError:
        # Pillow opens no image of more than 179 megapixels; OpenCV, which training uses, does.
        return {}
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        return {'unreadable': str(error)}


def _header_faults(image: Image.Image, stated: tuple[int, int], orientation: bool) -> dict[str, str]:
    faults = {}
    size = image.size
    # Pillow decodes a PNG to look for EXIF data after the pixels.
    has_exif = image.format != 'PNG' or 'exif' in image.info
    turned = orientation and has_exif and image.getexif().get(ORIENTATION) in TURNED
    loaded = size[::-1] if turned else size
    detail = f'{loaded[0]} x {loaded[1]} px instead of {stated[0]} x {stated[1]}'
    if loaded != stated:
        faults['turned' if turned and size == stated else 'size'] = detail
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        faults['alpha'] = f'mode {image.mode}'
    return faults


def _bits(path: Path, image: Image.Image) -> int:
    """The bits for each value. Pillow opens 16-bit color as 8-bit, so that its mode does not tell."""
    if image.format == 'PNG':
        with path.open('rb') as file:
            return file.read(25)[24]
    if image.format == 'TIFF':
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    return {'I': 32, 'F': 32}.get(image.mode.split(';')[0], 8)


def _ends_whole(path: Path, kind: str | None) -> bool:
    if kind not in END_MARKS:
        return False
    with path.open('rb') as file:
        file.seek(max(path.stat().st_size - 64, 0))
        return file.read().rstrip(b'\0').endswith(END_MARKS[kind])
