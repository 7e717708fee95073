"""Tests for the changes of Snakemake."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job

from rr.workflow.snakemake_patch import _differs_from_record, patch_snakemake


def test_other_version_of_snakemake_is_refused_and_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    postprocess = Job.postprocess
    monkeypatch.delattr(Job, "remove_existing_output")
    with pytest.raises(WorkflowError, match=r"Snakemake .* has no Job.remove_existing_output.*requirements.lock"):
        patch_snakemake()
    assert Job.postprocess is postprocess


@pytest.mark.parametrize(
    ("record", "differs"),
    [
        ('{"params": {"threads": 2}}', False),
        ('{"params": {"threads": 1}}', True),
        ("{}", False),
        ("damaged", False),
        (None, False),  # Snakemake runs a job whose outputs are missing anyway
    ],
)
def test_parameters_are_compared_with_the_record(tmp_path: Path, record: str | None, differs: bool) -> None:
    files = [str(tmp_path / name) for name in ("backbone.safetensors", "run.json")]
    if record is not None:
        Path(files[1]).write_text(record)
    job = SimpleNamespace(output=files, params={"settings": {"threads": 2}})
    assert _differs_from_record(job) is differs  # type: ignore[arg-type]
