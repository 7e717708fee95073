"""Image sources: modules with a `read_dataset` function that returns a `RawDataset`. Similar kinds share one."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rr.data.folder_listing import raise_if_url
from rr.data.printable_names import display_name
from rr.data.raw import SPLITS, EncodedImage, RawDataset
from rr.data.skipped_files import SkippedFiles
from rr.data.sources import cifar, digits, imagefolder, parquet, shapes, slimagenet, stl10, tiny_imagenet
from rr.data.sources.validation_split import make_validation_split
from rr.errors import UserError
from rr.params import PublishedSource, Source
from rr.paths import expand_user


def read_dataset(source: Source, download_dir: Path, local_copy: Path | None, skipped: SkippedFiles) -> RawDataset:
    """Return the class names and the images of `source`. Most sources read an image only when it is requested.

    Args:
        source: the dataset's `source` section in params.yaml.
        download_dir: folder for downloaded archives.
        local_copy: copy of the dataset to use instead of the path or URL in `source`.
        skipped: object to which the sources for your own images report unused files and images.

    Raises:
        UserError: if the source is missing, incomplete or damaged, or if the download fails.
    """
    if local_copy is None and (path := getattr(source, "path", None)):
        local_copy = _expand_user(path)
    if local_copy:
        raise_if_url(local_copy)
    dataset = _read_source(source, download_dir, local_copy, skipped)
    if isinstance(source, PublishedSource) and source.validation_fraction:
        return make_validation_split(dataset, source.validation_fraction)
    return dataset


def _read_source(source: Source, download_dir: Path, local_copy: Path | None, skipped: SkippedFiles) -> RawDataset:
    """Return the class names and the images of `source`, with its original splits."""
    match source.kind:
        case "shapes":
            return shapes.read_dataset(source)
        case "digits":
            return digits.read_dataset(source)
        case "cifar10" | "cifar100" | "cifar100_20":
            return cifar.read_dataset(source, download_dir, local_copy)
        case "stl10" | "stl10_unlabeled":
            return stl10.read_dataset(source, download_dir, local_copy)
        case "tiny_imagenet":
            return tiny_imagenet.read_dataset(download_dir, local_copy)
        case "slimagenet64":
            return slimagenet.read_dataset(download_dir, local_copy)
        case "imagefolder":
            return imagefolder.read_dataset(source, local_copy, skipped)
        case "parquet":
            return parquet.read_dataset(source, local_copy, skipped)
        case kind:  # a user-defined source
            from rr.params.extensions import load_class

            dataset = load_class(kind).read_dataset(source, download_dir, local_copy)
            if not isinstance(dataset, RawDataset):
                raise UserError(f"{kind}.read_dataset must return an rr.data.raw.RawDataset, got {dataset!r:.200}")
            _check_class_names(kind, dataset.class_names)
            return dataset._replace(images=_iter_checked(kind, dataset.images))


def _check_class_names(kind: str, names: object) -> None:
    """Raise UserError unless the class names of a user-defined source are distinct strings."""
    is_valid = isinstance(names, list) and all(_is_text(name) and name for name in names)
    if not is_valid or len(set(names)) < len(names):  # type: ignore[call-overload, arg-type]
        raise UserError(f"{kind}: class_names must be a list of distinct, non-empty strings, got {names!r:.200}")


def _iter_checked(kind: str, images: Iterable[EncodedImage]) -> Iterator[EncodedImage]:
    """Yield the images of a user-defined source.

    Raises:
        UserError: if one of them is not an `EncodedImage` with values of the right types, or if two have the same name.
    """
    names: set[str] = set()
    for image in images:
        if not isinstance(image, EncodedImage):
            raise UserError(f"{kind}: an image must be an rr.data.raw.EncodedImage, got {image!r:.200}")
        is_integer = isinstance(image.label, int | np.integer) and not isinstance(image.label, bool)
        for field, is_valid, expected in (
            ("split", image.split in SPLITS, "'train' or 'test'"),
            ("name", _is_text(image.name), "text in valid Unicode (see rr.data.printable_names.path_to_text)"),
            ("data", isinstance(image.data, bytes), "of type bytes"),
            ("label", is_integer, "an integer"),
        ):
            if not is_valid:
                value = repr(getattr(image, field))
                raise UserError(f"{kind}: the {field} of {image.name!r} must be {expected}, got {value:.100}")
        if image.name in names:
            raise UserError(f"{kind}: several images have the name {image.name!r}: give each image a different name")
        names.add(image.name)
        yield image


def _is_text(value: object) -> bool:
    """Return whether a value is text that can be stored, unlike file names that are not valid UTF-8."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _expand_user(path: str | Path) -> Path:
    if not _is_text(str(path)):
        raise UserError(f"{display_name(path)} is not valid UTF-8: fix the source's path in params.yaml")
    return expand_user(path)
