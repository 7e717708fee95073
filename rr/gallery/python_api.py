"""Load a backbone, and embed, compare and search images, from Python."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from rr.compute.device import resolve_device
from rr.data.folder_listing import raise_if_url
from rr.data.preprocessing import Preprocessing
from rr.data.printable_names import display_name, path_to_text
from rr.data.skipped_files import SkippedFiles, UnreadablePolicy
from rr.errors import UserError
from rr.evaluate.similarity import cosine_similarities, find_nearest
from rr.gallery.feature_extractor import FeatureExtractor, load_feature_extractor
from rr.gallery.image_arguments import ImageLike, is_single_image
from rr.gallery.images import OwnRows, decode_images, list_images
from rr.gallery.index_file import ImageVectors
from rr.gallery.index_update import check_index_path, make_skipped_files, update_index
from rr.gallery.pair_scorer import load_pair_scorer
from rr.gallery.random_pairs import percentiles, sample_pairs
from rr.gallery.search_results import Hit
from rr.paths import expand_user

_SKIP_HINT = 'pass on_unreadable="skip"'  # in error messages about unreadable images


def load_backbone(
    weights: str | os.PathLike[str], preprocessing: Preprocessing | None = None, device: str | torch.device = "auto"
) -> FeatureExtractor:
    """Load a backbone file, with the image size, mean and std stored in it.

    Args:
        weights: `backbone.safetensors` from a run, a file written by `rr import`, the name of released weights, or
            `hf-hub:OWNER/NAME`, a repository on the Hugging Face Hub.
        preprocessing: preprocessing to use instead of the one in the file.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:<number>", or a `torch.device`.

    Returns:
        A function from images to features. Its `backbone` attribute is the network itself, which maps normalized images
        (B, 3, S, S) to features (B, D). The network is in eval mode, and its parameters are frozen (`requires_grad` is
        False). To finetune it, first call `.backbone.train().requires_grad_()`.

    Raises:
        UserError: if the file is not a valid backbone file, if `preprocessing` is None and the metadata lacks a valid
            image size, mean or std, or if the device does not exist.
        ValueError: if `preprocessing` is neither None nor an `rr.Preprocessing`.
    """
    is_cpu = isinstance(device, torch.device) and device.type == "cpu"  # its name may be cpu:0
    return load_feature_extractor(
        weights,
        preprocessing,
        resolve_device("cpu" if is_cpu else str(device), "device"),
        "pass preprocessing=rr.Preprocessing(image_size, mean, std)",
    )


class Gallery:
    """The images in a folder and its subfolders with their features, which can be searched for similar images.

    If all images have the same features, a warning is issued.

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
        skipped: number of files in the folder that were not used, by reason.

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
        skipped = make_skipped_files(on_unreadable, _SKIP_HINT)
        index_path = expand_user(index) if index else None
        if index_path:
            weights = backbone.check_unchanged("their features cannot be stored: omit index")
            check_index_path("index", index_path, weights, must_be_writable=False)
        gallery = _embed_folder(folder, backbone, index_path, skipped)
        self.images, self.vectors, self.backbone = gallery.images, gallery.vectors, backbone
        self.skipped = {reason: sum(by_suffix.values()) for reason, by_suffix in skipped.counts.items()}
        self._version = backbone.version

    def __len__(self) -> int:
        return len(self.images)

    def search(self, query: ImageLike, top: int = 10, *, include_query: bool = True) -> list[Hit]:
        """Return the `top` images that are most similar to an image, in descending order of cosine similarity.

        Args:
            query: an image, which may be a file in the gallery.
            top: number of images to return. If the gallery has fewer images, all are returned.
            include_query: whether the result may contain the query itself. If this is False, `query` must be a path,
                and the result is that of `rr retrieve`: it does not contain this file, and links to it are left out
                too. A file that was modified or renamed after the gallery was created is not recognized.

        Raises:
            UserError: if the image cannot be read, or if the backbone has changed since the gallery was created.
            ValueError: if `query` contains several images, if `top` is not an integer or is less than 1, or if
                `include_query` is False and `query` is not a path.
        """
        if not isinstance(top, (int, np.integer)) or top < 1:
            raise ValueError(f"top must be an integer and at least 1, got {top!r}")
        if self.backbone.version != self._version:
            raise UserError(
                "the backbone has changed since the features of this gallery were computed: create it again"
            )
        if not include_query and not isinstance(query, (str, os.PathLike)):
            raise ValueError(
                f"query must be a path if include_query is False, got {type(query).__name__}: otherwise, it is unknown "
                "which file in the gallery is the query"
            )
        vector_1D = _require_one(self.backbone(query), "query")
        own_rows = [] if include_query else self._own_rows.find(expand_user(query))  # type: ignore[arg-type]
        rows, similarities = (values[0] for values in find_nearest(vector_1D, self.vectors, top + len(own_rows)))
        is_other = ~np.isin(rows, own_rows)
        rows, similarities = rows[is_other][:top], similarities[is_other][:top]
        values = zip(
            rows, similarities.tolist(), percentiles(similarities, self._random_similarities).tolist(), strict=True
        )
        return [
            Hit(rank, similarity, self.images[row], percentile=percentile)
            for rank, (row, similarity, percentile) in enumerate(values, 1)
        ]

    @cached_property
    def _own_rows(self) -> OwnRows:
        return OwnRows(self.images)

    @cached_property
    def _random_similarities(self) -> np.ndarray:
        """The cosine similarities of random pairs of images, from which percentiles are computed."""
        first, second = (self.vectors[rows] for rows in sample_pairs(len(self.images)))
        return cosine_similarities(first, second)


