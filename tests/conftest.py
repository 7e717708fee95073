"""Fixtures that every test may use."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Outcome, Rr, write_params
from report_files import write_everything

from rr import cli
from rr.paths import REPORT_FILES
from rr.report import report


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the small params.yaml, which is the current one."""
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the real params.yaml, beside the real suites, in a folder that is the current one."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "workflow/suites", tmp_path / "workflow/suites")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


@pytest.fixture
def rr(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Rr:
    """Run a command in this process, as `rr` would: (exit code, what it printed, what it complained of)."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rr", *map(str, arguments)])
        code = 0
        capfd.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project in which `shapes` is fetched and converted; copy it, do not change it."""
    folder = tmp_path_factory.mktemp("converted")
    write_params(folder)
    for stage in ("fetch", "convert"):
        subprocess.run([sys.executable, "-m", "rr", stage, "--dataset", "shapes"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The page of everything and its Markdown. Equal files must give equal bytes, so it is made twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        grid = write_everything()
        report(grid)
        first = [path.read_bytes() for path in REPORT_FILES]
        report(grid)
        assert [path.read_bytes() for path in REPORT_FILES] == first
    return first[0].decode(), first[1].decode()
