"""Fixtures of the tests of the report."""

from pathlib import Path

import pytest
from report_files import make_params, write_full_grid, write_grid_files

from rr.params import Params


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Return a grid of three methods, two protocols and two seeds whose files are in the current folder."""
    monkeypatch.chdir(tmp_path)
    params = make_params()
    write_grid_files(params)
    return params


@pytest.fixture
def full_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Return a grid with every kind of protocol and learning dynamics whose files are in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_full_grid()