def embed(
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    backbone: FeatureExtractor,
    *,
    on_unreadable: UnreadablePolicy = "raise",
) -> pa.Table:
    """Return a table with the path and the feature vector of each image, like the file that `rr embed` writes.

    Args:
        images: a folder, which is searched recursively, an image file, or several image files.
        backbone: the return value of `load_backbone` or `wrap_network`.
        on_unreadable: "raise" to raise an error if images cannot be read, or "skip" to skip them.

    Returns:
        A table with the columns `path` and `vector` (float32, D values). For a folder, `path` is relative to the folder
        and equals `hit.image.name` in the results of `Gallery.search`. For files, it is the path that was passed.

    Raises:
        UserError: if a folder does not exist or has no images, if an image cannot be read (unless `on_unreadable` is
            "skip"), or if no image in a folder can be read.
        ValueError: if `backbone` has the wrong type, or if `on_unreadable` has an invalid value.
    """
    _check_backbone(backbone)
    if isinstance(images, (str, os.PathLike)):
        path = expand_user(images)
        raise_if_url(path)
        if not path.exists():
            raise UserError(f"{display_name(path)} does not exist: use a folder of images, or the path of an image")
        images = [images] if path.is_file() else images
    if isinstance(images, (str, os.PathLike)):
        gallery = _embed_folder(images, backbone, None, make_skipped_files(on_unreadable, _SKIP_HINT))
        names, vectors = [image.name for image in gallery.images], gallery.vectors
    else:
        skipped = SkippedFiles(on_unreadable, f"use different images, or {_SKIP_HINT}")
        names, vectors = _embed_files(_list_files(images), backbone, skipped)
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
    features = backbone([_take_one(first, "first"), _take_one(second, "second")])
    if scorer.calibration is None:
        warnings.warn(f"the probability is {scorer.description}", stacklevel=2)
    return float(scorer.probabilities(scorer.head.logits(features[:1], features[1:]))[0])


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


def _embed_folder(
    folder: str | os.PathLike[str], backbone: FeatureExtractor, index: Path | None, skipped: SkippedFiles
) -> ImageVectors:
    """Return the images in a folder with their features.

    Warnings refer to the line that calls the public function.
    """
    root = expand_user(folder)
    messages: list[str] = []
    gallery, _ = update_index(index, backbone, root, list_images(root, skipped), skipped, messages.append)
    skipped.raise_if_unreadable()
    for message in messages:
        warnings.warn(message, stacklevel=3)
    return gallery


def _list_files(images: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the paths in an argument.

    Raises:
        UserError: if a path is a URL, or that of a folder.
        ValueError: if `images` contains something else.
    """
    files = list(images) if isinstance(images, Iterable) else [images]
    for file in files:
        if not isinstance(file, (str, os.PathLike)):
            raise ValueError(
                f"images must be paths, got {type(file).__name__}: for images in memory, call the extractor itself"
            )
        raise_if_url(Path(file))
        if os.path.isdir(expand_user(file)):
            raise UserError(
                f"{display_name(Path(file))} is a folder: pass it by itself, or pass the paths of its images"
            )
    return [os.fspath(file) for file in files]


def _embed_files(files: list[str], backbone: FeatureExtractor, skipped: SkippedFiles) -> tuple[list[str], np.ndarray]:
    """Return the paths of those image files that can be read, as text, and their features, float32 (N, D)."""
    decoded = decode_images(map(expand_user, files), backbone.decode_and_resize, skipped)
    readable = ((file, pixels) for file, pixels in zip(files, decoded, strict=True) if pixels is not None)
    names, vectors = [], [np.empty((0, backbone.num_features), np.float32)]
    while batch := list(islice(readable, backbone.batch_size)):
        if skipped.will_raise:  # only list the other unreadable images
            continue
        names += [path_to_text(file) for file, _ in batch]
        vectors.append(backbone.extract(np.stack([pixels for _, pixels in batch])))
    skipped.raise_if_unreadable()
    return names, np.concatenate(vectors)


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


def _take_one(images: ImageLike | Iterable[ImageLike], name: str) -> ImageLike:
    """Return the image in an argument; raise ValueError if it contains several images."""
    if is_single_image(images):
        return images  # type: ignore[return-value]
    sequence: list[ImageLike] = list(images)  # type: ignore[arg-type]
    if len(sequence) != 1:
        raise ValueError(f"{name} must be one image, got {len(sequence)}")
    return sequence[0]


def _require_one(features: np.ndarray, name: str) -> np.ndarray:
    """Return the features (1, D) of one image; raise ValueError for several. `name` is the argument's name."""
    if len(features) != 1:
        raise ValueError(f"{name} must be one image, got {len(features)}")
    return features
