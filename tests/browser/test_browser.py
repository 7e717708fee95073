"""The page in a real browser: nothing in its console, and nothing wider than a phone."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
# Another page that holds the report in a frame and writes down what it measures: the report runs no script but its own.
PROBE = """<!DOCTYPE html><pre id="found"></pre>
<iframe id="frame" src="page.html" style="width: %dpx; height: 900px"></iframe>
<script>
frame.onload = () => {
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach((one) => { one.open = true; });
  const room = page.documentElement.clientWidth;
  const scrolls = (one) => one.closest(".wide, .sheet, svg");
  const wide = [...page.body.querySelectorAll("*")].filter(
    (one) => one.getBoundingClientRect().right > room + 1 && !scrolls(one));
  const broken = [...page.images].filter((one) => one.naturalWidth === 0 || !one.alt);
  const anchors = [...page.querySelectorAll('a[href^="#"]')].filter((one) => !page.querySelector(one.hash));
  const narrow = [...page.querySelectorAll("td, th")].filter((one) => one.scrollWidth > one.clientWidth + 1);
  const table = page.querySelector("table.accuracies");
  const column = () => [...table.tBodies[0].rows].map((row) => [row.cells[0].textContent, row.cells[1].textContent]);
  const sorts = [column()];
  const heading = table.tHead.rows[0].cells[1];
  for (let turn = 0; turn < 3; turn++) {
    heading.querySelector("button")?.click();
    sorts.push([heading.getAttribute("aria-sort"), column()]);
  }
  const runs = page.querySelector("table.stages");
  const words = () => [...runs.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const commands = [words()];
  for (let turn = 0; turn < 2; turn++) {
    runs.tHead.rows[0].cells[0].querySelector("button")?.click();
    commands.push(words());
  }
  found.textContent = JSON.stringify({ sorts, commands, narrow: narrow.map((one) => one.outerHTML.slice(0, 120)),
    overflow: page.documentElement.scrollWidth - room, wide: wide.map((one) => one.outerHTML.slice(0, 120)),
    broken: broken.length, anchors: anchors.map((one) => one.hash), images: page.images.length,
    drawings: page.querySelectorAll("svg[role=img][aria-label]").length, sections: page.querySelectorAll("h2").length,
  });
};
</script>"""


def natural(text: str) -> list[tuple[int, str]]:
    """Numbers within words by their value, as in `seed 2` before `seed 10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


@pytest.mark.parametrize("width", [360, 1200])
def test_a_page_with_every_section_fits(whole: tuple[str, str], tmp_path: Path, width: int) -> None:
    (tmp_path / "page.html").write_text(whole[0], encoding="utf-8")
    (tmp_path / "probe.html").write_text(PROBE % width, encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            "--enable-logging=stderr", "--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom", (tmp_path / "probe.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text
    assert text[1], done.stderr[-2000:]
    found = json.loads(unescape(text[1]))
    before, *turns = found["sorts"]
    falling = sorted(before, key=lambda row: -float(row[1].split()[0]))
    assert falling != before
    assert turns == [["descending", falling], ["ascending", falling[::-1]], [None, before]]
    written, up, down = found["commands"]
    assert len(set(written)) > 2
    assert up == sorted(written, key=natural)
    assert down == up[::-1]
    assert found["narrow"] == []
    assert found["overflow"] == 0
    assert found["wide"] == []
    assert found["broken"] == 0
    assert found["anchors"] == []
    assert found["images"] > 3
    assert found["drawings"] > 10
    assert found["sections"] > 8
