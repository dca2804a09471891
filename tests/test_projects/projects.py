"""What the tests with other OpenMMLab projects share."""

from importlib import import_module

import pytest

PACKAGES = {
    'mmseg': 'mmsegmentation',
    'mmpretrain': 'mmpretrain',
    'mmpose': 'mmpose',
    'mmrotate': 'mmrotate',
    'mmyolo': 'mmyolo-open',
    'mmdet3d': 'mmdet3d',
}


def require(project):
    """The module of a project with its models registered; the test is skipped where it cannot be imported."""
    try:
        module = import_module(project)
        import_module(f'{project}.models')
    except ImportError as error:
        pytest.skip(f'{PACKAGES[project]} is not installed, or cannot be imported here: {error}')
    except AssertionError as error:
        # Each project asserts the versions that it runs with.
        pytest.skip(f'{PACKAGES[project]} refuses this stack: {error}')
    return module
