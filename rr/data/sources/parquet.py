"""Read your own images from Parquet files, such as those on the Hugging Face Hub."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr.data import raw
from rr.data.folder_listing import ARROW, DamagedFile, FileKind, SkippedFile, list_folder
from rr.data.image_decoding import identify_unreadable_content
from rr.data.image_summary import ImageFacts
from rr.data.printable_names import display_name, display_names, normalize_unicode, path_to_text, printable
from rr.data.skipped_files import SkippedFiles, format_skipped, inspect_image
from rr.data.sources import parquet_layout
from rr.data.sources.class_names import find_variants
from rr.data.sources.held_out import adjust_held_out, hash_readable_images
from rr.data.sources.parquet_columns import (
    Columns,
    check_columns,
    check_no_label_in_path,
    choose_columns,
    describe_columns,
    find_null_columns,
    find_splits_in_other_columns,
    has_any_label,
    has_image_column,
    missing_image_problem,
    other_image_columns,
    read_class_names,
    read_labels,
)
from rr.data.sources.split_names import UNUSED, assigns_splits
from rr.errors import UserError
from rr.params import ParquetSource, SplitNames
from rr.runtime.formatting import format_names

_HINT = "download or export this file again"
_NOT_PARQUET = "without the suffix .parquet"  # this and the next two are reasons why a file is not used
_MISNAMED = "a Parquet file without the suffix .parquet; rename it"
_WITHOUT_IMAGES = "without a column of images"
_BATCH_ROWS = 64


class _File(NamedTuple):
    """A Parquet file of the dataset.

    `name` is its path relative to the dataset folder, `null_columns` is described in `find_null_columns`,
    `excluded_rows` are the rows in the list of excluded images, and `modified` is the time of the file's last change
    in nanoseconds.
    """

    name: str
    path: Path
    schema: pa.Schema
    num_rows: int
    null_columns: frozenset[str]
    excluded_rows: frozenset[int]
    modified: int

    @contextmanager
    def open(self) -> Iterator[pq.ParquetFile]:
        """Open the file for the duration of the block; there may be more files than a process can keep open.

        Raises:
            UserError: if the file is damaged or has changed.
        """
        with raw.translate_parquet_errors(self.path, _HINT), _open_file(self.path) as file:
            if os.stat(self.path).st_mtime_ns != self.modified:
                raise UserError(f"{display_name(self.path)} changed while it was read: run rr fetch again")
            yield file


def read_dataset(source: ParquetSource, local_copy: Path | None, skipped: SkippedFiles) -> raw.RawDataset:
    """Return the images of a Parquet file, or of all Parquet files in a folder.

    `rr.data.sources.parquet_layout` recognizes the splits by the file names, and `rr.data.sources.parquet_columns`
    chooses the columns. If there are no test files, about `test_fraction` of the images become the test split.

    All unused files, and all images that cannot be read, are reported to `skipped`.

    Raises:
        UserError: if there are no images, if the files are ambiguous, incomplete or damaged, or if their columns or
            labels do not agree.
    """
    path = local_copy or Path(source.path)
    root = path.parent if path.is_file() else path
    get_file = cache(partial(_open_schema, root, _group_excluded_rows(skipped.excluded_names)))
    layout = _find_layout(path, source, skipped, get_file)
    train = [get_file(name) for name in layout.train]
    _require_rows(train)
    columns = choose_columns(train[0].path, train[0].schema, source)
    test_name, test_choice = _choose_test(layout, train, columns, get_file)
    if source.splits == "auto" and test_name:
        parquet_layout.check_shards(root, layout.tests[test_name], test_name)
    test = [get_file(name) for name in layout.tests.get(test_name, [])]
    for file in [*train, *test]:
        check_columns(file.path, file.schema, columns, train[0].schema, train[0].path)
        if source.on_unreadable == "raise" and f"{columns.image}.bytes" in file.null_columns:
            raise UserError(
                f"{display_name(file.path)} contains no images, only paths: write the file with embedded images"
            )
    if columns.label is None and source.labels != "none":
        check_no_label_in_path([file.name for file in train])
    if not test and source.splits == "auto":
        _reject_split_column(train, columns)
    unused_tests = [name for role, files in layout.tests.items() if role != test_name for name in files]
    unused = [*layout.unused, *unused_tests]
    for names, reason in ((layout.without_images, _WITHOUT_IMAGES), (unused, UNUSED)):
        for name in names:
            skipped.count(SkippedFile(name, reason))

    labels, class_names = _read_labels(train, test, columns, checks_names=source.splits == "auto")
    splits = {"train": train, "test": test}
    origins = {"train": display_names(file.name for file in train)}
    if test:
        images = skipped.iter_readable(_iter_split_images(splits, labels, columns, skipped), ".parquet")
        origins["test"] = display_names(file.name for file in test) + (f" ({test_choice})" if test_choice else "")
    else:
        images = _iter_assigned_images(
            train, labels, columns, _hold_out(train, labels, columns, source.test_fraction, skipped)
        )
        origins["test"] = f"{source.test_fraction:g} of the images, held out"
    if unused:
        origins["not used"] = display_names(unused)
    facts = {
        "splits": origins,
        "files": {split: [path_to_text(file.name) for file in files] for split, files in splits.items() if files},
        "columns": {"image": printable(columns.image), "label": columns.label and printable(columns.label)},
        "schema": describe_columns(train[0].schema),
        **({"unused_images": names} if (names := other_image_columns(train[0].schema, columns)) else {}),
    }
    return raw.RawDataset(class_names, images, sum(map(len, labels.values())), facts)


def _find_layout(
    path: Path, source: ParquetSource, skipped: SkippedFiles, get_file: Callable[[str], _File]
) -> parquet_layout.ParquetLayout:
    """Return which files belong to which split. The result contains at least one training file.

    Raises:
        UserError: if there are no images, or if the file names are ambiguous.
    """
    if path.is_file():
        if isinstance(source.splits, SplitNames):
            raise UserError(
                f"splits: {display_name(path)} is a file; to use splits, set the source's path to its folder"
            )
        total = parquet_layout.find_number_of_shards(path.name)
        if total > 1 and source.splits == "auto":
            raise UserError(
                f"{display_name(path)} is one of {total:,} files of a dataset: to use all of them, use the folder "
                f"{display_name(path.parent)} instead of this file, or set `splits: none` in this dataset's source in "
                "params.yaml to use only this file"
            )
        return parquet_layout.ParquetLayout([path.name], {}, [], [])
    names = _list_parquet_files(path, skipped)
    layout = parquet_layout.find_layout(
        path, names, source.splits, lambda name: has_image_column(get_file(name).schema, source)
    )
    if layout.train:
        return layout
    if layout.without_images:
        files = [get_file(name) for name in layout.without_images]
        _require_rows(files)
        first = files[0]
        choose_columns(first.path, first.schema, source)  # raises an error that lists the columns
    found = "; ".join(format_skipped(skipped.counts))
    raise UserError(
        f"{display_name(path)}: no Parquet file with images found{found and f' ({found})'}; fix the source's path "
        "in params.yaml, or specify a path with --from"
    )


def _require_rows(files: list[_File]) -> None:
    """Raise UserError if none of the files has a row. pandas may write such a file with columns of other types."""
    if not any(file.num_rows for file in files):
        raise UserError(f"{display_names(file.path for file in files)}: no rows: write the images to the file again")


def _list_parquet_files(root: Path, skipped: SkippedFiles) -> list[str]:
    """Return the Parquet files in a folder, relative to it, and report all other files.

    Raises:
        UserError: if the folder does not exist, or if something in it is damaged or incomplete.
    """
    if not root.is_dir():
        raise UserError(
            f"{display_name(root)} is neither a file nor a folder: fix the source's path in params.yaml, or "
            "specify a path with --from"
        )
    kind = FileKind(frozenset({".parquet"}), _reason_not_parquet)
    listing = list_folder(root, kind)
    damaged = SkippedFiles("raise", "download or repair {them}, or remove {them} from the folder")
    for file in listing.damaged:
        damaged.add_damaged(file)
    damaged.raise_if_unreadable()
    for skipped_file in listing.skipped:
        skipped.count(skipped_file)
    return listing.files


def _reason_not_parquet(path: str, suffix: str) -> str | None:
    if suffix == ".parquet":
        return None
    if suffix == ".arrow":
        return ARROW
    try:
        with open(path, "rb") as file:
            return _MISNAMED if file.read(4) == b"PAR1" else _NOT_PARQUET
    except OSError:
        return _NOT_PARQUET


@contextmanager
def _open_file(path: Path) -> Iterator[pq.ParquetFile]:
    with open(path, "rb") as source, pq.ParquetFile(source) as file:  # pyarrow accepts only names that are valid UTF-8
        yield file


def _group_excluded_rows(excluded_names: Iterable[str]) -> dict[str, set[int]]:
    """Return the rows in the list of excluded images, by the name of the file in the composed form of Unicode."""
    rows: dict[str, set[int]] = defaultdict(set)
    for text in excluded_names:
        name, _, row = text.rpartition(", row ")
        if row.isdecimal():
            rows[name].add(int(row))
    return rows


def _open_schema(root: Path, excluded_rows: Mapping[str, Collection[int]], name: str) -> _File:
    path = root / name
    excluded = frozenset(excluded_rows.get(normalize_unicode(display_name(name)), ()))
    try:
        with raw.translate_parquet_errors(path, _HINT), _open_file(path) as file:
            null_columns, modified = find_null_columns(file.metadata), os.stat(path).st_mtime_ns
            return _File(name, path, file.schema_arrow, file.metadata.num_rows, null_columns, excluded, modified)
    except UserError as error:
        if path.is_file():
            with open(path, "rb") as file:
                content = identify_unreadable_content(file.read(1024))
            if content:
                raise UserError(f"{display_name(path)} is not a Parquet file: {content[0]}") from error
        raise


def _choose_test(
    layout: parquet_layout.ParquetLayout, train: list[_File], columns: Columns, get_file: Callable[[str], _File]
) -> tuple[str, str]:
    """Return the name of the test split (empty if there are no test files) and the reason for the choice.

    If the training images are labeled, the first test split that has labels is chosen.

    Raises:
        UserError: if the training images are labeled, but the images of all test splits are unlabeled.
    """

    def is_labeled(files: Iterable[_File]) -> bool:
        for file in files:
            with file.open() as content:
                if has_any_label(content, columns):
                    return True
        return False

    roles = list(layout.tests)
    if not roles or not is_labeled(train):
        return (roles[0] if roles else ""), ""
    for role, names in layout.tests.items():
        if is_labeled(get_file(name) for name in names):
            return role, "" if role == roles[0] else f"{roles[0]} has no labels"
    first = get_file(layout.tests[roles[0]][0])
    missing = "labels" if any(get_file(name).num_rows for name in layout.tests[roles[0]]) else "rows"
    raise UserError(
        f"{display_name(first.path)} has no {missing}, unlike {display_name(train[0].path)}. In this dataset's "
        "source in params.yaml, set `splits: {train: 'PATTERN'}` to hold out test_fraction of the training images "
        "instead, or `labels: none` to treat all images as unlabeled"
    )


def _reject_split_column(files: list[_File], columns: Columns) -> None:
    """Raise UserError if the files have a column that assigns each image to a split."""
    roles: dict[str, set[str]] = defaultdict(set)
    for file in files:
        with file.open() as content:
            for name, found in find_splits_in_other_columns(content, columns).items():
                roles[name] |= found
    for name, found in roles.items():
        if assigns_splits(name, found):
            raise UserError(
                f"{display_name(files[0].path)} has a column '{printable(name)}' that seems to assign rows to splits, "
                "but rr does not read it: write one file for each split (train.parquet and test.parquet), or set "
                "`splits: none` in this dataset's source in params.yaml to ignore the column"
            )


def _read_labels(
    train: list[_File], test: list[_File], columns: Columns, *, checks_names: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the labels of each file, int64 (N,), and the class names.

    If `checks_names` is true, text labels that are variants of one name, or that mean "unlabeled", are rejected.

    Raises:
        UserError: if labels and class names do not agree, or differ between files.
    """
    files = [*train, *test]
    if columns.label is None:
        return {file.name: np.full(file.num_rows, raw.UNLABELED) for file in files}, []
    values: dict[str, list[Any]] = {}
    for file in files:
        with file.open() as content:
            values[file.name] = read_labels(
                file.path, content, columns.label, file.excluded_rows, checks_names=checks_names
            )
    used = {
        split: {value for file in part for value in values[file.name] if value not in (None, raw.UNLABELED)}
        for split, part in (("train", train), ("test", test))
    }
    if any(isinstance(value, str) for value in used["train"] | used["test"]):
        texts = sorted(used["train"] | used["test"], key=str.strip)
        class_names = [text.strip() for text in texts]
        if twice := [pair for pair in pairwise(texts) if pair[0].strip() == pair[1].strip()]:
            first, second, column = (f"'{printable(name)}'" for name in (*sorted(twice[0]), columns.label))
            raise UserError(
                f"{display_name(files[0].path)}: the labels {first} and {second} in column {column} differ only in the "
                "spaces around them: remove these spaces and write the file again"
            )
        if checks_names and (similar := find_variants(class_names)):
            first, second, column = (f"'{printable(name)}'" for name in (*similar, columns.label))
            raise UserError(
                f"{display_name(files[0].path)}: the labels {first} and {second} in column {column} "
                "seem to be the same class: spell them the same way or, if they are different classes, specify "
                "`splits` in this dataset's source in params.yaml"
            )
        ids = {text: label for label, text in enumerate(texts)} | {None: raw.UNLABELED}
        labels = {name: np.array([ids[text] for text in column], np.int64) for name, column in values.items()}
        unknown = sorted(text.strip() for text in used["test"] - used["train"])
    else:
        class_names = _read_class_names(files, values, columns.label) if used["train"] or used["test"] else []
        labels = {
            name: np.array([raw.UNLABELED if value is None else value for value in numbers], np.int64)
            for name, numbers in values.items()
        }
        unknown = [class_names[label] for label in sorted(used["test"] - used["train"])]
    if test and unknown:
        names = format_names([printable(name) for name in unknown])
        excluded = ", apart from those in the exclude list" if any(file.excluded_rows for file in train) else ""
        raise UserError(
            f"{display_name(test[0].path)}: these labels in column '{printable(columns.label)}' have no training "
            f"images{excluded}: {names}. Add training images, or remove the test images with these labels"
        )
    return labels, class_names


