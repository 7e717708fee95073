"""Tests for the hash of code: edits that cannot change a result keep the hash, and all other edits change it."""

import ast
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import LONG, ROOT

from rr.runtime.hashing import code_sha256, file_sha256

MODULES = sorted((ROOT / "rr").rglob("*.py"))
SOURCE = '''
"""Docstring of the module."""
import math as m
from . import sibling

class Area(Base, key=1):
    """Docstring of the class."""
    side: float = 2.5
    """Docstring of the attribute."""

    @property
    def value(self, scale=1, *, name: str = "a") -> float:
        """Docstring of the method."""
        # A comment.
        if scale > 0 and not self.side:
            return -scale * self.side ** 2
        print(f"{name!r} is {scale:>{width}} of {'\U0001fae8'}", u"text", b"x", 1e-5, 2j, None, ...)
        return [*map(lambda x: x + 1, range(3))]

    def empty(self):
        """Docstring of a function without statements."""

async def main(x):
    global counter
    async with x as y:
        counter = (await y)[1:2, ..., ::3]
    try:
        del x
    except* ValueError as error:
        raise m.Error from error
    match y:
        case {"a": None, **rest} if rest:
            pass
        case [1, *_] | Area(side=2):
            return {**rest, "b": {z: y for z in y}}
    while (n := 1) < 2 <= 3:
        yield n
    else:
        x @= y if n else ~n
'''
# Pairs of a text in SOURCE and its replacement.
HARMLESS_EDITS = [
    ("Docstring", "Text"),
    ("# A comment.", "# Another\n        # comment, and an empty line.\n"),
    ('        """Docstring of a function without statements."""', "        pass"),
    ('    """Docstring of the attribute."""\n', ""),
    ('u"text", b"x", 1e-5', "('text'), b'x', 0.000_01"),
    ("(self, scale=1, *,", "(\n        self,\n        scale = 1, *,"),
    ("            pass\n", "            ...\n"),
    ("\n", "\r\n"),
    ("{name!r} is {", '{name!r} " f"is {'),
]
EDITS = [
    ("scale=1", "scale=2"),
    ("2.5", "2"),
    ('"a")', '"b")'),
    ('b"x"', '"x"'),
    ("...)", "None)"),
    (">{width}", "<{width}"),
    ("name!r", "name"),
    (" is {scale", " is  {scale"),
    ("scale > 0", "scale >= 0"),
    ("and not", "or not"),
    ("not self", "self"),
    ("-scale", "scale"),
    ("print(", "log("),
    ("self.side **", "self.size **"),
    (", *, name", ", name"),
    (": float =", ": int ="),
    ("    @property\n", ""),
    ("math as m", "math as n"),
    ("from . import", "from .. import"),
    ("Base, key=1", "Base, metaclass=1"),
    ("        # A comment.\n", "        print()\n"),
    ("        del x", "        pass"),
    ("except*", "except"),
    ("from error", "from None"),
    ('case {"a": None', 'case {"a": True'),
    ("[1, *_]", "[*_, 1]"),
    ("::3", "3::"),
    ("async with", "with"),
    ("global counter", "global count"),
    ("yield n", "yield from n"),
    ("    else:\n    ", ""),
    ("    def empty", "    def full"),
]


def hash_source(source: str, folder: Path) -> str:
    path = folder / "module.py"
    path.write_bytes(source.encode())
    return code_sha256(path)


@pytest.mark.parametrize(("old", "new"), HARMLESS_EDITS)
def test_edit_of_comments_docstrings_and_formatting_keeps_the_hash(old: str, new: str, tmp_path: Path) -> None:
    assert old in SOURCE
    assert hash_source(SOURCE.replace(old, new), tmp_path) == hash_source(SOURCE, tmp_path)


@pytest.mark.parametrize(("old", "new"), EDITS)
def test_edit_of_code_changes_the_hash(old: str, new: str, tmp_path: Path) -> None:
    assert SOURCE.count(old) == 1
    edited = SOURCE.replace(old, new)
    ast.parse(edited)
    assert hash_source(edited, tmp_path) != hash_source(SOURCE, tmp_path)


def test_hash_is_the_same_in_all_versions_of_python(tmp_path: Path) -> None:
    """The fixed value was computed with Python 3.11, 3.12 and 3.13."""
    assert hash_source(SOURCE, tmp_path) == "42a5ff35da0a6c4b5cb8006505010a4743eab2bc584e3d5ac084a6a10e0be332"


@pytest.mark.slow
def test_docstring_and_formatting_of_every_module_keep_the_hash(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "rr", tmp_path / "rr", ignore=shutil.ignore_patterns("__pycache__"))
    ruff = str(Path(sys.executable).with_name("ruff"))
    style = (
        "--line-length=60",
        "--config=format.quote-style='single'",
        "--config=format.skip-magic-trailing-comma=true",
    )
    subprocess.run([ruff, "format", "--quiet", "--isolated", *style, str(tmp_path)], check=True)
    copies = {module: tmp_path / module.relative_to(ROOT) for module in MODULES}
    assert sum(file_sha256(copy) != file_sha256(module) for module, copy in copies.items()) > 150
    for module, copy in copies.items():
        assert code_sha256(copy) == code_sha256(module), module
        # Python's own unparser omits comments.
        tree = ast.parse(module.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = "Another docstring."
        assert hash_source(ast.unparse(tree), tmp_path) == code_sha256(module), module


OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Lt: ast.LtE, ast.Eq: ast.NotEq, ast.And: ast.Or}


def change_constant(value: object) -> object:
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, bytes):
        return value + b"x"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return not value
    return value + 1


def has_effect(statement: ast.stmt) -> bool:
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return not is_constant and not isinstance(statement, ast.Pass)


def list_changes(tree: ast.AST) -> list[tuple[ast.AST, str, object]]:
    """Return a node, one of its fields and a new value for it, for each constant, operator, name and statement."""
    without_effect = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and not has_effect(node)}
    changes: list[tuple[ast.AST, str, object]] = []
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(node, ast.Constant):
                if field == "value" and node not in without_effect:
                    changes.append((node, field, change_constant(value)))
            elif isinstance(value, str):
                changes.append((node, field, f"{value}_"))
            elif type(value) in OPERATORS:
                changes.append((node, field, OPERATORS[type(value)]()))
            elif isinstance(value, list):
                changes += [
                    (node, field, [*value[:i], ast.Pass(), *value[i + 1 :]])
                    for i, statement in enumerate(value)
                    if isinstance(statement, ast.stmt) and has_effect(statement)
                ]
    return changes


@pytest.mark.slow
def test_change_of_any_constant_operator_name_or_statement_changes_the_hash(tmp_path: Path) -> None:
    """Each change is made in one of the project's own modules."""
    changes = [(module, i) for module in MODULES for i in range(len(list_changes(ast.parse(module.read_text()))))]
    assert len(changes) > 50_000
    for module, i in changes if LONG else random.Random(0).sample(changes, 200):
        tree = ast.parse(module.read_text())
        setattr(*list_changes(tree)[i])
        edited = ast.unparse(tree)
        assert hash_source(edited, tmp_path) != code_sha256(module), f"{module}, change {i}:\n{edited}"


@pytest.mark.parametrize("content", [b"def f(:\n", b"x = '\0'\n", b"# coding: utf-9\n", b"x = 1" + b" + 1" * 5000])
def test_module_that_cannot_be_parsed_is_hashed_by_its_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_bytes(content)
    assert code_sha256(path) == file_sha256(path)


def test_other_files_are_hashed_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    path.write_text("# comment\n")
    assert code_sha256(path) == file_sha256(path)
