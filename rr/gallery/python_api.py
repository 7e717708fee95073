"""Load a backbone, and embed, compare and search images, from Python."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import torch

from rr.compute.device import resolve_device
from rr.data.preprocessing import Preprocessing
from rr.data.printable_names import path_to_text
from rr.data.skipped_files import UnreadablePolicy
from rr.errors import UserError
from rr.evaluate.similarity import cosine_similarities, find_nearest
from rr.gallery.feature_extractor import FeatureExtractor, ImageLike, load_feature_extractor
from rr.gallery.images import list_images
from rr.gallery.index_update import check_index_path, make_skipped_files, update_index
from rr.gallery.pair_scorer import load_pair_scorer
from rr.gallery.search_results import Hit
from rr.paths import expand_user


def load_backbone(
    weights: str | os.PathLike[str], preprocessing: Preprocessing | None = None, device: str | torch.device = "auto"
) -> FeatureExtractor:
    """Load a backbone file, with the image size, mean and std stored in it.

    Args:
        weights: `backbone.safetensors` from a run, a file written by `rr import`, the name of released weights, or
            `hf-hub:OWNER/NAME`, a repository on the Hugging Face Hub.
        preprocessing: preprocessing to use instead of the one in the file.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:<number>".

    Returns:
        A function from images to features. Its `backbone` attribute is the network itself, which maps normalized images
        (B, 3, S, S) to features (B, D).

    Raises:
        UserError: if the file is not a valid backbone file, if `preprocessing` is None and the metadata lacks a valid
            image size, mean or std, or if the device does not exist.
        ValueError: if `preprocessing` is neither None nor an `rr.Preprocessing`.
    """
    return load_feature_extractor(
        weights,
        preprocessing,
        resolve_device(str(device), "device"),
        "pass preprocessing=rr.Preprocessing(image_size, mean, std)",
    )


class Gallery:
    """The images in a folder and its subfolders with their features, which can be searched for similar images.

    Args:
        folder: the folder of images.
        backbone: the return value of `load_backbone` or `wrap_network`.
        index: Parquet file that stores the features, so that a later call computes only those of new and changed
            images. By default, nothing is written.
        on_unreadable: "raise" to raise an error if images cannot be read, or "skip" to skip them.

    Attributes:
        images: the image files, sorted by name. Each has a `path` and a `name`, the path relative to the folder.
        vectors: their features, float32 (N, D).
        backbone: the backbone.

    Raises:
        UserError: if the folder has no images, if an image cannot be read (unless `on_unreadable` is "skip"), if no
            image can be read, if `index` does not end in .parquet, or is an existing file that is not an index, or if
            `index` is given and the weights of the backbone are no longer those in their file.
        ValueError: if `backbone` has the wrong type, if `on_unreadable` has an invalid value, or if `index` is given
            and the backbone is from `wrap_network`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        backbone: FeatureExtractor,
        *,
        index: str | os.PathLike[str] | None = None,
        on_unreadable: UnreadablePolicy = "raise",
    ) -> None:
        _check_backbone(backbone)
        root, skipped = expand_user(folder), make_skipped_files(on_unreadable, 'pass on_unreadable="skip"')
        index_path = expand_user(index) if index else None
        if index_path:
            weights = backbone.check_unchanged("their features cannot be stored: omit index")
            check_index_path("index", index_path, weights, must_be_writable=False)
        files = list_images(root, skipped)
        gallery, _ = update_index(index_path, backbone, root, files, skipped)
        skipped.raise_if_unreadable()
        self.images, self.vectors, self.backbone = gallery.images, gallery.vectors, backbone
        self._version = backbone.version

    def __len__(self) -> int:
        return len(self.images)

    def search(self, query: ImageLike, top: int = 10) -> list[Hit]:
        """Return the `top` images that are most similar to an image, in descending order of cosine similarity.

        Unlike `rr retrieve`, the search does not leave out the query if it is itself in the gallery.

        Raises:
            UserError: if the image cannot be read, or if the backbone has changed since the gallery was created.
            ValueError: if `query` contains several images, or if `top` is not an integer or is less than 1.
        """
        if not isinstance(top, (int, np.integer)) or top < 1:
            raise ValueError(f"top must be an integer and at least 1, got {top!r}")
        if self.backbone.version != self._version:
            raise UserError(
                "the backbone has changed since the features of this gallery were computed: create it again"
            )
        vector = _require_one(self.backbone(query), "query")
        rows, similarities = (values[0] for values in find_nearest(vector, self.vectors, top))
        return [Hit(k + 1, float(similarities[k]), self.images[row]) for k, row in enumerate(rows)]