def _read_class_names(files: list[_File], labels: dict[str, list[Any]], column: str) -> list[str]:
    """Return the names of integer labels: those in the files' metadata or, if there are none, the integers as text."""
    first, names = files[0], None
    for file in files:
        file_names = read_class_names(file.schema, column)
        if file_names is None:
            continue
        if names is None:
            first, names = file, file_names
        elif file_names != names:
            label = next((i for i, pair in enumerate(zip(names, file_names)) if len({*pair}) > 1), None)  # noqa: B905
            where = f"{display_name(file.path)} and {display_name(first.path)} have different class names"
            if label is None:
                raise UserError(
                    f"{where}: the first has {len(file_names):,}, the second {len(names):,}. Export all files again "
                    "from the same dataset"
                )
            raise UserError(
                f"{where}: label {label} is {printable(file_names[label])} in the first, but "
                f"{printable(names[label])} in the second. Export the files again with the same class order"
            )
    max_labels = {file.name: max(labels[file.name], default=raw.UNLABELED) for file in files}
    if names is None:
        return [str(label) for label in range(max(max_labels.values()) + 1)]
    for file in files:
        if max_labels[file.name] >= len(names):
            raise UserError(
                f"{display_name(file.path)}: label {max_labels[file.name]} in column '{printable(column)}' has no "
                f"name (the number of class names in {display_name(first.path)} is {len(names):,}): export the files "
                "again with all names"
            )
    if "" in (stripped := [name.strip() for name in names]):
        raise UserError(
            f"{display_name(first.path)}: the name of label {stripped.index('')} in column '{printable(column)}' is "
            "empty: give the class a name, and export the files again"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(
            f"{display_name(first.path)}: several labels in column '{printable(column)}' have the name "
            f"{printable(twice[0])}: give the classes different names, and export the files again"
        )
    return names


def _iter_rows(file: _File, columns: Columns) -> Iterator[tuple[int, bytes | None, str | None]]:
    """Yield each row's number, its encoded image (None if it is missing) and its image path."""
    row = 0
    with file.open() as content:
        for batch in content.iter_batches(batch_size=_BATCH_ROWS, columns=[columns.image]):
            for value in batch.column(columns.image):
                image = value.as_py()
                fields = image if isinstance(image, dict) else {"bytes": image}
                yield row, fields["bytes"], fields.get("path")
                row += 1


def _iter_images(file: _File, columns: Columns, skipped: SkippedFiles) -> Iterator[tuple[int, str, bytes]]:
    """Yield the row number, a name and the encoded image of each row with an image that is not excluded.

    Rows without an image are reported.
    """
    for row, data, path in _iter_rows(file, columns):
        name = _row_name(file, row)
        if skipped.is_excluded(name, ".parquet", data):
            continue
        if data:
            yield row, name, data
        else:
            skipped.add_damaged(DamagedFile(name, "without an image", missing_image_problem(data, path)), ".parquet")


def _row_name(file: _File, row: int) -> str:
    return f"{path_to_text(file.name)}, row {row}"


def _iter_split_images(
    splits: dict[str, list[_File]], labels: dict[str, np.ndarray], columns: Columns, skipped: SkippedFiles
) -> Iterator[raw.EncodedImage]:
    """Yield the images of all splits."""
    for split, files in splits.items():
        for file in files:
            for row, name, data in _iter_images(file, columns, skipped):
                yield raw.EncodedImage(split, name, data, int(labels[file.name][row]))


def _hold_out(
    files: list[_File], labels: dict[str, np.ndarray], columns: Columns, fraction: float, skipped: SkippedFiles
) -> dict[tuple[str, int], str]:
    """Check all images, and choose about `fraction` of them as test images.

    The choice depends only on the bytes of each image, so copies of an image are in the same split, and new rows do not
    change the splits of other rows. Small datasets are an exception: at least one distinct image of each class is left
    for training, and at least one image is chosen.

    Returns:
        The split of each readable image, by file name and row.

    Raises:
        UserError: if images cannot be read, or if no image can be chosen.
    """

    def inspect(
        image: tuple[_File, int, str, bytes],
    ) -> tuple[tuple[str, int], int, bytes, ImageFacts | DamagedFile]:
        file, row, name, data = image
        label = int(labels[file.name][row])
        return (file.name, row), label, hashlib.sha256(data).digest(), inspect_image(name, data)

    images = ((file, *image) for file in files for image in _iter_images(file, columns, skipped))
    digests, by_label = hash_readable_images(inspect, images, sum(map(len, labels.values())), skipped, ".parquet")
    all_digests = set().union(*by_label.values())
    test = {digest for digest in all_digests if int.from_bytes(digest[:8], "big") < fraction * 2**64}
    test = adjust_held_out(test, dict(sorted(by_label.items())), len(digests), files[0].path)
    return {key: "test" if digest in test else "train" for key, digest in digests.items()}


def _iter_assigned_images(
    files: list[_File], labels: dict[str, np.ndarray], columns: Columns, splits: dict[tuple[str, int], str]
) -> Iterator[raw.EncodedImage]:
    """Yield the images that have a split. All files are read once per split."""
    for split in raw.SPLITS:
        for file in files:
            for row, data, _ in _iter_rows(file, columns):
                if data and splits.get((file.name, row)) == split:
                    yield raw.EncodedImage(split, _row_name(file, row), data, int(labels[file.name][row]))
