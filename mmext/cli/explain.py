"""Explain in one message the errors that a mistake in a config or a missing file ends in."""

import linecache
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from mmext.datasets.missing import how_to_get
from mmext.errors import UserError

# What constructors raise for arguments that they do not accept; mmdet asserts.
REFUSALS = (AssertionError, KeyError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError)
# Functions of mmengine that use what was given later, in training, and the keys that it was given by.
LATE = {
    ('mmengine.optim.optimizer.optimizer_wrapper', '_clip_grad'): 'optim_wrapper.clip_grad',
    ('mmengine.runner.loops', 'run'): 'train_cfg',
}
# What gloo and NCCL raise if another rank has ended, or does not answer.
COMMUNICATION = re.compile('gloo|nccl|process ?group', re.IGNORECASE)
LOST = re.compile(r'Connection (closed|reset) by peer|Socket closed|Broken pipe|remote process exited')
LATE_RANK = re.compile(r'(?i)timed out waiting|pair closure|watchdog.*timeout|wait timeout|timed out after')
# Messages may hold whole configs.
LONGEST = 400
# PyTorch's data loader puts the traceback of a worker into the message.
WORKER = re.compile(r'^Caught (\w+) in DataLoader worker process')
KILLED = re.compile(r'DataLoader worker \(pid (\d+)\) is killed by signal: (.+?)\. ')
ENDED = re.compile(r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) exited unexpectedly')


def explain(error: BaseException) -> str | None:
    """What is wrong and what to do, if the error is a user's mistake; None if it is a defect.

    A mistake is a :class:`UserError`; an error while mmengine builds an object from the config; a file that is missing
    while data are loaded. The config is taken from the frames of the traceback: no function has to pass it on.
    """
    if isinstance(error, UserError):
        return _of_worker(str(error))
    if lost := _lost_worker(error):
        return lost
    error, frames = unwrap(error)
    if lost := lost_rank(error):
        return lost
    builds = [frame for frame in frames if _is(frame, 'mmengine.registry.build_functions', 'build_from_cfg')]
    place = _place(builds, frames) if builds else ''
    if missing := _missing_file(error, frames, bool(builds)):
        return f'{place}: {missing}' if place else missing
    if not isinstance(error, REFUSALS) or 'out of memory' in str(error):
        return None
    if builds:
        return f'{place}: {_refusal(error, builds[-1], frames[-1])}'
    last = [frame for frame in frames if not frame.f_globals.get('__name__', '').startswith('torch.')][-1]
    if late := LATE.get((last.f_globals.get('__name__'), last.f_code.co_name)):
        return f'{late}: {reason(error)}'
    for frame in frames:
        # The constructor of optimizers looks the type up, and fails before it builds it.
        if _is(frame, 'mmengine.optim.optimizer.default_constructor', '__call__') and 'optimizer_cls' in frame.f_locals:
            name = frame.f_locals['optimizer_cfg']['type']
            return f'optim_wrapper.optimizer ({name}): there is no such type; {_nearest(name, "optimizer")}'
    if _in_runner(frames):
        return f'the config does not make a runner: {_text(error, frames[-1])}'
    return None


def unwrap(error: BaseException) -> tuple[BaseException, list[FrameType]]:
    """The first error and all frames, of an error that was raised again with more words, as mmengine does.

    Args:
        error: The error that was caught.
    """
    frames = {id(frame): frame for frame, _ in walk_tb(error.__traceback__)}
    while type(error.__context__) is type(error) and str(error).endswith(str(error.__context__)):
        error = error.__context__
        frames.update({id(frame): frame for frame, _ in walk_tb(error.__traceback__)})
    return error, list(frames.values())


def _is(frame: FrameType, module: str, name: str) -> bool:
    return frame.f_globals.get('__name__') == module and frame.f_code.co_name == name


def _in_runner(frames: list[FrameType]) -> bool:
    """Whether mmengine's runner itself refuses the config, outside the objects that it builds."""
    last = [frame for frame in frames if not frame.f_globals.get('__name__', '').startswith('mmengine.config')][-1]
    name = last.f_code.co_name
    return last.f_globals.get('__name__') == 'mmengine.runner.runner' and (
        name in ('__init__', 'from_cfg') or name.startswith('build_')
    )


