"""`rr compare`: the probability that two images are views of the same image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rr.data.preprocessing import Preprocessing
from rr.data.printable_names import display_name, path_to_text
from rr.gallery.feature_extractor import load_feature_extractor
from rr.gallery.images import read_images, require_files
from rr.gallery.pair_scorer import load_pair_scorer
from rr.runtime.weights_lookup import find_weights


def compare(
    first: Path, second: Path, weights: Path, *, preprocessing: Preprocessing | None, device: str, as_json: bool = False
) -> str:
    """Return the probability that two images are views of the same image, and its calibration, as text for the user.

    The order of the images does not matter. The image size, mean and std come from `preprocessing` or, by default, from
    the metadata of the weights. With `as_json`, the text is JSON.

    Raises:
        UserError: if an image cannot be read, if the backbone cannot be loaded, or if it has no relation head.
    """
    require_files([first, second])
    extractor = load_feature_extractor(weights, preprocessing, device)
    scorer = load_pair_scorer(find_weights(weights), extractor.sha256)
    features = extractor.extract(np.stack(read_images([first, second], extractor.decode_and_resize)))
    (probability,) = scorer.probabilities(scorer.head.logits(features[:1], features[1:]))
    if as_json:
        facts = {"first": path_to_text(first), "second": path_to_text(second), "probability": float(probability)}
        return json.dumps(facts | {"calibration": scorer.description}, indent=1)
    return (
        f"{display_name(first)} and {display_name(second)} are views of the same image with probability "
        f"{probability:.4f}\n{scorer.description}"
    )
