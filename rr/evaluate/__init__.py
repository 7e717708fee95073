"""Stage `evaluate`: what a frozen backbone is worth on a target, one module per protocol.

A protocol is `run(settings, train, test, classes, seed, device) -> (metrics, predictions)` on features that were
extracted once: the paper's evaluation has no augmentation, so every epoch would compute the same ones again.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr import paths
from rr.atomic import replacing, write_text
from rr.data.beton import Beton
from rr.errors import UserError
from rr.features import extract, load_backbone
from rr.params import Dataset, Protocol


@dataclass(frozen=True)
class Target:
    """What a backbone is scored on: settings, a beton per split, and the classes' names (none when unlabelled)."""

    dataset: Dataset
    betons: dict[str, Path]
    class_names: list[str]


def evaluate(
    protocol: Protocol, target: Target, run: paths.Evaluation, *, seed: int, device: str, threads: int
) -> dict[str, Any]:
    """Score the run's backbone on `target`; write its metrics (flat JSON) and predictions (Parquet).

    Raises UserError for a target whose labels are absent, and for weights that are no backbone.
    """
    backbone = load_backbone(run.pretraining.weights).to(device)
    class_names = target.class_names
    parts = {}
    for split, path in target.betons.items():
        data = Beton(path, threads=threads)
        if not class_names or (data.labels < 0).any():
            raise UserError(f"{path}: labels are absent, so it cannot be a target; take it out of grid.target")
        parts[split] = (extract(backbone, data, target.dataset, device), data)
    (train, train_data), (test, test_data) = parts["train"], parts["test"]
    absent = sorted(
        {class_names[label] for label in test_data.labels} - {class_names[label] for label in train_data.labels}
    )
    if absent:
        raise UserError(
            f"{target.betons['train']}: no training picture of the class {', '.join(absent)}, which the test split has"
        )
    match protocol.kind:
        case "linear":
            from rr.evaluate import linear

            found, guesses = linear.run(
                protocol, (train, train_data.labels), (test, test_data.labels), len(class_names), seed
            )
        case "knn":
            from rr.evaluate import knn

            found, guesses = knn.run(protocol, (train, train_data.labels), (test, test_data.labels), len(class_names))
    found |= {"test_images": len(test_data), "train_images": len(train_data), "classes": len(class_names)}
    with replacing(run.predictions) as temporary:
        pq.write_table(
            pa.table({"index": test_data.index, "label": test_data.labels, "prediction": guesses.astype(np.int64)}),
            temporary,
        )
    write_text(run.metrics, json.dumps(found, indent=1) + "\n")
    return {"accuracy": found["accuracy"]}
