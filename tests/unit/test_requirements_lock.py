"""requirements.lock: exact versions with hashes, of all that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
# A version, perhaps for some systems or Pythons alone, and behind it the hashes of its files.
LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ; (.*?))?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


def test_every_line_is_a_version_with_the_hashes_of_its_files() -> None:
    comment, _, text = (ROOT / "requirements.lock").read_text().partition("\n")
    assert comment.startswith("#")
    assert LOCKED.sub("", text).strip() == ""
    assert "://" not in text


def test_the_versions_are_ones_that_the_project_allows() -> None:
    locked: dict[str, list[str]] = {}
    for name, version, *_ in LOCKED.findall((ROOT / "requirements.lock").read_text()):
        locked.setdefault(canonicalize_name(name), []).append(version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["export"],
        *project["optional-dependencies"]["slurm"],
    ]
    for line in asked:
        requirement = Requirement(line)
        if requirement.name == "rr":
            continue
        versions = locked[canonicalize_name(requirement.name)]
        assert versions, line
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), line
