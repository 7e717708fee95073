"""The `convert` stage: decode and resize a dataset's images; write one beton per split and an index."""

import hashlib
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rr.data import beton, image_decoding, raw
from rr.data.conversion_checkpoint import ConvertedImage, ConvertedParts
from rr.data.dataset_index import write_index
from rr.data.preprocessing import Preprocessing
from rr.data.printable_names import display_name
from rr.errors import UserError
from rr.params import DatasetConfig
from rr.runtime.atomic import atomic_write
from rr.runtime.ordered_map import map_ordered
from rr.runtime.progress import Progress

_MIN_STD = 0.001
_MAX_SIDE = 65_500  # limit for JPEG images; a beton can store up to 65,535 pixels per side


def convert(
    raw_path: Path,
    dataset: DatasetConfig,
    beton_paths: dict[str, Path],
    index_path: Path,
    parts: ConvertedParts,
    *,
    threads: int,
) -> dict[str, Any]:
    """Convert a raw file to betons and an index, and return the information for the record.

    The files are byte-identical on every run, regardless of the number of threads, and even after interruptions. The
    index has one row per image: `index` (its row in the raw file, which the betons also store), `path` (its name in the
    raw file), `split`, `label`, `class`, and the `sha256` of its resized pixels (before they are encoded as JPEG). It
    also stores the preprocessing. The mean and std come from `dataset` or, if it has none, are computed from the
    resized training images.

    Apart from about two kilobytes per image, memory use does not depend on the number of images.

    Args:
        raw_path: raw file written by `rr fetch`.
        dataset: the dataset's section in params.yaml.
        beton_paths: path of the beton to write for each split.
        index_path: path of the index to write.
        parts: images that an interrupted conversion has already converted. The caller deletes them after the outputs
            have been written.
        threads: number of threads that decode, resize and encode images.

    Returns:
        The image size (`side`), the number of images per split (`images`) and the preprocessing.

    Raises:
        UserError: if the raw file or one of its images is damaged, or if a photograph is too large.
    """
    raw_file = raw.RawFile(raw_path)
    hashes: list[str] = []
    histogram = np.zeros((3, 256), np.int64)
    with Progress("convert", len(raw_file.labels), "images") as progress:
        encoded_images = raw_file.iter_images()
        convert_image = partial(_convert_image, raw_path=raw_path, dataset=dataset)

        def convert_rest(split: str, count: int, num_kept: int) -> Iterator[ConvertedImage]:
            if num_kept:
                progress.skip(num_kept)
                print(f"convert: continuing after {num_kept:,} {split} images", file=sys.stderr)
            next(islice(encoded_images, num_kept, num_kept), None)  # read, but do not decode
            for converted in map_ordered(convert_image, islice(encoded_images, count - num_kept), threads):
                progress.advance(1)
                yield converted

        def iter_images(split: str, count: int) -> Iterator[beton.StoredImage]:
            for image, sha256, pixel_counts in parts.resume(split, partial(convert_rest, split, count)):
                hashes.append(sha256)
                if split == "train":
                    np.add(histogram, pixel_counts, out=histogram)
                yield image

        max_image_bytes = 3 * dataset.image_size**2
        if dataset.stored_size is not None:
            max_image_bytes = beton.max_photograph_bytes(dataset.stored_size)
        for split in raw.SPLITS:
            rows = np.flatnonzero(raw_file.splits == split)
            with atomic_write(beton_paths[split]) as temporary:
                images = iter_images(split, len(rows))
                beton.write_stored(temporary, images, raw_file.labels[rows], rows, max_image_bytes)
                beton.validate(temporary, photographs=dataset.stored_size is not None)
                # The writer stops after the last image. If all images came from an earlier run, `convert_rest` has not
                # been called. This line calls it, so that it skips these images in the raw file.
                next(images, None)
    mean, std = (dataset.mean, dataset.std) if dataset.mean and dataset.std else mean_and_std(histogram)
    preprocessing = Preprocessing(dataset.image_size, mean, std, dataset.stored_size)
    write_index(
        index_path,
        raw_file.read_names(),
        raw_file.splits,
        raw_file.labels,
        hashes,
        raw_file.class_names,
        preprocessing,
    )
    return {
        "side": dataset.image_size,
        "images": {split: int((raw_file.splits == split).sum()) for split in raw.SPLITS},
        "preprocessing": asdict(preprocessing),
    }


def _convert_image(image: tuple[str, bytes], raw_path: Path, dataset: DatasetConfig) -> ConvertedImage:
    """Decode and resize an image and, if it is a photograph, encode it. `image` is its name and its encoded bytes."""
    name, data = image
    try:
        if dataset.stored_size is None:
            pixels = image_decoding.decode_image(data, dataset.image_size)
        else:
            pixels = image_decoding.decode_photograph(data, dataset.stored_size)
    except ValueError as error:
        raise UserError(f"{raw_path}: {display_name(name)} cannot be decoded ({error}): run rr fetch again") from error
    stored = beton.wrap_raw_pixels(pixels)
    if dataset.stored_size is not None:
        size, where = f"{pixels.shape[1]} × {pixels.shape[0]} pixels", f"{raw_path}: {display_name(name)}"
        if max(pixels.shape) > _MAX_SIDE:
            raise UserError(
                f"{where} would be stored with {size}, but the maximum is {_MAX_SIDE} per side: crop the original "
                "image and run rr fetch again, or lower the dataset's stored_size in params.yaml"
            )
        stored = beton.encode_photograph(pixels, dataset.quality)
        limit = beton.max_photograph_bytes(dataset.stored_size)
        if len(stored.data) > limit:
            raise UserError(
                f"{where} would take up {len(stored.data):,} bytes ({size}), but the maximum is {limit:,}: crop the "
                "original image and run rr fetch again or, for this dataset in params.yaml, lower stored_size or set "
                "quality to 90 or less"
            )
    histogram = np.array(Image.fromarray(pixels).histogram(), np.int64).reshape(3, 256)
    return ConvertedImage(stored, hashlib.sha256(pixels.tobytes()).hexdigest(), histogram)


def mean_and_std(histogram: np.ndarray) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the mean and the standard deviation of each channel, for pixel values in [0, 1].

    The sums are integers, so the results do not depend on the order of the images. As in scikit-learn's StandardScaler,
    the standard deviation of a channel that is (nearly) constant is replaced by 1.

    Args:
        histogram: number of pixels with each value in [0, 255], for each channel, int64 (3, 256).
    """
    means, stds = [], []
    for counts in histogram.tolist():
        total = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        std = math.sqrt(total * second - first * first) / (255 * total)
        means.append(first / (255 * total))
        stds.append(std if std >= _MIN_STD else 1.0)
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])
