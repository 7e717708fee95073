"""Tests for requirements.lock: it contains exact versions with hashes for all dependencies in pyproject.toml."""

import re
import tomllib

from helpers import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# A version, possibly with a condition on the system or the Python version, followed by the hashes of its files.
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; (.*?))?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def test_every_line_is_a_version_with_hashes() -> None:
    comment, _, text = (ROOT / "requirements.lock").read_text().partition("\n")
    assert comment.startswith("#")
    assert LOCKED.sub("", text).strip() == ""
    assert "://" not in text


def test_versions_are_allowed_by_pyproject() -> None:
    locked: dict[str, list[str]] = {}
    for name, version, *_ in LOCKED.findall((ROOT / "requirements.lock").read_text()):
        locked.setdefault(canonicalize_name(name), []).append(version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = [
        *project["dependencies"],
        *project["optional-dependencies"]["workflow"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["export"],
        *project["optional-dependencies"]["slurm"],
    ]
    for line in dependencies:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            continue
        versions = locked[canonicalize_name(requirement.name)]
        assert versions, line
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), line
