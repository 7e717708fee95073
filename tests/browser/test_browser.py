"""The page in Chromium: no console messages, nothing wider than the screen, and sortable tables."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
# A second page shows the report in a frame and measures it, because the report permits only its own script.
PROBE = """<!DOCTYPE html><pre id="result"></pre>
<iframe id="frame" src="page.html" style="width: %dpx; height: 900px"></iframe>
<script>
frame.onload = () => {
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach((element) => { element.open = true; });
  const width = page.documentElement.clientWidth;
  const scrolls = (element) => element.closest(".scroll, .image, svg");
  const wide = [...page.body.querySelectorAll("*")].filter(
    (element) => element.getBoundingClientRect().right > width + 1 && !scrolls(element));
  const broken = [...page.images].filter((image) => image.naturalWidth === 0 || !image.alt);
  const anchors = [...page.querySelectorAll('a[href^="#"]')].filter((link) => !page.querySelector(link.hash));
  const narrow = [...page.querySelectorAll("td, th")].filter((cell) => cell.scrollWidth > cell.clientWidth + 1);
  const table = page.querySelector("table.accuracies");
  const column = () => [...table.tBodies[0].rows].map((row) => [row.cells[0].textContent, row.cells[1].textContent]);
  const sorts = [column()];
  const heading = table.tHead.rows[0].cells[1];
  for (let click = 0; click < 3; click++) {
    heading.querySelector("button")?.click();
    sorts.push([heading.getAttribute("aria-sort"), column()]);
  }
  const runs = page.querySelector("table.runs");
  const firstColumn = () => [...runs.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const commands = [firstColumn()];
  for (let click = 0; click < 2; click++) {
    runs.tHead.rows[0].cells[0].querySelector("button")?.click();
    commands.push(firstColumn());
  }
  result.textContent = JSON.stringify({ sorts, commands, narrow: narrow.map((cell) => cell.outerHTML.slice(0, 120)),
    overflow: page.documentElement.scrollWidth - width, wide: wide.map((element) => element.outerHTML.slice(0, 120)),
    broken: broken.length, anchors: anchors.map((link) => link.hash), images: page.images.length,
    plots: page.querySelectorAll("svg[role=img][aria-label]").length, sections: page.querySelectorAll("h2").length,
  });
};
</script>"""


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers within text by value, so that `seed 2` comes before `seed 10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


@pytest.mark.parametrize("width", [360, 1200])
def test_full_page_fits_and_sorts(full_report: tuple[str, str], tmp_path: Path, width: int) -> None:
    (tmp_path / "page.html").write_text(full_report[0], encoding="utf-8")
    (tmp_path / "probe.html").write_text(PROBE % width, encoding="utf-8")
    process = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            "--enable-logging=stderr", "--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom", (tmp_path / "probe.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert [line for line in process.stderr.splitlines() if "CONSOLE" in line] == []
    text = re.search(r'<pre id="result">(.*?)</pre>', process.stdout, re.DOTALL)
    assert text
    assert text[1], process.stderr[-2000:]
    result = json.loads(unescape(text[1]))
    original, *clicks = result["sorts"]
    descending = sorted(original, key=lambda row: -float(row[1].split()[0]))
    assert descending != original
    assert clicks == [["descending", descending], ["ascending", descending[::-1]], [None, original]]
    commands, first_click, second_click = result["commands"]
    assert len(set(commands)) > 2
    assert first_click == sorted(commands, key=natural_key)
    assert second_click == first_click[::-1]
    assert result["narrow"] == []
    assert result["overflow"] == 0
    assert result["wide"] == []
    assert result["broken"] == 0
    assert result["anchors"] == []
    assert result["images"] > 3
    assert result["plots"] > 10
    assert result["sections"] > 8
