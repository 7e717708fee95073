"""Results without training: what one clone has pushed, another pulls, and finds nothing left to do."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_engines import ENVIRONMENT, call, copy_project

pytestmark = pytest.mark.engine
OUTPUTS = (
    "report/index.html",
    "report/results.parquet",
    "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose grid has run, committed with its dvc.lock."""
    folder = copy_project(tmp_path_factory.mktemp("made"))
    call(folder, "dvc", "repro", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "results")
    return folder


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=folder, check=True)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an S3-compatible server on this machine, with the bucket `results`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/results", method="PUT"), timeout=5)
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_clone_pulls_what_another_pushed(
    kind: str, made: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setitem(ENVIRONMENT, "AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setitem(ENVIRONMENT, "AWS_EC2_METADATA_DISABLED", "true")
    call(made, "dvc", "remote", "add", "--force", "--default", "store", remote(kind, tmp_path))
    if kind == "s3":
        call(made, "dvc", "remote", "modify", "store", "endpointurl", bucket)
    call(made, "dvc", "push", "--quiet")
    git(made, "commit", "-qam", kind)

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(made), str(clone))
    assert not any((clone / output).exists() for output in OUTPUTS)
    call(clone, "dvc", "pull", "--quiet")
    for output in OUTPUTS:
        assert (clone / output).read_bytes() == (made / output).read_bytes()
    assert "Data and pipelines are up to date." in call(clone, "dvc", "repro")
    assert "every artefact is what its record says" in call(clone, "rr", "verify")
    # The page made anew has the same bytes: it holds no time but the runs' own.
    page = (clone / "report/index.html").read_bytes()
    call(clone, "rr", "report")
    assert (clone / "report/index.html").read_bytes() == page
    call(clone, "rr", "sync", "--from", "dvc")
    assert "Nothing to be done" in call(clone, "snakemake", "-n")


def remote(kind: str, place: Path) -> str:
    return "s3://results/cache" if kind == "s3" else str(place / "store")


def test_a_remote_that_is_gone_is_named_and_nothing_is_lost(made: Path, tmp_path: Path) -> None:
    call(made, "dvc", "remote", "add", "--force", "--default", "store", str(tmp_path / "store"))
    call(made, "dvc", "push", "--quiet")
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("no folder")
    before = {output: (made / output).read_bytes() for output in OUTPUTS}
    assert "store" in call(made, "dvc", "push", code=255)
    assert {output: (made / output).read_bytes() for output in OUTPUTS} == before
    os.remove(tmp_path / "store")
    call(made, "dvc", "push", "--quiet")
    assert list((tmp_path / "store").rglob("*"))


def test_metrics_of_two_commits_are_compared(made: Path) -> None:
    shown = json.loads(call(made, "dvc", "metrics", "diff", "HEAD", "--all", "--json"))
    assert any(name.endswith("linear/metrics.json") for name in shown)
    for values in shown.values():
        assert "accuracy" in values
