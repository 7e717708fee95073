"""Kill a run at random moments, rerun the same command, and compare with a run that nobody disturbed.

    python tests/engines/kill_loop.py --engine dvc --kills 50 --seed 1

`--engine rr` kills the stages' own commands, one after another. A kill is a SIGKILL of the whole process group. While
anything runs, a watcher looks at every declared output many times a second: what stands under its final name must be
whole. When a run is complete, its files are compared, and the next begins from nothing. CPU only, hence byte by byte.
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers import ROOT, copy_project, write_params

from rr import paths
from rr.params import load
from rr.workflow import grid

BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT),
}  # fmt: skip
ENGINES = {"dvc": [["dvc", "repro"]], "snakemake": [["snakemake", "--cores", "2"]]}
# A moment is drawn up to so many times a command's undisturbed duration: an engine goes on from the stages that are
# done, and so meets each of them.
REACH = {"rr": 1.0, "dvc": 0.4, "snakemake": 0.4}
# Then a command is left alone, so that every run comes to its end, and every stage's own command to its kills.
KILLS_OF_A_COMMAND = 10


@dataclass
class Findings:
    """What was done and found; `wrong` must stay empty."""

    kills: int = 0
    runs: int = 0  # completed, and compared
    looks: int = 0  # at all outputs
    stages: Counter[str] = field(default_factory=Counter)  # that a kill met
    wrong: list[str] = field(default_factory=list)


def stage_commands(folder: Path) -> list[list[str]]:
    """The command of every stage run of the grid, in an order in which each can run."""
    commands = []
    options = {
        "fetch": ["dataset"],
        "convert": ["dataset"],
        "pretrain": ["dataset", "backbone", "method", "seed"],
        "evaluate": ["dataset", "backbone", "method", "seed", "target", "protocol"],
        "report": [],
    }
    for cell in grid.cells(load(folder / "params.yaml")):
        values = zip(options[cell.stage], cell.folder.parts[2:], strict=bool(options[cell.stage]))
        commands.append(["rr", cell.stage, *(word for name, value in values for word in (f"--{name}", value))])
    return commands


def start(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    with open(folder / ".rr-crash.log", "w") as log:
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=folder, env=ENVIRONMENT, text=True, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def finish(process: subprocess.Popen[str], folder: Path) -> None:
    if process.wait():
        raise SystemExit(f"{process.args} failed:\n{(folder / '.rr-crash.log').read_text()}")


def outputs(folder: Path) -> dict[Path, list[Path]]:
    """The declared outputs of each cell of the grid, by the cell's folder."""
    return {cell.folder: cell.outputs for cell in grid.cells(load(folder / "params.yaml"))}


def contents(folder: Path) -> dict[Path, bytes]:
    """Every output but the report, whose page says how long things took."""
    found = outputs(folder)
    del found[paths.REPORT]
    return {path: (folder / path).read_bytes() for files in found.values() for path in files}


