"""Test the Dockerfile and the Kubernetes job without building the image."""

import fnmatch
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from engine_calls import BIN, ENVIRONMENT
from helpers import ROOT, copy_project
from ruamel.yaml import YAML

DOCKERFILE = re.sub(r"\\\n", "", (ROOT / "workflow/Dockerfile").read_text())  # with continuation lines joined


def instructions(*keywords: str) -> list[list[str]]:
    """Return the words of each instruction of the Dockerfile that starts with one of these keywords."""
    lines = (shlex.split(line) for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    return [words for words in lines if words and words[0] in keywords]


def test_image_is_installed_with_make() -> None:
    commands = [" ".join(words) for _, *words in instructions("RUN")]
    assert [command for command in commands if not command.startswith("apt-get ")] == ["make setup"]
    assert not any(word in command for command in commands for word in ("pip", "curl", "wget"))
    rule = (ROOT / "Makefile").read_text().split("$(VENV)/ready:")[1].split("\n\n")[0]
    assert "bash workflow/setup.sh" in rule


def test_image_has_the_packages_that_setup_needs() -> None:
    """The image contains the programs that setup.sh does not install, and a supported version of Python."""
    [apt] = [words for words in instructions("RUN") if words[1] == "apt-get"]
    assert {"make", "git", "ca-certificates", "python3", "python3-dev", "python3-venv"} <= set(apt)
    assert instructions("FROM") == [["FROM", "debian:12"]]  # Python 3.11


def test_copied_files_exist() -> None:
    assert [source for _, *sources, _ in instructions("COPY", "ADD") for source in sources] == ["."]
    ignored = (ROOT / ".dockerignore").read_text().split()
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
        assert not any(fnmatch.fnmatch(part, pattern) for part in (name, name.split("/")[0]) for pattern in ignored)


def test_rr_is_on_the_path() -> None:
    [[_, project]] = instructions("WORKDIR")
    assert instructions("ENV") == [["ENV", f"PATH={project}/.venv/bin:$PATH"]]


@pytest.mark.engine
def test_kubernetes_job_runs_in_the_project_of_the_image(tmp_path: Path) -> None:
    job = YAML(typ="safe", pure=True).load(ROOT / "workflow/kubernetes.yaml")
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [[_, project]] = instructions("WORKDIR")
    assert container["workingDir"] == project
    mounted = {mount["mountPath"].removeprefix(f"{project}/") for mount in container["volumeMounts"]}
    assert mounted == {"data", "runs", "report", "logs", ".snakemake"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    program, *arguments = container["command"]
    folder = copy_project(tmp_path)
    shutil.copy(ROOT / "params.yaml", folder)  # the small params.yaml lacks methods that the suites use
    process = subprocess.run(
        [BIN / program, *arguments, "--dry-run", "--quiet", "all"], cwd=folder, text=True,
        env=ENVIRONMENT | {variable["name"]: variable["value"] for variable in container["env"]}, capture_output=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout
