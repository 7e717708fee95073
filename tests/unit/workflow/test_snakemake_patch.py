"""Tests for the changes of Snakemake."""

import pytest
from snakemake.exceptions import WorkflowError
from snakemake.jobs import Job

from rr.workflow.snakemake_patch import patch_snakemake


def test_other_version_of_snakemake_is_refused_and_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    postprocess = Job.postprocess
    monkeypatch.delattr(Job, "remove_existing_output")
    with pytest.raises(WorkflowError, match=r"Snakemake .* has no Job.remove_existing_output.*requirements.lock"):
        patch_snakemake()
    assert Job.postprocess is postprocess
