"""Sphinx configuration; `make docs` builds the pages."""

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger
from sphinx.writers.html5 import HTML5Translator

import mmext
from mmext import losses

sys.path.insert(0, str(Path(__file__).parent))

from tables import PARTS

logger = getLogger(__name__)

project = 'mmext'
release = mmext.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build', '_generated']
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
# MathML, which browsers render themselves: MathJax would be loaded from a CDN.
html_math_renderer = 'mathml'
html_theme = 'furo'
html_static_path = ['_static']
html_css_files = ['custom.css']
html_title = f'mmext {release}'
html_show_copyright = False
# Single backticks are code, as in the docstrings.
default_role = 'literal'
add_module_names = False
autodoc_inherit_docstrings = False
autodoc_typehints_format = 'short'
python_maximum_signature_line_length = 100
# An unresolved reference is an error, unless it points outside mmext.
nitpicky = True
nitpick_ignore_regex = [('py:.*', r'(?!mmext\b).*\..*')]

FOLDER = Path(__file__).parent / '_generated'


def setup(app: Sphinx) -> None:
    """Write the generated parts of the pages, and connect the handlers below."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in PARTS.items():
        (FOLDER / f'{name}.md').write_text(make())
    app.add_html_math_renderer('mathml', (write_formula, None), (write_formula, None))
    app.connect('doctree-read', find_by_name)
    app.connect('env-check-consistency', check_exports)


def find_by_name(app: Sphinx, doctree: nodes.document) -> None:
    """Resolve references in docstrings without their module, by searching all modules."""
    for reference in doctree.findall(pending_xref):
        if reference.get('refdomain') == 'py':
            reference['refspecific'] = True


def check_exports(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of an export of mmext.losses that no page documents."""
    documented = env.domains.python_domain.objects
    for name in losses.__all__:
        if callable(getattr(losses, name)) and f'mmext.losses.{name}' not in documented:
            logger.warning('mmext.losses.%s is on no page', name)


def write_formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML; a LaTeX command that docutils does not know is an error."""
    if isinstance(node, nodes.math_block):
        translator.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>\n')
    else:
        translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode
