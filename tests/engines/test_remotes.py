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
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_calls import ENVIRONMENT, call
from helpers import copy_project

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


# It serves until it has stored as many objects as its second argument says, and then is gone, or refuses all.
SERVER = """
import os, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

port, most, end = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
moto, stored = DomainDispatcherApplication(create_backend_app), 0

def application(environ, start):
    global stored
    stored += environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].count("/") > 1
    if stored > most and end == "gone":
        os._exit(1)
    if stored > most:
        start("403 Forbidden", [("Content-Type", "application/xml")])
        return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
    return moto(environ, start)

run_simple("127.0.0.1", port, application, threaded=True)
"""


@contextmanager
def s3_server(most: int = 10**9, end: str = "gone", port: int = 0) -> Iterator[str]:
    """The address of an S3-compatible server on this machine, with the bucket `results`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(port), str(most), end]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
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


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


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


@pytest.mark.parametrize(("end", "said"), [("gone", "onnect"), ("denies", "Access Denied")])
def test_a_server_that_ends_within_a_push_loses_nothing(
    end: str, said: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setitem(ENVIRONMENT, f"AWS_{name}", value)
    monkeypatch.setitem(ENVIRONMENT, "AWS_MAX_ATTEMPTS", "1")
    before = {output: (made / output).read_bytes() for output in OUTPUTS}
    with s3_server(most=3, end=end) as address:
        call(made, "dvc", "remote", "add", "--force", "--default", "store", "s3://results/cache")
        call(made, "dvc", "remote", "modify", "store", "endpointurl", address)
        printed = call(made, "dvc", "push", code=1)
        assert said in printed
    assert {output: (made / output).read_bytes() for output in OUTPUTS} == before
    with s3_server(port=int(address.rpartition(":")[2])):
        call(made, "dvc", "push", "--quiet")  # the same command finishes it
        clone = tmp_path / "clone"
        git(made, "commit", "-qam", end)
        git(tmp_path, "clone", "-q", str(made), str(clone))
        call(clone, "dvc", "pull", "--quiet")
    assert {output: (clone / output).read_bytes() for output in OUTPUTS} == before


def test_metrics_of_two_commits_are_compared(made: Path) -> None:
    shown = json.loads(call(made, "dvc", "metrics", "diff", "HEAD", "--all", "--json"))
    assert any(name.endswith("linear/metrics.json") for name in shown)
    for values in shown.values():
        assert "accuracy" in values
