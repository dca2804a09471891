"""What the tests share."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.logging import MMLogger

from mmext.compat import OLDEST_TORCH, torch_can

ROOT = Path(__file__).parents[1]

# The other core runs the other process: spinning threads would slow both down.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        row = getattr(item, 'callspec', None) and item.callspec.params.get('row')
        item.user_properties += [('part of a loss', part) for part in getattr(row, 'parts', ())]
        if item.get_closest_marker('gpu') and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason='needs an NVIDIA GPU, and torch sees none'))
        for marker in item.iter_markers('torch_can'):
            (feature,) = marker.args
            if not torch_can(feature):
                reason = f'{feature} needs torch {OLDEST_TORCH[feature]}, and this is torch {torch.__version__}'
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter):
    """The table of all losses: how many tests of the battery each part of a loss passed, failed or skipped."""
    counts = {
        outcome: Counter(
            part
            for report in terminalreporter.stats.get(outcome, [])
            for _, part in getattr(report, 'user_properties', ())
        )
        for outcome in ('passed', 'failed', 'skipped')
    }
    parts = list(dict.fromkeys(part for counter in counts.values() for part in counter))
    if parts:
        terminalreporter.section('tests of each loss')
        terminalreporter.line(f'{"":20}' + ''.join(f'{outcome:>8}' for outcome in counts))
    for part in parts:
        terminalreporter.line(f'{part:20}' + ''.join(f'{counter[part]:8}' for counter in counts.values()))


def load_tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(*command: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a command in a fresh process, in the root of the checkout; it must succeed."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'PATH': os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


@pytest.fixture
def log(caplog):
    """What goes to mmengine's current logger, which hands nothing on to the root logger that `caplog` listens to."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    """A small data set."""
    folder = tmp_path_factory.mktemp('shapes')
    load_tool('make_shapes').main(['--out', str(folder), '--train', '8', '--val', '4', '--size', '96'])
    assert len(json.loads((folder / 'annotations' / 'val.json').read_text())['images']) == 4
    return folder


@pytest.fixture
def free_port():
    """What finds a port that nobody uses."""

    def find():
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            return probe.getsockname()[1]

    return find
