"""Fixtures for the report tests."""

from pathlib import Path

import pytest
from report_files import make_params, write_full_grid, write_grid_files

from rr.params import Params


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Return a grid of three methods, two protocols and two seeds. Its files are in the current folder."""
    monkeypatch.chdir(tmp_path)
    params = make_params()
    write_grid_files(params)
    return params


@pytest.fixture
def full_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Return a grid with all kinds of protocols and learning dynamics. Its files are in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_full_grid()
