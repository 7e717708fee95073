"""Embed, compare and search images from Python."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from rr.data.skipped_files import UnreadablePolicy
from rr.evaluate.similarity import find_nearest
from rr.gallery.embed import make_skipped_files, update_index
from rr.gallery.feature_extractor import FeatureExtractor, ImageLike
from rr.gallery.images import list_images
from rr.gallery.search import Hit
from rr.paths import expand_user


class Gallery:
    """The images in a folder and its subfolders with their features, which can be searched for similar images.

    Args:
        folder: the folder of images.
        backbone: the return value of `load_backbone`.
        index: Parquet file that stores the features, so that a later call computes only those of new and changed
            images. By default, nothing is written.
        on_unreadable: "raise" to raise an error if images cannot be read, or "skip" to skip them.

    Attributes:
        images: the image files, sorted by name. Each has a `path` and a `name`, the path relative to the folder.
        vectors: their features, float32 (N, D).
        backbone: the backbone.

    Raises:
        UserError: if the folder has no images, or if an image cannot be read (unless `on_unreadable` is "skip").
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        backbone: FeatureExtractor,
        *,
        index: str | os.PathLike[str] | None = None,
        on_unreadable: UnreadablePolicy = "raise",
    ) -> None:
        root, skipped = expand_user(folder), make_skipped_files(on_unreadable)
        files = list_images(root, skipped)
        found, _ = update_index(Path(index) if index else None, backbone, root, files, skipped)
        skipped.raise_if_unreadable()
        self.images, self.vectors, self.backbone = found.images, found.vectors, backbone

    def __len__(self) -> int:
        return len(self.images)

    def search(self, query: ImageLike, top: int = 10) -> list[Hit]:
        """Return the `top` images that are most similar to `query`, in descending order of cosine similarity."""
        rows, similarities = (values[0] for values in find_nearest(self.backbone(query), self.vectors, top))
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
        backbone: the return value of `load_backbone`.
        on_unreadable: "raise" to raise an error if images of a folder cannot be read, or "skip" to skip them.

    Returns:
        A table with the columns `path` (relative to the folder, if there is one) and `vector` (float32, D values).

    Raises:
        UserError: if a folder has no images, or if an image cannot be read.
    """
    if isinstance(images, (str, os.PathLike)):
        gallery = Gallery(images, backbone, on_unreadable=on_unreadable)
        names, vectors = [image.name for image in gallery.images], gallery.vectors
    else:
        names = [os.fspath(path) for path in images]
        vectors = backbone(names)
    values = pa.array(vectors.reshape(-1), pa.float32())
    return pa.table({"path": names, "vector": pa.FixedSizeListArray.from_arrays(values, backbone.num_features)})


def compare(
    first: ImageLike | np.ndarray, second: ImageLike | np.ndarray, backbone: FeatureExtractor | None = None
) -> float:
    """Return the cosine similarity of two images, in [-1, 1].

    Args:
        first: an image, or, without a backbone, the features of an image, (D,) or (1, D).
        second: the other image, or its features.
        backbone: the return value of `load_backbone`.

    Raises:
        UserError: if an image cannot be read.
    """
    vectors = [np.asarray(image) if backbone is None else backbone(image) for image in (first, second)]
    left, right = (np.asarray(vector, np.float32).reshape(1, -1) for vector in vectors)
    return float(find_nearest(left, right, 1)[1][0, 0])
