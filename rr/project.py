"""Create a project folder for an installed `rr`. A clone of the repository is already such a folder.

A project contains the parameters, the pipeline files of both engines, the suites, and `rr`, a link to the package. With
this link, the engines notice when a different version of the package is installed.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from rr.errors import UserError
from rr.runtime.atomic import write_text

PACKAGE = Path(__file__).resolve().parent  # with `python -m rr`, __file__ is inside a project's link to the package
# In a wheel, the project files are inside the package (see pyproject.toml); in a clone, they are next to it.
PROJECT_FILES = PACKAGE / "project" if (PACKAGE / "project").is_dir() else PACKAGE.parent

_FILES = (
    "dvc.yaml", "Snakefile", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore",
    "workflow/extensions/README.md",  # only this file, because a clone's own classes stay in the clone
)  # fmt: skip
_FOLDERS = ("workflow/profiles", "workflow/report", "workflow/rules", "workflow/suites")
_PIPELINE = ("dvc.yaml", "Snakefile")
_LINKS = {"rr": PACKAGE, "profiles": Path("workflow/profiles")}  # Snakemake looks for profiles next to the Snakefile
_OWN_IMAGES = re.compile(r"^ *source: \{kind: (imagefolder|parquet),", re.MULTILINE)
_OWN_CLASS = re.compile(r"^[^#\n]*\b(kind: *['\"]?[A-Za-z_][\w.]*:[A-Za-z_]\w*)", re.MULTILINE)
_LINKED_CODE = "\n# The installed package, linked by `rr init`.\n/rr\n"


def runs_from_git_clone() -> bool:
    """Return whether the running package is in a clone of the repository."""
    return PROJECT_FILES != PACKAGE / "project"


def create_project(folder: Path) -> tuple[bool, list[str]]:
    """Write the files of a new project to `folder`, and initialize git if necessary.

    If the folder is already a project, missing files are added and the link to the package is renewed. Otherwise, an
    existing `.gitignore` is extended.

    Returns:
        Whether the folder was not a project before, and the files that have been added.

    Raises:
        UserError: if the folder contains unrelated files with the names of project files, if it is inside another
            project, if git is missing or fails, or if the params.yaml to copy contains user-defined classes. Nothing is
            written in these cases.
    """
    check_can_create_project(folder)
    is_new = not _is_project(folder)
    gitignore = Path(".gitignore")
    missing = [file for file in _files_to_copy() if not (folder / file).exists() or file == gitignore]
    texts = {file: read_template(file) for file in missing}
    if not is_in_work_tree(folder):
        _initialize_git(folder)
    # If this function is interrupted, the `rr` link tells the next call that the other files belong to a project.
    # `rr init IMAGES` calls this function again only if params.yaml is missing, so params.yaml is written last.
    for name, destination in _LINKS.items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(destination)
    added = []
    for file, text in texts.items():
        target = folder / file
        text += _LINKED_CODE if file == gitignore else ""
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, text)
            added.append(str(file))
        elif is_new:
            _add_lines(target, text)
    return is_new, added


def check_can_create_project(folder: Path) -> None:
    """Raise UserError if `create_project` would refuse to create a project in `folder`."""
    is_in_work_tree(folder)  # raises if git cannot be used
    _check_folder(folder)


def is_in_work_tree(folder: Path) -> bool:
    """Return whether a folder is in a git repository that git can use.

    Raises:
        UserError: if git is not installed, or if the repository is damaged, bare or not trusted by git.
    """
    # This command reads the index and, unlike `git status`, neither submodules nor files outside this folder.
    listing = _run_git(folder, "ls-files", "--deleted", "--", ".")
    if listing.returncode and "not a git repository (or any" not in listing.stderr:
        raise UserError(f"git cannot be used in {folder}: {listing.stderr.strip().expandtabs()}")
    return not listing.returncode


def _initialize_git(folder: Path) -> None:
    """Create a git repository in a folder. If git fails, raise UserError and leave no new repository behind."""
    repository = folder / ".git"
    is_new = not repository.exists()
    init = _run_git(folder, "init", "--quiet")
    if init.returncode:
        if is_new:
            shutil.rmtree(repository, ignore_errors=True)
        raise UserError(f"git could not create a repository in {folder}: {init.stderr.strip().expandtabs()}")


def _run_git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("git") is None:
        raise UserError("git is not installed: install it")
    environment = os.environ | {"LC_ALL": "C"}  # English messages
    return subprocess.run(
        ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, errors="replace"
    )


def describe_outdated_files(folder: Path) -> str:
    """Return a sentence that lists the pipeline files that differ from those of the running `rr`, or "" if none do.

    They differ if the project was created by another version of `rr`, or if a user has edited them.
    """
    files = [file for file in _files_to_copy() if file.parts[0] in _PIPELINE or file.parts[:2] == ("workflow", "rules")]
    names = [
        str(file)
        for file in files
        if (folder / file).is_file() and (folder / file).read_bytes() != (PROJECT_FILES / file).read_bytes()
    ]
    if not names:
        return ""
    return (
        f"{', '.join(names)} {'differs' if len(names) == 1 else 'differ'} from this version of rr: unless you made "
        "these changes yourself, delete the listed files and run rr init, which writes the current ones"
    )


def read_template(file: Path) -> str:
    """Return the text of a new project's file, without the user's datasets and classes in a clone's params.yaml.

    Raises:
        UserError: if the classes have been committed.
    """
    path = PROJECT_FILES / file
    text = path.read_text(encoding="utf-8")
    if file != Path("params.yaml") or not runs_from_git_clone():
        return text
    if _OWN_IMAGES.search(text) or _OWN_CLASS.search(text):
        committed = subprocess.run(["git", "show", f"HEAD:./{file}"], cwd=PROJECT_FILES, capture_output=True, text=True)
        text = text if committed.returncode else committed.stdout
    if found := _OWN_CLASS.search(text):
        raise UserError(
            f"{path}, from which the new project's params.yaml would be copied, contains a user-defined class "
            f"({found[1]}), which a new project does not have: work in {PROJECT_FILES}, or remove it from this file"
        )
    return text


def _files_to_copy() -> list[Path]:
    folders = (file for name in _FOLDERS for file in (PROJECT_FILES / name).rglob("*") if file.is_file())
    folder_files = sorted(file.relative_to(PROJECT_FILES) for file in folders)
    return [*map(Path, _FILES), *folder_files, Path("params.yaml")]


def _is_project(folder: Path) -> bool:
    return (folder / "rr").is_dir() and (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file()


def _add_lines(file: Path, text: str) -> None:
    """Append the lines of `text` that a file does not contain."""
    old = file.read_bytes()
    if lines := [line for line in text.encode().splitlines() if line not in old.splitlines()]:
        end = b"" if not old or old.endswith(b"\n") else b"\n"
        file.write_bytes(b"\n".join([old + end, *lines, b""]))


def _check_folder(folder: Path) -> None:
    """Raise UserError if a new project in `folder` would be mixed with unrelated files or be inside another project."""
    if not _is_project(folder):
        for parent in filter(_is_project, folder.resolve().parents):
            raise UserError(
                f"{folder.resolve()} is inside the project {parent}: run rr init in {parent}, or in a folder outside it"
            )
    for name in _LINKS:
        if (folder / name).exists() and not (folder / name).is_symlink():
            raise UserError(
                f"{folder.resolve()} contains a file or folder named {name}: use a different folder for the project"
            )
    existing = [file for file in _files_to_copy() if (folder / file).exists() and file != Path(".gitignore")]
    # A clone of a project from another machine has the link to the profiles, but not the link to the package, which
    # git ignores.
    if existing and not any((folder / name).is_symlink() for name in _LINKS):
        raise UserError(
            f"{folder.resolve()} already contains {existing[0]}, which conflicts with the project file of the "
            "same name: use a different folder for the project"
        )
