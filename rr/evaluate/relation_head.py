"""Use numpy to evaluate the relation head in a backbone file, and calibrate its scores.

The head is trained to distinguish pairs of views of the same image from pairs of views of different images. Its score
for a pair is a logit. Training with the focal loss makes the logits too close to 0, and held-out images differ from the
training images. A logit can therefore be turned into a probability only after calibration (Platt scaling) on held-out
pairs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from rr.errors import UserError
from rr.evaluate.classification_metrics import expected_calibration_error

_PREFIX = "relation_head."  # as in rr.backbones.weights, which loads torch
_AGGREGATIONS = ("cat", "sum", "mean", "max")  # as in rr.params.methods
MIN_CALIBRATION_IMAGES = 4  # two in each half
_BATCH_NORM_EPS, _NEGATIVE_SLOPE = 1e-5, 0.01  # as in rr.methods.relation.head


class Calibration(NamedTuple):
    """Platt scaling: the probability of a pair with logit x is sigmoid(slope · x + intercept)."""

    slope: float
    intercept: float

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability that each pair consists of views of the same image, float64, shaped like `logits`."""
        return _sigmoid(self.slope * logits.astype(np.float64) + self.intercept)


@dataclass(frozen=True)
class NumpyRelationHead:
    """A trained relation head whose batch normalization is folded into the first layer.

    Attributes:
        aggregation: how two representations are combined into one input: `cat`, `sum`, `mean` or `max`.
        weight: first layer, float32 (I, H), where I is 2D for `cat` and D otherwise.
        bias: float32 (H,).
        output_weight: second layer, float32 (H,).
        output_bias: bias of the second layer.
    """

    aggregation: str
    weight: np.ndarray
    bias: np.ndarray
    output_weight: np.ndarray
    output_bias: float

    def logits(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the logits of pairs. A logit above 0 predicts that both views show the same image.

        The logit does not depend on the order of the pair. Only `cat` distinguishes the first representation from the
        second, so its logit is the mean over both orders.

        Args:
            first: representations, float32 (P, D), or (1, D) to use the same one in all pairs.
            second: representations, float32 (P, D).

        Returns:
            float32 (P,).
        """
        return self.logits_from_terms(self.compute_pair_terms(first), self.compute_pair_terms(second))

    def compute_pair_terms(self, features: np.ndarray) -> list[np.ndarray]:
        """Return the terms of each representation that `logits_from_terms` needs, so that many pairs can share them.

        Except with `max`, the first layer's output for a pair is a sum of terms, one from each representation.

        Args:
            features: representations, float32 (N, D).

        Returns:
            For `cat`, two arrays: the terms of each representation as the first and as the second one of a pair.
            Otherwise, a single array. The arrays are float32 (N, H), or (N, D) for `max`.
        """
        match self.aggregation:
            case "cat":
                return [features @ weight for weight in np.split(self.weight, 2)]
            case "max":
                return [features]
            case "mean":
                return [features @ self.weight / 2]
            case _:
                return [features @ self.weight]

    def logits_from_terms(self, first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
        """Return the logits of pairs, float32 (P,), from the terms that `compute_pair_terms` returns."""
        if self.aggregation == "cat":
            return (self._compute_logits(first[0] + second[1]) + self._compute_logits(second[0] + first[1])) / 2
        if self.aggregation == "max":
            return self._compute_logits(np.maximum(first[0], second[0]) @ self.weight)
        return self._compute_logits(first[0] + second[0])

    def _compute_logits(self, hidden: np.ndarray) -> np.ndarray:
        hidden += self.bias
        return np.asarray(np.maximum(hidden, _NEGATIVE_SLOPE * hidden) @ self.output_weight + self.output_bias)


def load_relation_head(weights: Path) -> NumpyRelationHead | None:
    """Load the relation head from a backbone file, or return None if the file has none.

    Raises:
        UserError: if the file is missing or damaged, or if a tensor of the head has the wrong type or shape or contains
            invalid values.
    """
    try:
        with safe_open(weights, "np") as file:
            if not any(name.startswith(_PREFIX) for name in file.keys()):  # noqa: SIM118
                return None
            metadata = json.loads((file.metadata() or {})["rr"])
            aggregation = metadata["aggregation"]
            if aggregation not in _AGGREGATIONS:
                raise ValueError(f"its metadata has an invalid aggregation, {aggregation!r}")
            layer = _read_tensors(file, metadata["features"] * (2 if aggregation == "cat" else 1))
        scale = layer["norm.weight"] / np.sqrt(layer["norm.running_var"] + _BATCH_NORM_EPS)
        return NumpyRelationHead(
            aggregation,
            np.ascontiguousarray((layer["linear.weight"] * scale[:, None]).T),
            (layer["linear.bias"] - layer["norm.running_mean"]) * scale + layer["norm.bias"],
            layer["output.weight"][0],
            float(layer["output.bias"][0]),
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{weights} is missing or damaged ({error}): use the backbone.safetensors from a run with kind: relational"
        ) from error


def _read_tensors(file: Any, num_inputs: int) -> dict[str, np.ndarray]:
    """Return the tensors of a head with `num_inputs` inputs from an open safetensors file, as float32 arrays by name.

    Raises:
        ValueError: if a tensor has the wrong type or shape, or contains NaN, infinity or a negative variance.
    """
    H = math.prod(file.get_slice(f"{_PREFIX}linear.bias").get_shape())
    shapes = {"linear.weight": [H, num_inputs], "linear.bias": [H], "output.weight": [1, H], "output.bias": [1]}
    shapes |= {f"norm.{name}": [H] for name in ("weight", "bias", "running_mean", "running_var")}
    arrays = {}
    for name, shape in shapes.items():
        stored = file.get_slice(_PREFIX + name)
        if (stored.get_dtype(), stored.get_shape()) != ("F32", shape):
            found = f"{stored.get_dtype()} {stored.get_shape()}"
            raise ValueError(f"{_PREFIX}{name} has the type and shape {found} instead of F32 {shape}")
        arrays[name] = file.get_tensor(_PREFIX + name)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{_PREFIX}{name} contains NaN or infinity")
    if (arrays["norm.running_var"] < 0).any():
        raise ValueError(f"{_PREFIX}norm.running_var contains negative values")
    return arrays


def fit_calibration(logits: np.ndarray, is_positive: np.ndarray) -> Calibration:
    """Fit Platt scaling to pairs, with the smoothed targets of Platt (1999), which also work for separable pairs.

    Args:
        logits: float (P,).
        is_positive: whether each pair consists of two views of the same image, bool (P,). Both kinds of pairs must
            occur.
    """
    from scipy.optimize import minimize  # takes a tenth of a second, and retrieval does not need it

    num_positives = int(is_positive.sum())
    num_negatives = len(is_positive) - num_positives
    targets = np.where(is_positive, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2))
    x = logits.astype(np.float64)
    scale = max(float(x.std()), 1e-12)  # makes the optimization well conditioned for logits of any scale
    x = x / scale

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * x + parameters[1]
        residuals = _sigmoid(z) - targets
        return float((np.logaddexp(0, z) - targets * z).mean()), np.array([(residuals * x).mean(), residuals.mean()])

    slope, intercept = minimize(loss_and_gradient, [1.0, 0.0], jac=True, method="BFGS").x
    return Calibration(float(slope) / scale, float(intercept))


def measure_calibration(head: NumpyRelationHead, views: np.ndarray, seed: int) -> dict[str, float]:
    """Calibrate the head on pairs of views from one half of the images, and test it on pairs from the other half.

    Each view is in one positive pair (with the other view of its image) and in one negative pair (with a view of a
    random different image from the same half).

    Args:
        head: the relation head.
        views: representations of two views of each image, float32 (2, R, D) with R at least `MIN_CALIBRATION_IMAGES`.
        seed: seed for choosing the halves and the negative pairs.

    Returns:
        A dictionary with the slope and intercept of the calibration, the number of pairs on which it was fitted and,
        for the test pairs, the accuracy of the calibrated head and the calibration error with and without calibration.
    """
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(views.shape[1])
    fit_rows, test_rows = np.array_split(order, 2)
    fit_logits, fit_is_positive = _pair_logits_and_labels(head, views, fit_rows)
    test_logits, test_is_positive = _pair_logits_and_labels(head, views, test_rows)
    calibration = fit_calibration(fit_logits, fit_is_positive)

    def evaluate_calibration(calibration: Calibration) -> tuple[np.ndarray, float]:
        probabilities = calibration.probabilities(test_logits)
        is_correct = (probabilities > 0.5) == test_is_positive
        return is_correct, expected_calibration_error(is_correct, np.maximum(probabilities, 1 - probabilities))

    is_correct, error = evaluate_calibration(calibration)
    return {
        "relation_slope": calibration.slope,
        "relation_intercept": calibration.intercept,
        "relation_pairs": len(fit_logits),
        "relation_accuracy": float(is_correct.mean()),
        "relation_calibration_error": error,
        "relation_uncalibrated_error": evaluate_calibration(Calibration(1, 0))[1],
    }


def _pair_logits_and_labels(
    head: NumpyRelationHead, views: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of a positive and a negative pair for each image, and whether each pair is positive.

    `rows` are the images, in random order.
    """
    first, second = views[:, rows]
    logits = [head.logits(first, second), head.logits(first, np.roll(second, 1, axis=0))]
    return np.concatenate(logits), np.repeat([True, False], len(rows))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray((1 + np.tanh(values / 2)) / 2)  # does not overflow
