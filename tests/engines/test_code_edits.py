"""Test, with both engines, which stages become out of date when the code of a finished project is edited."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_calls import BIN, ENVIRONMENT, call
from helpers import copy_project, keep_one_evaluation

pytestmark = [pytest.mark.engine, pytest.mark.slow]
EVALUATION = "runs/evaluate/shapes/conv4/random/1/shapes/knn"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose grid DVC has run with the project's own copy of `rr`."""

    def change(params: dict) -> None:
        keep_one_evaluation(params)
        params["grid"].update(method=["random"])
        params["datasets"]["shapes"]["source"].update(train=60, test=20)

    folder = copy_project(tmp_path_factory.mktemp("project"), change)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHONPATH", f"{folder}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}")
        call(folder, "dvc", "repro")
        yield folder


def edit(project: Path, name: str, change: Callable[[str], str]) -> None:
    path = project / "rr" / name
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def outdated_stages(project: Path) -> tuple[list[str], list[str]]:
    """Return the stages whose dependencies have changed according to DVC, and the stages that Snakemake would run."""
    status = call(project, "dvc", "status").splitlines()
    plan = call(project, "snakemake", "-n").splitlines()
    return (
        sorted(line.split("@")[0].rstrip(":") for line in status if line.endswith(":") and not line[0].isspace()),
        sorted({line.split()[1].rstrip(":") for line in plan if line.startswith("rule ")} - {"all"}),
    )


def test_sync_accepts_edited_comments_but_not_an_edited_constant(project: Path) -> None:
    folders = (project / name for name in ("data", "runs", "report"))
    records = {path: path.read_bytes() for folder in folders for path in folder.rglob("run.json")}
    assert len(records) == 6
    for name in ("fetch.py", "convert.py", "views/cpu_views.py", "report/page.py"):
        edit(project, name, lambda text: text.replace('"""', '"""Another docstring. ', 1) + "# A comment.\n")
    stages = ["convert", "evaluate", "extract", "fetch", "pretrain", "report"]
    assert outdated_stages(project) == (stages, [])  # Snakemake follows the records, which ignore comments
    assert "every artifact matches its record" in call(project, "rr", "verify")
    assert "sync: registered 6 of 6 runs\n" in call(project, "rr", "sync")
    assert outdated_stages(project) == ([], [])

    edit(project, "evaluate/knn.py", lambda text: text.replace("_BATCH_SIZE = 128", "_BATCH_SIZE = 256"))
    edit(project, "views/cpu_views.py", lambda text: f"{text}# Another comment.\n")
    output = call(project, "rr", "verify", code=2)
    assert f"rr/evaluate/knn.py (code of {EVALUATION}) has changed since the run" in output
    assert "mismatches: 1;" in output
    assert "sync: registered 5 of 6 runs; `rr verify` shows why the others were not" in call(project, "rr", "sync")
    # `dvc status` does not list the report yet, because the files that the report reads have not changed.
    assert outdated_stages(project) == (["evaluate"], ["evaluate", "report"])
    assert {path: path.read_bytes() for path in records} == records

    output = call(project, "dvc", "repro")
    assert [line for line in output.splitlines() if line.startswith("Running stage")] == [
        "Running stage 'evaluate@shapes-conv4-random-1-shapes-knn':",
        "Running stage 'report':",
    ]
    assert outdated_stages(project) == ([], [])
    assert "every artifact matches its record" in call(project, "rr", "verify")


def test_snakemake_follows_the_records_instead_of_its_own_metadata(project: Path) -> None:
    def set_batch_size(size: int) -> None:
        edit(project, "evaluate/knn.py", lambda text: re.sub(r"(?<=_BATCH_SIZE = )\d+", str(size), text))

    call(project, "dvc", "repro")
    call(project, "snakemake", "--cores", "1", "--touch")  # now Snakemake has metadata of this code
    original = int(re.findall(r"_BATCH_SIZE = (\d+)", (project / "rr/evaluate/knn.py").read_text())[0])
    set_batch_size(17)
    call(project, "dvc", "repro")
    assert outdated_stages(project) == ([], [])
    set_batch_size(original)
    assert outdated_stages(project) == (["evaluate"], ["evaluate", "report"])
    set_batch_size(18)
    assert "rr evaluate" in call(project, "snakemake", "--cores", "1")  # now it has metadata of other code
    set_batch_size(original)
    call(project, "dvc", "repro")
    assert outdated_stages(project) == ([], [])


@pytest.mark.parametrize("engine", [("dvc", "repro"), ("snakemake", "--cores", "1")], ids=["dvc", "snakemake"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("params.yaml", f"{EVALUATION}: its parameters in params.yaml have changed since the run"),
        ("rr/evaluate/knn.py", f"rr/evaluate/knn.py (code of {EVALUATION}) has changed since the run"),
    ],
)
def test_edit_while_a_stage_runs_makes_the_engine_repeat_it(
    project: Path, engine: tuple[str, ...], name: str, message: str
) -> None:
    def increase(text: str) -> str:
        return re.sub(r"(neighbors: |_BATCH_SIZE = )(\d+)", lambda match: f"{match[1]}{int(match[2]) + 1}", text)

    call(project, *engine)
    edit(project, f"../{name}", increase)  # so that the engine runs the stage
    (project / "edited").write_text(increase((project / name).read_text()))
    faults = f"{Path(__file__).parent / 'faults'}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    process = subprocess.run(
        [str(BIN / engine[0]), *engine[1:]], cwd=project, capture_output=True, text=True,
        env=ENVIRONMENT | {"PYTHONPATH": faults, "RR_TEST_FAULT": f"evaluate: copy edited {name}"},
    )  # fmt: skip
    output = process.stdout + process.stderr
    assert process.returncode != 0, output
    assert message in output
    assert f"these changes were made while {EVALUATION} was being computed: run the same command again" in output
    assert message in call(project, "rr", "verify", code=2)
    assert "rr evaluate" in call(project, *engine)
    assert "every artifact matches its record" in call(project, "rr", "verify")
    assert "Nothing to be done" in call(project, "snakemake", "-n") or engine[0] == "dvc"
