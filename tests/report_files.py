"""Files of a made-up grid, from which the tests of the report make a page."""

import csv
import io
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rr import paths
from rr.params import Params
from rr.workflow.grid import evaluations, pretrainings
from rr.workflow.records import sealed

ACCURACY = {
    ("random", "linear"): {1: 0.40, 2: 0.42},
    ("random", "knn"): {1: 0.30, 2: 0.30},
    ("supervised", "linear"): {1: 0.80, 2: 0.82},
    ("supervised", "knn"): {1: 0.70, 2: 0.74},
    ("relational", "linear"): {1: 0.60, 2: 0.63},
    ("relational", "knn"): {1: 0.50, 2: 0.50},
    ("simclr", "linear"): {1: 0.55, 2: 0.55},
    ("simclr", "knn"): {1: 0.45, 2: 0.45},
}


METHODS: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "supervised": {
        "kind": "supervised", "augmentation": {"flip": 0.5}, "views": 1, "batch_size": 8, "epochs": 2,
        "learning_rate": 0.1, "momentum": 0.9, "milestones": [0.5], "decay": 0.1,
    },
    "relational": {
        "kind": "relational", "augmentation": {"flip": 0.5}, "views": 4, "batch_size": 8, "epochs": 2,
        "learning_rate": 0.001, "head": "relation", "aggregation": "cat", "loss": "focal", "gamma": 2.0,
        "alpha": 0.5, "negatives": "roll", "labelled": 0.0,
    },
    "simclr": {
        "kind": "simclr", "augmentation": {"flip": 0.5}, "views": 2, "batch_size": 8, "epochs": 2,
        "learning_rate": 0.001, "temperature": 0.5, "mean": "of-ratios", "hidden": 8, "outputs": 4,
    },
}  # fmt: skip


PROTOCOLS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear", "labelled": 1.0, "epochs": 1, "batch_size": 8, "learning_rate": 0.001},
    "knn": {"kind": "knn", "neighbours": 2, "temperature": 0.1},
    "retrieval": {"kind": "retrieval", "distance": "cosine", "depths": [1, 5]},
    "embedding": {"kind": "embedding", "images": 10, "perplexity": 3.0, "augmentation": {"flip": 0.5}},
}


CLASSIFICATION = ("linear", "knn")


# Ten test pictures of three classes, as every classifier of the fixture sees them: the class with index 1 fares worst.
NAMES = ["cat", "dog", "$a$ & <b>"]


LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


GUESSED = [0, 0, 0, 1, 0, 0, 1, 2, 2, 2]


CONFIDENCE = [0.99, 0.97, 0.5, 0.5, 0.9, 0.9, 0.55, 0.55, 0.0, 1.0]


RELATIONAL = paths.Pretraining("shapes", "conv4", "relational", 1)


def make_params(
    seeds: tuple[int, ...] = (1, 2),
    methods: tuple[str, ...] = ("random", "supervised", "relational"),
    datasets: tuple[str, ...] = ("shapes",),
    protocols: tuple[str, ...] = CLASSIFICATION,
) -> Params:
    data = {
        "source": {"kind": "shapes", "train": 20, "test": 10, "seed": 0},
        "side": 8,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    content = {
        "grid": {
            "data": list(datasets), "dataset": list(datasets), "backbone": ["conv4"], "method": list(methods),
            "seed": list(seeds), "target": list(datasets), "protocol": list(protocols),
        },
        "threads": 1, "precision": "float32", "dynamics": {"every": 1, "images": 50},
        "datasets": dict.fromkeys(datasets, data),
        "methods": METHODS,
        "protocols": PROTOCOLS,
    }  # fmt: skip
    return Params.model_validate_json(json.dumps(content))


def write_files(params: Params) -> None:
    """Everything that the stages of `params` would have left for the report."""
    for run in pretrainings(params):
        run.folder.mkdir(parents=True)
        run.history.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "random": ["epoch", "loss", "accuracy"],
            "supervised": ["epoch", "loss", "accuracy"],
            "relational": ["epoch", "loss", "accuracy", "accuracy_positive", "accuracy_negative"],
            "simclr": ["epoch", "loss", "accuracy"],
        }[run.method]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for epoch in (1, 2) if run.method != "random" else ():
            writer.writerow([epoch, 1 / epoch + run.seed / 10, *(0.4 + epoch / 10 for _ in columns[2:])])
        run.history.write_text(text.getvalue())
        write_png(run.views, run.seed)
        write_record(run.folder, {f"methods.{run.method}": METHODS[run.method], "threads": 1}, views_per_second=1234)
    for score in evaluations(params):
        score.folder.mkdir(parents=True)
        kind = PROTOCOLS[score.protocol]["kind"]
        write_score(score, kind)
        write_png(score.examples, score.pretraining.seed)
        write_record(score.folder, {f"protocols.{score.protocol}": PROTOCOLS[score.protocol], "threads": 1})


