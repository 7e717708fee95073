"""`rr compare`: the probability that two images show the same thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rr.data.names import display_name
from rr.errors import UserError
from rr.gallery.feature_extractor import load_feature_extractor
from rr.gallery.images import read_images
from rr.gallery.relation import load_pair_scorer

if TYPE_CHECKING:  # at run time, this import would add a tenth of a second to a comparison
    from rr.data.index import Preprocessing


def compare(
    first: Path, second: Path, weights: Path, *, dataset: Preprocessing | None, device: str, as_json: bool = False
) -> str:
    """Return the probability that two images show the same thing, and how it was calibrated, as text for the user.

    The order of the images does not matter. The image size, mean and std come from `dataset` or, by default, from the
    metadata of the weights. With `as_json`, the text is JSON.

    Raises:
        UserError: if an image cannot be read, if the backbone cannot be loaded, or if it has no relation head.
    """
    for path in (first, second):
        if not path.is_file():
            raise UserError(f"{display_name(path)} is not an existing file: use the path of an image")
    extractor = load_feature_extractor(weights, dataset, device)
    scorer = load_pair_scorer(extractor.weights, extractor.sha256)
    features = extractor.extract(np.stack(read_images([first, second], extractor.decode_and_resize)))
    (probability,) = scorer.calibration.probabilities(scorer.head.logits(features[:1], features[1:]))
    if as_json:
        facts = {"first": str(first), "second": str(second), "probability": float(probability)}
        return json.dumps(facts | {"calibration": scorer.description}, indent=1)
    return (
        f"{display_name(first)} and {display_name(second)} show the same thing with probability {probability:.4f}\n"
        f"{scorer.description}"
    )
