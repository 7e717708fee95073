"""Kill a run at random moments, run the same command again, and compare the results with those of an undisturbed run.

    python tests/engines/kill_loop.py --engine dvc --kills 50 --seed 1

`--engine rr` kills the stage commands, one after another. A kill sends SIGKILL to the whole process group. While a
command runs, a watcher checks all declared outputs many times per second: a file must be complete as soon as it is
visible under its final name. When a run is complete, its files are compared, and the next run starts from scratch. All
runs use the CPU, so the files must be byte-identical.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rr import paths
from rr.params import load_params
from rr.workflow.stage_runs import iter_stage_runs

sys.path.insert(0, str(Path(__file__).parents[1]))
import engine_calls
from engine_calls import BIN
from helpers import ROOT, copy_project, write_params

# If RR_ENGINE is set, the stage commands do not register their outputs with DVC.
ENVIRONMENT = engine_calls.ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "RR_ENGINE": "kill_loop"}
ENGINE_COMMANDS = {"dvc": [["dvc", "repro"]], "snakemake": [["snakemake", "--cores", "2"]]}
# A kill happens within this fraction of a command's undisturbed duration, counted from the start of its first stage. An
# engine continues after the completed stages, so its kills still reach all stages.
KILL_WINDOW = 0.4
# After this number of kills, a command is not killed again, so that every run ends and all stage commands get killed.
KILLS_PER_COMMAND = 10


@dataclass
class KillResults:
    """The counts of a kill loop, and its errors. There must be no errors."""

    kills: int = 0
    runs: int = 0  # completed and compared
    checks: int = 0  # of all outputs
    killed_stages: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


def stage_commands(folder: Path) -> list[list[str]]:
    """Return the command of every stage run in the grid, in an order in which they can be run."""
    commands = []
    options = {
        "fetch": ["dataset"],
        "convert": ["dataset"],
        "pretrain": ["dataset", "backbone", "method", "seed"],
        "extract": ["dataset", "backbone", "method", "seed", "target"],
        "evaluate": ["dataset", "backbone", "method", "seed", "target", "protocol"],
        "report": [],
    }
    for run in iter_stage_runs(load_params(folder / "params.yaml")):
        values = zip(options[run.stage], run.folder.parts[2:], strict=bool(options[run.stage]))
        commands.append(["rr", run.stage, *(word for name, value in values for word in (f"--{name}", value))])
    return commands


def start(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    """Start a command in its own process group."""
    with open(folder / ".kill-loop.log", "w") as log:
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=folder, env=ENVIRONMENT, text=True, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def finish(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait for a process that must succeed."""
    if process.wait():
        raise SystemExit(f"{process.args} failed:\n{(folder / '.kill-loop.log').read_text()}")


def outputs_by_run(folder: Path) -> dict[Path, list[Path]]:
    """Return the declared outputs of each stage run in the grid, by run folder."""
    return {run.folder: run.outputs for run in iter_stage_runs(load_params(folder / "params.yaml"))}


def read_outputs(folder: Path) -> dict[Path, bytes]:
    """Return the contents of all outputs except the report, which shows durations."""
    outputs = outputs_by_run(folder)
    del outputs[paths.REPORT_DIR]
    return {path: (folder / path).read_bytes() for files in outputs.values() for path in files}


class Watcher:
    """Check the outputs in `folder` repeatedly while commands run, and add errors to `results`."""

    def __init__(self, folder: Path, expected: dict[Path, bytes], results: KillResults) -> None:
        self.folder, self.expected, self.results = folder, expected, results
        self.outputs = outputs_by_run(folder)
        self._stats: dict[Path, tuple[int, int, int]] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Check the outputs in a thread while the body runs, and once more at the end."""
        done = threading.Event()

        def check_repeatedly() -> None:
            while not done.wait(0.002):
                self.check()

        thread = threading.Thread(target=check_repeatedly)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.check()

    def check(self) -> None:
        """Check all outputs and records that have changed since the last check."""
        self.results.checks += 1
        for run_folder, files in self.outputs.items():
            for path in files:
                if self._has_changed(path):
                    self._check_output(path)
            if self._has_changed(paths.record_file(run_folder)):
                self._check_record(run_folder)

    def _has_changed(self, path: Path) -> bool:
        """Return whether the file exists and has changed since the last check."""
        try:
            stat = (self.folder / path).stat()
        except OSError:
            self._stats.pop(path, None)
            return False
        key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        before, self._stats[path] = self._stats.get(path), key
        return before != key

    def _read(self, path: Path) -> bytes | None:
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def _check_output(self, path: Path) -> None:
        content = self._read(path)
        if content is not None and path in self.expected and content != self.expected[path]:
            size = f"{len(content)} of {len(self.expected[path])} bytes"
            self.results.errors.append(f"{path} was visible with other bytes ({size})")

    def _check_record(self, run_folder: Path) -> None:
        """Check that an existing record is complete and describes the existing outputs next to it."""
        record = self._read(paths.record_file(run_folder))
        if record is None:
            return
        try:
            recorded = json.loads(record)["outputs"]
        except ValueError:
            error = f"{paths.record_file(run_folder)} was visible when incomplete ({len(record)} bytes)"
            self.results.errors.append(error)
            return
        for path in self.outputs[run_folder]:
            content = self._read(path)
            differs = content is not None and hashlib.sha256(content).hexdigest() != recorded[str(path)]
            # If the record has been deleted or replaced in the meantime, the next check decides.
            if differs and self._read(paths.record_file(run_folder)) == record:
                self.results.errors.append(f"{path} was visible next to a record of another file")


def leftover_files(folder: Path) -> list[str]:
    """Return temporary files, checkpoints of unfinished runs and status files. Files in .rr/lock may remain."""
    files = [*folder.rglob(".*.tmp*"), *folder.glob("runs/resume/**/resume*"), *folder.glob(".rr/status/**/*.json")]
    return [str(path.relative_to(folder)) for path in files]


def interrupted_stages(folder: Path, since: float) -> set[str]:
    """Return the stages whose status file is newer than `since`: they are running, or were running when killed."""
    stages = set()
    for path in folder.glob(".rr/status/**/[!.]*.json"):
        with suppress(FileNotFoundError):  # the stage has just ended
            if path.stat().st_mtime >= since:
                stages.add(path.relative_to(folder / paths.STATUS_DIR).parts[0])
    return stages


def run_kill_loop(
    engine: str, kills: int, seed: int, folder: Path, kills_per_command: int = KILLS_PER_COMMAND
) -> KillResults:
    """Run the grid repeatedly until `kills` kills have been made.

    Args:
        engine: "dvc", "snakemake", or "rr" for the stage commands.
        kills: total number of kills.
        seed: seed for the random moments of the kills.
        folder: an empty folder to run in.
        kills_per_command: how often a command may be killed in one run.
    """
    rng = random.Random(seed)
    results = KillResults()
    pristine, project = folder / "pristine", folder / "run"
    pristine.mkdir(parents=True)
    copy_project(pristine)
    # One run of each stage is enough; more runs would test the same code.
    write_params(pristine, lambda params: params["grid"].update(method=["relational"], protocol=["linear"]))
    commands = ENGINE_COMMANDS.get(engine) or stage_commands(pristine)
    shutil.copytree(pristine, project, symlinks=True)
    durations = []
    for command in commands:
        start_time = time.monotonic()
        finish(start(project, command), project)
        durations.append(time.monotonic() - start_time)
    print(f"undisturbed: {sum(durations):.1f} s", flush=True)
    expected = read_outputs(project)
    while results.kills < kills:
        shutil.rmtree(project)
        shutil.copytree(pristine, project, symlinks=True)
        watcher = Watcher(project, expected, results)
        with watcher.watch():
            for command, duration in zip(commands, durations, strict=True):
                for _ in range(min(kills_per_command, kills - results.kills)):
                    if run_and_kill(project, command, rng.uniform(0, KILL_WINDOW * duration), results):
                        break
                else:
                    finish(start(project, command), project)
        results.runs += 1
        outputs = read_outputs(project)
        results.errors += [f"{path} differs after kills" for path in expected if outputs.get(path) != expected[path]]
        results.errors += [f"{name} was left behind" for name in leftover_files(project)]
        verify = subprocess.run([BIN / "rr", "verify"], cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
        results.errors += [f"rr verify: {verify.stderr}"] if verify.returncode else []
    return results


def run_and_kill(folder: Path, command: list[str], seconds: float, results: KillResults) -> bool:
    """Run `command` and kill it `seconds` after its first stage starts. Return whether it finished before that."""
    start_time = time.time()
    process = start(folder, command)
    while process.poll() is None and not interrupted_stages(folder, start_time):
        time.sleep(0.005)
    try:
        process.wait(seconds)
        finish(process, folder)
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    results.kills += 1
    stages = interrupted_stages(folder, start_time)
    results.killed_stages.update(stages or ["no stage"])
    print(f"kill {results.kills} after {seconds:.1f} s: {', '.join(sorted(stages)) or 'no stage'}", flush=True)
    if command[0] == "snakemake":  # Snakemake leaves its lock behind when it is killed
        subprocess.run([BIN / "snakemake", "--unlock"], cwd=folder, env=ENVIRONMENT, capture_output=True)
    return False


def main() -> None:
    """Run the kill loop from the command line, and exit with code 1 if there was an error."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", choices=["dvc", "snakemake", "rr"], required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="new or empty folder, which is kept (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        results = run_kill_loop(arguments.engine, arguments.kills, arguments.seed, folder)
    stages = dict(results.killed_stages)
    print(f"{results.kills} kills in {results.runs} runs, by stage: {stages}; {results.checks:,} checks")
    print("\n".join(results.errors) or "no errors")
    sys.exit(bool(results.errors))


if __name__ == "__main__":
    main()
