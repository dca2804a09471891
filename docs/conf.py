"""Settings of the pages, and what of them is made from the tables in the code; `make docs` builds them."""

from pathlib import Path

import torch
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

import mmext
from mmext import losses
from mmext.losses.focus import Focus
from mmext.visualization import loss_curves

logger = getLogger(__name__)

project = 'mmext'
release = mmext.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax', 'sphinx.ext.napoleon']
exclude_patterns = ['_build', '_generated']
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
html_theme = 'furo'
html_title = f'mmext {release}'
# A single backtick is code, as in the docstrings.
default_role = 'literal'
add_module_names = False
autodoc_inherit_docstrings = False
autodoc_typehints_format = 'short'
python_maximum_signature_line_length = 100
# A reference that leads nowhere is an error, unless it leads out of mmext.
nitpicky = True
nitpick_ignore_regex = [('py:.*', r'(?!mmext\b).*\..*')]

FOLDER = Path(__file__).parent / '_generated'
OFFSETS = (0.1, 0.5, 0.9, 1.5, 2.5)
FIGURE = """\
```{{figure}} /_generated/{name}.png
:alt: The curve of {name} and that of its gradient
```
"""
AUTODOC = """\
```{{eval-rst}}
.. auto{kind}:: {name}
```
"""


def setup(app: Sphinx) -> None:
    """Make the pages' parts, and let a docstring name what it refers to without its module."""
    FOLDER.mkdir(exist_ok=True)
    for make in (variants, overlaps, focuses, other_boxes, classification, minima, gradients):
        (FOLDER / f'{make.__name__}.md').write_text(make())
    app.connect('doctree-read', find_by_name)
    app.connect('env-check-consistency', check_exports)


def find_by_name(app: Sphinx, doctree: nodes.document) -> None:
    """Search all modules for the names in references."""
    for reference in doctree.findall(pending_xref):
        if reference.get('refdomain') == 'py':
            reference['refspecific'] = True


def check_exports(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of what mmext.losses exports and no page documents."""
    documented = env.domains.python_domain.objects
    for name in losses.__all__:
        if callable(getattr(losses, name)) and f'mmext.losses.{name}' not in documented:
            logger.warning('mmext.losses.%s is on no page', name)


def function_of(name: str) -> str:
    """The function that a class is the module of: they differ in capitals and underscores alone."""
    return next(item for item in losses.__all__ if item != name and item.replace('_', '') == name.lower())


def section(name: str, *documented: str, level: int = 3) -> str:
    """A heading, the figure of its loss, and what autodoc says of objects, each given as `kind name`."""
    directives = [AUTODOC.format(kind=kind, name=target) for kind, target in map(str.split, documented)]
    return '\n'.join([f'{"#" * level} {name}\n', *directives[:1], FIGURE.format(name=name), *directives[1:]])


def variants() -> str:
    """Each variant: what its penalty is, and its curves."""
    return '\n'.join(section(name, f'function mmext.losses.iou.{name}') for name in losses.VARIANTS)


def overlaps() -> str:
    """The curves of what takes the place of the IoU."""
    return '\n'.join(section(name) for name in loss_curves.OVERLAPS)


def focuses() -> str:
    """Each multiplier, and its curves."""
    return '\n'.join(section(name, f'class mmext.losses.{name}') for name in loss_curves.exported(Focus))


def losses_of(names: list[str]) -> str:
    """Of each loss the function, the curves and the class."""
    return '\n'.join(
        section(name, f'function mmext.losses.{function_of(name)}', f'class mmext.losses.{name}', level=2)
        for name in names
    )


def other_boxes() -> str:
    """The losses of boxes beside the IoU family."""
    return losses_of(loss_curves.other_box_losses())


def classification() -> str:
    """The losses for classification and objectness."""
    return losses_of(loss_curves.class_losses())


def table(*rows: list[str]) -> str:
    """A table in Markdown, the first row its head."""
    head, *body = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join([head, '|---' * len(rows[0]) + '|', *body, ''])


def minima() -> str:
    """Where each loss for classification has its minimum for a soft target."""
    soft = loss_curves.SOFT_TARGET
    rows = [['loss', 'targets', 'minimum at p = t for every t', f'p at the minimum for t = {soft}']]
    for name in loss_curves.class_losses():
        if loss_curves.takes_scores(name):
            answer = 'yes' if getattr(losses, name).soft_target else 'no: for t = 0 and t = 1 alone'
            rows.append([f'`{name}`', 'scores in [0, 1], or labels', answer, f'{loss_curves.minimum(name):.2f}'])
        else:
            rows.append([f'`{name}`', 'labels', 'takes no scores', ''])
    return table(*rows)


def gradients() -> str:
    """How hard each variant pulls a box of the target's size, at growing offsets."""
    offsets = torch.tensor(OFFSETS, dtype=torch.float64)
    rows = [['variant', *(f'{offset:g} sides away' for offset in OFFSETS)]]
    pulls = {name: loss_curves.variant_loss(name) for name in losses.VARIANTS}
    pulls.update({f'ciou, alpha {alpha}': loss_curves.variant_loss('ciou', alpha=alpha) for alpha in (2, 3)})
    pulls['NWDLoss'] = losses.nwd_loss
    for name, loss in pulls.items():
        slopes = loss_curves.curve_and_gradient(loss_curves.on_boxes(loss, loss_curves.MOVED), offsets)[1]
        rows.append([f'`{name}`', *(f'{slope:.3f}' for slope in slopes.tolist())])
    return table(*rows)
