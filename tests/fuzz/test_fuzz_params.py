"""Parameters, suites and records that somebody, or an accident, has altered: one message or a right result."""

import copy
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from corruption import altered, damaged, rounds
from helpers import EVALUATE, PRETRAIN, SMALL, Rr, use, write_params
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RepresenterError

PLAN = ("plan", "--views-per-second", "1000")


def as_yaml(tree: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        YAML(typ="safe", pure=True).dump(tree, buffer)
    except (RecursionError, RepresenterError, YAMLError, UnicodeError, ValueError):
        return b"[" * 3000
    return buffer.getvalue()


def hostile_yaml(tree: dict[str, Any], chance: random.Random) -> bytes:
    """Half of the files are wrong in their values, the others in their letters."""
    if chance.random() < 0.7:
        tree = copy.deepcopy(tree)
        altered(tree, chance)
        return as_yaml(tree)
    text = as_yaml(tree)
    place = chance.randrange(len(text))
    letters = [b"\t", b": ", b"- ", b"{", b"]", b"&a ", b"*a", b"!!python/none ", b"'", b"\\", b"%", b"---\n", b"<<: "]
    return damaged(text, chance) if chance.random() < 0.5 else text[:place] + chance.choice(letters) + text[place:]


def ends_well(rr: Rr, number: int, *command: object) -> bool:
    """Run `rr`: it succeeds, or ends with one message and code 2; a traceback fails the test. Returns which."""
    try:
        outcome = rr(*command)
    except BaseException as error:
        raise AssertionError(f"round {number}: {type(error).__name__}: {error}") from error
    assert outcome.code in (0, 2), f"round {number}: {outcome}"
    assert (outcome.code == 2) == outcome.err.startswith("rr: "), f"round {number}: {outcome}"
    return outcome.code == 0


def test_params_that_were_altered(project: Path, rr: Rr) -> None:
    accepted = 0
    for number, chance in rounds("params"):
        (project / "params.yaml").write_bytes(hostile_yaml(SMALL, chance))
        accepted += ends_well(rr, number, *PLAN)
    assert accepted < number  # most are refused
    assert [path.name for path in project.iterdir() if path.name != ".rr"] == ["params.yaml"]


def test_suites_that_were_altered(project: Path, rr: Rr) -> None:
    grid = {**SMALL["grid"], "method": ["random", "wide"]}
    suite = {"suites": {"some": {"grid": grid, "methods": {"wide": {"like": "relational", "views": 8}}}}}
    file, params = project / "workflow/suites/some.yaml", project / "params.yaml"
    file.parent.mkdir(parents=True)
    before = params.read_bytes()
    for number, chance in rounds("suites"):
        file.write_bytes(hostile_yaml(suite, chance))
        if chance.random() < 0.5:
            ends_well(rr, number, *PLAN, "some")
        elif not ends_well(rr, number, "suite", "use", "some"):
            assert params.read_bytes() == before, f"round {number}: the file is not as it was"
        params.write_bytes(before)


def test_records_that_were_altered(converted: Path, tmp_path: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "project"
    shutil.copytree(converted, folder)
    monkeypatch.chdir(folder)
    path = folder / "data/beton/shapes/run.json"
    text = path.read_bytes()
    for number, chance in rounds("records"):
        if chance.random() < 0.5:
            record = json.loads(text)
            altered(record, chance)
            try:
                path.write_text(json.dumps(record, default=str))
            except (ValueError, RecursionError, TypeError):
                continue
        else:
            path.write_bytes(damaged(text, chance))
        assert not ends_well(rr, number, "verify")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [1, *a]", "is not valid YAML"),
        ("a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 64)), "too large"),
        ("grid: !!python/object/apply:os.mkdir [x]", "is not valid YAML"),
        ("threads: " + "9" * 5000, "is not valid YAML"),
        ("\ufeff\x00", "is not valid YAML"),
        ("grid: 2026-01-01", "is not valid YAML"),
        ("{" * 100_000, "is not valid YAML"),
    ],
    ids=["within itself", "bomb", "code", "digits", "no text", "date", "deep"],
)
def test_yaml_that_would_do_more_than_say_values(project: Path, rr: Rr, text: str, expected: str) -> None:
    (project / "params.yaml").write_text(text)
    outcome = rr(*PLAN)
    assert outcome.code == 2
    assert expected in outcome.err
    assert not (project / "x").exists()


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "a\0b", "k" * 5000, "params.yaml/x", "\U0001f600"])
def test_paths_that_lead_nowhere(project: Path, rr: Rr, kind: str, path: str) -> None:
    use(project, {"kind": kind, "path": path})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 2
    assert outcome.err.startswith("rr: ")
    assert not list((project / "data").rglob("images*"))


@pytest.mark.parametrize(
    ("where", "value", "command", "expected"),
    [
        ("datasets.shapes.source.train", 10**30, ("fetch", "--dataset", "shapes"), "less than or equal to 1000000000"),
        ("methods.relational.epochs", 10**400, PLAN, "less than or equal to 1000000000"),
        ("methods.relational.gamma", 1e300, PLAN, "less than or equal to 1000000"),
        ("methods.relational.batch_size", 10**9, PRETRAIN, ""),  # more than there are pictures: all of them
        ("datasets.shapes.std", [1e-300] * 3, PRETRAIN, "greater than or equal to 0.001"),
        ("datasets.shapes.std", [63.0, 62.1, 66.7], (*EVALUATE, "linear"), "less than or equal to 1"),  # of 0 to 255
        ("datasets.shapes.mean", [125.3, 123.0, 113.9], PRETRAIN, "less than or equal to 1"),
        ("protocols.linear.learning_rate", 1e6, (*EVALUATE, "linear"), ""),
        ("protocols.knn.temperature", 1e-300, (*EVALUATE, "knn"), ""),
        ("protocols.knn.neighbours", 10**9, (*EVALUATE, "knn"), "lower neighbours"),
    ],
)
def test_numbers_that_are_slips(
    converted: Path, tmp_path: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch, where: str, value: object,
    command: tuple[str, ...], expected: str,
) -> None:  # fmt: skip
    folder = tmp_path / "project"
    shutil.copytree(converted, folder)
    monkeypatch.chdir(folder)

    def short(params: dict) -> None:
        params["methods"]["relational"].update(epochs=1, views=2)

    def change(params: dict) -> None:
        short(params)
        *sections, key = where.split(".")
        for section in sections:
            params = params[section]
        params[key] = value

    write_params(folder, short)
    if command[0] == "evaluate":
        assert rr(*PRETRAIN).code == 0
    write_params(folder, change)
    outcome = rr(*command)
    assert outcome.code == (2 if expected else 0), outcome
    assert expected in outcome.err
    if expected:
        assert not list((folder / f"runs/{command[0]}").rglob("run.json")) or command[0] == "fetch"
