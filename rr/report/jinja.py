"""Settings of the Jinja template engine, for the report and the gallery's pages."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def make_jinja_environment(templates: Path, *, autoescape: bool) -> Environment:
    """Return a Jinja environment in which undefined variables raise an error.

    If `autoescape` is True, HTML in inserted values is escaped.
    """
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
