"""The Jinja environment of the report and of the gallery's result page."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def make_environment(templates: Path, *, autoescape: bool) -> Environment:
    """Return an environment for the templates of a folder, in which an undefined variable is an error.

    Args:
        templates: folder of the template files.
        autoescape: whether to escape HTML in inserted values.
    """
    return Environment(
        loader=FileSystemLoader(templates),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
