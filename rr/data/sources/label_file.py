"""Read the labels of a folder of images from a CSV file."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from posixpath import basename, splitext
from typing import NamedTuple

from rr.data.printable_names import display_name, normalize_unicode, path_to_text, printable
from rr.data.sources.class_names import LABEL_LIKE, LABEL_NAMES, find_variants, means_unlabeled
from rr.errors import UserError
from rr.runtime.formatting import format_names

_DELIMITERS = ",;\t"
_HOW_TO_NAME = "rename the column of labels to `label`, or remove the other columns"


class ImageLabels(NamedTuple):
    """The labels in a CSV file.

    Attributes:
        by_image: label of each labeled image; the keys are names from the file listing.
        columns: name of the column of image names and of the column of labels.
    """

    by_image: dict[str, str]
    columns: tuple[str, str]

    @property
    def class_names(self) -> list[str]:
        """The distinct labels: integers in numerical order, other labels in alphabetical order."""
        names = set(self.by_image.values())
        is_integer = all(name.isdecimal() for name in names)
        return sorted(names, key=lambda name: (int(name) if is_integer else 0, name))


class _Row(NamedTuple):
    number: int  # of the line in the file, from 1
    fields: list[str]


def read_label_file(path: Path, images: Sequence[str], root: Path) -> ImageLabels:
    """Return the labels in a CSV file for `images`, which are paths relative to `root`.

    The first line contains the column names. The column of image names is recognized by its contents, which may be
    relative paths or file names, with or without suffix. Images whose label is empty, and images that are not in the
    file, are unlabeled.

    Raises:
        UserError: if the file cannot be read, if a column cannot be recognized, if an image is missing or has two
            different labels, or if two labels seem to be the same class.
    """
    header, rows = _read_csv(path)
    image_column, found = _find_image_column(path, header, rows, images, root)
    label_column = _choose_label_column(path, header, image_column)
    by_image: dict[str, str] = {}
    for row, image in zip(rows, found, strict=True):
        label = normalize_unicode(row.fields[label_column].strip())
        if means_unlabeled(label):
            raise _error(path, row, f"the label is '{printable(label)}'; leave it empty for unlabeled images")
        if label != by_image.setdefault(image, label):
            labels = " and ".join(f"'{printable(text)}'" for text in (by_image[image], label))
            raise _error(path, row, f"{display_name(image)} has two labels, {labels}")
    labeled = {image: label for image, label in by_image.items() if label}
    if not labeled:
        raise UserError(f"labels: {display_name(path)} has no labels in the column '{printable(header[label_column])}'")
    if similar := find_variants(sorted(set(labeled.values()))):
        first, second = (f"'{printable(name)}'" for name in similar)
        raise UserError(
            f"labels: the labels {first} and {second} in {display_name(path)} seem to be the same class: spell them "
            "the same way or, if they are different classes, rename one of them"
        )
    return ImageLabels(labeled, (printable(header[image_column]), printable(header[label_column])))


def _read_csv(path: Path) -> tuple[list[str], list[_Row]]:
    """Return the column names and the other rows of a CSV file. Empty lines are left out."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first_line = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=first_line.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [_Row(reader.line_num, [field.strip() for field in fields]) for fields in reader if any(fields)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"labels: {display_name(path)} cannot be read as CSV in UTF-8 ({error}): fix the file, or fix `labels` in "
            "this dataset's source in params.yaml"
        ) from error
    if len(rows) < 2:
        raise UserError(
            f"labels: {display_name(path)} needs a line of column names, and one line for each labeled image"
        )
    header = rows.pop(0)
    for row in rows:
        if len(row.fields) != len(header.fields):
            raise _error(path, row, f"{len(row.fields)} fields, but the first line has {len(header.fields)}")
    return header.fields, rows


def _find_image_column(
    path: Path, header: list[str], rows: list[_Row], images: Sequence[str], root: Path
) -> tuple[int, list[str]]:
    """Return the number of the column that contains the most names of images, and the image that each row names."""
    column, found = max(_match_columns(path, header, rows, images), key=lambda match: -match[1].count(None))
    if not any(found):
        example = f", such as {display_name(images[0])}" if images else ""
        raise UserError(
            f"labels: no column of {display_name(path)} contains names of images in {display_name(root)}{example}. Its "
            f"columns are {format_names([printable(title) for title in header])}"
        )
    if missing := [row for row, image in zip(rows, found, strict=True) if image is None]:
        names = [f"{printable(row.fields[column])} (line {row.number})" for row in missing]
        raise UserError(
            f"labels: {display_name(path)} contains names in the column '{printable(header[column])}' that match no "
            f"image in {display_name(root)}, or several: {format_names(names)}. Remove these lines, or write the "
            "images' paths relative to this folder"
        )
    return column, [image for image in found if image is not None]


def _match_columns(
    path: Path, header: list[str], rows: list[_Row], images: Sequence[str]
) -> Iterator[tuple[int, list[str | None]]]:
    """Yield the number of each column and the image that each row names in it, for each way to shorten names.

    Raises:
        UserError: if a column name is the name of an image, because the first line is then missing.
    """
    texts = [_normalize(path_to_text(image)) for image in images]
    for shorten in (str, _without_suffix, basename, lambda text: _without_suffix(basename(text))):
        names = [shorten(text) for text in texts]
        counts = Counter(names)
        by_name = {name: image for name, image in zip(names, images, strict=True) if counts[name] == 1}
        for column, title in enumerate(header):
            if splitext(title)[1] and _normalize(title) in by_name:
                raise UserError(
                    f"labels: the first line of {display_name(path)} must contain column names, such as file,label; "
                    f"it contains {printable(title)}"
                )
            yield column, [by_name.get(_normalize(row.fields[column])) for row in rows]


def _without_suffix(name: str) -> str:
    return splitext(name)[0]


def _normalize(name: str) -> str:
    """Return a name from a CSV file in the form in which the names of images are compared."""
    return normalize_unicode(name).replace("\\", "/").removeprefix("./")


def _choose_label_column(path: Path, header: list[str], image_column: int) -> int:
    columns = {title: column for column, title in enumerate(header) if column != image_column}
    named = sorted((title for title in columns if title.lower() in LABEL_NAMES), key=_priority)
    candidates = named[:1] or [title for title in columns if LABEL_LIKE.fullmatch(title.lower())] or list(columns)
    if len(candidates) == 1 and header.count(candidates[0]) == 1:
        return columns[candidates[0]]
    names = format_names([printable(title) for title in header])
    raise UserError(
        f"labels: {display_name(path)} must have exactly one column of labels besides "
        f"'{printable(header[image_column])}': {_HOW_TO_NAME}. Its columns are {names}"
    )


def _priority(title: str) -> int:
    return LABEL_NAMES.index(title.lower())


def _error(path: Path, row: _Row, problem: str) -> UserError:
    return UserError(f"labels: {display_name(path)}, line {row.number}: {problem}")
