"""The result of a protocol that predicts classes."""

import numpy as np

from rr.data.beton import Beton
from rr.errors import UserError
from rr.evaluate.class_metrics import compute_class_metrics
from rr.evaluate.result import ProtocolResult
from rr.runtime.image_grid import make_image_grid

_NUM_EXAMPLES, _EXAMPLE_COLUMNS = 60, 10


def make_classification_result(
    probabilities: np.ndarray, test: Beton, additional_metrics: dict[str, float]
) -> ProtocolResult:
    """Turn class probabilities into metrics, table columns and example images.

    The examples are the test images whose true class has the lowest probability, lowest first.

    Args:
        probabilities: float (N, C), for the images of `test` in file order.
        test: test split, with labels.
        additional_metrics: metrics to report after the class metrics.

    Raises:
        UserError: if a probability is NaN or infinite, because the classifier has diverged.
    """
    if not np.isfinite(probabilities).all():
        raise UserError(
            "the classifier's probabilities contain NaN or infinity: lower learning_rate of the protocol, or raise its "
            "temperature, in params.yaml"
        )
    true_class_probabilities = probabilities[np.arange(len(test)), test.labels]
    lowest = np.argsort(true_class_probabilities, kind="stable")[:_NUM_EXAMPLES]
    images, _ = next(test.batches(lowest, _NUM_EXAMPLES))
    predictions = probabilities.argmax(1).astype(np.int64)
    return ProtocolResult(
        metrics=compute_class_metrics(test.labels, probabilities) | additional_metrics,
        rows=np.arange(len(test)),
        predictions=predictions,
        columns={
            "prediction": predictions,
            "confidence": probabilities.max(1).astype(np.float64),
        },
        examples=make_image_grid(images, _EXAMPLE_COLUMNS),
    )
