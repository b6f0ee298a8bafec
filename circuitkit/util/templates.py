"""Pages from templates, which are beside the code that fills them."""

from __future__ import annotations

import html

__all__ = ["framed", "render"]


def render(template: str, **values: object) -> str:
    """The page made from a template, which is named by its path in the package.

    In ``.html.jinja`` every value is escaped; in ``.md.jinja`` the filter ``cell`` escapes what
    would end the cell of a table or would be read as HTML.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("circuitkit", ""),
        autoescape=lambda name: name is None or name.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(**values)


def framed(page: str, title: str, *allowed: str) -> str:
    """The page within a notebook: in a frame of its own, whose style touches nothing else, and
    which may do what is ``allowed`` (``allow-scripts``) and no more."""
    return (
        f'<iframe sandbox="{" ".join(allowed)}" title="{html.escape(title)}" '
        'style="width:100%;height:720px;border:1px solid #8884;border-radius:8px" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )


def _cell(text: str) -> str:
    """The text as a cell of a table in Markdown."""
    plain = " ".join(text.split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