class Watcher:
    """Looks at the outputs of a run in flight until it is told to stop."""

    def __init__(self, folder: Path, expected: dict[Path, bytes], findings: Findings) -> None:
        self.folder, self.expected, self.findings = folder, expected, findings
        self.cells = outputs(folder)
        self._seen: dict[Path, tuple[int, int, int]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        done = threading.Event()

        def work() -> None:
            while not done.wait(0.002):
                self.look()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.look()

    def look(self) -> None:
        self.findings.looks += 1
        for cell, files in self.cells.items():
            for path in files:
                if self._changed(path):
                    self._compare(path)
            if self._changed(paths.run_record(cell)):
                self._compare_record(cell)

    def _changed(self, path: Path) -> bool:
        """Whether the file is there and differs from when it was last looked at."""
        try:
            found = (self.folder / path).stat()
        except OSError:
            self._seen.pop(path, None)
            return False
        key = (found.st_ino, found.st_mtime_ns, found.st_size)
        before, self._seen[path] = self._seen.get(path), key
        return before != key

    def _read(self, path: Path) -> bytes | None:
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            return None

    def _compare(self, path: Path) -> None:
        content = self._read(path)
        if content is not None and path in self.expected and content != self.expected[path]:
            size = f"{len(content)} of {len(self.expected[path])} bytes"
            self.findings.wrong.append(f"{path} was visible with other bytes ({size})")

    def _compare_record(self, cell: Path) -> None:
        """A record that is there is whole, and the outputs that are there beside it are those it describes."""
        record = self._read(paths.run_record(cell))
        if record is None:
            return
        try:
            described = json.loads(record)["outputs"]
        except ValueError:
            self.findings.wrong.append(f"{paths.run_record(cell)} was visible half written ({len(record)} bytes)")
            return
        for path in self.cells[cell]:
            content = self._read(path)
            differs = content is not None and hashlib.sha256(content).hexdigest() != described[str(path)]
            # Unless the record has gone or is another by now: the next look sees to that.
            if differs and self._read(paths.run_record(cell)) == record:
                self.findings.wrong.append(f"{path} was visible beside a record of another file")


def leftovers(folder: Path) -> list[str]:
    """Temporary files, saved states and heartbeats; not the files of .rr/lock, which stay, but hold nothing up."""
    found = [*folder.rglob(".*.tmp*"), *folder.glob("runs/resume/**/*.pt"), *folder.glob(".rr/status/**/*.json")]
    return [str(path.relative_to(folder)) for path in found]


def interrupted_stages(folder: Path, since: float) -> set[str]:
    """The stages that were running when all was killed, as the heartbeats tell that are younger than the engine."""
    heartbeats = [path for path in folder.glob(".rr/status/**/[!.]*.json") if path.stat().st_mtime >= since]
    return {path.relative_to(folder / paths.STATUS).parts[0] for path in heartbeats}


def torture(engine: str, kills: int, seed: int, folder: Path, each: int = KILLS_OF_A_COMMAND) -> Findings:
    """Make `kills` kills of runs in `folder`, an empty one, up to `each` of a run's command. Returns what was found."""
    moments = random.Random(seed)
    findings = Findings()
    pristine, place = folder / "pristine", folder / "run"
    pristine.mkdir(parents=True)
    copy_project(pristine)
    # One run of every stage: the same work twice would teach nothing.
    write_params(pristine, lambda params: params["grid"].update(method=["relational"], protocol=["linear"]))
    commands = ENGINES.get(engine) or stage_commands(pristine)
    shutil.copytree(pristine, place, symlinks=True)
    durations = []
    for command in commands:
        began = time.monotonic()
        finish(start(place, command), place)
        durations.append(time.monotonic() - began)
    print(f"undisturbed: {sum(durations):.1f} s", flush=True)
    expected = contents(place)
    while findings.kills < kills:
        shutil.rmtree(place)
        shutil.copytree(pristine, place, symlinks=True)
        watcher = Watcher(place, expected, findings)
        with watcher.watching():
            for command, duration in zip(commands, durations, strict=True):
                for _ in range(min(each, kills - findings.kills)):
                    if survives(place, command, moments.uniform(0, REACH[engine] * duration), findings):
                        break
                else:
                    finish(start(place, command), place)
        findings.runs += 1
        found = contents(place)
        findings.wrong += [f"{path} differs after kills" for path in expected if found.get(path) != expected[path]]
        findings.wrong += [f"{name} is left" for name in leftovers(place)]
        verified = subprocess.run([BIN / "rr", "verify"], cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
        findings.wrong += [f"rr verify: {verified.stderr}"] if verified.returncode else []
    return findings


def survives(folder: Path, command: list[str], seconds: float, findings: Findings) -> bool:
    """Run `command` and kill it after `seconds`. Returns whether it had ended by itself before."""
    began = time.time()
    process = start(folder, command)
    try:
        process.wait(seconds)
        finish(process, folder)
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    findings.kills += 1
    met = interrupted_stages(folder, began)
    findings.stages.update(met or ["no stage"])
    print(f"kill {findings.kills} after {seconds:.1f} s: {', '.join(sorted(met)) or 'no stage'}", flush=True)
    if command[0] == "snakemake":  # its own guard, after it was killed itself
        subprocess.run([BIN / "snakemake", "--unlock"], cwd=folder, env=ENVIRONMENT, capture_output=True)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", choices=["dvc", "snakemake", "rr"], required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="an empty or new one, which is kept; a temporary one without")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        findings = torture(arguments.engine, arguments.kills, arguments.seed, folder)
    print(f"{findings.kills} kills in {findings.runs} runs; during {dict(findings.stages)}; {findings.looks:,} looks")
    print("\n".join(findings.wrong) or "nothing was wrong")
    sys.exit(bool(findings.wrong))


if __name__ == "__main__":
    main()
