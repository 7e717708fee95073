"""Fixtures for all tests."""

import itertools
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import own_images
import pytest
from helpers import LONG, ROOT, Outcome, RunRr, enter_copy, write_params
from hypothesis import settings
from report_files import write_full_grid

from rr import cli
from rr.paths import REPORT_FILES
from rr.report.stage import write_report
from rr.runtime import progress

settings.register_profile("rr", deadline=None, derandomize=not LONG)
settings.load_profile("rr")

# A shell makes a script's background commands ignore SIGINT, and child processes inherit this setting. The Ctrl-C tests
# need the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_images_in_every_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `own_images.make_image` return the same images, regardless of which tests ran before."""
    monkeypatch.setattr(own_images, "_numbers", itertools.count())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a new folder that contains only the small params.yaml, and return it."""
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def params_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the real params.yaml and the real suites to the current folder, and return the path of params.yaml."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "workflow/suites", tmp_path / "workflow/suites")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


@pytest.fixture
def extensions(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder for user-defined modules in the current folder. The modules are unloaded after the test."""
    folder = project / "workflow/extensions"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def rr(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> RunRr:
    """Return a function that runs an `rr` command in this process."""

    # Otherwise, the speed of the machine would determine whether a command prints progress lines.
    monkeypatch.setattr(progress, "SECONDS_BEFORE_FIRST_LINE", math.inf)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["rr", *map(str, arguments)])
        code = 0
        capfd.readouterr()
        try:
            cli.run()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def converted_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small project in which `shapes` is fetched and converted. Tests must copy it before they change it."""
    folder = tmp_path_factory.mktemp("converted")
    write_params(folder)
    for stage in ("fetch", "convert"):
        subprocess.run([sys.executable, "-m", "rr", stage, "--dataset", "shapes"], cwd=folder, check=True)
    return folder


@pytest.fixture
def project_copy(converted_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the converted project, make the copy the current folder, and return it."""
    return enter_copy(converted_project, tmp_path / "project", monkeypatch)


@pytest.fixture(scope="module")
def single_torch_thread() -> Iterator[None]:
    """Use one torch thread, which is faster for small tensors."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def full_report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the page with all sections, and its Markdown version. Check that a second report is byte-identical."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("full_report"))
        params = write_full_grid()
        write_report(params)
        first = [path.read_bytes() for path in REPORT_FILES]
        write_report(params)
        assert [path.read_bytes() for path in REPORT_FILES] == first
    return first[0].decode(), first[1].decode()
