"""Suites: an experiment's grid, and the variants of methods it needs, written into params.yaml.

Both engines read params.yaml alone, so choosing a suite is rewriting that file; its comments and all other keys stay.
"""

import copy
import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rr.atomic import write_text
from rr.errors import UserError, nearest
from rr.params import check, load

SUITES = Path("workflow/suites")


def choose(name: str, params: Path) -> str:
    """Write the suite `name` into the file `params`. Returns what to say.

    A suite's `grid` replaces that of the file. Each of its `methods` is one of the file's with other values: `like`
    names it. Choosing a suite twice changes nothing. Raises UserError for an unknown suite, a method that is like none,
    and for a result that is not valid; the file is then as it was.
    """
    known = sorted(path.stem for path in SUITES.glob("*.yaml"))
    if name not in known:
        raise UserError(f"no suite is called {name} in {SUITES}; {nearest(name, known) if known else 'there is none'}")
    load(params)
    suite = _read(SUITES / f"{name}.yaml")
    yaml = _yaml()
    everything = yaml.load(params.read_text(encoding="utf-8"))
    for axis, values in suite["grid"].items():
        if axis in everything["grid"]:
            everything["grid"][axis][:] = values  # in place, which keeps the line's form and comment
        else:
            everything["grid"][axis] = values  # unknown, and named below
    for variant, changes in suite["methods"].items():
        everything["methods"][variant] = _variant(everything["methods"], variant, dict(changes), name)
    text = io.StringIO()
    yaml.dump(everything, text)
    check(text.getvalue(), params)
    write_text(params, text.getvalue())
    return f"{params}: suite {name}; now dvc repro, or snakemake --cores 8"


def _variant(methods: Any, variant: str, changes: dict[str, Any], suite: str) -> Any:
    like = changes.pop("like", "")
    if like not in methods:
        raise UserError(
            f"suite {suite}, methods.{variant}.like: no method is called '{like}'; {nearest(like, methods)}"
        )
    # A copy in full, so that what the file says of this method can be read in one place.
    return {**copy.deepcopy(dict(methods[like])), **changes}


def _read(path: Path) -> dict[str, Any]:
    try:
        suite = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(suite, dict) or not set(suite) <= {"grid", "methods"} or "grid" not in suite:
        raise UserError(f"{path}: a suite has a section grid, and may have methods; nothing else")
    grid, methods = suite["grid"], suite.setdefault("methods", {})
    if not isinstance(grid, dict) or not all(isinstance(values, list) for values in grid.values()):
        raise UserError(f"{path}: each key of grid has a list, such as seed: [1, 2]")
    if not isinstance(methods, dict) or not all(
        isinstance(changes, dict) and isinstance(changes.get("like", ""), str) for changes in methods.values()
    ):
        raise UserError(f"{path}: each of methods has keys, such as {{like: relational, views: 4}}")
    return suite


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 120
    yaml.preserve_quotes = True
    return yaml
