"""Every loss is built by name from another project's registry, in a process that imported nothing of mmext."""

import sys

import pytest
from conftest import run
from projects import PACKAGES, require
from test_registry import LOSSES, SCRIPT


@pytest.mark.parametrize('project', PACKAGES)
def test_losses_are_found_without_custom_imports(project):
    require(project)
    output = run(sys.executable, '-c', SCRIPT.format(project=project, losses=LOSSES)).stdout
    assert f'found {len(LOSSES)}' in output
