"""Test a method from a user's own module with both engines: which runs an edit makes out of date."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_calls import ENVIRONMENT, call
from helpers import SIMSIAM, copy_project, keep_one_evaluation, write_simsiam

pytestmark = [pytest.mark.engine, pytest.mark.slow]
PRETRAIN = "runs/pretrain/shapes/conv4"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with SimSiam in its grid, whose grid DVC has run."""

    def change(params: dict) -> None:
        keep_one_evaluation(params)
        params["grid"].update(method=["relational", "simsiam"])
        params["methods"]["simsiam"] = SIMSIAM
        params["datasets"]["shapes"]["source"].update(train=64, test=20)

    folder = copy_project(tmp_path_factory.mktemp("project"), change)
    write_simsiam(folder / "workflow/extensions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHONPATH", f"{folder}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}")
        call(folder, "dvc", "repro")
        yield folder


def records(project: Path) -> dict[str, bytes]:
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in project.rglob("run.json")}


def test_edits_of_extensions_affect_only_the_runs_of_their_method(project: Path) -> None:
    before = records(project)
    own = b'"workflow/extensions/simsiam.py": "'
    assert [name for name, record in before.items() if own in record] == [f"{PRETRAIN}/simsiam/1/run.json"]
    call(project, "rr", "sync", "dvc")
    assert "Nothing to be done" in call(project, "snakemake", "-n")

    # Another method: no run is repeated.
    (project / "workflow/extensions/other.py").write_text("CONSTANT = 1\n")
    assert "Nothing to be done" in call(project, "snakemake", "-n")
    output = call(project, "dvc", "repro")
    for method in ("relational", "simsiam"):
        assert f"{PRETRAIN}/{method}/1/backbone.safetensors matches its record and is not trained again" in output
    assert records(project) == before
    assert "every artifact matches its record" in call(project, "rr", "verify")
    assert "Data and pipelines are up to date." in call(project, "dvc", "repro")

    # An edit of the method: its runs, and what depends on them, are repeated.
    path = project / "workflow/extensions/simsiam.py"
    path.write_text(path.read_text().replace("num_layers=3", "num_layers=2"))
    verify = call(project, "rr", "verify", code=2)
    assert f"workflow/extensions/simsiam.py (code of {PRETRAIN}/simsiam/1) has changed since the run" in verify
    assert "mismatches: 1;" in verify
    plan = call(project, "snakemake", "-n")
    assert "method=simsiam" in plan
    assert "method=relational" not in plan
    output = call(project, "dvc", "repro")
    assert f"{PRETRAIN}/relational/1/backbone.safetensors matches its record and is not trained again" in output
    changed = {name for name, record in records(project).items() if record != before[name]}
    assert {name.split("/")[1] for name in changed} == {"pretrain", "features", "evaluate", "run.json"}
    assert all("simsiam" in name for name in changed - {"report/run.json"})
    assert "every artifact matches its record" in call(project, "rr", "verify")
