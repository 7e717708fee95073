"""Tests of the documentation site in docs/."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from rr.runtime.signals import EXIT_MESSAGES

generate = runpy.run_path(str(ROOT / "docs/generate.py"))


@pytest.mark.parametrize(
    ("page", "function"), [("parameters", "parameters_page"), ("command-line", "command_line_page")]
)
def test_reference_pages_are_up_to_date(page: str, function: str) -> None:
    text = (ROOT / f"docs/reference/{page}.md").read_text(encoding="utf-8")
    assert text == generate[function](), "run make docs"


@pytest.mark.slow
def test_site_is_built_without_warnings(tmp_path: Path) -> None:
    """A warning is, for example, a link to a page or heading that does not exist. The network is blocked."""
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", ROOT / "docs", tmp_path]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "index.html").is_file()


def test_page_of_exit_codes_has_the_code_of_each_signal() -> None:
    page = (ROOT / "docs/reference/exit-codes.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert codes == {0, 1, 2, *EXIT_MESSAGES}
