"""Read the labels of a folder of images from a CSV file."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from posixpath import basename, splitext
from typing import NamedTuple

from rr.data.printable_names import display_name, normalize_unicode, path_to_text, printable
from rr.data.sources.class_names import LABEL_LIKE, LABEL_NAMES, find_variants, means_unlabeled
from rr.data.sources.split_names import MAX_SPLITS, TRAIN, assigns_splits, find_split, split_words
from rr.errors import UserError
from rr.runtime.formatting import format_count, format_names

_DELIMITERS = ",;\t"
_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")
_CUTS = (str.partition, str.rpartition)
_MISSING = re.compile(r"#?n/?a", re.IGNORECASE)  # how R and spreadsheets write a missing value


class ImageLabels(NamedTuple):
    """The labels in a CSV file.

    Attributes:
        by_image: label of each labeled image; the keys are names from the file listing.
        role_by_image: split of each image in the file, TRAIN or one of TEST_ROLES (see `rr.data.sources.split_names`);
            empty if the file has no column of splits.
        image_column: name of the column of image names.
        label_column: name of the column of labels.
        split_column: name of the column of splits, or None.
        sha256: hash of the file.
    """

    by_image: dict[str, str]
    role_by_image: dict[str, str]
    image_column: str
    label_column: str
    split_column: str | None
    sha256: str

    @property
    def class_names(self) -> list[str]:
        """The distinct labels: integers in numerical order, other labels in alphabetical order."""
        names = set(self.by_image.values())
        if all(name.isdecimal() for name in names):
            return sorted(names, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
        return sorted(names)


class _Row(NamedTuple):
    number: int  # of the line in the file, from 1
    fields: list[str]


def read_label_file(path: Path, images: Sequence[str], root: Path, *, reads_splits: bool) -> ImageLabels:
    """Return the labels in a CSV file for `images`, which are paths relative to `root`.

    The first line contains the column names. The column of image names is recognized by its contents, which may be
    relative paths or file names, with or without suffix. Images whose label is empty, and images that are not in the
    file, are unlabeled. If `reads_splits` is false, a column of splits is ignored.

    Raises:
        UserError: if the file cannot be read, if a column cannot be recognized, if an image is missing or has two
            different labels or splits, if two labels seem to be the same class, or if a split has an unknown name.
    """
    try:
        data = path.read_bytes()
        header, rows = _parse_csv(path, data.decode("utf-8-sig"))
    except (OSError, ValueError, csv.Error) as error:  # ValueError also covers bytes that are not UTF-8
        raise UserError(
            f"labels: {display_name(path)} cannot be read as CSV in UTF-8 ({error}): fix the file, or fix `labels` in "
            "this dataset's source in params.yaml"
        ) from error
    image_column, matches = _find_image_column(path, header, rows, images, root)
    split_columns = _find_split_columns(header, rows, image_column)
    label_column = _choose_label_column(path, header, {image_column, *split_columns})
    by_image: dict[str, str] = {}
    for row, image in zip(rows, matches, strict=True):
        label = normalize_unicode(row.fields[label_column])
        if means_unlabeled(label) or _MISSING.fullmatch(label):
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
    split_columns = split_columns if reads_splits else []
    roles = _read_splits(path, header, rows, matches, split_columns) if split_columns else {}
    titles = printable(header[image_column]), printable(header[label_column])
    split_title = printable(header[split_columns[0]]) if split_columns else None
    return ImageLabels(labeled, roles, *titles, split_title, sha256(data).hexdigest())


def _parse_csv(path: Path, text: str) -> tuple[list[str], list[_Row]]:
    """Return the column names and the other rows of a CSV file. Empty lines are left out."""
    if text[:4].lower() == "sep=":  # a line that tells Excel the delimiter
        text = text[len(text.split("\n", 1)[0]) :]
    first_line = text.lstrip().split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first_line.count)
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = [_Row(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    rows = [row for row in rows if any(row.fields)]
    if len(rows) < 2:
        raise UserError(
            f"labels: {display_name(path)} needs a line of column names, and one line for each labeled image"
        )
    header = rows.pop(0)
    for row in rows:
        if len(row.fields) != len(header.fields):
            raise _error(
                path, row, f"{format_count(len(row.fields), 'fields')}, but the first line has {len(header.fields)}"
            )
    return header.fields, rows


def _find_image_column(
    path: Path, header: list[str], rows: list[_Row], images: Sequence[str], root: Path
) -> tuple[int, list[str]]:
    """Return the number of the column of image names, and the image that each row names.

    Columns that are named like labels, and columns without a name, such as the row numbers that pandas writes, have
    the lowest priority.
    """
    columns = [[_normalize(row.fields[column]) for row in rows] for column in range(len(header))]
    priority = [column for column, title in enumerate(header) if title and not LABEL_LIKE.fullmatch(title.lower())]
    others = [column for column in range(len(header)) if column not in priority]
    folders = {normalize_unicode(path_to_text(path.name)) for path in (root, root.resolve())}
    conversions: list[Callable[[str], str]] = [str]
    conversions += [partial(_below_folder, folder=folder, cut=cut) for folder in folders for cut in _CUTS]
    for make_relative in conversions:
        values = [[make_relative(name) for name in names] for names in columns]
        candidates, by_name = _match_columns(priority, values, images)
        if not candidates:
            candidates, by_name = _match_columns(others, values, images)
        if candidates:
            break
    else:
        example = f", such as {display_name(images[0])}" if images else ""
        contents = [
            f"'{printable(title)}' ({printable(value)}, …)" for title, value in zip(header, rows[0].fields, strict=True)
        ]
        raise UserError(
            f"labels: no column of {display_name(path)} contains names of images in {display_name(root)}{example}. Its "
            f"columns are {format_names(contents)}. Write paths relative to this folder, and separate columns by "
            "commas, semicolons or tabs"
        )
    column = candidates[0]
    if different := [other for other in candidates if values[other] != values[column]]:
        names = " and ".join(f"'{printable(header[number])}'" for number in (column, different[0]))
        raise UserError(
            f"labels: the columns {names} of {display_name(path)} both contain names of images: remove one of them or, "
            "if it contains the labels, rename it to `label`"
        )
    title = _normalize(header[column])
    if {title, make_relative(title)} & by_name.keys() and title not in columns[column]:
        raise UserError(
            f"labels: the first line of {display_name(path)} must contain column names, such as file,label; it "
            f"contains {printable(title)}"
        )
    matches = [by_name.get(value, []) for value in values[column]]
    where = f"names in the column '{printable(header[column])}' of {display_name(path)}"
    if missing := [row for row, match in zip(rows, matches, strict=True) if not match]:
        raise UserError(
            f"labels: {where} match no image in {display_name(root)}: {_list_values(missing, column)}. Remove these "
            "lines, or write the images' paths relative to this folder"
        )
    if ambiguous := [row for row, match in zip(rows, matches, strict=True) if len(match) > 1]:
        raise UserError(
            f"labels: {where} match several images in {display_name(root)}: {_list_values(ambiguous, column)}. Write "
            "the images' paths relative to this folder"
        )
    return column, [image for (image,) in matches]


def _match_columns(
    columns: Sequence[int], values: Sequence[Sequence[str]], images: Sequence[str]
) -> tuple[list[int], dict[str, list[str]]]:
    """Return the columns in which most values are names of images, and the images with each name.

    The names may be relative paths or file names, with or without suffix. The first of these forms in which a column
    matches is used. If no column matches in any form, the list of columns is empty.
    """
    texts = [_normalize(path_to_text(image)) for image in images]
    for shorten in (str, _without_suffix, basename, lambda text: _without_suffix(basename(text))):
        by_name: dict[str, list[str]] = defaultdict(list)
        for text, image in zip(texts, images, strict=True):
            by_name[shorten(text)].append(image)
        candidates = [
            column for column in columns if 2 * sum(value in by_name for value in values[column]) > len(values[column])
        ]
        if candidates:
            return candidates, by_name
    return [], {}


def _below_folder(name: str, folder: str, cut: Callable[[str, str], tuple[str, str, str]]) -> str:
    """Return the part of a path after a folder named `folder`, or the path itself if it has no such folder.

    `cut` is `str.partition` or `str.rpartition`, for the first or the last such folder.
    """
    _, separator, rest = cut(f"/{name}", f"/{folder}/")
    return rest if separator else name


def _without_suffix(name: str) -> str:
    return splitext(name)[0]


def _normalize(name: str) -> str:
    """Return a name from a CSV file in the form in which the names of images are compared."""
    return re.sub(r"^(\./)+", "", normalize_unicode(name).replace("\\", "/"))


def _choose_label_column(path: Path, header: list[str], others: Collection[int]) -> int:
    """Return the number of the column of labels, which is not one of `others`."""
    columns = [column for column in range(len(header)) if column not in others]
    titles = {column: header[column].lower() for column in columns}
    named = [[column for column in columns if titles[column] == name] for name in LABEL_NAMES]
    label_like = [column for column in columns if LABEL_LIKE.fullmatch(titles[column])]
    candidates = next(filter(None, [*named, label_like, columns]), [])
    if len(candidates) == 1:
        return candidates[0]
    raise UserError(
        f"labels: {display_name(path)} must have exactly one column of labels besides "
        f"{_list_titles([header[column] for column in sorted(others)])}: rename the column of labels to `label`, or "
        f"remove the other columns. Its columns are {_list_titles(header)}"
    )


def _find_split_columns(header: list[str], rows: Sequence[_Row], image_column: int) -> list[int]:
    """Return the numbers of the columns that assign the images to splits.

    These are the columns named `split` or `fold`, columns of Booleans with a name such as `is_train`, and columns with
    few distinct values, among which are the names of several splits.
    """
    columns = []
    for column, title in enumerate(header):
        values = {row.fields[column].lower() for row in rows} - {""}
        roles = {role for value in values if (role := find_split(value))} if len(values) <= MAX_SPLITS else set()
        is_split = title.lower() == "fold" or assigns_splits(title, roles)
        is_split |= _boolean_role(title) is not None and values <= {*_TRUE, *_FALSE}
        if is_split and column != image_column and title.lower() not in LABEL_NAMES:
            columns.append(column)
    return columns


def _boolean_role(title: str) -> str | None:
    """Return the split in a column name such as `is_train` or `isTestImage`, "train" or "test", or None."""
    first, *others = split_words(title) or [""]
    role = find_split("".join(others)) if first.lower() == "is" else None
    return role if role in (TRAIN, "test") else None


def _read_splits(
    path: Path, header: list[str], rows: Sequence[_Row], images: Sequence[str], columns: Sequence[int]
) -> dict[str, str]:
    """Return the split of each image in the file. In a column such as `is_train`, the values may be Booleans.

    Raises:
        UserError: if there are several columns of splits, if an image has two splits, or if a split's name is unknown.
    """
    ignore = "set `splits: none` in this dataset's source in params.yaml to ignore the column"
    titles = _list_titles([header[column] for column in columns])
    if len(columns) > 1:
        raise UserError(
            f"labels: the columns {titles} of {display_name(path)} all seem to assign images to splits: remove all but "
            "one of them"
        )
    meanings: dict[str, str] = {}
    if role := _boolean_role(header[columns[0]]):
        meanings = dict.fromkeys(_TRUE, role) | dict.fromkeys(_FALSE, "test" if role == TRAIN else TRAIN)
    roles: dict[str, str] = {}
    for row, image in zip(rows, images, strict=True):
        value = row.fields[columns[0]]
        role = meanings.get(value.lower()) or find_split(value)
        if not role:
            problem = f"'{printable(value)}' is not the name of a split" if value else "there is no split"
            raise _error(path, row, f"{problem} in the column {titles}: write train, test or val, or {ignore}")
        if role != roles.setdefault(image, role):
            raise _error(path, row, f"{display_name(image)} has two splits, '{roles[image]}' and '{role}'")
    return roles


def _list_values(rows: Sequence[_Row], column: int) -> str:
    return format_names([f"{printable(row.fields[column])} (line {row.number})" for row in rows])


def _list_titles(header: Sequence[str]) -> str:
    return format_names([f"'{printable(title)}'" for title in header])


def _error(path: Path, row: _Row, problem: str) -> UserError:
    return UserError(f"labels: {display_name(path)}, line {row.number}: {problem}")
