"""The `fetch` stage: write a dataset's images, from any kind of source, to one Parquet file."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rr.data import raw, sources
from rr.data.exclude import read_excluded_names, reject_unknown_names
from rr.data.image_summary import ImageSummary, format_sizes_and_problems
from rr.data.printable_names import display_name, printable
from rr.data.skipped_files import SkippedFiles, format_skipped
from rr.errors import UserError
from rr.params import ExtensionSource, OwnImagesSource, SlimageNetSource, Source, TinyImageNetSource
from rr.params.datasets import LABEL_FILE_SUFFIXES
from rr.paths import expand_user
from rr.runtime.formatting import format_count, format_names
from rr.runtime.hashing import file_sha256
from rr.runtime.progress import Progress


def fetch(source: Source, raw_path: Path, download_dir: Path, local_copy: Path | None = None) -> dict[str, Any]:
    """Write the images from `source` to a raw file (see `rr.data.raw`) and return information about them.

    See `rr.data.sources.read_dataset` for `download_dir` and `local_copy`.

    Returns:
        Number of images per split (`images`); number of classes (`classes`); number of images per class in each split
        (`images_per_class`); number of unused files by reason and suffix (`skipped`); and, for your own images, the
        facts from `rr.data.raw.RawDataset` and `rr.data.image_summary`, and the SHA-256 of the list of excluded images
        (`exclude_sha256`).

    Raises:
        UserError: if the source cannot be read, or if an image cannot be decoded (unless `on_unreadable: skip`).
    """
    is_own, exclude_list = isinstance(source, OwnImagesSource), None
    summary = ImageSummary()
    if isinstance(source, OwnImagesSource):
        exclude_list = expand_user(source.exclude) if source.exclude else None
        where = display_name(local_copy) if local_copy else printable(source.path)
        skipped = SkippedFiles(
            source.on_unreadable,
            f"repair or remove {{them}} in {where}, or set 'on_unreadable: skip' in this dataset's source in "
            "params.yaml",
            read_excluded_names(exclude_list) if exclude_list else (),
            summary.add_facts,
        )
    else:
        remedy = "this copy of the dataset is damaged: delete it and download the dataset again"
        if isinstance(source, ExtensionSource):
            remedy = f"repair {{them}}, or fix {source.kind}"
        skipped = SkippedFiles("raise", remedy)
    # The list is hashed before the images are read, which may take hours.
    exclude_facts = {"exclude_sha256": file_sha256(exclude_list)} if exclude_list else {}
    dataset = sources.read_dataset(source, download_dir, local_copy, skipped)
    # Other sources encode or check the images themselves.
    if isinstance(source, TinyImageNetSource | SlimageNetSource | ExtensionSource):
        dataset = dataset._replace(images=skipped.iter_readable(dataset.images))
    counts: dict[str, Counter[int]] = {split: Counter() for split in raw.SPLITS}

    def iter_images() -> Iterator[raw.EncodedImage]:
        with Progress("fetch", dataset.num_images, "images") as progress:
            for image in dataset.images:
                counts[image.split][image.label] += 1
                if is_own:
                    summary.add_encoded(image)
                progress.advance(1)
                yield image
        skipped.raise_if_unreadable()
        if exclude_list:
            reject_unknown_names(exclude_list, skipped.unknown_excluded)
        _check_classes(counts, dataset.class_names, exclude_list)

    images = raw.write(raw_path, dataset._replace(images=iter_images()))
    return {
        "images": images,
        "classes": len(dataset.class_names),
        "images_per_class": {
            split: {dataset.class_names[label]: count for label, count in sorted(by_label.items()) if label >= 0}
            for split, by_label in counts.items()
        },
        **dataset.facts,
        **(summary.facts if is_own else {}),
        **exclude_facts,
        "skipped": skipped.counts,
    }


def _check_classes(counts: dict[str, Counter[int]], class_names: list[str], exclude_list: Path | None) -> None:
    """Raise UserError if a label has no class name, or if a class has test images but no readable training images."""
    highest = max((label for by_label in counts.values() for label in by_label), default=raw.UNLABELED)
    if highest >= len(class_names):
        raise UserError(
            f"the label {highest} has no class name (the number of class names is {len(class_names)}): fix the "
            "source in params.yaml or, if it is user-defined, its code"
        )
    missing = sorted(label for label in counts["test"].keys() - counts["train"].keys() if label != raw.UNLABELED)
    if missing:
        names = format_names([printable(class_names[label]) for label in missing])
        listed = f", apart from those that {display_name(exclude_list)} excludes" if exclude_list else ""
        raise UserError(f"no training image of {names} can be read{listed}: repair or add training images")


def format_fetch_facts(facts: dict[str, Any]) -> str:
    """Format what `fetch` returned as a summary of a few lines."""
    images, per_class, num_classes = facts["images"], facts["images_per_class"], facts["classes"]
    counts = [f"{count:,} {split}" for split, count in images.items()]
    lines = [", ".join([*counts, format_count(num_classes, "classes", "class")])]
    if "splits" in facts:
        lines.append("; ".join(f"{split}: {origin}" for split, origin in facts["splits"].items()))
    if "labels" in facts:
        lines.append(f"labels: {facts['labels']}")
    if "columns" in facts:
        types = facts["schema"]
        columns = [(use, name) for use, name in facts["columns"].items() if name]
        texts = [f"{use} from '{name}' ({types[name]})" for use, name in columns]
        texts += [f"not used: images in '{name}'" for name in facts.get("unused_images", [])]
        lines.append("columns: " + ", ".join(texts))
    if num_classes:
        names = list(dict.fromkeys([*per_class["train"], *per_class["test"]]))
        texts = [
            f"{printable(name)} ({per_class['train'].get(name, 0):,} + {per_class['test'].get(name, 0):,})"
            for name in names
        ]
        without = num_classes - len(names)
        lines.append(
            f"classes (train + test images): {format_names(texts)}"
            + (f"; {without:,} without images" if without else "")
        )
    unlabeled = {split: count - sum(per_class[split].values()) for split, count in images.items()}
    if any(unlabeled.values()):
        lines.append(
            "unlabeled images: " + ", ".join(f"{count:,} {split}" for split, count in unlabeled.items() if count)
        )
    lines += format_sizes_and_problems(facts) if "sizes" in facts else []
    lines += format_skipped(facts["skipped"])
    is_folder = "columns" not in facts  # only Parquet files have columns
    suffixes = {suffix for by_suffix in facts["skipped"].values() for suffix in by_suffix}
    if is_folder and not num_classes and (found := suffixes.intersection(LABEL_FILE_SUFFIXES)):
        lines.append(
            f"if a {min(found)} file contains the labels: use rr init --labels FILE, or set `labels: FILE` in this "
            "dataset's source in params.yaml"
        )
    return "\n".join(lines)