def write_score(score: paths.Evaluation, kind: str) -> None:
    """Metrics and predictions of one evaluation."""
    names, seed = NAMES, score.pretraining.seed
    sizes = {"test_images": 1000, "train_images": 5000, "classes": 10}
    index = {"index": list(range(10)), "label": LABELS}
    if kind == "retrieval":
        at = {f"{name}_at_{k}": 0.1 * k for name in ("precision", "recall", "hit_rate") for k in (1, 5)}
        better = 0.1 * ["random", "simclr", "relational", "supervised"].index(score.pretraining.method)
        metrics = {"mean_average_precision": 0.3 + better + seed / 100, **at, **sizes}
        nothing = pa.array([[0] * 5] * 10)
        columns = {"average_precision": [0.5] * 10, "neighbours": nothing, "neighbour_labels": nothing}
        table = pa.table(index | columns | {"similarities": pa.array([[0.5] * 5] * 10, pa.list_(pa.float32()))})
    elif kind == "embedding":
        metrics = {"silhouette": -0.25, "alignment": 0.5, "uniformity": -2.0, "effective_rank": 7.5 + seed}
        places = np.arange(20, dtype=np.float32).reshape(2, 10) * [[1], [-1]]
        table = pa.table(index | {axis: places[i].astype(np.float32) for i, axis in enumerate("xy")})
    else:
        value = ACCURACY[score.pretraining.method, score.protocol][seed]
        metrics = {"accuracy": value, "loss": 0.5, "calibration_error": seed / 10, **sizes}
        table = pa.table(index | {"prediction": GUESSED, "confidence": CONFIDENCE})
    score.metrics.write_text(json.dumps(metrics))
    write_predictions(score, table, names)


def write_predictions(score: paths.Evaluation, table: pa.Table, names: list[str]) -> None:
    pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(names)}), score.predictions)


def write_png(path: Path, shade: int) -> None:
    Image.fromarray(np.full((12, 20, 3), shade, np.uint8)).save(path)


def write_dynamics(method: str, seed: int, columns: dict[str, list[Any]], seconds: list[float]) -> None:
    """A history of measured epochs; None for an epoch without a measurement."""
    run = paths.Pretraining("shapes", "conv4", method, seed)
    epochs = range(1, len(seconds) + 1)
    rows = [["epoch", "loss", *columns]]
    rows += [
        [epoch, 1.0, *("" if v is None else v for v in values)]
        for epoch, *values in zip(epochs, *columns.values(), strict=True)
    ]
    run.history.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    change_record(run.folder, epoch_seconds=seconds)


def write_record(folder: Path, params: dict[str, Any], **more: Any) -> None:
    machine = {"processor": "Abacus 9", "cores": 2, "system": "Linux", "python": "3.11", "versions": {"torch": "2.11"}}
    record = {
        "stage": "any", "command": f"rr made {folder}", "params": params, "inputs": {}, "code": {}, "outputs": {},
        "started": "2026-01-02T03:04:05Z", "seconds": 75.5, "peak_memory_mib": 2048, "machine": machine,
        "device": "cpu (2 cores)", **more,
    }  # fmt: skip
    paths.run_record(folder).write_text(json.dumps(sealed(record)))


def change_record(folder: Path, **changes: Any) -> None:
    path = paths.run_record(folder)
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | changes)))


class Page(HTMLParser):
    """Ids, addresses, cells and open elements of a page."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.elements: Counter[str] = Counter()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "xlink:href", "data", "action", "poster"):
                self.addresses.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def write_everything() -> Params:
    """A grid of every kind of protocol, with learning dynamics: relational in three epochs, SimCLR in two."""
    grid = make_params(methods=tuple(METHODS), protocols=tuple(PROTOCOLS))
    write_files(grid)
    for seed in (1, 2):
        measured = {
            "accuracy": [0.5, 0.6, 0.7], "information": [-0.1, 0.2, 0.3], "effective_rank": [3.0, None, 5.0],
            "gradient_norm_backbone": [1.0, None, 0.1], "gradient_norm_head": [0.0, None, 0.2],
            "knn_accuracy": [0.2 + seed / 10, None, 0.6 + seed / 10], "views": [80, 160, 240],
            "pairs": [1000, 2000, 3000],
        }  # fmt: skip
        write_dynamics("relational", seed, measured, [10.0, 10.0, 12.0])
        measured = {"accuracy": [0.1, 0.2], "knn_accuracy": [0.3, 0.5], "views": [40, 80], "pairs": [1500, 2500]}
        write_dynamics("simclr", seed, measured, [16.0, 24.0])
    return grid


def check_latex(text: str) -> None:
    """Environments and braces close, every row has as many cells as its table has columns, and all is ASCII."""
    assert text.isascii()
    assert text.count("{") == text.count("}")
    tables = re.findall(r"\\begin\{tabular\}\{(l r*)\}(.*?)\\end\{tabular\}".replace(" ", ""), text, flags=re.DOTALL)
    assert len(tables) == text.count(r"\begin{table}") == text.count(r"\end{table}") > 0
    for columns, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
        assert [line for line in body.splitlines() if line.endswith("rule")] == [
            r"\toprule",
            r"\midrule",
            r"\bottomrule",
        ]
    bare = re.sub(r"\\[&%$#_{}]", "", "\n".join(text.splitlines()[1:]))
    assert "%" not in bare
    assert "_" not in bare
    assert bare.count("$") % 2 == 0
    if shutil.which("pdflatex"):
        compiled(text)


def compiled(text: str) -> None:
    """It is a page in an article, with nothing past the margin."""
    around = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}%s\\end{document}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "paper.tex").write_text(around % text)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, done.stdout
