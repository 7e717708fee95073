"""Write the files of an imaginary grid so that the report tests can render a page from them."""

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
from rr.paths import REPORT_FILES
from rr.workflow.grid import evaluations, extractions, pretrainings
from rr.workflow.records import with_digest

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
        "learning_rate": 0.1, "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0},
        "schedule": {"kind": "steps", "warmup_epochs": 0, "milestones": [0.5], "lr_decay": 0.1},
    },
    "relational": {
        "kind": "relational", "augmentation": {"flip": 0.5}, "views": 4, "batch_size": 8, "epochs": 2,
        "learning_rate": 0.001, "head": "relation", "aggregation": "cat", "loss": "focal", "gamma": 2.0,
        "alpha": 0.5, "negatives": "roll", "label_fraction": 0.0,
    },
    "simclr": {
        "kind": "simclr", "augmentation": {"flip": 0.5}, "views": 2, "batch_size": 8, "epochs": 2,
        "learning_rate": 0.001, "temperature": 0.5, "loss": "log-mean-prob", "hidden_dim": 8, "projection_dim": 4,
    },
}  # fmt: skip
PROTOCOLS: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear", "label_fraction": 1.0, "epochs": 1, "batch_size": 8, "learning_rate": 0.001},
    "knn": {"kind": "knn", "neighbors": 2, "temperature": 0.1},
    "retrieval": {"kind": "retrieval", "distance": "cosine", "cutoffs": [1, 5]},
    "embedding": {"kind": "embedding", "images": 10, "perplexity": 3.0, "augmentation": {"flip": 0.5}},
}
CLASSIFICATION = ("linear", "knn")
# The indices of the ten test images of the embedding, their labels, and every classifier's predictions for them. There
# are three classes, and class 1 has the lowest accuracy.
INDEX = [7, 3, 12, 0, 25, 18, 4, 31, 9, 16]
CLASS_NAMES = ["cat", "dog", "$a$ & <b>"]
LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
PREDICTIONS = [0, 0, 0, 1, 0, 0, 1, 2, 2, 2]
CONFIDENCE = [0.99, 0.97, 0.5, 0.5, 0.9, 0.9, 0.55, 0.55, 0.0, 1.0]
RELATIONAL = paths.PretrainPaths("shapes", "conv4", "relational", 1)


def make_params(
    seeds: tuple[int, ...] = (1, 2),
    methods: tuple[str, ...] = ("random", "supervised", "relational"),
    datasets: tuple[str, ...] = ("shapes",),
    protocols: tuple[str, ...] = CLASSIFICATION,
) -> Params:
    """Return parameters for a grid with these axes. The datasets are also the targets."""
    dataset = {
        "source": {"kind": "shapes", "train": 20, "test": 10, "seed": 0},
        "image_size": 8,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    content = {
        "grid": {
            "data": list(datasets), "dataset": list(datasets), "backbone": ["conv4"], "method": list(methods),
            "seed": list(seeds), "target": list(datasets), "protocol": list(protocols),
        },
        "threads": 1, "precision": "float32", "dynamics": {"every_n_epochs": 1, "images": 50},
        "datasets": dict.fromkeys(datasets, dataset),
        "methods": METHODS,
        "protocols": PROTOCOLS,
    }  # fmt: skip
    return Params.model_validate_json(json.dumps(content))


def write_grid_files(params: Params) -> None:
    """Write all files that the report reads for the runs of a grid."""
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
    for extraction in extractions(params):
        extraction.folder.mkdir(parents=True)
        write_record(extraction.folder, {"threads": 1})
    for run in evaluations(params):
        run.folder.mkdir(parents=True)
        write_evaluation(run, PROTOCOLS[run.protocol]["kind"])
        write_png(run.examples, run.pretraining.seed)
        write_record(run.folder, {f"protocols.{run.protocol}": PROTOCOLS[run.protocol], "threads": 1})


def write_evaluation(run: paths.EvaluationPaths, kind: str) -> None:
    """Write the metrics and predictions of one evaluation."""
    seed = run.pretraining.seed
    sizes = {"test_images": 1000, "train_images": 5000, "classes": 10}
    index = {"index": INDEX, "label": LABELS}
    if kind == "retrieval":
        at_k = {f"{name}_at_{k}": 0.1 * k for name in ("precision", "recall", "hit_rate") for k in (1, 5)}
        offset = 0.1 * ["random", "simclr", "relational", "supervised"].index(run.pretraining.method)
        metrics = {"mean_average_precision": 0.3 + offset + seed / 100, **at_k, **sizes}
        if run.pretraining.method == "relational":  # the relation head adds 1.9 points with seed 1, and 2.1 with seed 2
            metrics["reranked_mean_average_precision"] = metrics["mean_average_precision"] + 0.017 + 0.002 * seed
            metrics |= {"reranked_precision_at_1": 0.2, "reranked_precision_at_5": 0.5}
        zeros = pa.array([[0] * 5] * 10)
        columns = {"average_precision": [0.5] * 10, "neighbors": zeros, "neighbor_labels": zeros}
        table = pa.table(index | columns | {"similarities": pa.array([[0.5] * 5] * 10, pa.list_(pa.float32()))})
    elif kind == "embedding":
        metrics = {
            "silhouette": -0.25, "rankme": 3.5 + seed, "alignment": 0.5, "uniformity": -2.0,
            "effective_rank": 7.5 + seed,
        }  # fmt: skip
        coordinates = np.arange(20, dtype=np.float32).reshape(2, 10) * [[1], [-1]]
        columns = {axis: coordinates[i].astype(np.float32) for i, axis in enumerate("xy")}
        columns["neighbors"] = pa.array([[INDEX[(image + 1) % 10], INDEX[(image + 2) % 10]] for image in range(10)])
        columns["thumbnail"] = pa.array([encode_webp(25 * image) for image in range(10)])
        columns["cluster"] = [0] * 5 + [1] * 3 + [2] * 2
        table = pa.table(index | columns)
    else:
        accuracy = ACCURACY[run.pretraining.method, run.protocol][seed]
        metrics = {"accuracy": accuracy, "loss": 0.5, "calibration_error": seed / 10, **sizes}
        if (run.pretraining.method, kind) == ("supervised", "linear") and run.target == run.pretraining.dataset:
            metrics["trained_classifier_accuracy"] = 0.90 + seed / 100
        # The images are in a different order than in the embedding.
        table = pa.table(index | {"prediction": PREDICTIONS, "confidence": CONFIDENCE}).take(list(range(9, -1, -1)))
    run.metrics.write_text(json.dumps(metrics))
    write_predictions(run, table, CLASS_NAMES)


def write_predictions(run: paths.EvaluationPaths, table: pa.Table, class_names: list[str]) -> None:
    """Write the predictions of an evaluation with class names in the metadata."""
    pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(class_names)}), run.predictions)


