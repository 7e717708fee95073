"""Fixtures for the tests of pretraining."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def project_copy(converted_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the converted project and make the copy the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(converted_project, folder)
    monkeypatch.chdir(folder)
    return folder