def lost_rank(error: BaseException) -> str | None:
    """The message for an error that another rank is the reason of; None for any other error.

    Args:
        error: The error that was caught.
    """
    if not isinstance(error, RuntimeError) or not COMMUNICATION.search(str(error)):
        return None
    if LOST.search(str(error)):
        return 'another rank has ended. The reason is in its own message, or in the report of the launcher'
    if LATE_RANK.search(str(error)):
        return (
            'another rank did not answer in time: it hangs, or takes longer than env_cfg.dist_cfg.timeout allows. Set '
            f'that number of seconds higher, or look at what the other ranks do. {reason(error)}'
        )
    return None


# --- where


def _place(builds: list[FrameType], frames: list[FrameType]) -> str:
    """The key in the config of the object that was being built, and its type: `model.bbox_head (YOLOXHead)`."""
    config = next(filter(None, map(_config_of, frames)), None)
    path, node, kind = '', plain(config), ''
    root = node
    for build in builds:
        wanted = plain(build.f_locals['cfg'])
        if not isinstance(wanted, dict):
            break
        kind = getattr(wanted.get('type'), '__name__', wanted.get('type'))
        # A training loop, which is built from train_cfg, builds the data set from train_dataloader.
        if below := find(node, wanted):
            path, node = f'{path}.{below[0]}'.lstrip('.'), below[1]
        elif below := find(root, wanted):
            path, node = below
    return f'{path} ({kind})' if path else str(kind)


def _config_of(frame: FrameType) -> Mapping | None:
    """The config of a runner's method, or of a function that holds one."""
    from mmengine.config import Config

    values = [*frame.f_locals.values(), getattr(frame.f_locals.get('self'), 'cfg', None)]
    return next((value for value in values if isinstance(value, Config)), None)


def find(node: object, wanted: Mapping) -> tuple[str, object] | None:
    """The path and the value of the first dict in nested ones that has the items of `wanted`, or else its type.

    The objects in between add arguments and take others away, so all items are compared first, then the type alone.
    """
    below = [(path, child) for path, child in walk(node) if path and child.get('type') == wanted.get('type')]
    equal = [pair for pair in below if all(repr(wanted.get(key)) == repr(value) for key, value in pair[1].items())]
    return next(iter(equal or below), None)


