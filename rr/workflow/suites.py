"""Read suites and combine them with `params.yaml`. A suite is a named experiment: a grid and method variants.

Each file in `workflow/suites` contains one suite, under its name in the `suites` section. The stages read a single
parameter file. `use_suite` writes a suite into that file, for both engines; `merge_suites` writes several suites, such
as those that are passed to Snakemake, into a new file.
"""

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from rr import paths
from rr.errors import UserError, format_alternatives
from rr.params import GridConfig, load_params, parse_params, parse_yaml, read_utf8
from rr.params.base import NAME
from rr.runtime.atomic import write_text
from rr.runtime.lock import exclusive_lock
from rr.workflow.grid import describe_replaced
from rr.workflow.params_file import dump_yaml, make_yaml, require_single_grid, set_axis, write_params

SUITES = Path("workflow/suites")
_SECTIONS = {"grid", "methods"}


def describe_suites() -> dict[str, str]:
    """Return the first sentence of the comment in each suite file, or why it cannot be read, by suite name.

    Raises:
        UserError: if the current folder is not a project.
    """
    if not SUITES.is_dir():
        raise UserError(f"there is no folder {SUITES}: run rr in the root folder of a project")
    sentences = {}
    for name in _suite_names():
        try:
            comment = [line[1:].strip() for line in _read_text(name).splitlines() if line.startswith("#")]
            sentences[name] = " ".join(comment).split(". ")[0].rstrip(".")
        except (UserError, OSError) as error:
            sentences[name] = f"cannot be read ({error})"
    return sentences


def suite_text(name: str) -> str:
    """Return the contents of a suite file as text.

    Raises:
        UserError: if the suite is unknown.
    """
    _require_suite(name)
    return _read_text(name).rstrip()


def use_suite(name: str, params_file: Path) -> str:
    """Write the suite `name` into `params_file` and return a message for the user. Comments and other keys are kept.

    The suite's grid replaces the grid in the file. Each of the suite's methods is added as a copy of its `base`, which
    is a method in the file, with some values changed. Using the same suite again changes nothing.

    Raises:
        UserError: if the suite or a `base` is unknown, or if the result is not valid. The file is then unchanged.
    """
    load_params(params_file)
    suite = load_suite(name)
    with exclusive_lock(paths.PARAMS_FILE, wait=True):
        return _add_suite(name, suite, params_file)


def _add_suite(name: str, suite: dict[str, Any], params_file: Path) -> str:
    """Write a suite with this name and these contents into `params_file`, and return a message."""
    former, old_text = load_params(params_file), read_utf8(params_file)
    yaml = make_yaml()
    require_single_grid(old_text, params_file)
    params = yaml.load(old_text)
    claims = [_to_one_line_mapping(claim) for claim in suite["grid"].get("claims", [])]
    for axis, values in (suite["grid"] | {"claims": claims}).items():
        if axis in params["grid"]:
            set_axis(params["grid"], axis, values)
        elif values:  # claims, or an unknown key that parse_params reports
            params["grid"].insert(0, axis, values)  # at the start, because comments follow the last key
    replaced = add_methods(params["methods"], suite["methods"], name)
    text = dump_yaml(yaml, params)
    new = parse_params(text, SUITES / f"{name}.yaml")  # the parameter file is valid, so an error is in the suite
    write_params(params_file, text)
    message = f"{params_file} now contains the suite {name}"
    if params_file.resolve() == paths.PARAMS_FILE.resolve():
        message += ": run it with `dvc repro` or `snakemake --cores 8`"
    if replaced:
        message += f"\nreplaced, because the suite defines them differently: {', '.join(replaced)}"
    return message + describe_replaced(former, new)


