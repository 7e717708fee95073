"""`params.yaml` read and checked; a mistake becomes one line that names its path and the nearest known key."""

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rr.errors import UserError, nearest
from rr.params.root import Params
from rr.views.augmentation import Augmentation

LARGEST = 100_000  # values in a file of parameters, a hundred times what the shipped one has


def load(path: Path) -> Params:
    """Read and check `path`. Raises UserError with one line per mistake."""
    if not path.is_file():
        raise UserError(f"no {path} here: run this in the project's root, or name the file with --params")
    try:
        return check(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error


def check(content: str, path: Path) -> Params:
    """Check `content` as that of `path`. Raises UserError as `load` does."""
    raw = parse(content, path)
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no sections: it must begin with 'grid:'")
    try:
        # JSON mode, because there a strict model takes a list for a tuple, yet no "3" for a 3.
        return Params.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        lines = [_explain(raw, dict(mistake)) for mistake in error.errors(include_url=False)]
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from error


def parse(content: str, path: Path) -> Any:
    """The values of a YAML text, such as JSON has. Raises UserError that names `path` for anything else."""
    try:
        raw = YAML(typ="safe", pure=True).load(content)
        if _size(raw, {}) > LARGEST:
            raise ValueError(f"too large, with its aliases more than {LARGEST:,} values")
        json.dumps(raw)
    except (YAMLError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return raw


def _size(value: Any, known: dict[int, int]) -> int:
    """How many values `value` holds when each alias is written out: few lines of YAML can stand for 2⁶⁴."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]


def _explain(raw: dict[str, Any], mistake: dict[str, Any]) -> str:
    """One line for one of pydantic's errors: path, what is wrong, the nearest known key."""
    location = list(mistake["loc"])
    path, here = [], raw
    for position, part in enumerate(location):
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and part in range(len(here))
        # A part that is no key of the file is pydantic's tag for a union member, unless it is the missing key itself.
        if inside or position == len(location) - 1:
            path.append(str(part))
        if inside:
            here = here[part]
    where = ".".join(part for part in path if part != "[key]")
    if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key; {nearest(path[-1], _keys(location[:-1]))}"
    if mistake["type"] == "missing":
        return f"{where}: this key is missing"
    if mistake["type"].startswith("union_tag"):
        known = mistake.get("ctx", {}).get("expected_tags", "").replace("'", "")
        given = mistake.get("ctx", {}).get("tag")
        return f"{where}.kind: " + (f"unknown '{given}'; known: {known}" if given else "this key is missing")
    message = mistake["msg"].removeprefix("Value error, ")
    if not where:
        return message
    given = json.dumps(mistake.get("input"))
    return f"{where}: {message[0].lower()}{message[1:]}" + (f" (given: {given})" if len(given) < 60 else "")


def _keys(location: list[Any]) -> list[str]:
    """The keys known at `location`, found by walking the models' annotations."""
    here: Any = Params
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = here.model_fields[part].annotation
            continue
        arguments = get_args(here)
        members = [m for a in arguments for m in (a, *get_args(a)) if isinstance(m, type) and issubclass(m, BaseModel)]
        tagged = [
            m for m in members if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)
        ]
        # A dict's key leads to its value type; a tag leads to the member of the union that carries it.
        here = tagged[0] if tagged and here is not Params else (arguments[-1] if arguments else here)
    if isinstance(here, type) and issubclass(here, BaseModel):
        return list(here.model_fields)
    if here is Augmentation:
        return list(Augmentation.__dataclass_fields__)
    return []
