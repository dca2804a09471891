"""The mmext scope of OpenMMLab's registries.

mmengine imports this module when it meets a type such as `mmext.IoULoss`, so no config needs
`custom_imports`. Each registry is a direct child of mmengine's root, where every OpenMMLab project
finds it; the modules named in `locations` are imported when the first type of theirs is asked for.

Keep it free of heavy imports: mmengine swallows an ImportError raised here.
"""

from importlib.util import find_spec

from mmengine import registry as root
from mmengine.registry import Registry

SCOPE = 'mmext'


def _child(parent: Registry, *locations: str) -> Registry:
    # Without a location mmengine would look for mmext.utils, and say that mmext is not installed.
    return Registry(parent.name, parent=parent, scope=SCOPE, locations=list(locations) or [__name__])


# The heads and the assigner extend mmdet's; the losses serve projects that have no mmdet.
HAS_MMDET = bool(find_spec('mmdet'))

MODELS = _child(root.MODELS, 'mmext.losses', 'mmext.adapters', *(['mmext.heads'] if HAS_MMDET else []))
HOOKS = _child(root.HOOKS, 'mmext.hooks')
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'mmext.optim')
LOOPS = _child(root.LOOPS, 'mmext.loops')
TASK_UTILS = _child(root.TASK_UTILS, *(['mmext.assigners'] if HAS_MMDET else []))

# Nothing of mmext's own yet, but dicts in its configs carry the scope, and mmengine warns where
# the scope has no registry of the kind.
DATASETS = _child(root.DATASETS)
DATA_SAMPLERS = _child(root.DATA_SAMPLERS)
EVALUATOR = _child(root.EVALUATOR)
METRICS = _child(root.METRICS)
OPTIMIZERS = _child(root.OPTIMIZERS)
OPTIM_WRAPPER_CONSTRUCTORS = _child(root.OPTIM_WRAPPER_CONSTRUCTORS)
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS)
TRANSFORMS = _child(root.TRANSFORMS)
VISBACKENDS = _child(root.VISBACKENDS)
VISUALIZERS = _child(root.VISUALIZERS)
