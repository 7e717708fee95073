"""Tests of `rr init`, which creates a project for an installed `rr`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, RunRr, copy_project
from own_images import save_tree

from rr import project
from rr.errors import UserError
from rr.project import create_project, describe_outdated_files


def list_tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if ".git" not in path.relative_to(folder).parts}


def test_new_project_has_the_files_of_a_clone(tmp_path: Path) -> None:
    create_project(tmp_path)
    assert (tmp_path / "dvc.yaml").is_file()
    assert (tmp_path / "rr").exists()
    assert Path(os.readlink(tmp_path / "rr")) == ROOT / "rr"
    assert (tmp_path / "profiles/default/profile.yaml").is_file()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in ("params.yaml", "dvc.yaml", "Snakefile", ".dvcignore", ".dvc/config"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
    for folder in ("rules", "suites", "profiles", "report"):
        files = {name for name in tracked if name.startswith(f"workflow/{folder}/")}
        assert files
        assert files <= list_tree(tmp_path)


def test_link_survives_a_call_from_inside_the_project(tmp_path: Path) -> None:
    """With `python -m rr`, Python finds the package through the link in the current folder."""
    create_project(tmp_path)
    for _ in range(2):
        subprocess.run([sys.executable, "-m", "rr", "init"], cwd=tmp_path, check=True, capture_output=True)
        assert Path(os.readlink(tmp_path / "rr")) == ROOT / "rr"


@pytest.mark.parametrize(
    "addition",
    [
        "  birds:\n    source: {kind: imagefolder, path: birds}\n    image_size: 32\n",
        "  blood:\n    source:\n      kind: mine:Mine\n    image_size: 32\n",
    ],
)
def test_images_and_classes_that_were_added_to_a_clone_are_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addition: str
) -> None:
    clone, project = tmp_path / "clone", tmp_path / "project"
    copy_project(clone)
    (clone / "workflow/extensions/__pycache__").mkdir(parents=True)
    (clone / "workflow/extensions/__pycache__/mine.pyc").write_bytes(b"\xff")
    (clone / "workflow/extensions/mine.py").write_text("")
    text = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(text.replace("\ndatasets:\n", f"\ndatasets:\n{addition}"))
    monkeypatch.setattr("rr.project.PROJECT_FILES", clone)
    project.mkdir()
    create_project(project)
    assert (project / "params.yaml").read_text() == text
    assert [file.name for file in (project / "workflow/extensions").iterdir()] == ["README.md"]


def test_git_ignores_the_link_to_the_code(tmp_path: Path) -> None:
    create_project(tmp_path)
    subprocess.run(["git", "check-ignore", "--quiet", "rr"], cwd=tmp_path, check=True)


def test_committed_classes_of_a_clone_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone, project = tmp_path / "clone", tmp_path / "project"
    copy_project(clone)
    with (clone / "params.yaml").open("a") as file:
        file.write("  # kind: package.other:Other\n  mine: {kind: package.mine:Mine}\n")
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "x"], cwd=clone, check=True)
    existing = tmp_path / "existing"
    existing.mkdir()
    create_project(existing)
    monkeypatch.setattr("rr.project.PROJECT_FILES", clone)
    project.mkdir()
    with pytest.raises(
        UserError, match=r"clone/params.yaml, .* contains a user-defined class \(kind: package.mine:Mine\)"
    ):
        create_project(project)
    assert not list(project.iterdir())
    create_project(existing)  # which has its own params.yaml


def test_clone_of_a_project_gets_the_link_to_the_package(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    create_project(tmp_path / "a")
    git = ("git", "-c", "user.name=me", "-c", "user.email=me@example.org")
    subprocess.run([*git, "add", "."], cwd=tmp_path / "a", check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "Add the project"], cwd=tmp_path / "a", check=True)
    subprocess.run([*git, "clone", "--quiet", "a", "b"], cwd=tmp_path, check=True)
    assert not (tmp_path / "b/rr").exists()
    create_project(tmp_path / "b")
    assert Path(os.readlink(tmp_path / "b/rr")) == ROOT / "rr"


@pytest.mark.parametrize("old", ["*.pyc\n/data/", "", "\udcff\r\n"])
def test_existing_list_of_ignored_files_is_extended(tmp_path: Path, old: str) -> None:
    file = tmp_path / ".gitignore"
    file.write_bytes(os.fsencode(old))
    create_project(tmp_path)
    template = (ROOT / ".gitignore").read_text()
    text = os.fsdecode(file.read_bytes())
    assert text.startswith(old)
    assert {*template.splitlines(), "/rr"} <= {*text.splitlines()}
    assert text.splitlines().count("/data/") == 1
    file.write_text("# mine\n")
    create_project(tmp_path)
    assert file.read_text() == "# mine\n"


def test_existing_project_keeps_its_files_and_renews_its_links(tmp_path: Path) -> None:
    create_project(tmp_path)
    (tmp_path / "params.yaml").write_text("changed")
    (tmp_path / "Snakefile").unlink()
    (tmp_path / "rr").unlink()
    (tmp_path / "rr").symlink_to(tmp_path / "an/older/environment")
    create_project(tmp_path)
    assert (tmp_path / "params.yaml").read_text() == "changed"
    assert (tmp_path / "Snakefile").read_bytes() == (ROOT / "Snakefile").read_bytes()
    assert (tmp_path / "rr").resolve() == ROOT / "rr"


def test_existing_project_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path} is now a project: run the example" in rr("init").out
    assert rr("init").out == f"{tmp_path} is already a project\n"
    (tmp_path / "Snakefile").unlink()
    assert rr("init").out == f"{tmp_path} is already a project; added the missing files Snakefile\n"


def test_pipeline_files_of_another_version_are_named(tmp_path: Path) -> None:
    create_project(tmp_path)
    (tmp_path / "params.yaml").write_text("changed")
    (tmp_path / "workflow/suites/mine.yaml").write_text("{}")
    assert not describe_outdated_files(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    assert describe_outdated_files(tmp_path).startswith("dvc.yaml differs from this version of rr: unless you")
    (tmp_path / "workflow/rules/data.smk").write_text("")
    assert describe_outdated_files(tmp_path).startswith("dvc.yaml, workflow/rules/data.smk differ from this version")
    for name in ("dvc.yaml", "workflow/rules/data.smk"):
        (tmp_path / name).unlink()
    create_project(tmp_path)
    assert not describe_outdated_files(tmp_path)


@pytest.mark.parametrize("name", ["params.yaml", "Snakefile", "rr/__init__.py", "profiles/default/config.yaml"])
def test_folder_with_other_files_is_refused_and_unchanged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
    before = list_tree(tmp_path)
    with pytest.raises(UserError, match="use a different folder for the project"):
        create_project(tmp_path)
    assert list_tree(tmp_path) == before


def test_git_is_required_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="git is not installed"):
        create_project(tmp_path)
    assert list_tree(tmp_path) == set()


@pytest.mark.parametrize("fault", ["bare", "config", "index"])
def test_unusable_repository_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "config":
        (tmp_path / "config").write_text("junk [[[\n")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    else:
        subprocess.run(["git", "init", "-q", *(["--bare"] if fault == "bare" else []), "."], cwd=tmp_path, check=True)
    if fault == "index":
        (tmp_path / ".git/index").write_bytes(b"junk" * 25)
    before = list_tree(tmp_path)
    expected = {"bare": "must be run in a work tree", "config": "bad config line 1", "index": "index file corrupt"}
    with pytest.raises(UserError, match=f"git cannot be used in {tmp_path}: (.|\n)*{expected[fault]}"):
        create_project(tmp_path)
    assert list_tree(tmp_path) == before


def test_damaged_submodule_elsewhere_in_the_repository_does_not_matter(tmp_path: Path) -> None:
    git = ("git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "protocol.file.allow=always")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "init", "-q", "other"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], cwd=tmp_path / "other", check=True)
    subprocess.run([*git, "submodule", "--quiet", "add", "./other", "sub"], cwd=tmp_path, check=True)
    shutil.rmtree(tmp_path / ".git/modules/sub")
    assert subprocess.run(["git", "status"], cwd=tmp_path, capture_output=True).returncode == 128
    (tmp_path / "project").mkdir()
    create_project(tmp_path / "project")
    assert not (tmp_path / "project/.git").exists()


def test_failure_of_git_init_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(tmp_path / "template"))
    (tmp_path / "template").mkdir()
    (tmp_path / "template/config").write_text("junk [[[\n")
    (tmp_path / "project").mkdir()
    with pytest.raises(UserError, match=r"git could not create a repository in .*: fatal: bad config line 1"):
        create_project(tmp_path / "project")
    assert not list((tmp_path / "project").iterdir())


def test_project_inside_another_project_is_refused(tmp_path: Path) -> None:
    create_project(tmp_path)
    inner = tmp_path / "photos/new"
    inner.mkdir(parents=True)
    message = f"{inner} is inside the project {tmp_path}: run rr init in {tmp_path}, or in a folder outside it"
    with pytest.raises(UserError, match=message):
        create_project(inner)
    assert list_tree(inner) == set()


@pytest.mark.parametrize("name", ["Snakefile", "params.yaml"])
def test_interrupted_creation_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr, name: str
) -> None:
    def stop(path: Path, text: str) -> None:
        if path.name == name:
            raise KeyboardInterrupt
        write_text(path, text)

    images = save_tree(tmp_path / "birds", {"robin": 10, "wren": 10})
    for folder in ("project", "other"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "project")
    write_text = project.write_text
    with monkeypatch.context() as patch:
        patch.setattr(project, "write_text", stop)
        assert rr("init", images).code == 130
    assert rr("init", images).code == 0
    create_project(tmp_path / "other")
    assert {*list_tree(tmp_path / "other")} <= {*list_tree(Path())}


def test_parameter_file_of_another_project_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr
) -> None:
    create_project(tmp_path)
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    outcome = rr("fetch", "--dataset", "digits", "--params", "../params.yaml")
    assert (outcome.code, list_tree(Path())) == (2, set())
    assert f"../params.yaml belongs to the project in {tmp_path}: run rr in that folder" in outcome.err
    assert rr("suite", "list").err == "rr: there is no folder workflow/suites: run rr in the root folder of a project\n"
