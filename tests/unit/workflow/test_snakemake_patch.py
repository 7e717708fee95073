"""Tests for the patches to Snakemake."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile, _IOFile
from snakemake.iocontainers import Namedlist
from snakemake.jobs import Job

from rr.workflow import snakemake_patch
from rr.workflow.records import load_record, with_digest
from rr.workflow.snakemake_patch import patch_snakemake


def test_other_version_of_snakemake_is_refused_and_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    postprocess = Job.postprocess
    monkeypatch.delattr(Job, "remove_existing_output")
    with pytest.raises(WorkflowError, match=r"Snakemake .* has no Job.remove_existing_output.*requirements.lock"):
        patch_snakemake()
    assert Job.postprocess is postprocess


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A job that converts a dataset, after it and the job that fetched the dataset have run."""
    monkeypatch.chdir(tmp_path)
    # The keys of this cache are paths and times, which may be the same as in an earlier test.
    monkeypatch.setattr(snakemake_patch, "_matches_by_version", {})
    monkeypatch.setattr(snakemake_patch, "_code_hashes", lambda stage: {f"rr/{stage}.py": "1"})
    code, images = {"rr/convert.py": "1"}, "data/raw/shapes/images.parquet"
    write_record("data/raw/shapes", params={}, inputs={}, code={}, outputs={images: "2"})
    write_record("data/beton/shapes", params={"threads": 2}, inputs={images: "2"}, code=code, outputs={})
    files: Namedlist = Namedlist([images, "rr/convert.py"])
    files._set_name("code", 1, end=2)
    return SimpleNamespace(
        rule=SimpleNamespace(name="convert"),
        input=files,
        output=["data/beton/shapes/train.beton", "data/beton/shapes/run.json"],
        params={"settings": {"threads": 2}},
    )


def write_record(folder: str, **record: Any) -> None:
    file = Path(folder, "run.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(with_digest(record)))


def change_params(job: SimpleNamespace) -> None:
    job.params["settings"]["threads"] = 1


def change_code(job: SimpleNamespace) -> None:
    write_record("data/beton/shapes", **load_record(Path("data/beton/shapes")) | {"code": {"rr/convert.py": "0"}})


def change_input(job: SimpleNamespace) -> None:
    outputs = {"data/raw/shapes/images.parquet": "3"}
    write_record("data/raw/shapes", **load_record(Path("data/raw/shapes")) | {"outputs": outputs})


def add_input(job: SimpleNamespace) -> None:
    job.input.append("data/raw/other/images.parquet")  # whose record does not exist yet


def damage_record(job: SimpleNamespace) -> None:
    Path("data/beton/shapes/run.json").write_text("{}")


def delete_record(job: SimpleNamespace) -> None:
    Path("data/beton/shapes/run.json").unlink()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda job: None, True),
        (change_params, False),
        (change_code, False),
        (change_input, False),
        (add_input, False),
        (damage_record, None),
        (delete_record, None),
    ],
)
def test_job_is_compared_with_the_record(
    job: SimpleNamespace, change: Callable[[SimpleNamespace], None], expected: bool | None
) -> None:
    change(job)
    assert snakemake_patch._matches_record(job) is expected  # type: ignore[arg-type]


def test_file_is_hashed_again_only_if_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, names in snakemake_patch._METHODS.items():
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))  # restored after the test
    for _ in range(2):  # a second call changes nothing
        patch_snakemake()
    assert _IOFile.checksum is snakemake_patch._checksum_once_per_version
    hashed, digest = [], hashlib.file_digest

    def count(file: Any, algorithm: Any) -> Any:
        hashed.append(file.name)
        return digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", count)
    path = tmp_path / "train.beton"
    workflow = SimpleNamespace(iocache=SimpleNamespace(active=False), storage_settings=None)
    for content in (b"first", b"second one"):
        path.write_bytes(content)
        for _ in range(3):
            file = IOFile(str(path))
            file.rule = SimpleNamespace(workflow=workflow)
            expected = f"sha256:{hashlib.sha256(content).hexdigest()}"
            assert asyncio.run(file.checksum(1 << 40)) == expected
    assert hashed == [str(path)] * 2
