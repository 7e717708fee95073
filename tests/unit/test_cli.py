"""The command line: quick, and with an end for every kind of error."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Rr

from rr import stages
from rr.runtime.atomic import replacing, write_text


def test_help_loads_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; sys.argv = ['rr', '--help']\n"
        "from rr.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'ffcv', 'pydantic', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for stage in (
        "fetch",
        "convert",
        "pretrain",
        "evaluate",
        "report",
        "verify",
        "sync",
        "doctor",
        "suite",
        "import",
        "export",
        "embed",
        "retrieve",
    ):
        assert stage in done.stdout


@pytest.mark.parametrize("arguments", [("fetsh",), ("fetch",), ("fetch", "--dataset", "shapes", "--speed", "9")])
def test_a_wrong_command_line_exits_with_2(project: Path, rr: Rr, arguments: tuple[str, ...]) -> None:
    outcome = rr(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


def test_a_benchmark_runs_what_it_is_asked_for(project: Path, rr: Rr) -> None:
    assert rr("bench", "loadr").err.startswith("rr: ")
    assert "--threads 1,x: give numbers" in rr("bench", "head", "--threads", "1,x").err
    outcome = rr("bench", "head", "--steps", "1", "--threads", "1", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)


def test_no_params_file_says_where_to_run(tmp_path: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = rr("fetch", "--dataset", "shapes")
    assert outcome.code == 2
    assert (
        outcome.err.strip() == "rr: no params.yaml here: run this in the project's root, or name the file with --params"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left", "x.beton"), "no space left on the disk at x.beton: free some"),
        (PermissionError(errno.EACCES, "Permission denied", "data"), "not allowed to write or read at data"),
        (MemoryError(), "out of memory: lower batch_size or views"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: lower batch_size or views"),
    ],
)
def test_what_the_machine_refuses_is_explained(
    project: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    def refuse(*_: object) -> str:
        raise error

    monkeypatch.setattr(stages, "fetch", refuse)
    outcome = rr("fetch", "--dataset", "shapes")
    assert outcome.code == 2
    assert outcome.err.startswith(f"rr: {expected}")


def test_a_bug_keeps_its_traceback(project: Path) -> None:
    code = (
        "import sys; from rr import cli, stages; stages.fetch = lambda *_: 1 / 0; sys.argv = sys.argv[1:]; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "rr", "fetch", "--dataset", "x"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_full_disk_during_convert_leaves_nothing_and_is_survived(project: Path, rr: Rr) -> None:
    assert rr("fetch", "--dataset", "shapes").code == 0
    place = project / "data/beton"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        outcome = rr("convert", "--dataset", "shapes")
        assert outcome.code == 2
        assert "no space left on the disk" in outcome.err
        assert [path.name for path in place.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    assert rr("convert", "--dataset", "shapes").code == 0


def test_verify_names_each_broken_link(project: Path, rr: Rr) -> None:
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "shapes").code == 0
    index = project / "data/beton/shapes/index.parquet"
    index.write_bytes(index.read_bytes() + b"x")
    outcome = rr("verify")
    assert outcome.code == 2
    assert "data/beton/shapes/index.parquet has changed since data/beton/shapes was made (outputs)" in outcome.err
    assert "run.json is missing: run the stage that makes it first (rr pretrain)" in outcome.err


def test_doctor_finds_this_machine_ready(project: Path, rr: Rr) -> None:
    outcome = rr("doctor")
    assert outcome.code == 0, outcome.out
    assert "ok    ffcv: a beton comes back as it was written" in outcome.out
    assert "ok    torch pair" in outcome.out


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    write_text(target, "old")

    def break_off() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("inside", [True, False])
def test_tests_have_no_network(inside: bool) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    if inside:
        with pytest.raises(ConnectionRefusedError, match="a test asked for the network"):
            exec(code)
    else:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "a test asked for the network" in done.stderr
