"""Test DVC remotes: a clone pulls the outputs that a different clone pushed, and then has no stages to run."""

import json
import os
import shlex
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
from documented_commands import find_block
from engine_calls import ENVIRONMENT, call
from helpers import ROOT, copy_project, keep_one_evaluation

pytestmark = pytest.mark.engine
OUTPUTS = (
    "report/index.html",
    "report/results.parquet",
    "runs/pretrain/shapes/conv4/relational/1/backbone.safetensors",
)


@pytest.fixture(scope="module")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose grid has run, with its dvc.lock committed."""
    folder = copy_project(tmp_path_factory.mktemp("finished"), keep_one_evaluation)
    call(folder, "dvc", "repro", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "results")
    return folder


def git(folder: Path, *command: str) -> str:
    """Run git and return what it printed."""
    command = ("git", "-c", "user.name=t", "-c", "user.email=t@t", *command)
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


# The server stores at most `max_objects` objects. After that, it exits ("gone") or denies all requests.
SERVER = """
import os, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

port, max_objects, end = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
moto, stored = DomainDispatcherApplication(create_backend_app), 0

def application(environ, start):
    global stored
    stored += environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].count("/") > 1
    if stored > max_objects and end == "gone":
        os._exit(1)
    if stored > max_objects:
        start("403 Forbidden", [("Content-Type", "application/xml")])
        return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
    return moto(environ, start)

run_simple("127.0.0.1", port, application, threaded=True)
"""


@contextmanager
def s3_server(max_objects: int = 10**9, end: str = "gone", port: int = 0) -> Iterator[str]:
    """Run an S3-compatible server on this machine with a `results` bucket, and yield its address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(port), str(max_objects), end]
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
def s3_address() -> Iterator[str]:
    """Address of an S3 server that all tests in this module share."""
    with s3_server() as address:
        yield address


def run_in_shell(folder: Path, command: str) -> str:
    environment = ENVIRONMENT | {
        f"GIT_{role}_{key}": "t" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")
    }
    process = subprocess.run(
        command, shell=True, cwd=folder, env=environment | {"COLUMNS": "100"}, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.returncode == 0, f"{command}:\n{process.stdout}"
    return process.stdout


def assert_nothing_to_do(clone: Path) -> None:
    assert "every artifact matches its record" in call(clone, "rr", "verify")
    assert "Data and pipelines are up to date." in call(clone, "dvc", "status")
    assert "Nothing to be done" in call(clone, "snakemake", "-n")


def test_documented_commands_share_results_through_a_folder(finished_project: Path, tmp_path: Path) -> None:
    bare, first, second = tmp_path / "bare", tmp_path / "first", tmp_path / "second"
    shutil.copytree(finished_project, first, symlinks=True)
    git(first, "reset", "-q", "HEAD~1")  # the results are not committed yet
    (first / ".dvc/config").unlink()
    git(first, "checkout", "-q", ".dvc/config")
    git(tmp_path, "clone", "-q", "--bare", str(first), str(bare))
    git(first, "remote", "add", "origin", str(bare))
    git(first, "fetch", "-q")
    git(first, "branch", "-q", "--set-upstream-to", f"origin/{git(first, 'branch', '--show-current')}")
    git(tmp_path, "clone", "-q", str(bare), str(second))

    for command in find_block("docs/guides/share.md", "dvc remote add"):
        run_in_shell(first, command.replace("/shared/folder", shlex.quote(str(tmp_path / "store"))))
    assert git(first, "status", "--porcelain") == ""
    assert_nothing_to_do(first)
    for command in find_block("docs/guides/share.md", "git pull"):
        run_in_shell(second, command)
    assert_nothing_to_do(second)
    assert git(second, "status", "--porcelain") == ""
    for output in OUTPUTS:
        assert (second / output).read_bytes() == (first / output).read_bytes()
    # A new report is byte-identical, because the only times it shows are the run times.
    page = (second / "report/index.html").read_bytes()
    call(second, "rr", "report")
    assert (second / "report/index.html").read_bytes() == page


def test_published_results_are_checked_without_training(finished_project: Path, tmp_path: Path) -> None:
    project, clone = tmp_path / "project", tmp_path / "clone"
    shutil.copytree(finished_project, project, symlinks=True)
    (publish,) = find_block("docs/guides/share.md", "workflow/results.sh publish")
    (check,) = find_block("docs/guides/share.md", "workflow/results.sh check")
    module = project / "rr/evaluate/knn.py"
    content = module.read_text()
    module.write_text(f"{content}# An edit that is not committed.\n")
    assert "the code differs from the last commit" in run_in_shell(
        project, "workflow/results.sh publish results || test $? = 2"
    )
    assert not (project / "results").exists()
    module.write_text(content)
    run_in_shell(project, publish)
    assert not {"train.beton", "features.safetensors"} & {path.name for path in (project / "results").rglob("*")}
    # Later versions of the code do not matter.
    module.write_text("")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "results")
    git(tmp_path, "clone", "-q", str(project), str(clone))

    assert "files match their records" in run_in_shell(clone, check)
    for output in OUTPUTS:
        assert (clone / ".results/check" / output).read_bytes() == (project / output).read_bytes()
    assert git(clone, "status", "--porcelain") == ""

    clone = clone.rename(tmp_path / "moved")
    metrics = clone / "results/runs/evaluate/shapes/conv4/relational/1/shapes/knn/metrics.json"
    metrics.write_text(metrics.read_text().replace("0.", "0.9", 1))
    message = run_in_shell(clone, f"{check} || test $? = 2")
    assert f"{metrics.relative_to(clone / 'results')} (output of" in message
    assert "report:" not in message


