"""The result of a protocol that predicts classes."""

import math

import numpy as np

from rr.data.image_grid import make_image_grid
from rr.errors import UserError
from rr.evaluate.classification_metrics import compute_classification_metrics
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.result import ProtocolResult
from rr.params import ProtocolConfig

_NUM_EXAMPLES, _EXAMPLE_COLUMNS = 60, 10
_REMEDIES = {
    "linear": "lower learning_rate",
    "finetune": "lower backbone_lr and classifier_lr",
    "knn": "raise temperature",
}


def make_classification_result(
    probabilities: np.ndarray,
    inputs: EvaluationInputs,
    additional_metrics: dict[str, float],
    config: ProtocolConfig,
) -> ProtocolResult:
    """Compute metrics, table columns and example images from the class probabilities.

    The examples are the test images whose true class has the lowest probability, in ascending order.

    Args:
        probabilities: float (N, C), for the test images in file order.
        inputs: the inputs of the protocol.
        additional_metrics: metrics to add after the class metrics.
        config: settings of the protocol that computed the probabilities; used in the error message.

    Raises:
        UserError: if a probability or an additional metric is NaN or infinite.
    """
    problems = [f"{name} is {value}" for name, value in additional_metrics.items() if not math.isfinite(value)]
    if not np.isfinite(probabilities).all():
        problems = ["the predicted class probabilities contain NaN or infinity"]
    if problems:
        remedy = _REMEDIES.get(config.kind, "change the settings")
        raise UserError(f"{config.kind}: {problems[0]}: {remedy} for this protocol in params.yaml")
    labels = inputs.test.labels
    rows = np.arange(len(labels))
    lowest = np.argsort(probabilities[rows, labels], kind="stable")[:_NUM_EXAMPLES]
    predictions = probabilities.argmax(1).astype(np.int64)
    return ProtocolResult(
        metrics=compute_classification_metrics(labels, probabilities) | additional_metrics,
        rows=rows,
        predictions=predictions,
        columns={
            "prediction": predictions,
            "confidence": probabilities.max(1).astype(np.float64),
        },
        examples=make_image_grid(inputs.read_images("test", lowest), _EXAMPLE_COLUMNS),
    )
