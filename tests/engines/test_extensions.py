"""Test, with both engines, which runs become out of date when a user-defined class is edited."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_calls import ENVIRONMENT, call
from helpers import SIMSIAM, copy_project, keep_one_evaluation, use_own_classes, write_own_classes, write_simsiam

pytestmark = [pytest.mark.engine, pytest.mark.slow]
PRETRAIN = "runs/pretrain/own/conv4"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose grid uses a method, a backbone, a source and a protocol from the guides. DVC has run the grid."""

    def change(params: dict) -> None:
        use_own_classes(params)
        keep_one_evaluation(params)
        params["grid"].update(dataset=["own"], method=["random", "simsiam"], protocol=["knn", "nearest-mean"])
        params["methods"]["simsiam"] = SIMSIAM
        params["datasets"]["shapes"]["source"].update(train=64, test=20)

    folder = copy_project(tmp_path_factory.mktemp("project"), change)
    write_simsiam(folder / "workflow/extensions")
    write_own_classes(folder / "workflow/extensions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHONPATH", f"{folder}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}")
        call(folder, "dvc", "repro")
        yield folder


def records(project: Path) -> dict[str, bytes]:
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in project.rglob("run.json")}


def test_records_contain_the_files_that_their_runs_use(project: Path) -> None:
    uses = {
        "simsiam": lambda parts: parts[1] == "pretrain" and "simsiam" in parts,
        "separable": lambda parts: parts[0] == "runs" and "separable" in parts,
        "medmnist": lambda parts: parts[:3] == ("data", "raw", "own"),
        "nearest_mean": lambda parts: "nearest-mean" in parts,
    }
    for name, record in records(project).items():
        parts = Path(name).parts
        for module, is_used in uses.items():
            assert (f'"workflow/extensions/{module}.py": "'.encode() in record) == is_used(parts), (name, module)
    assert "every artifact matches its record" in call(project, "rr", "verify")


def test_edits_of_extensions_affect_only_the_runs_that_use_them(project: Path) -> None:
    before = records(project)
    assert "Nothing to be done" in call(project, "snakemake", "-n")

    # Adding a file and a backbone does not cause any rerun.
    (project / "workflow/extensions/other.py").write_text("CONSTANT = 1\n")
    params = (project / "params.yaml").read_text()
    entry = "  other: {kind: 'separable:Separable', width: 4, blocks: 1}\n"
    assert params.count("backbones:\n") == 1
    (project / "params.yaml").write_text(params.replace("backbones:\n", f"backbones:\n{entry}"))
    assert "Nothing to be done" in call(project, "snakemake", "-n")
    output = call(project, "dvc", "repro")
    for file in (
        "data/raw/own/images.parquet", "data/raw/shapes/images.parquet",
        f"{PRETRAIN}/random/1/backbone.safetensors", f"{PRETRAIN}/simsiam/1/backbone.safetensors",
        "runs/features/own/separable/simsiam/1/own/features.safetensors",
        "runs/evaluate/own/conv4/random/1/own/nearest-mean/metrics.json",
    ):  # fmt: skip
        assert f"{file} matches its record, so the stage was not rerun" in output
    assert records(project) == before
    assert "every artifact matches its record" in call(project, "rr", "verify")
    assert "Data and pipelines are up to date." in call(project, "dvc", "repro")

    # Editing a class makes the runs that use it out of date. Editing a docstring does not.
    for module, code, new_code in (
        ("separable", "Map float", "Map"),
        ("medmnist", "encode_png(pixels)", "encode_png(255 - pixels)"),
        ("simsiam", "num_layers=3", "num_layers=2"),
        ("nearest_mean", "config.temperature, axis=1", "config.temperature / 2, axis=1"),
    ):
        path = project / f"workflow/extensions/{module}.py"
        text = path.read_text()
        assert code in text
        path.write_text(text.replace(code, new_code))
        is_used = f'"workflow/extensions/{module}.py": "'.encode()
        users = {name for name, record in before.items() if is_used in record and module != "separable"}
        verify = call(project, "rr", "verify", code=2 if users else 0)
        assert verify.count("has changed since the run") == len(users)
        for name in users:
            assert f"workflow/extensions/{module}.py (code of {name.removesuffix('/run.json')}) has changed" in verify
        if module != "nearest_mean":
            path.write_text(text)

    # The edit of nearest_mean remains. The runs that use it, and the report, are run again.
    plan = call(project, "snakemake", "-n")
    assert "protocol=nearest-mean" in plan
    assert "protocol=knn" not in plan
    assert "rule extract:" not in plan
    call(project, "dvc", "repro")
    changed = {name for name, record in records(project).items() if record != before[name]}
    assert changed == {*users, "report/run.json"}
    assert "every artifact matches its record" in call(project, "rr", "verify")
