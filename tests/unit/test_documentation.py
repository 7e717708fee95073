"""Tests of the documentation site in docs/."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from documented_commands import PAGES, read_blocks
from helpers import ROOT, RunRr, write_params
from PIL import Image
from ruamel.yaml import YAML

import rr
from rr.params import load_params
from rr.runtime.signals import CLOSED_PIPE_CODE, EXIT_MESSAGES

generate = runpy.run_path(str(ROOT / "docs/generate.py"))
results_tables = runpy.run_path(str(ROOT / "docs/results_tables.py"))


@pytest.mark.parametrize(
    ("page", "function"), [("parameters", "parameters_page"), ("command-line", "command_line_page")]
)
def test_reference_pages_are_up_to_date(page: str, function: str) -> None:
    text = (ROOT / f"docs/reference/{page}.md").read_text(encoding="utf-8")
    assert text == generate[function](), "run make docs"


def test_python_page_is_up_to_date() -> None:
    text = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    assert text == generate["python_page"](text), "run make docs"
    assert all(f"| `rr.{name}" in text for name in rr.__all__ if name != "PAPER_AUGMENTATION")


@pytest.mark.parametrize("path", generate["METHOD_PAGES"], ids=lambda path: path.stem)
def test_method_pages_are_up_to_date(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == generate["method_page"](path.stem, text), "run make docs"
    image = path.with_suffix(".webp")
    assert (image.name in text) == image.is_file()
    if image.is_file():
        assert image.stat().st_size < 40_000
        stored = np.asarray(Image.open(image).convert("RGB"), dtype=float)
        # WebP is lossy, and the views of another processor may differ by rounding errors.
        assert np.abs(stored - np.asarray(generate["views_image"](path.stem))).mean() < 8, "run make docs"


@pytest.mark.parametrize("path", results_tables["PAGES"], ids=lambda path: path.stem)
def test_tables_of_results_are_up_to_date(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == results_tables["update_tables"](text), "run make docs"


def test_plot_of_the_scaling_benchmark_shows_each_series(tmp_path: Path) -> None:
    cases = [
        {
            "facts": {"series": series, "size": size, "size_unit": "images", "peak_memory_mib": peak},
            "candidates": [{"wall": {"median": size / 1e4}}],
        }
        for series in ("writing a dataset", "reading a dataset")
        for size, peak in ((10, None), (100, 5.0))
    ]
    (tmp_path / "results.json").write_text(json.dumps({"parts": {"scaling": {"cases": cases}}}))
    command = [sys.executable, ROOT / "docs/scaling_plot.py", "results.json", "plot.svg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    plot = (tmp_path / "plot.svg").read_text()
    assert "writing a dataset (images)" in plot
    assert "reading a dataset (images)" in plot


def test_each_page_shows_other_views() -> None:
    images = [path.with_suffix(".webp") for path in generate["METHOD_PAGES"]]
    contents = [image.read_bytes() for image in images if image.is_file()]
    assert len(set(contents)) == len(contents) == 9


def test_augmentations_on_the_page_of_byol_are_valid(project: Path) -> None:
    page = (ROOT / "docs/methods/byol.md").read_text(encoding="utf-8")
    keys = YAML(typ="safe").load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    byol = {"kind": "byol", "views": 2, "batch_size": 8, "epochs": 1, "learning_rate": 0.1, "momentum": 0.9}
    byol |= {"hidden_dim": 8, "projection_dim": 4}
    write_params(project, lambda params: params["methods"].update(byol=byol | keys))
    second = load_params(project / "params.yaml").methods["byol"].augmentations[1]
    assert (second.blur, second.solarize, second.saturation) == (0.1, 0.2, 0.2)


def test_every_method_has_a_page() -> None:
    kinds = {config.kind for config in generate["load_params"](ROOT / "params.yaml").methods.values()}
    assert {path.stem for path in generate["METHOD_PAGES"]} == kinds


def test_readme_is_short_and_its_images_are_small() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    for name in ("light", "dark"):
        assert (ROOT / f"docs/images/report-{name}.webp").stat().st_size < 120_000


def test_links_of_the_readme_exist() -> None:
    """The site does not contain the README, so Sphinx does not check its links."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]+)(?:#([^)]*))?\)", text):
        assert (ROOT / link).is_file(), link
        headings = re.findall(r"^#+ (.*)", (ROOT / link).read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, f"{link}#{anchor}"


def test_every_console_block_is_run_or_states_why_not() -> None:
    for page in PAGES:
        for block in read_blocks(page):
            assert block.commands, page
            if block.note and block.note["test"]:
                assert (ROOT / block.note["test"]).is_file(), f"{page}: {block.note[0]}"


@pytest.mark.slow
@pytest.mark.usefixtures("params_file")
def test_costs_of_the_suites_are_those_of_rr_plan(rr: RunRr) -> None:
    text = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| .* \| (\d+) \| ([0-9.]+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(rows) == 11
    for suite, runs, billions, evaluations in rows:
        plan = rr("plan", suite, "--views-per-second", 20_000).out
        views = int(re.search(rf"^{runs} pretraining runs, ([0-9,]+) views", plan, re.MULTILINE)[1].replace(",", ""))
        assert f"{views / 1e9:.2f}" == billions, suite
        assert f" and {evaluations} evaluations" in plan, suite


@pytest.mark.slow
def test_site_is_built_without_warnings(tmp_path: Path) -> None:
    """A link to a page or heading that does not exist, for example, causes a warning. The network is blocked."""
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", ROOT / "docs", tmp_path]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "index.html").is_file()


def test_page_of_exit_codes_has_the_code_of_each_signal() -> None:
    page = (ROOT / "docs/reference/exit-codes.md").read_text(encoding="utf-8")
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert codes == {0, 1, 2, *EXIT_MESSAGES, CLOSED_PIPE_CODE}
