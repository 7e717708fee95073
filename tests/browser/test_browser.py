"""Test the page in Chromium: no console messages, nothing wider than the screen, sortable tables, and the image map."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from xml.etree import ElementTree

import pytest
from report_files import CLASS_NAMES, INDEX, LABELS, METHODS, PREDICTIONS

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
# A second page shows the report in a frame and measures it, because the report permits only its own script.
PROBE = """<!DOCTYPE html><iframe id="frame" src="page.html" style="width: %dpx; height: 900px"></iframe>
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
  const plots = [...page.querySelectorAll(".panel:has(svg)")];
  const saved = plots.map((panel) => frame.contentWindow.exportSvg(panel));
  const titles = plots.map((panel) => panel.querySelector(".panel-title").textContent);
  const results = { saved, titles, sorts, commands, narrow: narrow.map((cell) => cell.outerHTML.slice(0, 120)),
    overflow: page.documentElement.scrollWidth - width, wide: wide.map((element) => element.outerHTML.slice(0, 120)),
    broken: broken.length, anchors: anchors.map((link) => link.hash), images: page.images.length,
    plots: page.querySelectorAll("svg[role=img][aria-label]").length, sections: page.querySelectorAll("h2").length,
  };
  fetch("result", { method: "POST", body: JSON.stringify(results) });
};
</script>"""

MAP_PROBE = """<!DOCTYPE html><iframe id="frame" src="page.html" style="width: %dpx; height: 900px"></iframe>
<script>
frame.onload = async () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  // Wait until the page has been drawn, which takes several frames.
  const wait = async () => {
    for (let frames = 0; frames < 5; frames++) await new Promise((done) => view.requestAnimationFrame(done));
  };
  const figure = page.querySelector("figure.image-map");
  figure.scrollIntoView();
  await wait();
  const state = () => ({ ...figure.dataset, text: figure.querySelector(".map-details").textContent });
  const canvas = figure.querySelector(".map-view canvas");
  const numColored = () => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let count = 0;
    for (let i = 0; i < pixels.length; i += 4) {
      count += Math.max(...pixels.slice(i, i + 3)) - Math.min(...pixels.slice(i, i + 3)) > 40;
    }
    return count;
  };
  const results = { start: state(), colored: numColored() };
  const box = canvas.getBoundingClientRect();
  const hoverAt = (x, y) => canvas.dispatchEvent(new view.PointerEvent("pointermove", {
    clientX: box.x + x, clientY: box.y + y, pointerType: "mouse" }));
  search: for (let y = 5; y < box.height; y += 8) {
    for (let x = 5; x < box.width; x += 8) {
      hoverAt(x, y);
      if (figure.dataset.focus) { results.hover = state(); break search; }
    }
  }
  canvas.dispatchEvent(new view.PointerEvent("pointerleave"));
  results.left = state();
  const press = (key) => canvas.dispatchEvent(new view.KeyboardEvent("keydown", { key, bubbles: true }));
  press("ArrowRight");
  results.key = state();
  for (const key of ["+", "+", "+"]) press(key);
  await wait();
  results.zoomed = state();
  press("0");
  press("Escape");
  results.reset = state();
  const [layers, classes, errors] = figure.querySelectorAll(".map-toolbar select");
  const choose = (select, value) => { select.value = value; select.dispatchEvent(new view.Event("change")); };
  choose(classes, "1");
  results.oneClass = state();
  choose(errors, "1");
  results.errors = state();
  choose(classes, "");
  choose(errors, "0");
  choose(layers, "1");
  results.layers = [...layers.options].map((option) => option.text);
  const finger = (identifier, x) => new view.Touch({
    identifier, target: canvas, clientX: box.x + x, clientY: box.y + 99 });
  const touch = (type, ...fingers) => canvas.dispatchEvent(new view.TouchEvent(type, {
    touches: fingers, targetTouches: fingers, changedTouches: fingers, bubbles: true, cancelable: true, view }));
  touch("touchstart", finger(1, 100), finger(2, 150));
  touch("touchmove", finger(1, 75), finger(2, 175));
  results.pinch = state();
  press("0");
  for (const key of ["+", "+", "+", "+"]) press(key);
  canvas.dispatchEvent(new view.KeyboardEvent("keydown", { key: "ArrowRight", shiftKey: true, bubbles: true }));
  const center = () => {
    const { k, x, y } = canvas.__zoom, [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const size = Math.min(width, height) - 28;
    return [((width / 2 - x) / k - width / 2) / size, ((height / 2 - y) / k - height / 2) / size];
  };
  results.center = [center()];
  frame.style.width = `${frame.clientWidth - 70}px`;
  await wait();
  results.center.push(center());
  fetch("result", { method: "POST", body: JSON.stringify(results) });
};
</script>"""


def natural_key(text: str) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers within text by value, so that `seed 2` comes before `seed 10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


@pytest.mark.parametrize("width", [360, 1200])
def test_full_page_fits_and_sorts(full_report: tuple[str, str], tmp_path: Path, width: int) -> None:
    result = run_probe(full_report[0], PROBE % width, tmp_path)
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
    assert len(result["saved"]) > 10
    for title, svg in zip(result["titles"], result["saved"], strict=True):
        texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert title in texts
        assert "var(" not in svg
        if title == "kNN accuracy, %, against pairs compared":  # on the page, several plots share its legend
            assert {"relational", "simclr"} <= set(texts)


def test_hidden_text_in_a_wide_table_does_not_widen_the_page(full_report: tuple[str, str], tmp_path: Path) -> None:
    hidden = '<td class="number"><span class="visually-hidden">published </span>'
    page = full_report[0].replace('<td class="number">', hidden)
    assert page.count(hidden) > 50
    assert run_probe(page, PROBE % 360, tmp_path)["overflow"] == 0


@pytest.mark.parametrize("width", [360, 1200])
def test_map_of_images_is_explored(full_report: tuple[str, str], tmp_path: Path, width: int) -> None:
    result = run_probe(full_report[0], MAP_PROBE % width, tmp_path)
    assert result["start"]["visible"] == "10"
    assert result["start"]["text"].startswith("Hover over or tap a dot")
    assert result["colored"] > 50
    hover = result["hover"]
    image = int(hover["focus"])
    assert f"image {INDEX[image]} of shapes" in hover["text"]
    assert f"class{CLASS_NAMES[LABELS[image]]}" in hover["text"]
    mark = "✓ correct" if PREDICTIONS[image] == LABELS[image] else "✗ wrong"
    assert f"prediction (linear){CLASS_NAMES[PREDICTIONS[image]]} {mark}" in hover["text"]
    neighbors = (CLASS_NAMES[LABELS[(image + distance) % 10]] for distance in (1, 2))
    assert hover["text"].endswith("nearest images" + "".join(neighbors))
    assert result["left"]["focus"] == ""
    assert result["key"]["focus"] != ""
    assert float(result["zoomed"]["scale"]) == pytest.approx(1.6**3)
    assert int(result["zoomed"]["images"]) > 0
    assert (result["reset"]["scale"], result["reset"]["focus"]) == ("1", "")
    assert result["oneClass"]["visible"] == str(LABELS.count(1))
    errors = [label == 1 != prediction for label, prediction in zip(LABELS, PREDICTIONS, strict=True)]
    assert result["errors"]["visible"] == str(sum(errors))
    assert result["layers"] == [f"{method}, seed 1" for method in METHODS]
    assert float(result["pinch"]["scale"]) == pytest.approx(2)
    before, after = result["center"]
    assert abs(before[0]) > 0.01
    assert after == pytest.approx(before, abs=1e-3)


def run_probe(page: str, probe: str, tmp_path: Path) -> Any:
    """Open `probe` next to the page, and return the result that it sends. Check that the browser prints no messages."""
    results: SimpleQueue[bytes] = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((page if self.path == "/page.html" else probe).encode())

        def do_POST(self) -> None:
            results.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, open(tmp_path / "log", "wb") as log:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = subprocess.Popen(
            [
                str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                "--touch-events=enabled", f"--user-data-dir={tmp_path / 'profile'}",
                f"http://127.0.0.1:{server.server_port}/probe.html",
            ],
            stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            result = results.get(timeout=60)
        except Empty:
            pytest.fail((tmp_path / "log").read_text(errors="replace")[-3000:])
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
            server.shutdown()
    console = [line for line in (tmp_path / "log").read_text(errors="replace").splitlines() if "CONSOLE" in line]
    assert console == []
    return json.loads(result)
