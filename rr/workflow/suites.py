"""Suites: named experiments, each a grid and the variants of methods that it needs.

A file of `workflow/suites` holds one, under `suites` and its name, so that Snakemake merges several `--configfile`s.
The stages read one file of parameters. `use` writes a suite into it, for both engines; `overlay` leaves it as it is and
writes a file of its own for the suites that Snakemake was given.
"""

import copy
import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rr import paths
from rr.errors import UserError, nearest
from rr.params import check, load, parse
from rr.params.base import NAME
from rr.runtime.atomic import write_text

SUITES = Path("workflow/suites")
_CONTENTS = {"grid", "methods"}


def listed() -> str:
    """Every suite with the first sentence of its file's comment, a line each."""
    lines = []
    for name in _names():
        comment = [line[1:].strip() for line in _text(name).splitlines() if line.startswith("#")]
        lines.append(f"{name:<20} {' '.join(comment).split('. ')[0].rstrip('.')}")
    return "\n".join(lines)


def show(name: str) -> str:
    """A suite's file, as it stands. Raises UserError for an unknown one."""
    _known(name)
    return _text(name).rstrip()


def use(name: str, params: Path) -> str:
    """Write the suite `name` into the file `params`, whose comments and other keys stay. Returns what to say.

    The suite's grid replaces that of the file. Each of its methods is one of the file's with other values: `like` names
    it. Using a suite twice changes nothing. Raises UserError for an unknown suite, a method that is like none, and for
    a result that is not valid; the file is then as it was.
    """
    load(params)
    suite = read(name)
    yaml = _yaml()
    everything = yaml.load(params.read_text(encoding="utf-8"))
    for axis, values in suite["grid"].items():
        if axis in everything["grid"]:
            everything["grid"][axis][:] = values  # in place, which keeps the line's form and comment
        else:
            everything["grid"][axis] = values  # unknown, and named below
    _add_methods(everything["methods"], suite["methods"], name)
    text = _dumped(yaml, everything)
    check(text, params)
    write_text(params, text)
    return f"{params}: suite {name}; now dvc repro, or snakemake --cores 8"


def overlay(chosen: dict[str, Any], params: Path) -> Path:
    """Write `params` with the grids and methods of the suites `chosen` (contents by name) to a file; return its path.

    Raises UserError for contents that are none, variants of one name that differ, and what `load` finds wrong.
    """
    load(params)
    everything = YAML(typ="safe", pure=True).load(params)
    everything["grid"] = []
    added: dict[str, tuple[str, Any]] = {}
    for name, suite in chosen.items():
        # It becomes a part of the file's name, and Snakemake takes it from its command line.
        if not re.fullmatch(NAME, name):
            raise UserError(f"'{name}' is no name of a suite: letters, digits, - and _ alone")
        _check(suite, f"suite {name}")
        everything["grid"].append(suite["grid"])
        for variant, changes in suite.get("methods", {}).items():
            where, known = added.setdefault(variant, (name, changes))
            if known != changes:
                raise UserError(f"suites {where} and {name}: methods.{variant} differs; give one of them another name")
        _add_methods(everything["methods"], suite.get("methods", {}), name)
    target = paths.suites("+".join(chosen))
    text = _dumped(_yaml(), everything)
    check(text, target)
    # Every job of Snakemake comes by here: only the first one writes.
    if not target.is_file() or target.read_text(encoding="utf-8") != text:
        write_text(target, text)
    return target


def read(name: str) -> dict[str, Any]:
    """The contents of a suite's file, with `methods`. Raises UserError for an unknown suite, and for what is none."""
    _known(name)
    path = SUITES / f"{name}.yaml"
    content = parse(_text(name), path)
    suites = content.get("suites") if isinstance(content, dict) and set(content) == {"suites"} else None
    if not isinstance(suites, dict) or set(suites) != {name}:
        raise UserError(f"{path}: a suite's file holds suites, then {name}, then its grid and methods; nothing else")
    _check(suites[name], str(path))
    return {"methods": {}} | suites[name]


def _check(suite: Any, where: str) -> None:
    if not isinstance(suite, dict) or not set(suite) <= _CONTENTS or "grid" not in suite:
        raise UserError(f"{where}: a suite has a section grid, and may have methods; nothing else")
    grid, methods = suite["grid"], suite.get("methods", {})
    if not isinstance(grid, dict) or not all(isinstance(values, list) for values in grid.values()):
        raise UserError(f"{where}: each key of grid has a list, such as seed: [1, 2]")
    if not isinstance(methods, dict) or not all(
        isinstance(changes, dict) and isinstance(changes.get("like", ""), str) for changes in methods.values()
    ):
        raise UserError(f"{where}: each of methods has keys, such as {{like: relational, views: 4}}")


def _add_methods(methods: Any, variants: dict[str, Any], suite: str) -> None:
    for variant, changes in variants.items():
        values = dict(changes)
        like = values.pop("like", "")
        if like not in methods:
            raise UserError(
                f"suite {suite}, methods.{variant}.like: no method is called '{like}'; {nearest(like, methods)}"
            )
        # A copy in full, so that what the file says of this method can be read in one place.
        methods[variant] = {**copy.deepcopy(dict(methods[like])), **values}


def _names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def _known(name: str) -> None:
    known = _names()
    if name not in known:
        raise UserError(f"no suite is called {name} in {SUITES}; {nearest(name, known) if known else 'there is none'}")


def _text(name: str) -> str:
    path = SUITES / f"{name}.yaml"
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error


def _dumped(yaml: YAML, content: Any) -> str:
    text = io.StringIO()
    yaml.dump(content, text)
    return text.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 120
    yaml.preserve_quotes = True
    return yaml
