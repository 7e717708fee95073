"""Tests for the command line: it starts fast, and handles every kind of error."""

import errno
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from helpers import ROOT, RunRr, add_dataset, evaluate_command, extract_command, mount_tmpfs, pretrain_command
from PIL import Image

from rr import __version__, cli, commands
from rr.data.dataset_index import read_class_names


def test_commands_describe_the_same_weights(rr: RunRr) -> None:
    for command in ("check", "retrieve", "embed", "compare"):
        text = " ".join(rr(command, "--help").out.replace("│", " ").split())
        assert "the name of released weights, or hf-hub:OWNER/NAME (Hugging Face Hub)." in text, command


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['rr', '--help']\n"
        "from rr.cli import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'ffcv', 'pydantic', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in (
        "init",
        "fetch",
        "check",
        "convert",
        "pretrain",
        "extract",
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
        assert command in done.stdout


@pytest.mark.parametrize("command", ["status", "init", "plan", "doctor"])
def test_deleted_current_folder_is_reported(tmp_path: Path, command: str) -> None:
    (tmp_path / "deleted").mkdir()
    program = (
        f"cd deleted; rmdir {tmp_path}/deleted; exec {sys.executable} -c 'from rr.cli import main; main()' {command}"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("rr: the current folder no longer exists: change to another folder")


@pytest.mark.parametrize("threads", ["0", "-1", "two", "1.5", ""])
def test_invalid_number_of_threads_of_numba_is_reported(
    rr: RunRr, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    outcome = rr("status")
    assert outcome.code == 2
    assert (
        outcome.err == f"rr: NUMBA_NUM_THREADS={threads}: must be a positive integer: change or unset this variable\n"
    )


def test_version_is_the_version_of_the_package(rr: RunRr) -> None:
    outcome = rr("--version")
    assert outcome.code == 0
    assert outcome.out.strip() == f"rr {__version__}"
    assert __version__ == metadata.version("relational-reasoning")


@pytest.mark.parametrize("arguments", [("fetsh",), ("fetch",), ("fetch", "--dataset", "shapes", "--speed", "9")])
def test_invalid_command_line_exits_with_2(project: Path, rr: RunRr, arguments: tuple[str, ...]) -> None:
    outcome = rr(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("fetsh",), "No such command 'fetsh'. Did you mean 'fetch'?"),
        (("suite", "lst"), "No such command 'lst'. Did you mean 'list'?"),
        (("fetch", "--datset", "shapes"), "No such option: --datset (Possible options: --dataset)"),
    ],
)
def test_mistyped_words_get_a_suggestion(rr: RunRr, arguments: tuple[str, ...], hint: str) -> None:
    outcome = rr(*arguments)
    assert outcome.code == 2
    assert hint in outcome.err


@pytest.mark.parametrize(
    ("words", "expected"), [("rr retr", "retrieve"), ("rr suite sh", "show"), ("rr fetch --j", "--json")]
)
def test_shell_completion(project: Path, words: str, expected: str) -> None:
    variables = {"_RR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = Path(sys.executable).with_name("rr")
    done = subprocess.run([program], capture_output=True, text=True, env=os.environ | variables)
    assert done.stdout.split() == [expected]


@pytest.mark.parametrize("group", [(), ("suite",)])
def test_lines_of_the_list_of_commands_are_not_cut(rr: RunRr, group: tuple[str, ...]) -> None:
    lines = rr(*group, "--help").out.split("Commands:")[1].splitlines()
    assert len(lines) > 3
    assert not [line for line in lines if line.rstrip().endswith(("...", "…"))]


@pytest.mark.slow
def test_bench_runs_the_requested_part(project: Path, rr: RunRr) -> None:
    assert rr("bench", "loadr").err.startswith("rr: ")
    for threads in ("1,x", "1,²", "0"):
        assert f"--threads {threads}: must be positive integers" in rr("bench", "head", "--threads", threads).err
    outcome = rr("bench", "head", "--steps", "1", "--threads", "1", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)


POSIX_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "é"), ({"PYTHONIOENCODING": "ascii:strict"}, r"\xe9"), ({"PYTHONIOENCODING": "utf-8:strict"}, "é")],
)
def test_other_characters_are_printed_in_any_locale(project: Path, environment: dict[str, str], expected: str) -> None:
    suite = project / "workflow/suites/large.yaml"
    suite.parent.mkdir(parents=True)
    suite.write_text("# café\n", encoding="utf-8")
    for command, stream in ((["suite", "show", "large"], "stdout"), (["fetch", "--dataset", "é"], "stderr")):
        done = subprocess.run(
            [sys.executable, "-m", "rr", *command], capture_output=True, encoding="utf-8",
            env=os.environ | POSIX_LOCALE | environment,
        )  # fmt: skip
        assert expected in getattr(done, stream)
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_other_characters_in_paths_and_class_names_work_in_the_posix_locale(project: Path) -> None:
    for name in ("café", "größe"):
        (project / "bilder ü" / name).mkdir(parents=True)
        for number in range(10):
            color = (20 * number, len(name), 0)
            Image.new("RGB", (16, 16), color).save(project / "bilder ü" / name / f"{number}.png")
    add_dataset(project, {"kind": "imagefolder", "path": "bilder ü"})
    for stage in ("fetch", "convert"):
        subprocess.run(
            [sys.executable, "-m", "rr", stage, "--dataset", "mine"], check=True, env=os.environ | POSIX_LOCALE
        )
    assert read_class_names(project / "data/beton/mine/index.parquet") == ["café", "größe"]


