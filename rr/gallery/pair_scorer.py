"""Compute the probability that two images are views of the same image, with a trained relation head."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rr import paths
from rr.errors import UserError
from rr.evaluate.relation_head import Calibration, NumpyRelationHead, load_relation_head
from rr.runtime.weights_lookup import FOLDER as RELEASED


class PairScorer(NamedTuple):
    """A relation head, the calibration of its logits (None if unknown), and a description of this calibration."""

    head: NumpyRelationHead
    calibration: Calibration | None
    description: str

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability for each logit, (P,). Without a calibration, it is the sigmoid of the logit."""
        return (self.calibration or Calibration(1, 0)).probabilities(logits)


def load_pair_scorer(weights: Path, sha256: str) -> PairScorer:
    """Load the relation head of a backbone file, and its calibration.

    Released weights come with a calibration. For other weights, it is taken from an evaluation in the current folder
    whose record contains `sha256`, the hash of the file. Without such an evaluation, the logits are not calibrated.

    Raises:
        UserError: if the file is missing or damaged, or has no relation head.
    """
    head = load_relation_head(weights)
    if head is None:
        raise UserError(
            f"{weights} has no relation head: use the backbone.safetensors from a run whose method has "
            "`kind: relational` and `head: relation`"
        )
    released = weights.resolve().with_suffix(".json")
    if released.parent == RELEASED.resolve() and released.is_file():
        metrics = json.loads(released.read_text(encoding="utf-8"))
        return _make_calibrated_scorer(head, metrics, metrics["target"], released)
    reason = (
        "this folder contains no evaluation that calibrates these weights: evaluate them with `rr evaluate` and a "
        "protocol of `kind: embedding`"
    )
    for file in paths.list_metrics():
        text = file.read_text(encoding="utf-8")
        if "relation_slope" in text and _evaluated_weights_sha256(file) == sha256:
            metrics = json.loads(text)
            if metrics["relation_slope"] > 0:
                return _make_calibrated_scorer(head, metrics, file.parent.parent.name, file)
            reason = (
                f"on the {metrics['relation_pairs']:,.0f} pairs of images in {file}, the head did not give higher "
                "scores to views of the same image than to views of different images: train longer, or on more images"
            )
    return PairScorer(head, None, f"not calibrated, because {reason}")


def _evaluated_weights_sha256(metrics_file: Path) -> str:
    """Return the SHA-256 of the weights that an evaluation used, or an empty string if its record is unreadable."""
    try:
        inputs = json.loads(paths.record_file(metrics_file.parent).read_text(encoding="utf-8"))["inputs"]
        return next(value for name, value in inputs.items() if Path(name).name == "backbone.safetensors")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return ""


def _make_calibrated_scorer(head: NumpyRelationHead, metrics: dict[str, Any], target: str, file: Path) -> PairScorer:
    """Return a scorer with the calibration in `metrics`, which come from `file`."""
    pairs = f"{metrics['relation_pairs']:,.0f}"
    description = (
        f"calibrated (Platt scaling) on {pairs} pairs of augmented test images of {target}: half of the pairs are two "
        "views of one image, the others are views of two images; on other such pairs, the accuracy is "
        f"{100 * metrics['relation_accuracy']:.1f}% and the calibration error is "
        f"{100 * metrics['relation_calibration_error']:.1f}% ({file})"
    )
    return PairScorer(head, Calibration(metrics["relation_slope"], metrics["relation_intercept"]), description)
