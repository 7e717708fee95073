"""From the probabilities of classes to what a classification protocol gives back."""

import numpy as np

from rr.data.beton import Beton
from rr.errors import UserError
from rr.evaluate.class_metrics import audit
from rr.evaluate.result import Found
from rr.runtime.image_grid import arrange

SHOWN, COLUMNS = 60, 10


def classified(probabilities: np.ndarray, test: Beton, **more: float) -> Found:
    """The audit of `probabilities`, float (N, C) for the pictures of `test` in file order, and `more` metrics.

    The examples are the test pictures whose own class got the least probability: mistakes, the most confident first.
    Raises UserError for probabilities that are none: the figures of a classifier that diverged would look like others.
    """
    if not np.isfinite(probabilities).all():
        raise UserError(
            "the classifier's probabilities are no numbers: lower the protocol's learning_rate, or raise its "
            "temperature, in params.yaml"
        )
    own = probabilities[np.arange(len(test)), test.labels]
    worst = np.argsort(own, kind="stable")[:SHOWN]
    images, _ = next(test.batches(worst, SHOWN))
    guesses = probabilities.argmax(1).astype(np.int64)
    return Found(
        metrics=audit(test.labels, probabilities) | more,
        rows=np.arange(len(test)),
        guesses=guesses,
        columns={
            "prediction": guesses,
            "confidence": probabilities.max(1).astype(np.float64),
        },
        examples=arrange(images, COLUMNS),
    )
