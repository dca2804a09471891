"""Pages: one HTML file each, with everything in it."""

from collections.abc import Callable, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, filters: Mapping[str, Callable] | None = None, **content: object) -> str:
    """Fill in a template, with the style that all pages share.

    Args:
        template: Its path in the package; it extends `visualization/base.html.jinja`.
        filters: Its filters, by name.
        **content: Its variables.

    Returns:
        The page. It has no script and loads nothing.
    """
    environment = Environment(
        loader=PackageLoader('mmext', ''),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(filters or {})
    # The only text that is not escaped: a file of ours.
    style = Markup(environment.loader.get_source(environment, 'visualization/page.css')[0])  # noqa: S704
    return environment.get_template(template).render(**content, style=style)
