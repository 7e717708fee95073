"""Edit a parameter file without changing its comments or its style."""

import io
import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from rr.errors import UserError
from rr.params import parse_yaml
from rr.runtime.atomic import atomic_write


def make_yaml() -> YAML:
    """Return a YAML parser that keeps comments and the style of the file."""
    yaml = YAML()
    yaml.width = 120
    yaml.preserve_quotes = True
    return yaml


def dump_yaml(yaml: YAML, content: Any) -> str:
    """Return a YAML document as text."""
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def set_axis(grid: Any, axis: str, values: list[Any]) -> None:
    """Replace the list of a grid axis, and keep the line's style and comment.

    There is one exception: if an empty list replaces a list with one value per line, the comment is lost, because
    ruamel.yaml would write an invalid file.
    """
    is_block = bool(grid[axis]) and not grid[axis].fa.flow_style()  # an empty list has lost its style
    if is_block and not values:
        grid.ca.items.pop(axis, None)
    grid[axis] = CommentedSeq(values)  # other axes may share the old list through an anchor
    if not (is_block and values):
        grid[axis].fa.set_flow_style()


def require_single_grid(text: str, path: Path) -> None:
    """Raise UserError if `grid` is a list, as in the files that Snakemake writes for several suites."""
    if isinstance(parse_yaml(text, path)["grid"], list):
        raise UserError(
            f"{path}: grid is a list of grids, which only Snakemake supports: keep only one of them, as a mapping"
        )


def write_params(path: Path, text: str) -> None:
    """Replace an existing parameter file, but not a link to it, and keep its permissions and its line endings."""
    path = path.resolve()
    if b"\r\n" in path.read_bytes():
        text = text.replace("\n", "\r\n")
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode())
        shutil.copymode(path, temporary)
