"""`rr check`: find duplicates, leaks between the splits, blank images, unusual sizes and small classes in a dataset."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr.data import exclude, raw
from rr.data.duplicates import Signature, compute_signature, find_duplicates
from rr.data.image_decoding import UnreadableImageError, decode_image
from rr.data.image_grid import CaptionedImages, make_thumbnail, render_captioned_images, write_png
from rr.data.image_summary import find_image_facts
from rr.data.printable_names import display_name, printable
from rr.errors import UserError
from rr.evaluate.similarity import normalize_rows
from rr.runtime.atomic import atomic_write
from rr.runtime.formatting import format_count, format_names
from rr.runtime.ordered_map import DECODING_THREADS, map_ordered
from rr.runtime.progress import Progress

if TYPE_CHECKING:
    from rr.gallery.feature_extractor import FeatureExtractor

MAX_ASPECT_RATIO = 3.0  # images are cropped to squares, so at least two thirds of a longer image would be cut off
MAX_SIZE_FACTOR = 16.0  # a size is unusual if its number of pixels differs from the median by at least this factor
MIN_TRAIN_IMAGES = 10  # per class
MIN_SIMILARITY = 0.95  # minimum cosine similarity of features
# The kinds of findings in report order, with the meaning of their values.
KINDS = {
    "exact duplicate": "",
    "near duplicate": "correlation",
    "mirrored duplicate": "correlation",
    "blank image": "",
    "similar features": "cosine similarity",
    "unusual size": "× the median number of pixels",
    "long image": "aspect ratio",
    "small class": "training images",
    "class without test images": "training images",
}
EXCLUDED_KINDS = ("exact duplicate", "near duplicate", "mirrored duplicate", "blank image")
_MAX_USUAL_FRACTION = 0.05  # a larger fraction of near and mirrored duplicates is suspicious
_BATCH_SIZE = 64  # images whose features are computed together
# Maximum number of images whose similarities to earlier images are computed together, and maximum number of these
# similarities (256 MB).
_MAX_FEATURE_BLOCK, _MAX_SIMILARITIES = 1024, 1 << 26
_COLUMNS, _MAX_SHOWN_PER_KIND = 4, 24  # columns, and maximum number of findings of each kind, in findings.png
_IMAGE_COLUMNS = {"image": pa.int64(), "file": pa.string(), "split": pa.string(), "class": pa.string()}


class Finding(NamedTuple):
    """A problem with an image, a pair of images or a class.

    Attributes:
        kind: one of `KINDS`.
        image: row of the image in the raw file, or None for a class.
        other: row of the image that it resembles, or None.
        label: the class, if the finding is about a class.
        value: a number whose meaning depends on `kind` (see `KINDS`), or None.
    """

    kind: str
    image: int | None = None
    other: int | None = None
    label: int = raw.UNLABELED
    value: float | None = None


@dataclass(frozen=True)
class CheckOutputPaths:
    """The files that `check` writes: all findings, an image of some of them, and the list of images to exclude."""

    findings: Path
    image: Path
    exclude: Path


def check(
    raw_path: Path,
    files: CheckOutputPaths,
    current_exclude: Path | None,
    extractor: FeatureExtractor | None,
    *,
    is_parquet: bool,
) -> tuple[str, dict[str, Any]]:
    """Check the images in a raw file and write the findings.

    `current_exclude` is the list of images that `rr fetch` left out; the new list also includes them. If `extractor` is
    given, the image features are also compared. `is_parquet` specifies whether the images come from Parquet files. If
    so, the new list contains the first digits of each image's SHA-256.

    Returns:
        A summary (a few lines), and its main numbers and paths as JSON values.

    Raises:
        UserError: if the raw file or one of its images is damaged.
    """
    excluded = exclude.read_excluded_names(current_exclude) if current_exclude else []
    raw_file = raw.RawFile(raw_path)
    images, features = _read_images(raw_file, extractor, is_parquet)
    names = [image.name for image in images]
    is_test = raw_file.splits == "test"
    with Progress("check", note="comparing the images"):
        findings, is_leaked = _collect_findings(raw_file, [image.signature for image in images], features)
    rows = sorted(
        {finding.image for finding in findings if finding.kind in EXCLUDED_KINDS and finding.image is not None}
    )
    # Keep the names on the current list, because `rr fetch` left these images out. (If the list has changed since the
    # fetch, the raw file may contain some of them.)
    excluded = list(dict.fromkeys(map(display_name, [*excluded, *(images[row].exclude_line for row in rows)])))
    exclude.write_excluded_names(files.exclude, excluded)
    with atomic_write(files.findings) as temporary:
        pq.write_table(_make_table(findings, names, raw_file), temporary)
    files.image.unlink(missing_ok=True)
    if shown := _choose_shown(findings, raw_file.splits):
        write_png(_render_findings(shown, names, raw_file), files.image)
    lines = [
        f"{raw_path}: {format_count(len(names), 'images')} checked",
        f"{is_leaked.sum():,} of {format_count(int(is_test.sum()), 'test images')} have an identical or nearly "
        "identical image in the training split",
        *_describe_findings(findings, raw_file),
        *_warn_of_many_near_duplicates(findings, len(names)),
    ]
    if findings:
        image_note = f"; some of them are shown in {files.image}" if shown else ""
        lines.append(f"all findings: {files.findings}{image_note}")
    else:
        lines.append("no findings")
    if rows:
        lines.append(f"images to exclude: {files.exclude} ({len(excluded):,})")
    else:
        lines.append("no further images to exclude" if excluded else "no images to exclude")
    facts = {
        "images": len(names),
        "test_images": int(is_test.sum()),
        "test_images_in_training_split": int(is_leaked.sum()),  # or with a nearly identical image in it
        "findings": dict(Counter(finding.kind for finding in findings)),
        "excluded": len(excluded),
        "files": {"findings": str(files.findings), "exclude": str(files.exclude)},
    }
    return "\n".join(lines), facts


def _collect_findings(
    raw_file: raw.RawFile, signatures: list[Signature], features: np.ndarray | None
) -> tuple[list[Finding], np.ndarray]:
    """Return all findings, sorted by kind.

    Also return whether each image is a test image with an identical or nearly identical training image, bool (N,).
    """
    is_test = raw_file.splits == "test"
    duplicates, is_leaked = find_duplicates(signatures, is_test)
    findings = [Finding(d.kind, d.image, d.other, value=d.correlation) for d in duplicates]
    findings += [Finding("blank image", row) for row, signature in enumerate(signatures) if signature.is_blank]
    if features is not None:
        known = {finding.image for finding in findings}
        findings += [finding for finding in find_similar(features, is_test) if finding.image not in known]
    findings += _find_unusual_sizes(signatures)
    findings += find_small_classes(raw_file.labels, is_test, len(raw_file.class_names))
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind)), is_leaked


class _CheckedImage(NamedTuple):
    """An image in the raw file: its name, its line in a list of excluded images, and its signature.

    `pixels` are the pixels for the feature extractor, uint8 (S, S, 3), or None without an extractor.
    """

    name: str
    exclude_line: str
    signature: Signature
    pixels: np.ndarray | None


def _read_images(
    raw_file: raw.RawFile, extractor: FeatureExtractor | None, is_parquet: bool
) -> tuple[list[_CheckedImage], np.ndarray | None]:
    """Return all images without their pixels and, if there is an extractor, their features, float32 (N, D)."""
    checked: list[_CheckedImage] = []
    features: list[np.ndarray] = []
    read_image = partial(_read_image, raw_file.path, extractor.decode_and_resize if extractor else None, is_parquet)
    images = map_ordered(read_image, raw_file.iter_images(), DECODING_THREADS)
    with Progress("check", len(raw_file.labels), "images") as progress:
        while batch := list(islice(images, _BATCH_SIZE)):
            if extractor:
                pixels = [image.pixels for image in batch if image.pixels is not None]
                features.append(extractor.extract(np.stack(pixels)))
            checked += [image._replace(pixels=None) for image in batch]
            progress.advance(len(batch))
    return checked, np.concatenate(features) if extractor else None


def _read_image(
    path: Path, decode: Callable[[bytes], np.ndarray] | None, is_parquet: bool, image: tuple[str, bytes]
) -> _CheckedImage:
    """Return what `check` needs to know about an image. `decode`, if given, returns the pixels for the extractor."""
    name, data = image
    line = exclude.add_digest(name, data) if is_parquet else name
    try:
        signature = compute_signature(decode_image(data))
        if signature.is_blank:  # a 16-bit image may only look blank until its values are scaled
            signature = signature._replace(is_blank=find_image_facts(data).is_blank)
        return _CheckedImage(name, line, signature, decode(data) if decode else None)
    except UnreadableImageError as error:
        raise UserError(f"{path}: {display_name(name)} cannot be decoded ({error}): run rr fetch again") from error


def find_similar(features: np.ndarray, is_test: np.ndarray) -> list[Finding]:
    """Return each image's most similar earlier image, if their cosine similarity is above the minimum.

    Test images count as earlier than training images. The mean of all features is subtracted first, because all
    features may point in similar directions, for example if the network is untrained.

    Args:
        features: float32 (N, D).
        is_test: whether each image is in the test split, bool (N,).
    """
    order = np.argsort(~is_test, kind="stable")
    vectors = normalize_rows(features[order] - features.mean(0))
    findings = []
    block_size = max(1, min(_MAX_FEATURE_BLOCK, _MAX_SIMILARITIES // len(order)))
    for start in range(0, len(order), block_size):
        block = vectors[start : start + block_size]
        similarities = block @ vectors[: start + len(block)].T
        similarities[np.triu_indices(len(block), start, start + len(block))] = -1  # the image itself and later ones
        best = similarities.argmax(1)
        values = similarities[np.arange(len(block)), best]
        findings += [
            Finding("similar features", int(order[start + row]), int(order[best[row]]), value=float(values[row]))
            for row in np.flatnonzero(values > MIN_SIMILARITY)
        ]
    return findings


def _find_unusual_sizes(signatures: Sequence[Signature]) -> list[Finding]:
    areas = np.array([signature.height * signature.width for signature in signatures])
    factors = areas / np.median(areas)
    findings = [
        Finding("unusual size", row, value=float(factors[row]))
        for row in np.flatnonzero((factors >= MAX_SIZE_FACTOR) | (factors <= 1 / MAX_SIZE_FACTOR)).tolist()
    ]
    for row, signature in enumerate(signatures):
        ratio = max(signature.height, signature.width) / min(signature.height, signature.width)
        if ratio >= MAX_ASPECT_RATIO:
            findings.append(Finding("long image", row, value=ratio))
    return findings


def find_small_classes(labels: np.ndarray, is_test: np.ndarray, num_classes: int) -> list[Finding]:
    """Return the classes with fewer than `MIN_TRAIN_IMAGES` training images, and the classes without test images.

    Args:
        labels: label of each image, int64 (N,); -1 if unlabeled.
        is_test: whether each image is in the test split, bool (N,).
        num_classes: number of classes.
    """
    train, test = (np.bincount(labels[rows & (labels >= 0)], minlength=num_classes) for rows in (~is_test, is_test))
    small = [Finding("small class", label=label, value=float(count)) for label, count in enumerate(train.tolist())]
    return [
        *(finding for finding in small if finding.value is not None and finding.value < MIN_TRAIN_IMAGES),
        *(finding._replace(kind="class without test images") for finding in small if not test[finding.label]),
    ]


def _class_name(raw_file: raw.RawFile, label: int) -> str | None:
    return raw_file.class_names[label] if 0 <= label < len(raw_file.class_names) else None


def _make_table(findings: Sequence[Finding], names: Sequence[str], raw_file: raw.RawFile) -> pa.Table:
    """Return a table with one row per finding."""
    rows = []
    for finding in findings:
        class_name = _class_name(raw_file, finding.label)
        row: dict[str, object] = {"kind": finding.kind, "class": class_name, "value": finding.value}
        for prefix, image in (("", finding.image), ("other_", finding.other)):
            if image is not None:
                row |= {
                    f"{prefix}image": image,
                    f"{prefix}file": names[image],
                    f"{prefix}split": str(raw_file.splits[image]),
                    f"{prefix}class": _class_name(raw_file, raw_file.labels[image]),
                }
        rows.append(row)
    image_fields = [(f"{prefix}{name}", kind) for prefix in ("", "other_") for name, kind in _IMAGE_COLUMNS.items()]
    schema = pa.schema([("kind", pa.string()), *image_fields, ("value", pa.float64())])
    return pa.Table.from_pylist(rows, schema=schema)  # a missing key becomes null


def _describe_findings(findings: Sequence[Finding], raw_file: raw.RawFile) -> list[str]:
    """Return one line per kind of finding, with either the number of images per split or the class names."""
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    lines = []
    for kind, group in by_kind.items():
        rows = [finding.image for finding in group if finding.image is not None]
        if not rows:
            names = [f"{printable(raw_file.class_names[f.label])} ({f.value:.0f})" for f in group]
            lines.append(f"{kind} ({KINDS[kind]}): {format_names(names)}")
            continue
        counts = Counter(raw_file.splits[rows].tolist())
        line = f"{kind}: {', '.join(f'{counts[split]:,} {split}' for split in raw.SPLITS if counts[split])}"
        labels = raw_file.labels
        num_conflicts = sum(f.other is not None and labels[f.image] != labels[f.other] for f in group)
        lines.append(line + (f"; {num_conflicts:,} in a different class than the other image" if num_conflicts else ""))
    return lines


def _warn_of_many_near_duplicates(findings: Sequence[Finding], num_images: int) -> list[str]:
    num_near = sum(finding.kind in ("near duplicate", "mirrored duplicate") for finding in findings)
    if num_near <= _MAX_USUAL_FRACTION * num_images:
        return []
    return [
        f"{num_near / num_images:.0%} of the images are near or mirrored duplicates. Images with few details, such as "
        "an object on a plain background, are often similar without being copies: look at them before you exclude any"
    ]


def _choose_shown(findings: Sequence[Finding], splits: np.ndarray) -> list[Finding]:
    """Return the findings to show. Within each kind, pairs across splits come first, then the least similar pairs."""
    shown = []
    for kind in KINDS:
        group = [finding for finding in findings if finding.kind == kind and finding.image is not None]
        group.sort(key=lambda f: (f.other is None or splits[f.image] == splits[f.other], f.value or 0))
        shown += group[:_MAX_SHOWN_PER_KIND]
    return shown


def _render_findings(findings: Sequence[Finding], names: Sequence[str], raw_file: raw.RawFile) -> np.ndarray:
    """Return an image that shows the findings, each with its kind, its value, and the split and name of its images."""
    images = raw_file.read_images(
        [row for finding in findings for row in (finding.image, finding.other) if row is not None]
    )
    panels = []
    for finding in findings:
        has_value = finding.value is not None and KINDS[finding.kind]
        caption = [f"{finding.kind}, {KINDS[finding.kind]} {finding.value:.3g}" if has_value else finding.kind]
        rows = [row for row in (finding.image, finding.other) if row is not None]
        for row in rows:
            name = _class_name(raw_file, raw_file.labels[row])
            caption.append(printable(f"{raw_file.splits[row]}{f', {name}' if name else ''}: {names[row]}"))
        panels.append(CaptionedImages([make_thumbnail(decode_image(images[row])) for row in rows], caption))
    return render_captioned_images(panels, _COLUMNS)
