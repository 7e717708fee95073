"""The image, which is not built here: it installs by the script of `make`, from files that are there; and its job."""

import fnmatch
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from engine_calls import BIN, ENVIRONMENT
from helpers import copy_project
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
STEPS = [
    shlex.split(line)
    for line in re.sub(r"\\\n", "", (ROOT / "workflow/Dockerfile").read_text()).splitlines()
    if line and not line.startswith("#")
]


def test_it_installs_by_makes_own_script() -> None:
    run = [" ".join(step[1:]) for step in STEPS if step[0] == "RUN"]
    assert [command for command in run if not command.startswith("apt-get ")] == ["make setup"]
    assert not any(word in command for command in run for word in ("pip", "curl", "wget"))
    rule = (ROOT / "Makefile").read_text().split("$(VENV)/ready:")[1].split("\n\n")[0]
    assert "bash workflow/setup.sh" in rule


def test_it_has_what_the_script_wants() -> None:
    """Commands that setup.sh does not install itself; Debian's Python is of a version that it takes."""
    [apt] = [step for step in STEPS if step[:2] == ["RUN", "apt-get"]]
    assert {"make", "git", "ca-certificates", "python3", "python3-dev", "python3-venv"} <= set(apt)
    assert STEPS[0] == ["FROM", "debian:12"]  # Python 3.11


def test_what_it_copies_is_there() -> None:
    sources = [source for step in STEPS if step[0] in ("COPY", "ADD") for source in step[1:-1]]
    assert sources == ["."]
    left_out = (ROOT / ".dockerignore").read_text().split()
    needed = [
        "Makefile",
        "pyproject.toml",
        "requirements.lock",
        "workflow/setup.sh",
        "rr/cli.py",
        "README.md",
        "LICENSE",
    ]
    for name in needed:
        assert (ROOT / name).is_file(), name
        assert not any(fnmatch.fnmatch(part, pattern) for part in (name, name.split("/")[0]) for pattern in left_out)


def test_the_stages_find_it() -> None:
    place = next(step[1] for step in STEPS if step[0] == "WORKDIR")
    assert [step[1] for step in STEPS if step[0] == "ENV"] == [f"PATH={place}/.venv/bin:$PATH"]


@pytest.mark.engine
def test_the_job_for_kubernetes_runs_a_grid_where_the_image_has_it(tmp_path: Path) -> None:
    job = YAML(typ="safe", pure=True).load(ROOT / "workflow/kubernetes.yaml")
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    place = next(step[1] for step in STEPS if step[0] == "WORKDIR")
    assert container["workingDir"] == place
    kept = {mount["mountPath"].removeprefix(f"{place}/") for mount in container["volumeMounts"]}
    assert kept == {"data", "runs", "report", "logs", ".snakemake"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    program, *arguments = container["command"]
    folder = copy_project(tmp_path)
    shutil.copy(ROOT / "params.yaml", folder)  # the suites' methods are in the whole one
    done = subprocess.run(
        [BIN / program, *arguments, "--dry-run", "--quiet", "all"], cwd=folder, text=True,
        env=ENVIRONMENT | {one["name"]: one["value"] for one in container["env"]}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