def embed(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    backbone: FeatureExtractor,
    *,
    on_unreadable: UnreadablePolicy = "raise",
) -> pa.Table:
    """Return a table with the path and the feature vector of each image, like the file that `rr embed` writes.

    Args:
        images: a folder, which is searched recursively, or image files.
        backbone: the return value of `load_backbone` or `wrap_network`.
        on_unreadable: "raise" to raise an error if images in a folder cannot be read, or "skip" to skip them.

    Returns:
        A table with the columns `path` (relative to the folder, if there is one) and `vector` (float32, D values).

    Raises:
        UserError: if a folder has no images, or if an image cannot be read.
        ValueError: if `backbone` has the wrong type, or if `on_unreadable` has an invalid value.
    """
    _check_backbone(backbone)
    if isinstance(images, (str, os.PathLike)):
        gallery = Gallery(images, backbone, on_unreadable=on_unreadable)
        names, vectors = [image.name for image in gallery.images], gallery.vectors
    else:
        make_skipped_files(on_unreadable)  # raises an error for an invalid value
        files = [os.fspath(path) for path in images]
        names, vectors = [path_to_text(file) for file in files], backbone(files)
    values = pa.array(vectors.reshape(-1), pa.float32())
    return pa.table(
        {
            "path": pa.array(names, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(values, backbone.num_features),
        }
    )


def compare(first: ImageLike, second: ImageLike, backbone: FeatureExtractor) -> float:
    """Return the probability that `rr compare` prints: that two images are views of the same image.

    The probability is computed by the relation head that was trained with the backbone. It is calibrated if the weights
    are released weights, or if `runs/evaluate` in the current folder contains an evaluation of them with the
    `embedding` protocol in which the head gave higher scores to views of the same image than to views of different
    images. Otherwise, the probability is usually too close to one half, and a warning says why it is not calibrated.

    Args:
        first: an image.
        second: the other image.
        backbone: the return value of `load_backbone`.

    Raises:
        UserError: if an image cannot be read, if the weights have no relation head, or if they are no longer those in
            their file.
        ValueError: if an argument contains several images, or if `backbone` is not the return value of
            `load_backbone`.
    """
    _check_backbone(backbone)
    weights = backbone.check_unchanged("the relation head does not belong to them")
    scorer = load_pair_scorer(weights, backbone.sha256)
    left, right = _require_one(backbone(first), "first"), _require_one(backbone(second), "second")
    if scorer.calibration is None:
        warnings.warn(f"the probability is {scorer.description}", stacklevel=2)
    return float(scorer.probabilities(scorer.head.logits(left, right))[0])


def cosine_similarity(
    first: ImageLike | np.ndarray, second: ImageLike | np.ndarray, backbone: FeatureExtractor | None = None
) -> float:
    """Return the cosine similarity of the features of two images, in [-1, 1].

    Args:
        first: an image, or, without a backbone, the features of an image, (D,) or (1, D).
        second: the other image, or its features.
        backbone: the return value of `load_backbone` or `wrap_network`.

    Raises:
        UserError: if an image cannot be read.
        ValueError: if an argument contains several images, if an image is passed without a backbone, if the features
            have different sizes or are not finite, or if `backbone` has the wrong type.
    """
    if backbone is not None:
        _check_backbone(backbone)
    left, right = (
        _require_one(_as_features(image, name) if backbone is None else backbone(image), name)
        for name, image in (("first", first), ("second", second))
    )
    if left.shape != right.shape:
        raise ValueError(
            f"first and second have features of different sizes, {left.shape[1]} and {right.shape[1]}: compute both "
            "with the same backbone"
        )
    left, right = (_scale_to_one(features.astype(np.float64)) for features in (left, right))
    return float(cosine_similarities(left, right)[0])


def _scale_to_one(features: np.ndarray) -> np.ndarray:
    """Divide by the largest absolute value, because sums of squares of very large or small values would be inexact."""
    largest = np.abs(features).max(initial=0)
    return features / largest if largest else features


def _check_backbone(backbone: FeatureExtractor) -> None:
    if not isinstance(backbone, FeatureExtractor):
        raise ValueError(f"backbone must be the return value of rr.load_backbone or rr.wrap_network, got {backbone!r}")


def _as_features(features: ImageLike | np.ndarray, name: str) -> np.ndarray:
    """Return the features of one image as float64 (1, D). `name` is the argument's name."""
    what = type(features).__name__
    if isinstance(features, (np.ndarray, torch.Tensor)):
        what = f"shape {tuple(features.shape)}"
    if not isinstance(features, (np.ndarray, torch.Tensor)) or features.ndim not in (1, 2):
        raise ValueError(
            f"{name} must be the features of one image, of shape (D,) or (1, D), because no backbone is given, got "
            f"{what}: pass features, or pass the backbone too"
        )
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu()
        features = (features if features.is_complex() else features.double()).numpy()
    if np.iscomplexobj(features) or not np.isfinite(features).all():
        raise ValueError(f"the features in {name} must be real and finite: check how they were computed")
    return np.atleast_2d(features.astype(np.float64))


def _require_one(features: np.ndarray, name: str) -> np.ndarray:
    """Return the features (1, D) of one image; raise ValueError for several. `name` is the argument's name."""
    if len(features) != 1:
        raise ValueError(f"{name} must be one image, got {len(features)}")
    return features
