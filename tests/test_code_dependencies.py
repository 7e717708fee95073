"""`dvc.yaml` lists the modules that determine each stage's result; here the list is compared with the real imports."""

import ast
from pathlib import Path

import pytest

from rr.provenance import CODE, stage_code

ROOT = Path(__file__).parent.parent
TEMPLATES = {*CODE} - {".py"}
STAGES = ("fetch", "convert", "pretrain", "evaluate", "report")
# Modules that carry results around without being able to change them.
PLUMBING = {
    "rr/__init__.py", "rr/atomic.py", "rr/cli.py", "rr/contact_sheet.py", "rr/errors.py", "rr/paths.py",
    "rr/interrupt.py", "rr/lock.py", "rr/progress.py", "rr/provenance.py", "rr/stages.py", "rr/status.py",
    "rr/data/__init__.py",
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "rr/params").glob("*.py")),
}  # fmt: skip


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
    """What the glue of a stage imports, and all that follows."""
    seen, todo = set(), list(imported(ROOT / "rr/stages.py", stage))
    while todo:
        here = todo.pop()
        name = here.relative_to(ROOT).as_posix()
        if name in seen:
            continue
        seen.add(name)
        if here.name == "__init__.py":  # a package's templates and tables are as good as code
            seen |= {path.relative_to(ROOT).as_posix() for path in here.parent.iterdir() if path.suffix in TEMPLATES}
        # What plumbing imports (params imports the augmentation's type) is no reason for a stage to run again.
        if name not in PLUMBING:
            todo += imported(here)
    return seen - PLUMBING


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_lists_exactly_the_modules_a_stage_imports(stage: str) -> None:
    listed = [path.as_posix() for path in stage_code(stage)]
    assert listed == sorted(reachable(stage))