def test_missing_params_file_raises(tmp_path: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = rr("fetch", "--dataset", "shapes")
    assert outcome.code == 2
    assert (
        outcome.err.strip()
        == "rr: params.yaml not found: run rr in the root folder of a project (rr init creates one), or specify the "
        "file with --params"
    )


@pytest.mark.parametrize(
    "command", [("verify",), ("suite", "use", "quick"), ("import", __file__, "--backbone", "mine"), ("plan",)]
)
def test_folder_in_place_of_the_params_file_raises(
    tmp_path: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RR_PARAMS", "/tmp")
    outcome = rr(*command)
    assert (outcome.code, os.listdir()) == (2, [])
    expected = "rr: /tmp is a folder: specify a parameter file, such as /tmp/params.yaml, with --params or RR_PARAMS\n"
    assert outcome.err.startswith(expected)


def test_folder_in_place_of_a_checkpoint_raises(tmp_path: Path, rr: RunRr) -> None:
    assert (
        rr("import", tmp_path, "--backbone", "conv4").err
        == f"rr: {tmp_path} is a folder: use the path of a checkpoint\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "", "-o", "f.parquet", "--weights", "w"), "the argument after embed is empty: check that your"),
        (("retrieve", "q.png", "--gallery=", "--weights", "w"), "--gallery= is empty: check that your shell variables"),
        (("",), "the first argument is empty: check that your shell variables are set"),
    ],
)
def test_empty_argument_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = rr(*arguments)
    assert (outcome.code, list(tmp_path.iterdir())) == (2, [])
    assert outcome.err.startswith(f"rr: {message}")


def test_home_folder_is_expanded_where_shells_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    outcome = rr("embed", "birds", "--output", "/", "--weights", "w")
    assert "--output / is a folder: use the path of a file" in outcome.err
    outcome = rr("embed", "~/birds", "--output=~/x.csv", "--weights", "w")
    assert f"--output {tmp_path}/home/x.csv does not end in .parquet" in outcome.err
    outcome = rr("retrieve", "~/q.png", "--gallery", "birds", "--weights", "w")
    assert f"{tmp_path}/home/q.png does not exist or is not a file" in outcome.err
    assert not Path("~").exists()
    home = str(tmp_path / "home")
    assert cli._prepare_arguments(["x", "-o~/a", "--b=~", "--", "~/c"]) == [
        "x",
        f"-o{home}/a",
        f"--b={home}",
        "--",
        f"{home}/c",
    ]
    assert cli._prepare_arguments(["init", "x", "--params", "~/p"]) == ["init", "x", "--params", f"{home}/p"]
    for unchanged in (["init", "~/birds"], ["embed", "a=~/b", "--x=a~/b", "--", "--a=~/b", "~b"]):
        assert cli._prepare_arguments(unchanged) == unchanged


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left", "x.beton"), "no space left on the disk at x.beton: free some"),
        (
            PermissionError(errno.EACCES, "Permission denied", "data"),
            "permission denied at data: check the permissions",
        ),
        (MemoryError(), "out of memory: use a machine or GPU with more"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out of memory: use a machine or GPU with more"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: use a machine or GPU with more"),
    ],
)
def test_error_of_the_system_is_explained(
    project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(commands, "run_fetch", fail)
    outcome = rr("fetch", "--dataset", "shapes")
    assert outcome.code == 2
    assert outcome.err.startswith(f"rr: {expected}")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize(("name", "code"), [("quick", 0), ("nosuch", 2)])
def test_standard_streams_may_be_closed(params_file: Path, closed: str, name: str, code: int) -> None:
    command = f"{sys.executable} -m rr suite show {name} {closed}"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert result.returncode == code
    assert result.stdout.startswith("#") == (code == 0 and "1>&-" not in closed)
    assert result.stderr.startswith("rr: unknown suite") == (code == 2 and "2>&-" not in closed)


@pytest.mark.parametrize(
    ("command", "closed"),
    [
        (["suite", "list"], "stdout"),
        (["--help"], "stdout"),
        (["--version"], "stdout"),
        (["suite", "show", "nosuch"], "stderr"),
        (["nosuch"], "stderr"),
    ],
)
def test_closed_pipe_ends_the_command_quietly(params_file: Path, command: list[str], closed: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writer}
    done = subprocess.run([sys.executable, "-m", "rr", *command], **streams)  # type: ignore[call-overload]
    os.close(writer)
    assert (done.returncode, done.stdout or b"", done.stderr or b"") == (141, b"", b"")


def test_bug_is_printed_with_its_traceback(project: Path) -> None:
    code = (
        "import sys; from rr import cli, commands; sys.argv = sys.argv[1:]\n"
        "commands.run_fetch = lambda *_: 1 / 0; cli.run()"
    )
    done = subprocess.run([sys.executable, "-c", code, "rr", "fetch", "--dataset", "x"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_full_disk_during_convert_raises_and_leaves_no_files(project: Path, rr: RunRr) -> None:
    assert rr("fetch", "--dataset", "shapes").code == 0
    folder = project / "data/beton"
    with mount_tmpfs(folder, "size=1m"):
        outcome = rr("convert", "--dataset", "shapes")
        assert outcome.code == 2
        assert "no space left on the disk" in outcome.err
        assert [path.name for path in folder.rglob("*") if path.is_file()] == []
    assert rr("convert", "--dataset", "shapes").code == 0


def test_verify_lists_every_mismatch(project: Path, rr: RunRr) -> None:
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "shapes").code == 0
    index = project / "data/beton/shapes/index.parquet"
    index.write_bytes(index.read_bytes() + b"x")
    outcome = rr("verify")
    assert outcome.code == 2
    assert "data/beton/shapes/index.parquet (output of data/beton/shapes) has changed since the run" in outcome.err
    assert "run.json is missing: run rr pretrain first" in outcome.err
    as_json = rr("verify", "--json")
    assert (as_json.code, as_json.err) == (2, outcome.err)
    facts = json.loads(as_json.out)
    assert facts["runs"][0] == {"stage": "fetch", "folder": "data/raw/shapes", "mismatches": []}
    messages = [message for run in facts["runs"] for message in run["mismatches"]]
    assert outcome.err.removeprefix("rr: ").splitlines()[:-1] == messages
    assert facts["recomputed"] is None


def test_verify_without_any_record_raises(project: Path, rr: RunRr) -> None:
    outcome = rr("verify", "--allow-missing")
    assert outcome.code == 2
    assert outcome.err.startswith("rr: no run in the grid has a record, so nothing was compared: run `dvc repro`")


def test_doctor_passes_on_this_machine(project: Path, rr: RunRr) -> None:
    outcome = rr("doctor")
    assert outcome.code == 0, outcome.out
    assert "ok    ffcv: writes and reads a beton" in outcome.out
    assert "ok    torch and torchvision" in outcome.out


@pytest.mark.parametrize("in_process", [True, False])
def test_tests_have_no_network(in_process: bool) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    if in_process:
        with pytest.raises(ConnectionRefusedError, match="tests must not use the network"):
            exec(code)
    else:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "tests must not use the network" in done.stderr


@pytest.mark.slow
def test_stages_print_their_record_or_metrics_as_json(project: Path, rr: RunRr) -> None:
    folders = {
        ("fetch", "--dataset", "shapes"): "data/raw/shapes/run.json",
        ("convert", "--dataset", "shapes"): "data/beton/shapes/run.json",
        pretrain_command("random"): "runs/pretrain/shapes/conv4/random/1/run.json",
        extract_command("random"): "runs/features/shapes/conv4/random/1/shapes/run.json",
        evaluate_command("knn", "random"): "runs/evaluate/shapes/conv4/random/1/shapes/knn/metrics.json",
    }
    for command, file in folders.items():
        outcome = rr(*command, "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out) == json.loads(Path(file).read_text())


def test_suites_are_listed_as_json(params_file: Path, rr: RunRr) -> None:
    suites = json.loads(rr("suite", "list", "--json").out)
    assert [f"{name:<20} {sentence}" for name, sentence in suites.items()] == rr("suite", "list").out.splitlines()
    assert "cifar" in suites
