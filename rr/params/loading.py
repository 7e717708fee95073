"""Read and check `params.yaml`. Each mistake is reported in one line with the path of the key and a suggestion."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from rr.errors import UserError, format_alternatives
from rr.params.augmentations import Augmentation, AugmentationConfig
from rr.params.base import NAME, RENAMED_KEYS, SHA256, StrictModel
from rr.params.extensions import is_extension_kind, load_config_class
from rr.params.schema import Params

MAX_VALUES = 100_000  # params.yaml has about a hundredth as many
# Explanations of the patterns that pydantic would print as regular expressions.
_PATTERN_MESSAGES = {
    NAME: "invalid name; use letters, digits, - and _, and start with a letter or digit",
    SHA256: "must be 64 hexadecimal digits in lower case, as printed by rr import",
}


def load_params(path: Path) -> Params:
    """Read and check a parameter file.

    Raises:
        UserError: if the file is missing or a folder, is not valid YAML, or contains mistakes. The message has one line
            per mistake.
    """
    if path.is_dir():
        raise UserError(
            f"{path} is a folder: specify a parameter file, such as {path / 'params.yaml'}, with --params or RR_PARAMS"
        )
    if not path.is_file():
        raise UserError(
            f"{path} not found: run rr in the root folder of a project (rr init creates one), or specify the file with "
            "--params"
        )
    return parse_params(read_utf8(path), path)


def read_utf8(path: Path) -> str:
    """Return the contents of a text file.

    Raises:
        UserError: if the file is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}): save it with UTF-8 encoding") from error


def parse_params(content: str, path: Path) -> Params:
    """Parse and check the text of a parameter file; `path` is for error messages.

    Raises:
        UserError: if the text is not valid YAML or contains mistakes. The message has one line per mistake.
    """
    raw = parse_yaml(content, path)
    if not isinstance(raw, dict):
        raise UserError(f"{path} is empty or not a mapping: it needs the sections {', '.join(Params.model_fields)}")
    try:
        # In JSON mode, a strict model accepts a list for a tuple, but not "3" for 3.
        return Params.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        lines = [_format_validation_error(raw, dict(details)) for details in error.errors(include_url=False)]
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from error


def parse_yaml(content: str, path: Path) -> Any:
    """Parse a YAML document whose values JSON can represent; `path` is used in error messages.

    Raises:
        UserError: if the text is not valid YAML, if it is too large or too deeply nested, or if it has values that JSON
            cannot represent, such as dates.
    """
    try:
        raw = YAML(typ="safe", pure=True).load(content)
        if _count_values(raw, {}) > MAX_VALUES:
            raise UserError(f"{path} is too large: it has more than {MAX_VALUES:,} values (an alias counts as a copy)")
        unsupported = next(_find_unserializable_values(raw, ""), None)
    except RecursionError as error:
        raise UserError(
            f"{path}: the values are nested too deeply, or an alias (*name) is inside the value that it refers to: "
            "remove the alias, or nest the values less deeply"
        ) from error
    except (YAMLError, ValueError, TypeError) as error:
        if conflict := re.search(r"^<{7} .*", content, re.MULTILINE):
            line = content.count("\n", 0, conflict.start()) + 1
            raise UserError(
                f"{path}, line {line}: git could not merge two versions of this file: choose one of them, and delete "
                "the lines that start with <<<<<<<, ======= and >>>>>>>"
            ) from error
        raise UserError(f"{path} is not valid YAML: {_describe_yaml_error(error)}") from error
    if unsupported:
        raise UserError(f"{path}: {unsupported}")
    return raw


def _describe_yaml_error(error: Exception) -> str:
    """Return what is wrong, and on which line."""
    if not isinstance(error, MarkedYAMLError) or error.problem is None or error.problem_mark is None:
        return " ".join(str(error).split())
    problem = error.problem.partition(" with value ")[0]  # omit the values of a duplicate key
    if problem.startswith(r"found character '\t'"):
        problem = "found a tab: indent with spaces"
    line, start = error.problem_mark.line, error.context_mark.line if error.context_mark else None
    is_unclosed = start is not None and start < line and not isinstance(error, DuplicateKeyError)
    where = f" ({error.context}, which starts on line {(start or 0) + 1})" if is_unclosed else ""
    return f"line {line + 1}: {problem}{where}"


