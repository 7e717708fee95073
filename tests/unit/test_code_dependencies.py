"""`dvc.yaml` lists the modules that determine each stage's result; here the list is compared with the real imports."""

import ast
from pathlib import Path

import pytest

from rr.workflow.records import CODE, stage_code

ROOT = Path(__file__).parents[2]
TEMPLATES = {*CODE} - {".py"}
STAGES = ("fetch", "convert", "pretrain", "evaluate", "report")
# Code that carries results around but cannot change them. The grid decides what the report reads.
PLUMBING = ("rr/runtime/", "rr/workflow/", "rr/params/", "rr/cli.py", "rr/stages.py", "rr/errors.py", "rr/paths.py")
RESULTS = "rr/workflow/grid.py"


def is_plumbing(name: str) -> bool:
    return name == "rr/__init__.py" or (name.startswith(PLUMBING) and name != RESULTS)


def imported(module: Path, function: str | None = None) -> set[Path]:
    """The project's files that `module` (or one function of it) imports anywhere in its text, lazily or not."""
    found = set()
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
                place = ROOT / name.replace(".", "/")
                found |= {path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()}
    return found


def reachable(stage: str) -> set[str]:
    """Return the files whose code or text a stage can use, by following the imports of its function in rr/stages.py."""
    seen, todo = set(), list(imported(ROOT / "rr/stages.py", stage))
    while todo:
        here = todo.pop()
        name = here.relative_to(ROOT).as_posix()
        if name in seen or is_plumbing(name):
            continue
        seen.add(name)
        if here.name == "__init__.py" and here.parent != ROOT / "rr":
            seen |= {path.relative_to(ROOT).as_posix() for path in here.parent.rglob("*") if path.suffix in TEMPLATES}
        todo += imported(here)
    return seen


def is_only_docstring(module: Path) -> bool:
    return module.name == "__init__.py" and all(
        isinstance(node, ast.Expr) for node in ast.parse(module.read_text()).body
    )


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_lists_exactly_the_modules_a_stage_imports(stage: str) -> None:
    listed = {path.as_posix() for path in stage_code(stage)}
    needed = reachable(stage)
    if any(name.startswith("rr/compute/") for name in needed):  # listed as a folder
        needed |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "rr/compute").glob("*.py")}
    needed = {name for name in needed if not is_only_docstring(ROOT / name)}
    assert sorted(name for name in listed if not is_only_docstring(ROOT / name)) == sorted(needed)


@pytest.mark.parametrize("stage", ["pretrain", "evaluate"])
def test_all_of_compute_can_change_a_result(stage: str) -> None:
    assert {path.relative_to(ROOT) for path in (ROOT / "rr/compute").glob("*.py")} <= set(stage_code(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_plumbing_can_change_no_result(stage: str) -> None:
    assert not [path for path in stage_code(stage) if is_plumbing(path.as_posix())]