def walk(node: object, path: str = '') -> Iterator[tuple[str, dict]]:
    """All dicts in nested dicts and lists, with their paths: `custom_hooks[0]`."""
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            yield from walk(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk(value, f'{path}[{index}]')


def plain(node: object) -> object:
    """Nested dicts and lists with Python's own types, without mmengine's scopes."""
    if isinstance(node, Mapping) or hasattr(node, 'to_dict'):
        items = node.to_dict() if hasattr(node, 'to_dict') else node
        return {key: plain(value) for key, value in items.items() if key != '_scope_'}
    return [plain(value) for value in node] if isinstance(node, (list, tuple)) else node


# --- what


def _refusal(error: BaseException, build: FrameType, last: FrameType) -> str:
    """What an object that was being built does not accept."""
    given = build.f_locals
    # mmengine sets it to None for an unknown type.
    kind = given.get('obj_cls')
    if not isinstance(given['cfg'], Mapping):
        return _text(error, last)
    if kind is None:
        name = given['cfg'].get('type')
        return (
            f'there is no such type; {_nearest(name, given["registry"].name)}'
            if isinstance(name, str)
            else _text(error, last)
        )
    unexpected = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    if unexpected and unexpected[1] in given['cfg']:
        return _unexpected(kind, unexpected[1])
    missing = re.search(r'missing \d+ required .*?: (.*)', str(error))
    if missing and isinstance(error, TypeError):
        return f'it needs {missing[1]}: add it to this dict'
    return _text(error, last, given['cfg'])


def _unexpected(kind: type, key: str) -> str:
    from mmext.cli.check import mmext_types, parameters_of

    named = mmext_types().get(kind.__name__)
    if named not in (None, kind) and key in [*signature(named).parameters, *(parameters_of(named) or ())]:
        return (
            f'{kind.__module__}.{kind.__name__} takes no argument {key!r}, but mmext.{kind.__name__} does: '
            f"write type='mmext.{kind.__name__}'"
        )
    names = parameters_of(kind) or []
    near = get_close_matches(key, names, n=1)
    hint = f'did you mean {near[0]!r}? ' if near else ''
    return (
        f'{hint}it takes no argument {key!r}, only {", ".join(names)}. If {key!r} comes from the base config, add '
        "_delete_=True to the dict that names the type: it then replaces the base's"
    )


def _nearest(name: str, kind: str) -> str:
    """The names that are most like an unknown one, of all registries of this kind."""
    from mmengine.registry import root

    scopes: dict[str, list[str]] = {}
    registries = [each for each in vars(root).values() if isinstance(each, root.Registry)]
    while registries:
        registry = registries.pop()
        registries += registry.children.values()
        if registry.name != kind:
            continue
        registry.import_from_location()
        for each in registry.module_dict:
            scopes.setdefault(each, []).append(registry.scope)
    close = get_close_matches(name.rpartition('.')[2], scopes, n=3)
    near = [
        f'{scope}.{each}'
        for each in close
        for scope in sorted(scopes[each], key=lambda scope: (scope != 'mmext', scope == 'mmengine'))
    ][:3]
    if near:
        return f'did you mean {" or ".join(near)}?'
    return 'if it is your own, import its module: custom_imports=dict(imports=["my_module"])'


def _text(error: BaseException, last: FrameType, given: Mapping | None = None) -> str:
    """The message of an error, or what was asserted of the arguments that were given."""
    if not isinstance(error, AssertionError) or str(error):
        return reason(error)
    line = linecache.getline(last.f_code.co_filename, last.f_lineno).strip()
    values = [f'{key}={value!r}' for key, value in (given or {}).items() if re.search(rf'\b{key}\b', line)]
    return f'`{line}` does not hold' + (f', with {", ".join(values)}' if values else '')


def reason(error: BaseException) -> str:
    """The message of an error in one line, with the name of its kind where it says little without."""
    if isinstance(error, OSError):
        return f'{error.strerror}: {error.filename}' if error.strerror else str(error)
    # KeyError's text is the repr of its argument.
    text = str(error.args[0]) if error.args else ''
    text = ' '.join(text.split())
    if isinstance(error, KeyError) and ' ' not in text:
        return f'there is no {text!r}'
    text = text if len(text) <= LONGEST else f'{text[:LONGEST]}...'
    plain_words = isinstance(error, (AttributeError, AssertionError, KeyError, NameError, SyntaxError, ValueError))
    return text if plain_words and text else f'{type(error).__name__}: {text}'


def _of_worker(text: str) -> str:
    """The message of a UserError, which a data loader puts behind the traceback of its worker."""
    worker = WORKER.match(text)
    return text.rstrip().rpartition(f'{worker[1]}: ')[2] if worker else text


def _lost_worker(error: BaseException | None) -> str | None:
    """The message for a process of a data loader that ended; a chain of errors may have several such."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    texts = [str(each) for each in chain if isinstance(each, RuntimeError)]
    for pattern in (KILLED, ENDED):
        if found := next(filter(None, map(pattern.search, texts)), None):
            how = f'was killed: {found[2]}' if pattern is KILLED else 'ended'
            if 'shared memory' in found.string or 'Bus error' in found.string:
                cause = (
                    'The shared memory, /dev/shm, is full. In a container enlarge it (`docker run --shm-size=8g` or '
                    '`--ipc=host`), or'
                )
            else:
                cause = 'Most often the machine or its container has no memory left. Give it more, or'
            return (
                f'a worker process of a data loader (pid {found[1]}) {how}. {cause} lower num_workers or batch_size of '
                'the data loader. The checkpoints are intact: continue with --resume'
            )
    return None


def _missing_file(error: BaseException, frames: list[FrameType], building: bool) -> str | None:
    """The message for a file that is missing while an object is built or data are loaded."""
    if not isinstance(error, FileNotFoundError):
        return None
    name = error.filename
    if WORKER.match(str(error)):
        name = str(error).rstrip().rpartition(": '")[2].rstrip("'")
    elif not building and not any(frame.f_code.co_name == 'transform' for frame in frames):
        return None
    if not name:
        return str(error)
    return f'there is no file {str(name)!r} below {Path.cwd()}. {how_to_get(str(name))}'
