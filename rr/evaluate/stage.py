"""Stage `evaluate`: what a backbone is worth on a target, one module per protocol, each with `run`.

    linear, knn, finetune    classification; `classified` turns their probabilities into metrics (`audit`) and examples
    retrieval                training pictures ranked for every test picture
    embedding                the shape of the space: a map, silhouette, and the figures of `geometry`

All but finetune look at features that are extracted once: the paper's evaluation has no augmentation, so every epoch
would compute the same ones again.
"""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor, nn

from rr import paths
from rr.backbones.weights import load_backbone
from rr.data.beton import Beton
from rr.errors import UserError
from rr.evaluate.features import extract
from rr.evaluate.result import Found
from rr.params import Dataset, Protocol
from rr.runtime.atomic import replacing, write_text
from rr.runtime.image_grid import write_png


@dataclass(frozen=True)
class Target:
    """What a backbone is scored on: settings, a beton per split, and the classes' names (none when unlabelled)."""

    dataset: Dataset
    betons: dict[str, Path]
    class_names: list[str]


def evaluate(
    protocol: Protocol, target: Target, run: paths.Evaluation, *, seed: int, device: str, threads: int
) -> dict[str, Any]:
    """Score the run's backbone on `target`; write metrics (flat JSON), a table (Parquet), the classes it mixed up
    (CSV) and a picture of examples.

    Returns the metrics. Raises UserError for a target whose labels are absent, a class of the test split that the
    training split lacks, and weights that are no backbone; and as the protocol does.
    """
    backbone = load_backbone(run.pretraining.weights).to(device)
    train, test = (_open(target, split, threads) for split in ("train", "test"))
    absent = sorted({target.class_names[label] for label in {*test.labels} - {*train.labels}})
    if absent:
        raise UserError(f"{train.path}: no training picture of the class {', '.join(absent)}, which the test split has")
    found = _run(protocol, backbone, target, train, test, seed=seed, device=device)
    metrics = found.metrics | {"test_images": len(test), "classes": len(target.class_names)}
    table = pa.table({"index": test.index[found.rows], "label": test.labels[found.rows], **found.columns})
    with replacing(run.predictions) as temporary:
        pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(target.class_names)}), temporary)
    write_text(run.confusion, _confusion(target.class_names, test.labels[found.rows], found.guesses))
    write_png(found.examples, run.examples)
    write_text(run.metrics, json.dumps(metrics, indent=1) + "\n")
    return metrics


def _finite(features: Tensor, data: Beton) -> Tensor:
    """The features, float (N, D). Raises UserError where one is not finite: it has no place among others."""
    if not features.isfinite().all():
        raise UserError(
            f"the backbone gives features that are not finite on {data.path}: it has diverged; lower the method's "
            "learning_rate in params.yaml and pretrain again"
        )
    return features


def _confusion(names: list[str], labels: np.ndarray, guesses: np.ndarray | None) -> str:
    """True and found class by name, as CSV; the header alone where a protocol finds none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "prediction"))
    if guesses is not None:
        writer.writerows((names[label], names[guess]) for label, guess in zip(labels, guesses, strict=True))
    return text.getvalue()


def _open(target: Target, split: str, threads: int) -> Beton:
    data = Beton(target.betons[split], threads=threads)
    if not target.class_names or (data.labels < 0).any():
        raise UserError(f"{data.path}: labels are absent, so it cannot be a target; take it out of grid.target")
    return data


def _run(
    protocol: Protocol, backbone: nn.Module, target: Target, train: Beton, test: Beton, *, seed: int, device: str
) -> Found:
    classes = len(target.class_names)
    if protocol.kind == "finetune":
        from rr.evaluate import finetune
        from rr.evaluate.classification import classified

        probabilities, more = finetune.run(
            protocol, backbone, train, test, target.dataset, classes, seed=seed, device=device
        )
        return classified(probabilities, test, **more)
    seen = _finite(extract(backbone, test, target.dataset, device), test)
    if protocol.kind == "embedding":
        from rr.evaluate import embedding

        return embedding.run(protocol, backbone, seen, test, target.dataset, seed=seed, device=device)
    gallery = _finite(extract(backbone, train, target.dataset, device), train)
    match protocol.kind:
        case "retrieval":
            from rr.evaluate import retrieval

            return retrieval.run(protocol, (gallery, train), (seen, test))
        case "linear":
            from rr.evaluate import linear
            from rr.evaluate.classification import classified

            probabilities, more = linear.run(protocol, (gallery, train.labels), (seen, test.labels), classes, seed)
            return classified(probabilities, test, **more)
        case "knn":
            from rr.evaluate import knn
            from rr.evaluate.classification import classified

            probabilities = knn.run(protocol, (gallery, train.labels), (seen, test.labels), classes)
            return classified(probabilities, test, train_images=len(train))
