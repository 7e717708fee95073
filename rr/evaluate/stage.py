"""The `evaluate` stage: score a pretrained backbone on a target dataset with one protocol.

Each protocol is a module with a function `evaluate(inputs: EvaluationInputs, config) -> ProtocolResult`.
"""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from rr import paths
from rr.data.arrow import to_arrow
from rr.data.feature_file import read_features
from rr.data.image_grid import write_png
from rr.errors import UserError
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.protocol_checks import DatasetLabels, find_protocol_problem, needs_labels
from rr.evaluate.result import ProtocolResult, check_result
from rr.evaluate.target_dataset import TargetDataset
from rr.params import ProtocolConfig
from rr.runtime.atomic import atomic_write, write_text


def evaluate(
    protocol: ProtocolConfig, target: TargetDataset, run: paths.EvaluationPaths, *, seed: int, device: str, threads: int
) -> dict[str, Any]:
    """Evaluate the pretrained backbone of `run` on `target` and write the results to the paths in `run`.

    The results are the metrics (flat JSON), a table with one row per image (Parquet), the true and predicted classes
    (CSV) and an image with examples (PNG).

    Returns:
        The metrics.

    Raises:
        UserError: if the protocol's settings do not suit the dataset, if the weights or the features are damaged, if a
            loss, probability or metric is not finite, or if a user-defined protocol returns an invalid result.
    """
    inputs = load_inputs(protocol, target, run, seed=seed, device=device, threads=threads)
    test = inputs.test
    with threadpool_limits(threads, "blas"):
        result = find_evaluator(protocol.kind)(inputs, protocol)
    metrics = result.metrics | {"test_images": len(test), "classes": len(target.class_names)}
    columns = {"index": test.index[result.rows], "label": test.labels[result.rows], **result.columns}
    table = pa.table({name: to_arrow(values) for name, values in columns.items()})
    with atomic_write(run.predictions) as temporary:
        pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(target.class_names)}), temporary)
    write_text(
        run.confusion, _format_true_and_predicted_csv(target.class_names, test.labels[result.rows], result.predictions)
    )
    write_png(result.examples, run.examples)
    write_text(run.metrics, json.dumps(metrics, indent=1) + "\n")
    return metrics


def load_inputs(
    protocol: ProtocolConfig, target: TargetDataset, run: paths.EvaluationPaths, *, seed: int, device: str, threads: int
) -> EvaluationInputs:
    """Read the features on which the protocol of `run` evaluates a backbone, and return them with the other inputs.

    Raises:
        UserError: if the protocol's settings do not suit the dataset, or if the features are damaged.
    """
    train, test = (read_features(run.extraction.features, split) for split in ("train", "test"))
    labels = DatasetLabels(target.class_names, train.labels, test.labels)
    if problem := find_protocol_problem(run.protocol, protocol, run.target, labels):
        raise UserError(problem)
    inputs = EvaluationInputs(train, test, target, run.pretraining, seed, device, threads)
    has_unlabeled = labels.without_unlabeled().num_images < labels.num_images
    return inputs.without_unlabeled() if has_unlabeled and needs_labels(protocol) else inputs


def find_evaluator(kind: str) -> Callable[[EvaluationInputs, Any], ProtocolResult]:
    """Return a protocol's `evaluate` function. Import only its module, because some modules load torch and FFCV."""
    match kind:
        case "linear":
            from rr.evaluate import linear

            return linear.evaluate
        case "finetune":
            from rr.evaluate import finetune

            return finetune.evaluate
        case "knn":
            from rr.evaluate import knn

            return knn.evaluate
        case "retrieval":
            from rr.evaluate import retrieval

            return retrieval.evaluate
        case "embedding":
            from rr.evaluate import embedding

            return embedding.evaluate
        case _:  # a user-defined protocol
            from rr.params.extensions import load_class

            def evaluate_own(inputs: EvaluationInputs, config: Any) -> ProtocolResult:
                result = load_class(kind).evaluate(inputs, config)
                return check_result(kind, result, len(inputs.test), len(inputs.target.class_names))

            return evaluate_own


def _format_true_and_predicted_csv(class_names: list[str], labels: np.ndarray, predictions: np.ndarray | None) -> str:
    """Return the true and predicted class names of each labeled image as CSV.

    If `predictions` is None, the CSV consists only of the header.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "prediction"))
    if predictions is not None:
        pairs = zip(labels, predictions, strict=True)
        writer.writerows((class_names[label], class_names[prediction]) for label, prediction in pairs if label >= 0)
    return text.getvalue()
