"""Compute SHA-256 hashes of files, code and JSON values."""

import ast
import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a JSON value. The order of keys does not affect it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def code_sha256(path: Path) -> str:
    """Return a SHA-256 of a code file that does not depend on its comments, docstrings or formatting.

    For a Python module, this is a hash of its syntax tree, which is the same in Python 3.11 to 3.13. For any other
    file, and for a module with a syntax error, it is a hash of the bytes.
    """
    return _module_sha256(path.read_bytes()) if path.suffix == ".py" else file_sha256(path)


@functools.cache  # parsing takes a hundred times as long as reading
def _module_sha256(source: bytes) -> str:
    try:
        return json_sha256(_describe_syntax(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return hashlib.sha256(source).hexdigest()


def _describe_syntax(node: Any) -> Any:
    """Return a syntax tree as a JSON value, without positions and without statements that do nothing.

    `ast.dump` cannot be used, because its output differs between versions of Python: in newer versions, nodes have more
    fields, which are empty for older syntax, and `repr` escapes fewer characters.
    """
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 appends an empty string to some f-strings
        node.values = [value for value in node.values if not (isinstance(value, ast.Constant) and value.value == "")]
    if isinstance(node, ast.AST):
        # The `kind` field only distinguishes u"text" from "text".
        fields = {name: _describe_syntax(value) for name, value in ast.iter_fields(node) if name != "kind"}
        return [type(node).__name__, {name: value for name, value in fields.items() if value not in ("None", [])}]
    if isinstance(node, list):
        return [_describe_syntax(item) for item in node if not _does_nothing(item)]
    return ascii(node)


def _does_nothing(node: Any) -> bool:
    """Return whether a node is `pass` or a statement that consists only of a constant: a docstring, or `...`."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
