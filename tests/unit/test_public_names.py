"""Test the public interface: `import rr` and the names in `rr.__all__`."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

import rr

# Packages that the interface must not load.
OTHER_PACKAGES = ("ffcv", "dvc", "snakemake", "matplotlib", "onnx", "timm", "pydantic")


def loaded_packages(code: str) -> set[str]:
    """Run `code` in a new process and return the packages that it loaded."""
    command = f"{code}\nimport sys\nprint(' '.join(name for name in sys.modules if '.' not in name))"
    process = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(process.stdout.split())


def test_import_loads_nothing() -> None:
    assert not loaded_packages("import rr") & {"torch", "numpy", "numba", "pyarrow", "PIL", *OTHER_PACKAGES}


@pytest.mark.slow
def test_public_names_do_not_load_packages_of_the_workflow() -> None:
    loaded = loaded_packages("import rr\nfor name in rr.__all__: getattr(rr, name)")
    assert {"torch", "numpy"} <= loaded
    assert not loaded & set(OTHER_PACKAGES)


def test_every_public_name_is_exported_for_type_checkers_too() -> None:
    source = (ROOT / "rr/__init__.py").read_text()
    imports = re.findall(r"^    from (\S+) import (\w+) as \2$", source, re.MULTILINE)
    assert {name: module for module, name in imports} == rr._MODULES
    for name, module in rr._MODULES.items():
        assert getattr(rr, name) is getattr(importlib.import_module(module), name)
    assert set(rr.__all__) <= set(dir(rr))


def test_unknown_name_raises() -> None:
    with pytest.raises(AttributeError, match="module 'rr' has no attribute 'relation_los'"):
        _ = rr.relation_los  # type: ignore[attr-defined]


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from rr import *", names)
    assert set(rr.__all__) <= names.keys()


@pytest.mark.slow
def test_types_are_visible_to_mypy(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "import rr\n"
        "backbone = rr.load_backbone('w')\n"
        "reveal_type(rr.embed('folder', backbone))\n"
        "reveal_type(rr.compare('a.png', 'b.png', backbone))\n"
        "rr.Gallery('folder')\n"
        "rr.relation_los\n"
        "from rr import *\n"
        "reveal_type(compare('a.png', 'b.png', backbone))\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", tmp_path / "user.py"]
    output = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    for line in (4, 8):
        assert f'user.py:{line}: note: Revealed type is "float"' in output.replace("builtins.", "")
    assert 'user.py:5: error: Missing positional argument "backbone"' in output
    assert 'user.py:6: error: Module has no attribute "relation_los"' in output