def write_png(path: Path, shade: int) -> None:
    """Write a small gray image."""
    Image.fromarray(np.full((12, 20, 3), shade, np.uint8)).save(path)


def encode_webp(shade: int) -> bytes:
    """Return a small gray image encoded as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(buffer, "WEBP")
    return buffer.getvalue()


def write_dynamics(method: str, seed: int, columns: dict[str, list[Any]], seconds: list[float]) -> None:
    """Write a history with these columns, and record the epochs' `seconds`. None stands for a missing measurement."""
    run = paths.PretrainPaths("shapes", "conv4", method, seed)
    epochs = range(1, len(seconds) + 1)
    rows = [["epoch", "loss", *columns]]
    rows += [
        [epoch, 1.0, *("" if v is None else v for v in values)]
        for epoch, *values in zip(epochs, *columns.values(), strict=True)
    ]
    run.history.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    change_record(run.folder, epoch_seconds=seconds)


def write_record(folder: Path, params: dict[str, Any], **fields: Any) -> None:
    """Write a run's record."""
    machine = {"processor": "Abacus 9", "cores": 2, "system": "Linux", "python": "3.11", "versions": {"torch": "2.11"}}
    record = {
        "stage": "any", "command": f"rr made {folder}", "params": params, "inputs": {}, "code": {}, "outputs": {},
        "started": "2026-01-02T03:04:05Z", "seconds": 75.5, "peak_memory_mib": 2048, "machine": machine,
        "device": "cpu (2 cores)", **fields,
    }  # fmt: skip
    paths.record_file(folder).write_text(json.dumps(with_digest(record)))


def change_record(folder: Path, **changes: Any) -> None:
    """Change fields in a record."""
    path = paths.record_file(folder)
    path.write_text(json.dumps(with_digest(json.loads(path.read_text()) | changes)))


class ParsedPage(HTMLParser):
    """A page's ids, links, table cells, unclosed elements and text."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.elements: Counter[str] = Counter()
        self.rows: list[list[str]] = []
        self.unclosed: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "xlink:href", "data", "action", "poster"):
                self.links.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.rows and {"td", "th"} & set(self.unclosed):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def read_page() -> ParsedPage:
    """Return the page in the current folder."""
    return ParsedPage(REPORT_FILES[0].read_text(encoding="utf-8"))


def read_markdown() -> str:
    """Return the Markdown version in the current folder."""
    return REPORT_FILES[1].read_text(encoding="utf-8")


def normalized_rows(page: ParsedPage) -> list[list[str]]:
    """Return the cells of all tables, with runs of whitespace replaced by single spaces."""
    return [[" ".join(cell.split()) for cell in row] for row in page.rows]


def write_full_grid() -> Params:
    """Write a grid with all kinds of protocols, and learning dynamics: three epochs of relational, two of SimCLR."""
    params = make_params(methods=tuple(METHODS), protocols=tuple(PROTOCOLS))
    write_grid_files(params)
    for seed in (1, 2):
        columns = {
            "accuracy": [0.5, 0.6, 0.7], "information": [-0.1, 0.2, 0.3], "effective_rank": [3.0, None, 5.0],
            "gradient_norm_backbone": [1.0, None, 0.1], "gradient_norm_head": [0.0, None, 0.2],
            "knn_accuracy": [0.2 + seed / 10, None, 0.6 + seed / 10], "views": [80, 160, 240],
            "pairs": [1000, 2000, 3000],
        }  # fmt: skip
        write_dynamics("relational", seed, columns, [10.0, 10.0, 12.0])
        columns = {"accuracy": [0.1, 0.2], "knn_accuracy": [0.3, 0.5], "views": [40, 80], "pairs": [1500, 2500]}
        write_dynamics("simclr", seed, columns, [16.0, 24.0])
    return params


def check_latex(text: str) -> None:
    """Check that environments and braces are balanced, rows have one cell per column, and the text is ASCII."""
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
    unescaped = re.sub(r"\\[&%$#_{}]", "", "\n".join(text.splitlines()[1:]))
    assert "%" not in unescaped
    assert "_" not in unescaped
    assert unescaped.count("$") % 2 == 0
    if shutil.which("pdflatex"):
        compile_latex(text)


def compile_latex(text: str) -> None:
    """Compile an article with the tables and check that nothing exceeds the margins."""
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}%s\\end{document}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "paper.tex").write_text(document % text)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-2000:]
    assert "Overfull" not in process.stdout, process.stdout