def _find_unserializable_values(value: Any, where: str) -> Iterator[str]:
    """Yield a description of each key and value that JSON cannot represent; `where` is the path of `value`."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"{where or 'top level'}: the key {key!s:.100} is not text; put it in quotes"
            yield from _find_unserializable_values(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _find_unserializable_values(item, f"{where}.{position}")
    elif isinstance(value, int) and abs(value) >= 2**64:
        yield f"{where or 'top level'}: the number has more than 64 bits"
    elif not isinstance(value, str | int | float | None):
        yield (
            f"{where or 'top level'}: unsupported value {value} (type {type(value).__name__}): use only text, numbers, "
            "booleans, null, lists and mappings, and put dates in quotes"
        )


def _count_values(value: Any, counts: dict[int, int]) -> int:
    """Count the values in `value` with all aliases expanded. A few lines of nested aliases can expand to 2⁶⁴ values."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counts:
        items = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count_values(item, counts) for item in items)
    return counts[id(value)]


def _format_validation_error(raw: dict[str, Any], details: dict[str, Any]) -> str:
    """Turn a pydantic error into one line with the key's path, the problem and, if possible, a suggestion."""
    location, context = list(details["loc"]), details.get("ctx", {})
    path = _path_in_file(location, raw, is_missing=details["type"] == "missing")
    where = ".".join(part for part in path if part != "[key]")
    if details["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        valid_keys = _valid_keys(location[:-1], raw)
        new_key = RENAMED_KEYS.get(path[-1])
        if new_key and new_key.partition(".")[0] in valid_keys:
            return f"{where}: this key is now called '{new_key}'"
        return f"{where}: unknown key; {format_alternatives(path[-1], valid_keys)}"
    if details["type"] == "missing":
        return f"{where}: this key is missing"
    if details["type"].startswith("union_tag"):
        if "tag" not in context:
            return f"{where}.kind: this key is missing"
        valid_kinds = context["expected_tags"].replace("'", "").split(", ")
        alternatives = format_alternatives(context["tag"], valid_kinds)
        own_class = "" if "did you" in alternatives else ", or module:Class for a class in workflow/extensions"
        return f"{where}.kind: unknown '{context['tag']}'; {alternatives}{own_class}"
    message = _PATTERN_MESSAGES.get(context.get("pattern"), details["msg"].removeprefix("Value error, "))
    if not where:
        return message
    value = json.dumps(details.get("input"))
    if details["type"] in ("list_type", "tuple_type"):
        is_single = isinstance(details.get("input"), str | int) and len(value) < 60
        return f"{where}: must be a list" + (f", such as [{value}]" if is_single else "")
    return f"{where}: {message[0].lower()}{message[1:]}" + (f" (given: {value})" if len(value) < 60 else "")


def _path_in_file(location: list[Any], raw: Any, *, is_missing: bool) -> list[str]:
    """Return the parts of an error's location that are in the file, and a missing key at its end.

    pydantic also adds the tags of union members to the location. They are not in the file.
    """
    path, node = [], raw
    for position, part in enumerate(location):
        exists = part in node if isinstance(node, dict) else isinstance(node, list) and part in range(len(node))
        if exists or (is_missing and position == len(location) - 1):
            path.append(str(part))
        if exists:
            node = node[part]
    return path


def _valid_keys(location: list[Any], raw: Any) -> list[str]:
    """Return the keys that the model at `location` accepts, by following the models' annotations."""
    annotation, rest = _find_extension_model(location, raw) or (Params, location)
    for part in rest:
        annotation = _annotation_at(annotation, part)
    if _is_model(annotation):
        return list(annotation.model_fields)
    is_augmentation = annotation is Augmentation or AugmentationConfig in get_args(annotation)
    return list(Augmentation.__dataclass_fields__) if is_augmentation else []


def _find_extension_model(location: list[Any], raw: Any) -> tuple[Any, list[Any]] | None:
    """Return the `Config` class of the user-defined entry that contains `location`, and the rest of the location."""
    for depth, part in enumerate(location, 1):
        if not isinstance(raw, dict) or part not in raw:
            return None
        raw = raw[part]
        if isinstance(raw, dict) and is_extension_kind(kind := raw.get("kind")):
            return load_config_class(kind, StrictModel), location[depth:]
    return None


def _annotation_at(annotation: Any, part: Any) -> Any:
    """Return the annotation of a model's field, of a dict's values, or of the union member whose `kind` is `part`."""
    if _is_model(annotation) and part in annotation.model_fields:
        return annotation.model_fields[part].annotation
    arguments = get_args(annotation)
    for member in (m for argument in arguments for m in (argument, *get_args(argument)) if _is_model(m)):
        if "kind" in member.model_fields and part in get_args(member.model_fields["kind"].annotation):
            return member
    return arguments[-1] if arguments else annotation


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
