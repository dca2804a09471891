"""Read images from a file system that may be away for a while, and name the image that cannot be read."""

import io
import os
from collections.abc import Iterator

from mmcv.transforms import LoadImageFromFile
from mmengine.fileio import LocalBackend, get, register_backend
from PIL import Image

from mmext.audit.images import END_MARKS
from mmext.errors import UnreadableFileError
from mmext.outages import IncompleteFileError, wait_out

BACKEND = 'mmext_images'
# What a file of a format with an end mark starts with.
STARTS = {'JPEG': b'\xff\xd8\xff', 'PNG': b'\x89PNG\r\n'}
# Where transforms and data sets keep those that they are made of.
PARTS = ('dataset', 'datasets', 'pipeline', 'transforms', 'subroutines')


class ImageBackend(LocalBackend):
    """mmengine's local files for images: waits while they are away, and refuses one whose end is missing.

    Of a JPEG that is cut off, OpenCV 4.8 makes an image without an error, whose last part is not in the file; 4.11
    gives no image and no reason.
    """

    def __init__(self):
        # The sizes of files that are whole though something follows the end mark.
        self.whole: dict[str, int] = {}

    def get(self, filepath: str | os.PathLike) -> bytes:
        """Read an image.

        Raises:
            UnreadableFileError: If it cannot be read, or its end is missing.
        """
        path = os.fspath(filepath)
        if '://' in path:
            return get(path)
        try:
            return wait_out(lambda: self._read(path), path)
        except OSError as error:
            raise UnreadableFileError(
                f'cannot read the image {path}: {error.strerror or error}. Put the file back, or remove it from the '
                'annotations; the checkpoints are intact, and --resume continues a training'
            ) from error

    def _read(self, path: str) -> bytes:
        content = super().get(path)
        if self.whole.get(path) != len(content) and is_incomplete(content):
            raise IncompleteFileError(f'it is cut off after {len(content)} bytes')
        if not has_end(content):
            self.whole[path] = len(content)
        return content


def has_end(content: bytes) -> bool:
    """Whether an image ends in the end mark of its format; formats without one count as having it."""
    marks = [END_MARKS[kind] for kind, start in STARTS.items() if content.startswith(start)]
    return all(content[-64:].rstrip(b'\0').endswith(mark) for mark in marks)


def is_incomplete(content: bytes) -> bool:
    """Whether the end of an image is missing. Only what does not end in the mark of its format is decoded for it."""
    if not content:
        return True
    if has_end(content):
        return False
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return True
    return False


register_backend(BACKEND, ImageBackend, force=True)


class BackendArguments(dict):
    """`backend_args` of :class:`ImageBackend`; who unpickles them imports this module, which registers it."""


def watch_images(dataset: object) -> None:
    """Let all transforms of a data set that load local images do so by :class:`ImageBackend`.

    Args:
        dataset: The data set; one that wraps others, too.
    """
    for transform in image_loaders(dataset):
        if transform.backend_args is None and transform.file_client_args is None:
            transform.backend_args = BackendArguments(backend=BACKEND)


def image_loaders(part: object) -> Iterator[LoadImageFromFile]:
    """The transforms that load images, in a data set, a transform or a list of them."""
    if isinstance(part, LoadImageFromFile):
        yield part
    elif isinstance(part, (list, tuple)):
        for each in part:
            yield from image_loaders(each)
    else:
        for name in PARTS:
            yield from image_loaders(getattr(part, '__dict__', {}).get(name, ()))
