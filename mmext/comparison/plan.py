"""The plan of a comparison, and the files of its runs."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmext.checkpoints import write_atomically
from mmext.errors import MissingFileError, UserError

FORMAT = 1
PLAN_FILE, RESULT_FILE, CONFIG_FILE = 'comparison.json', 'result.json', 'config.py'


@dataclass
class Variant:
    """A config that is trained once for each seed.

    Attributes:
        config: As it was given: a file or a name `mmext::...`.
        options: Settings that override the config, by their keys with dots.
        seeds: The seeds it is trained with.
    """

    config: str
    options: dict[str, object] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)


@dataclass
class Plan:
    """A comparison: the content of `comparison.json`.

    Attributes:
        baseline: The variant that all others are compared with.
        runs: The variants by their names, in the order of the report.
        classes: The names of the classes.
        annotations: The COCO file of the validation data.
        images: The folder that its `file_name` is relative to.
        amp: Whether the runs train with automatic mixed precision.
        data: A hash of the annotation files of training and validation.
        command: The command that makes the comparison.
    """

    baseline: str
    runs: dict[str, Variant]
    classes: list[str]
    annotations: str
    images: str
    amp: bool
    data: str
    command: str
    format: int = FORMAT

    def save(self, folder: Path) -> None:
        """Write the plan to the folder of the comparison."""
        write_json(folder / PLAN_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> 'Plan':
        """Read the plan of a folder.

        Raises:
            MissingFileError: If the folder has no plan.
            UserError: If it cannot be read, or is of another format.
        """
        path = folder / PLAN_FILE
        if not path.is_file():
            raise MissingFileError(
                f'{path} does not exist: give the folder of a comparison, as `mmext compare` makes it (--work-dir)'
            )
        content = read_json(path, cls.__dataclass_fields__)
        try:
            runs = {name: Variant(run['config'], run['options'], run['seeds']) for name, run in content['runs'].items()}
        except KeyError as error:
            raise UserError(f'a run of {path} has no {error}') from error
        plan = cls(**{**{key: content[key] for key in cls.__dataclass_fields__}, 'runs': runs})
        if plan.baseline not in runs:
            raise UserError(f'the baseline of {path}, {plan.baseline!r}, is none of its runs: {", ".join(runs)}')
        return plan

    @property
    def names(self) -> list[str]:
        """The names of the variants in display order, the baseline first."""
        return [self.baseline, *self.variants]

    @property
    def variants(self) -> list[str]:
        """The names of the variants other than the baseline."""
        return [name for name in self.runs if name != self.baseline]

    def extended_by(self, other: 'Plan', folder: Path) -> 'Plan':
        """This plan, of a folder that exists already, with the variants and seeds of another.

        Raises:
            UserError: If the other plan has another baseline, other data or another precision.
        """
        for name in ('baseline', 'annotations', 'amp'):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                raise UserError(
                    f'{folder} has a comparison whose {name} is {ours!r}, not {theirs!r}: choose another --work-dir'
                )
        if self.data != other.data:
            raise UserError(
                f'the annotations of training or validation have changed since the runs in {folder} were trained: '
                'choose another --work-dir, or delete that folder to train all anew'
            )
        runs = dict(self.runs)
        for name, variant in other.runs.items():
            seeds = sorted({*variant.seeds, *(runs[name].seeds if name in runs else ())})
            runs[name] = Variant(variant.config, variant.options, seeds)
        return Plan(**{**vars(other), 'runs': runs})


@dataclass(frozen=True)
class Run:
    """One training: a variant with a seed, and where its files are."""

    folder: Path
    name: str
    seed: int

    @property
    def work_dir(self) -> Path:
        """The folder of the run: its config, log, checkpoints and result."""
        return self.folder / self.name / f'seed_{self.seed}'

    @property
    def config_file(self) -> Path:
        """The resolved config of the variant."""
        return self.folder / self.name / CONFIG_FILE

    @property
    def result_file(self) -> Path:
        """The result, which exists once the run is finished."""
        return self.work_dir / RESULT_FILE

    def __str__(self) -> str:
        return f'{self.name}, seed {self.seed}'


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Write a JSON file at once: a reader sees the old file or the new one, never a part."""
    write_atomically(path, json.dumps(value, indent=indent).encode() + b'\n')


def read_json(path: Path, keys: Iterable[str]) -> dict:
    """Read a JSON object of this format that has these keys.

    Raises:
        UserError: If it is none.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, OSError) as error:
        raise UserError(f'{path} cannot be read ({error})') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} is not a JSON object')
    if content.get('format') != FORMAT:
        raise UserError(f'{path} has format {content.get("format")!r}, and this mmext reads format {FORMAT}')
    if absent := [key for key in keys if key not in content]:
        raise UserError(f'{path} has no {absent[0]!r}')
    return content