@pytest.mark.parametrize(
    ("name", "evaluation"),
    [
        ("cifar-conv4", "cifar10/conv4/relational-paper/1/cifar10/linear"),
        ("cifar100-conv4", "cifar100/conv4/relational-k4/1/cifar100/linear"),
        ("cifar-seeds", "cifar100/conv4/simclr-paper/3/cifar100/linear"),
    ],
)
def test_published_results_of_this_repository_match_their_records(tmp_path: Path, name: str, evaluation: str) -> None:
    """`make results` runs the same command."""
    pack = ROOT / "docs/results" / name
    commit = (pack / "commit").read_text().strip()
    if subprocess.run(["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT).returncode:
        pytest.skip("this clone does not contain the commit of the results")
    git(tmp_path, "clone", "-q", "--shared", str(ROOT), "clone")
    shutil.copytree(pack, tmp_path / "clone/docs/results" / name, dirs_exist_ok=True)
    output = run_in_shell(tmp_path / "clone", f"workflow/results.sh check docs/results/{name} .results/{name}")
    assert "match their records" in output
    page = (tmp_path / f"clone/.results/{name}/report/index.html").read_text(encoding="utf-8")
    metrics = json.loads((pack / f"runs/evaluate/{evaluation}/metrics.json").read_text())
    assert f"{100 * metrics['accuracy']:.2f}" in page


def test_clone_pulls_the_pushed_outputs_from_s3(
    finished_project: Path, tmp_path: Path, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setitem(ENVIRONMENT, "AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setitem(ENVIRONMENT, "AWS_EC2_METADATA_DISABLED", "true")
    call(finished_project, "dvc", "remote", "add", "--force", "--default", "store", "s3://results/cache")
    call(finished_project, "dvc", "remote", "modify", "store", "endpointurl", s3_address)
    call(finished_project, "dvc", "push", "--quiet")
    git(finished_project, "commit", "-qam", "s3")

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(finished_project), str(clone))
    assert not any((clone / output).exists() for output in OUTPUTS)
    call(clone, "dvc", "pull", "--quiet")
    for output in OUTPUTS:
        assert (clone / output).read_bytes() == (finished_project / output).read_bytes()
    assert "Data and pipelines are up to date." in call(clone, "dvc", "repro")
    assert "every artifact matches its record" in call(clone, "rr", "verify")


def test_documented_commands_list_and_undo_experiments(finished_project: Path) -> None:
    project = finished_project
    artifacts = [*OUTPUTS, "runs/evaluate/shapes/conv4/relational/1/shapes/knn/metrics.json", "params.yaml"]
    before = {name: (project / name).read_bytes() for name in artifacts}
    output = call(project, "dvc", "exp", "run", "-S", "methods.relational.views=3")
    stages = {line.split("'")[1].split("@")[0] for line in output.splitlines() if line.startswith("Running stage")}
    assert stages == {"pretrain", "extract", "evaluate", "report"}
    assert "Stage 'convert@shapes' didn't change" in output
    record = json.loads((project / "runs/pretrain/shapes/conv4/relational/1/run.json").read_text())
    assert record["params"]["methods.relational"]["views"] == 3
    show, diff, undo = find_block("docs/guides/engines.md", "dvc exp show")
    table = run_in_shell(project, show)
    assert "methods.relational.views" in table
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= 100
    assert "accuracy" in run_in_shell(project, diff)
    run_in_shell(project, undo)
    assert {name: (project / name).read_bytes() for name in artifacts} == before
    assert "Data and pipelines are up to date." in call(project, "dvc", "status")
    assert "every artifact matches its record" in call(project, "rr", "verify")


def test_push_to_a_missing_remote_fails_and_loses_nothing(finished_project: Path, tmp_path: Path) -> None:
    call(finished_project, "dvc", "remote", "add", "--force", "--default", "store", str(tmp_path / "store"))
    call(finished_project, "dvc", "push", "--quiet")
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("not a folder")
    before = {output: (finished_project / output).read_bytes() for output in OUTPUTS}
    assert "store" in call(finished_project, "dvc", "push", code=255)
    assert {output: (finished_project / output).read_bytes() for output in OUTPUTS} == before
    os.remove(tmp_path / "store")
    call(finished_project, "dvc", "push", "--quiet")
    assert list((tmp_path / "store").rglob("*"))


@pytest.mark.parametrize(("end", "message"), [("gone", "onnect"), ("denies", "Access Denied")])
def test_push_continues_after_a_server_failure(
    end: str, message: str, finished_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setitem(ENVIRONMENT, f"AWS_{name}", value)
    monkeypatch.setitem(ENVIRONMENT, "AWS_MAX_ATTEMPTS", "1")
    before = {output: (finished_project / output).read_bytes() for output in OUTPUTS}
    with s3_server(max_objects=3, end=end) as address:
        call(finished_project, "dvc", "remote", "add", "--force", "--default", "store", "s3://results/cache")
        call(finished_project, "dvc", "remote", "modify", "store", "endpointurl", address)
        assert message in call(finished_project, "dvc", "push", code=1)
    assert {output: (finished_project / output).read_bytes() for output in OUTPUTS} == before
    with s3_server(port=int(address.rpartition(":")[2])):
        call(finished_project, "dvc", "push", "--quiet")  # the same command completes the push
        clone = tmp_path / "clone"
        git(finished_project, "commit", "-qam", end)
        git(tmp_path, "clone", "-q", str(finished_project), str(clone))
        call(clone, "dvc", "pull", "--quiet")
    assert {output: (clone / output).read_bytes() for output in OUTPUTS} == before


def test_dvc_compares_the_metrics_of_two_commits(finished_project: Path) -> None:
    metrics = json.loads(call(finished_project, "dvc", "metrics", "diff", "HEAD", "--all", "--json"))
    assert any(name.endswith("knn/metrics.json") for name in metrics)
    for values in metrics.values():
        assert "accuracy" in values