def merge_suites(suites: dict[str, Any], params_file: Path) -> Path:
    """Write a new parameter file with the grids and methods of several suites, and return its path.

    `suites` maps suite names to their contents. All other parameters come from `params_file`.

    Raises:
        UserError: if a suite is not valid, if two suites define a method differently, if a suite uses a method of
            `params_file` that another suite changes, or if the result is not valid.
    """
    for name in suites:
        if not isinstance(name, str):
            raise UserError(f"suites: the name {name!r} is not text: put it in quotes in the suite file")
    load_params(params_file)
    for name, suite in suites.items():
        # Names become part of a file name.
        if not re.fullmatch(NAME, name):
            raise UserError(
                f"invalid suite name '{name}': use letters, digits, - and _, and start with a letter or digit"
            )
        _validate_suite(suite, f"suite {name}")
    _check_equal_definitions(suites)
    params = YAML(typ="safe", pure=True).load(params_file)
    params["grid"] = [suite["grid"] for suite in suites.values()]
    changed: dict[str, str] = {}  # by changed method: the first suite that changes it
    for name, suite in suites.items():
        for method in add_methods(params["methods"], suite.get("methods", {}), name):
            changed.setdefault(method, name)
    _check_uses_of_changed_methods(suites, changed, params_file)
    target = paths.suite_params_file("+".join(suites))
    text = dump_yaml(make_yaml(), params)
    # The parameter file is valid, so an error is in a suite.
    parse_params(text, Path(f"{'suite' if len(suites) == 1 else 'suites'} {' + '.join(suites)}"))
    # Every Snakemake job runs this; write only if the content changed.
    if not target.is_file() or target.read_text(encoding="utf-8") != text:
        write_text(target, text, concurrent=True)
    return target


def _check_equal_definitions(suites: dict[str, Any]) -> None:
    """Raise UserError if two suites define the same method differently."""
    definitions: dict[str, tuple[str, Any]] = {}  # by method: the first suite that defines it, and its definition
    for name, suite in suites.items():
        for method, changes in suite.get("methods", {}).items():
            first_name, first_changes = definitions.setdefault(method, (name, changes))
            if changes != first_changes:
                raise UserError(
                    f"suites {first_name} and {name} define methods.{method} differently: rename it in one of them"
                )


def _check_uses_of_changed_methods(suites: dict[str, Any], changed: dict[str, str], params_file: Path) -> None:
    """Raise UserError if a suite uses a method of `params_file` that another suite changes.

    `changed` maps each changed method to the suite that changes it.
    """
    for name, suite in suites.items():
        methods = suite.get("methods", {})
        used = [*suite["grid"].get("method", []), *(changes.get("base") for changes in methods.values())]
        for method, changing_suite in changed.items():
            if method in used and method not in methods:
                raise UserError(
                    f"suite {changing_suite} changes methods.{method}, which suite {name} uses as it is in "
                    f"{params_file}: give the changed method a new name"
                )


def load_suite(name: str) -> dict[str, Any]:
    """Return the contents of a suite: `grid`, and `methods`, which may be empty.

    Raises:
        UserError: if the suite is unknown or its file is not a valid suite.
    """
    _require_suite(name)
    path = SUITES / f"{name}.yaml"
    suites = _read_suites(path)
    if set(suites) != {name}:
        raise UserError(
            f"{path}, suites: must contain only the key '{name}', the name of the file, got {_describe(suites)}: "
            "rename the suite or the file, and remove other keys"
        )
    _validate_suite(suites[name], str(path))
    return {"methods": {}} | suites[name]


def read_suite_files(files: Iterable[Path]) -> dict[str, Any]:
    """Return the suites in several files by name. Snakemake's `--configfile` specifies these files.

    Raises:
        UserError: if a file contains anything else than suites, or if two files contain a suite with the same name.
    """
    suites: dict[str, Any] = {}
    for file in dict.fromkeys(files):
        if file.resolve() == paths.PARAMS_FILE.resolve():
            raise UserError(f"--configfile {file}: Snakemake always uses this file: specify only suites")
        for name, suite in _read_suites(file).items():
            if name in suites:
                raise UserError(f"{file}: another file also contains a suite named {name}: rename one of them")
            suites[name] = suite
    return suites


