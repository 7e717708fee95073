"""Stage `fetch`: collect the images of a dataset, from any kind of source, in one Parquet file."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rr.data import raw, sources
from rr.errors import UserError
from rr.params import FolderSource, ParquetSource, SlimageNetSource, Source, TinyImageNetSource


def fetch(source: Source, raw_path: Path, download_dir: Path, local_copy: Path | None = None) -> dict[str, Any]:
    """Write the images of `source` to a raw file and return the numbers of images and classes.

    Args:
        source: the dataset's `source` section in params.yaml.
        raw_path: the raw file to write (see `rr.data.raw`).
        download_dir: folder that keeps downloaded archives and partial downloads.
        local_copy: copy of the dataset to use instead of the path or the URL of `source`.

    Returns:
        Number of images per split (`images`), of classes (`classes`) and of skipped unreadable images (`skipped`).

    Raises:
        UserError: if the source cannot be read, or if an image cannot be decoded (unless `on_unreadable: skip`).
    """
    dataset = sources.read_dataset(source, download_dir, local_copy)
    skipped: list[str] = []
    if isinstance(source, FolderSource | ParquetSource):
        hint = (
            f"repair or remove it in {local_copy or source.path}, or set 'on_unreadable: skip' in the source of this "
            "dataset in params.yaml"
        )
        dataset = dataset._replace(images=_drop_unreadable(dataset.images, source.on_unreadable, hint, skipped))
    # rr encodes the images of the remaining sources itself, so they are always readable.
    elif isinstance(source, TinyImageNetSource | SlimageNetSource):
        hint = "this copy of the dataset is damaged: delete it and download the dataset again"
        dataset = dataset._replace(images=_drop_unreadable(dataset.images, "raise", hint, skipped))
    counts = raw.write(raw_path, dataset)
    return {"images": counts, "classes": len(dataset.class_names), "skipped": len(skipped)}


def _drop_unreadable(
    images: Iterable[raw.EncodedImage], on_unreadable: raw.UnreadablePolicy, hint: str, skipped_names: list[str]
) -> Iterator[raw.EncodedImage]:
    """Yield the images that can be decoded. For any other image, raise UserError or add its name to `skipped_names`.

    The images are checked here once, so the later stages can rely on them.
    """
    for image in images:
        try:
            raw.decode_image(image.data)
        except ValueError as error:
            problem = f"{image.name}: not a readable image ({error})"
            if on_unreadable == "raise":
                raise UserError(f"{problem}; {hint}") from error
            print(f"skipped {problem}", file=sys.stderr)
            skipped_names.append(image.name)
        else:
            yield image
