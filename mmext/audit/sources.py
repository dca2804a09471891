"""The CocoDatasets of a config."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from os.path import realpath

from mmengine.config import Config

from .findings import Finding
from .labels import LabelOrder, build_coco, children, leaves
from .records import Records, category_names, read_records

SPLITS = ('train', 'val', 'test')
# The remedy of a note that needs none.
NOTHING = 'Nothing is to be done'
Read = Callable[[str, dict | None], tuple[Records | None, list[Finding]]]


@dataclass(frozen=True)
class Source:
    """One CocoDataset of a config.

    Attributes:
        split: `train`, `val` or `test`.
        place: Where the config has it, such as `train_dataloader.dataset`.
        pipeline: Its transforms, then those of its wrappers, each with its class; None for a class not registered.
        dataset: It, built, but without pipeline and annotations.
        records: The well-formed records of its annotation file; None if that is no COCO file.
    """

    split: str
    place: str
    pipeline: list[tuple[type | None, Mapping]]
    dataset: object
    records: Records | None

    @property
    def order(self) -> LabelOrder:
        """Its classes, in the orders of the config and of the file."""
        classes, names = tuple(self.dataset.metainfo['classes']), category_names(self.records).values()
        return LabelOrder(self.place, self.records.path, classes, tuple(name for name in names if name in classes))


def reader() -> Read:
    """:func:`read_records` that reads each file once."""
    known = {}

    def read(path: str, backend_args: dict | None) -> tuple[Records | None, list[Finding]]:
        if file_key(path) not in known:
            known[file_key(path)] = read_records(path, backend_args)
        return known[file_key(path)]

    return read


def file_key(path: str) -> str:
    """A path as a key: equal for two paths of one file."""
    return path if '://' in path else realpath(path)


def capped(findings: Iterable[Finding], splits: Iterable[str]) -> list[Finding]:
    """The findings about what these splits read, without errors if that is the test data alone."""
    if set(splits) != {'test'}:
        return list(findings)
    return [replace(each, level='warning') if each.level == 'error' else each for each in findings]


def find_sources(config: Config, read: Read) -> tuple[list[Source], list[Finding]]:
    """The CocoDatasets of the config, and a note about each data set that is none."""
    sources, notes = [], []
    for split in SPLITS:
        loader = config.get(f'{split}_dataloader') or {}
        if 'dataset' not in loader:
            continue
        for place, leaf in leaves(loader.dataset, f'{split}_dataloader.dataset').items():
            dataset = build_coco(leaf)
            if dataset is None:
                notes.append(Finding('note', place, f'the data of a {leaf.type} are not checked', NOTHING))
                continue
            records, _ = read(dataset.ann_file, dataset.backend_args)
            pipeline = _pipeline(loader.dataset, f'{split}_dataloader.dataset', place)
            sources.append(Source(split, place, pipeline, dataset, records))
    return sources, notes


def _pipeline(dataset: Mapping, place: str, leaf: str) -> list[tuple[type | None, Mapping]]:
    """The transforms of the data set at the place `leaf`, then those of its wrappers, each with its class."""
    from mmdet.registry import TRANSFORMS

    below = children(dataset, place).items()
    inner = [_pipeline(child, inside, leaf) for inside, child in below if leaf.startswith(inside)]
    own = [
        (step['type'] if isinstance(step['type'], type) else TRANSFORMS.get(step['type']), step)
        for step in dataset.get('pipeline') or ()
    ]
    return [*(inner[0] if inner else ()), *own]