def _read_suites(path: Path) -> dict[Any, Any]:
    """Return the `suites` section of a suite file, whose contents have not been checked."""
    content = parse_yaml(read_utf8(path), path)
    if not isinstance(content, dict) or set(content) != {"suites"}:
        raise UserError(
            f"{path}: the file must contain only the key 'suites', got {_describe(content)}: put the suite under this "
            "key, and remove other keys"
        )
    suites = content["suites"]
    if not isinstance(suites, dict):
        raise UserError(f"{path}, suites: must be a mapping from names to suites, got {_describe(suites)}")
    return suites


def _describe(value: Any) -> str:
    """Return the keys of a mapping, "nothing" for None, or any other value as it is, for a message."""
    if value is None:
        return "nothing"
    return ", ".join(map(str, value)) if isinstance(value, dict) and value else f"{value!r:.100}"


def _validate_suite(suite: Any, where: str) -> None:
    if not isinstance(suite, dict) or not set(suite) <= _SECTIONS or "grid" not in suite:
        raise UserError(
            f"{where}: a suite must have a 'grid' section and may have 'methods', but no other sections, got "
            f"{_describe(suite)}: add 'grid' if it is missing, and remove other sections"
        )
    grid, methods = suite["grid"], suite.get("methods", {})
    if not isinstance(grid, dict):
        raise UserError(f"{where}, grid: must be a mapping from axes to lists, such as seed: [1, 2], got {grid!r:.100}")
    for axis, values in grid.items():
        if not isinstance(values, list):
            raise UserError(f"{where}, grid.{axis}: must be a list, such as seed: [1, 2], got {values!r:.100}")
    if not isinstance(methods, dict):
        raise UserError(
            f"{where}, methods: must be a mapping from names to methods, such as wide: {{base: relational, views: 8}}, "
            f"got {methods!r:.100}"
        )
    for variant, changes in methods.items():
        if not isinstance(changes, dict) or not isinstance(changes.get("base", ""), str):
            raise UserError(
                f"{where}, methods.{variant}: must be a mapping whose 'base' is the name of a method, such as {{base: "
                f"relational, views: 8}}, got {changes!r:.100}"
            )
    axes = [name for name, field in GridConfig.model_fields.items() if field.is_required()]
    if missing := [axis for axis in axes if axis not in grid]:
        raise UserError(
            f"{where}: the 'grid' section replaces the grid in params.yaml, but lacks {', '.join(missing)}: add them"
        )


def add_methods(methods: Any, variants: dict[str, Any], suite: str) -> list[str]:
    """Add each variant to `methods`, as a full copy of its `base` with some values changed.

    `methods` is the `methods` section of a parameter file, which is modified in place. `variants` maps the names of the
    variants to their changes. `suite` is the suite name, which is used in error messages.

    Returns:
        The names of the methods that existed with different values and were replaced.

    Raises:
        UserError: if a `base` is missing or unknown.
    """
    replaced = []
    for variant, changes in variants.items():
        values = dict(changes)
        if "like" in values:
            raise UserError(f"suite {suite}, methods.{variant}.like: this key is now called 'base'")
        base = values.pop("base", "")
        if base not in methods:
            problem = f"unknown method '{base}'" if base else "no method is specified"
            raise UserError(
                f"suite {suite}, methods.{variant}.base: {problem}: set base to a method in params.yaml; "
                f"{format_alternatives(base, methods)}"
            )
        # Make a full copy, so that all values of this method can be read in one place.
        method = {**copy.deepcopy(dict(methods[base])), **values}
        if variant in methods and methods[variant] != method:
            replaced.append(variant)
        methods[variant] = method
    return replaced


def _to_one_line_mapping(value: Any) -> Any:
    """Return a mapping that is written on one line, or on several if it is too long."""
    if isinstance(value, dict):  # parse_params reports anything else
        value = CommentedMap(value)
        value.fa.set_flow_style()
    return value


def _suite_names() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def _require_suite(name: str) -> None:
    names = _suite_names()
    if name not in names:
        remedy = format_alternatives(name, names) if names else "run rr in the root folder of the project"
        raise UserError(f"unknown suite '{name}': there is no file {SUITES / name}.yaml; {remedy}")


def _read_text(name: str) -> str:
    return read_utf8(SUITES / f"{name}.yaml")
