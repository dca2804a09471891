"""Every type is found by its scope alone, in a process that imported nothing of mmext."""

import inspect
import sys

import pytest
from conftest import run

from mmext import losses, registry

# Every exported class: each has defaults for all arguments.
LOSSES = [name for name in losses.__all__ if inspect.isclass(getattr(losses, name))]

SCRIPT = """
import sys
from {project}.registry import MODELS
assert not any(name.split('.')[0] == 'mmext' for name in sys.modules), 'mmext is imported already'
for name in {losses}:
    loss = MODELS.build(dict(type='mmext.' + name))
    assert type(loss).__module__.startswith('mmext.losses'), type(loss)
print('found', len({losses}))
"""


def test_every_registered_type_is_exported():
    registry.MODELS.import_from_location()
    registered = {name for name, kind in registry.MODELS.module_dict.items() if 'mmext.losses' in kind.__module__}
    assert registered == set(LOSSES)


@pytest.mark.parametrize('project', ['mmdet', 'mmseg', 'mmengine'])
def test_losses_are_found_from_a_fresh_process(project):
    output = run(sys.executable, '-c', SCRIPT.format(project=project, losses=LOSSES)).stdout
    assert f'found {len(LOSSES)}' in output


def test_losses_need_no_mmdet():
    script = (
        'import sys; sys.modules["mmdet"] = None; sys.modules["mmcv"] = None\n'
        'from mmengine.registry import MODELS\n'
        'print(MODELS.build(dict(type="mmext.IoULoss")))'
    )
    assert 'IoULoss' in run(sys.executable, '-c', script).stdout


def test_registries_are_children_of_the_root():
    from mmengine import registry as root
    from mmengine.registry import Registry

    nodes = {name: node for name, node in vars(registry).items() if isinstance(node, Registry)}
    assert {'MODELS', 'TASK_UTILS', 'HOOKS', 'DATASETS', 'TRANSFORMS', 'METRICS'} <= set(nodes)
    for name, node in nodes.items():
        assert node.parent is getattr(root, name)
        assert node.scope == 'mmext'


def test_the_assigner_is_found_from_a_fresh_process():
    script = (
        'from mmdet.registry import TASK_UTILS\n'
        'print(type(TASK_UTILS.build(dict(type="mmext.BatchSimOTAAssigner", center_radius=2.5))))'
    )
    assert 'mmext.assigners.sim_ota.BatchSimOTAAssigner' in run(sys.executable, '-c', script).stdout
