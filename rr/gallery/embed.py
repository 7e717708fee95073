"""`rr embed`: write the feature vectors of a folder's images to a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rr.data.raw import UnreadablePolicy
from rr.errors import UserError
from rr.gallery.feature_extractor import FeatureExtractor, load_feature_extractor
from rr.gallery.images import ImageFile, decode_batches, has_image_suffix, list_images
from rr.gallery.index import ImageVectors, write_index
from rr.runtime.progress import Progress

if TYPE_CHECKING:  # at run time, this import would add a tenth of a second to a search
    from rr.params import DatasetConfig


def embed(
    folder: Path,
    weights: Path,
    output: Path,
    *,
    dataset: DatasetConfig | None,
    on_unreadable: UnreadablePolicy,
    device: str,
) -> str:
    """Write the feature vectors of all images in `folder` and its subfolders to `output`; return a summary.

    `rr.gallery.index` describes the file.

    Raises:
        UserError: if `output` is a folder, the weights file or named like an image, if the folder has no images, if an
            image cannot be read (unless `on_unreadable` is "skip"), or if the backbone cannot be loaded.
    """
    check_output_path("--output", output, weights)
    images = list_images(folder)
    extractor = load_feature_extractor(weights, dataset, device)
    count = write_index(output, extractor, folder, embed_batches(extractor, images, on_unreadable))
    skipped = f", {len(images) - count:,} skipped" if count < len(images) else ""
    return f"{output}: {count:,} images, {extractor.num_features} features{skipped}"


def embed_batches(
    extractor: FeatureExtractor, images: list[ImageFile], on_unreadable: UnreadablePolicy
) -> Iterator[ImageVectors]:
    """Yield images and their vectors in batches, so that memory use does not grow with the number of images.

    Raises:
        UserError: if an image cannot be read (unless `on_unreadable` is "skip"), or if a feature is NaN or infinite.
    """
    if not images:
        return
    batch_size, done = extractor.batch_size, 0
    with Progress("embed", len(images), "images") as progress:
        for readable, pixels in decode_batches(images, extractor.image_size, batch_size, on_unreadable):
            yield ImageVectors(readable, extractor.extract(pixels))
            attempted = min(batch_size, len(images) - done)
            done += attempted
            progress.advance(attempted)


def check_output_path(option: str, output: Path, weights: Path) -> None:
    """Raise UserError if `output` is a folder, the weights file or named like an image; `option` is for the message."""
    if output.is_dir():
        problem = "a folder"
    elif output.resolve() == weights.resolve():
        problem = "the weights file"
    elif has_image_suffix(output):
        problem = "named like an image"
    else:
        return
    raise UserError(f"{option} {output} is {problem}: give the path of another file")
