"""Stage `evaluate`: score a pretrained backbone on a target dataset with one protocol.

Each protocol is a module with a function `evaluate(inputs: EvaluationInputs, config) -> ProtocolResult`.
"""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr import paths
from rr.backbones.weights import load_network
from rr.data.index import Preprocessing
from rr.data.photographs import open_split
from rr.errors import UserError
from rr.evaluate import embedding, finetune, knn, linear, retrieval
from rr.evaluate.checks import find_protocol_problem, find_target_problem
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.result import ProtocolResult
from rr.params import ProtocolConfig
from rr.runtime.atomic import atomic_write, write_text
from rr.runtime.image_grid import write_png

PROTOCOLS: dict[str, Callable[[EvaluationInputs, Any], ProtocolResult]] = {
    "linear": linear.evaluate,
    "finetune": finetune.evaluate,
    "knn": knn.evaluate,
    "retrieval": retrieval.evaluate,
    "embedding": embedding.evaluate,
}


@dataclass(frozen=True)
class Target:
    """The dataset on which a backbone is evaluated.

    Attributes:
        dataset: the dataset's section of params.yaml.
        betons: path of the beton of each split, "train" and "test".
        class_names: names of the classes by label; empty if the dataset has no labels.
    """

    dataset: Preprocessing
    betons: dict[str, Path]
    class_names: list[str]


def evaluate(
    protocol: ProtocolConfig, target: Target, run: paths.EvaluationPaths, *, seed: int, device: str, threads: int
) -> dict[str, Any]:
    """Evaluate the pretrained backbone of `run` on `target` and write the results to the paths of `run`.

    The results are the metrics (flat JSON), a table with a row per image (Parquet), the true and predicted classes
    (CSV) and an image of examples (PNG).

    Returns:
        The metrics.

    Raises:
        UserError: if the dataset cannot be a target, if the settings of the protocol do not suit it, or if the weights
            are not a valid backbone file.
    """
    backbone, classifier = load_network(run.pretraining.weights)
    train, test = (open_split(target.betons[split], target.dataset, threads=threads) for split in ("train", "test"))
    problem = find_target_problem(run.target, target.class_names, train.labels, test.labels)
    problem = problem or find_protocol_problem(run.protocol, protocol, run.target, train.labels, test.labels, seed)
    if problem:
        raise UserError(problem)
    if run.target != run.pretraining.dataset:  # the classes of the classifier are those of another dataset
        classifier = None
    if classifier and classifier.out_features != len(target.class_names):
        raise UserError(
            f"{run.pretraining.weights}: the network was trained on {classifier.out_features} classes of {run.target}, "
            f"which now has {len(target.class_names)}: run rr pretrain again"
        )
    inputs = EvaluationInputs(
        backbone.to(device), train, test, target.dataset, len(target.class_names), seed, device,
        classifier and classifier.to(device),
    )  # fmt: skip
    result = PROTOCOLS[protocol.kind](inputs, protocol)
    metrics = result.metrics | {"test_images": len(test), "classes": len(target.class_names)}
    table = pa.table({"index": test.index[result.rows], "label": test.labels[result.rows], **result.columns})
    with atomic_write(run.predictions) as temporary:
        pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(target.class_names)}), temporary)
    write_text(run.confusion, _format_confusion_csv(target.class_names, test.labels[result.rows], result.predictions))
    write_png(result.examples, run.examples)
    write_text(run.metrics, json.dumps(metrics, indent=1) + "\n")
    return metrics


def _format_confusion_csv(class_names: list[str], labels: np.ndarray, predictions: np.ndarray | None) -> str:
    """Return the true and the predicted class name of each image as CSV.

    If `predictions` is None, the CSV consists only of the header.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "prediction"))
    if predictions is not None:
        pairs = zip(labels, predictions, strict=True)
        writer.writerows((class_names[label], class_names[prediction]) for label, prediction in pairs)
    return text.getvalue()
