"""Compare the modules that `dvc.yaml` lists for each stage with those that the stage imports."""

import ast
import re
from pathlib import Path

import pytest
from helpers import ROOT

from rr.workflow.records import CODE_SUFFIXES, code_files

TEMPLATE_SUFFIXES = {*CODE_SUFFIXES} - {".py"}
STAGES = ("fetch", "convert", "pretrain", "extract", "evaluate", "report")
# Code that cannot change a result. REPORTED lists the exceptions, which can change the report: the grid, which
# determines what the report reads, the code for claims, and the format of numbers.
INFRASTRUCTURE = ("runtime/", "workflow/", "params/", "cli.py", "commands.py", "errors.py", "paths.py")
REPORTED = ("rr/workflow/grid.py", "rr/workflow/claims.py", "rr/runtime/formatting.py")


def is_infrastructure(name: str, stage: str) -> bool:
    if stage == "report" and name in REPORTED:
        return False
    return name == "rr/__init__.py" or name.removeprefix("rr/").startswith(INFRASTRUCTURE)


def imported_files(module: Path, function: str | None = None) -> set[Path]:
    """Return the project's files that `module`, or one function of it, imports anywhere in its code."""
    files = set()
    tree: ast.AST = ast.parse(module.read_text())
    if function:
        tree = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function)
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] == "rr":
                path = ROOT / name.replace(".", "/")
                files |= {file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()}
    # Importing a module also runs the __init__.py of its packages.
    packages = {parent for file in files for parent in file.parents if parent.is_relative_to(ROOT / "rr")}
    return files | {package / "__init__.py" for package in packages if (package / "__init__.py").is_file()}


def reachable_files(stage: str) -> set[str]:
    """Return the modules and templates that a stage can use, by following imports from rr/commands.py."""
    names, todo = set(), list(imported_files(ROOT / "rr/commands.py", f"run_{stage}"))
    while todo:
        file = todo.pop()
        name = file.relative_to(ROOT).as_posix()
        if name in names or is_infrastructure(name, stage):
            continue
        names.add(name)
        if file.name == "__init__.py" and file.parent != ROOT / "rr":
            templates = (path for path in file.parent.rglob("*") if path.suffix in TEMPLATE_SUFFIXES)
            names |= {path.relative_to(ROOT).as_posix() for path in templates}
        todo += imported_files(file)
    return names


def has_only_a_docstring(module: Path) -> bool:
    return module.name == "__init__.py" and all(
        isinstance(node, ast.Expr) for node in ast.parse(module.read_text()).body
    )


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_lists_exactly_the_modules_that_a_stage_imports(stage: str) -> None:
    listed = {path.as_posix() for path in code_files(stage)}
    reachable = reachable_files(stage)
    if any(name.startswith("rr/compute/") for name in reachable):  # dvc.yaml lists this folder as a whole
        reachable |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "rr/compute").glob("*.py")}
    reachable = {name for name in reachable if not has_only_a_docstring(ROOT / name)}
    assert sorted(name for name in listed if not has_only_a_docstring(ROOT / name)) == sorted(reachable)


@pytest.mark.parametrize("stage", ["pretrain", "extract", "evaluate"])
def test_stages_depend_on_all_of_compute(stage: str) -> None:
    assert {path.relative_to(ROOT) for path in (ROOT / "rr/compute").glob("*.py")} <= set(code_files(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_depends_on_infrastructure(stage: str) -> None:
    assert not [path for path in code_files(stage) if is_infrastructure(path.as_posix(), stage)]


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_reads_its_own_source_or_docstrings(stage: str) -> None:
    """Otherwise, an edited comment or docstring could change a result without making the run out of date."""
    for path in code_files(stage):
        words = set(re.findall(r"\w+", (ROOT / path).read_text()))
        assert not words & {"__doc__", "getdoc", "getsource", "getsourcelines"}, path
