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

_LINE_BREAK = re.compile(r"\r\n?|\n")
_SEPARATOR = re.compile(r"[,;\t\r\n]")
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
    number: int  # of its first line in the file, from 1
    fields: list[str]


class _Match(NamedTuple):
    """Columns whose values may be names of images, in one form.

    Attributes:
        counts: for each of these columns, the number of values that are names of images.
        values: values of each column, in the form in which they are compared with the names of images.
        by_name: images with each name.
        make_relative: function that converts a path in the file to this form.
    """

    counts: dict[int, int]
    values: dict[int, list[str]]
    by_name: dict[str, list[str]]
    make_relative: Callable[[str], str]

    @property
    def max_count(self) -> int:
        """The largest number of values of a column that are names of images."""
        return max(self.counts.values(), default=0)

    @property
    def candidates(self) -> list[int]:
        """The columns in which most values are names of images."""
        return [column for column, count in self.counts.items() if 2 * count > len(self.values[column])]

    def find_images(self, text: str) -> list[str]:
        """Return the images that a field of the file names."""
        return self.by_name.get(self.make_relative(_normalize(text)), [])


def read_label_file(path: Path, images: Sequence[str], root: Path, *, reads_splits: bool) -> ImageLabels:
    """Return the labels in a CSV file for `images`, which are paths relative to `root`.

    The first line contains the column names. The column of image names is recognized by its contents, which may be
    relative paths or file names, with or without suffix. Images whose label is empty, and images that are not in the
    file, are unlabeled. If `reads_splits` is false, a column of splits is ignored.

    Raises:
        UserError: if the file cannot be read, if a column cannot be recognized, if a quotation mark joins lines, if an
            image is missing or has two different labels or splits, if two labels seem to be the same class, or if a
            split has an unknown name.
    """
    try:
        data = path.read_bytes()
        table = _parse_csv(path, data.decode("utf-8-sig"))
    except (OSError, ValueError) as error:  # ValueError also covers bytes that are not UTF-8
        raise UserError(
            f"labels: {display_name(path)} cannot be read as CSV in UTF-8 ({error}): fix the file, or fix `labels` in "
            "this dataset's source in params.yaml"
        ) from error
    header, rows = table[0].fields, table[1:]
    image_column, match = _find_image_column(path, header, rows, images, root)
    _reject_joined_lines(path, table, image_column, match)
    matches = _match_images(path, header, rows, image_column, match, root)
    split_columns = _find_split_columns(header, rows, image_column)
    label_column = _choose_label_column(path, header, {image_column, *split_columns})
    by_image: dict[str, str] = {}
    lines: dict[str, int] = {}
    for row, image in zip(rows, matches, strict=True):
        label = normalize_unicode(row.fields[label_column])
        lines.setdefault(label, row.number)
        if _LINE_BREAK.search(label):
            raise _joined_lines_error(path, row, label_column)
        if label and (means_unlabeled(label) or _MISSING.fullmatch(label)):
            raise _error(path, row, f"the label is '{printable(label)}'; leave it empty for unlabeled images")
        if label != by_image.setdefault(image, label):
            labels = " and ".join(f"'{printable(text)}'" for text in (by_image[image], label))
            raise _error(path, row, f"{display_name(image)} has two labels, {labels}")
    labeled = {image: label for image, label in by_image.items() if label}
    if not labeled:
        raise UserError(f"labels: {display_name(path)} has no labels in the column '{printable(header[label_column])}'")
    if similar := find_variants(sorted(set(labeled.values()))):
        first, second = (f"'{printable(name)}' (line {lines[name]})" for name in similar)
        raise UserError(
            f"labels: the labels {first} and {second} in {display_name(path)} seem to be the same class: spell them "
            "the same way or, if they are different classes, rename one of them"
        )
    split_columns = split_columns if reads_splits else []
    roles = _read_splits(path, header, rows, matches, split_columns) if split_columns else {}
    titles = printable(header[image_column]), printable(header[label_column])
    split_title = printable(header[split_columns[0]]) if split_columns else None
    return ImageLabels(labeled, roles, *titles, split_title, sha256(data).hexdigest())


def _parse_csv(path: Path, text: str) -> list[_Row]:
    """Return the rows of a CSV file, of which the first one contains the column names. Empty lines are left out."""
    if text[:4].lower() == "sep=":  # a line that tells Excel the delimiter
        text = text[len(text.split("\n", 1)[0]) :]
    first_line = _LINE_BREAK.split(text.lstrip(" \r\n"), maxsplit=1)[0]
    is_tsv = path.suffix.lower() == ".tsv" and "\t" in first_line
    delimiter = "\t" if is_tsv else max(",;\t", key=first_line.count)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[_Row] = []
    line = 1
    try:
        for fields in reader:
            rows.append(_Row(line, [field.strip() for field in fields]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise _error(
            path,
            _Row(line, []),
            "a quotation mark in this line is not closed, or is closed in the middle of a field "
            f"({error}, line {reader.line_num}): remove or move it; within a quoted field, write quotation marks twice",
        ) from error
    rows = [row for row in rows if any(row.fields)]
    if len(rows) < 2:
        raise UserError(
            f"labels: {display_name(path)} needs a line of column names, and one line for each labeled image"
        )
    for row in rows:
        if len(row.fields) != len(rows[0].fields):
            if joined := [column for column, field in enumerate(row.fields) if _LINE_BREAK.search(field)]:
                raise _joined_lines_error(path, row, joined[0])
            raise _error(
                path, row, f"{format_count(len(row.fields), 'fields')}, but the first line has {len(rows[0].fields)}"
            )
    return rows


def _find_image_column(
    path: Path, header: list[str], rows: list[_Row], images: Sequence[str], root: Path
) -> tuple[int, _Match]:
    """Return the number of the column of image names, and the form in which its values are compared with these names.

    Columns that are named like labels, and columns without a name, such as the row numbers that pandas writes, have
    the lowest priority. Columns of numbers are not used if another column contains file names. If there is no column in
    which most values are names of images, the column with the largest number of names is returned, unless it is named
    like labels.
    """
    numbers = {column for column in range(len(header)) if all(row.fields[column].isdecimal() for row in rows)}
    texts = [column for column in range(len(header)) if column not in numbers]
    columns = texts if _contain_file_names(texts, rows, images) else range(len(header))
    priority = [column for column in columns if header[column] and not LABEL_LIKE.fullmatch(header[column].lower())]
    others = [column for column in columns if column not in priority]
    match = _match_columns(priority, rows, images, root)
    if not match.candidates:
        fallback = _match_columns(others, rows, images, root)
        match = fallback if fallback.candidates or not match.max_count else match
    numbers.intersection_update(others)
    chosen = match.candidates or [
        column
        for column, count in match.counts.items()
        if count == match.max_count > 0 and column not in numbers and not LABEL_LIKE.fullmatch(header[column].lower())
    ]
    if not chosen:
        example = f", such as {display_name(images[0])}" if images else ""
        contents = [
            f"'{printable(title)}' ({_describe(value)}, …)" for title, value in zip(header, rows[0].fields, strict=True)
        ]
        raise UserError(
            f"labels: no column of {display_name(path)} contains names of images in {display_name(root)}{example}. Its "
            f"columns are {format_names(contents)}. Write paths relative to this folder, and separate columns by "
            "commas, semicolons or tabs"
        )
    column = chosen[0]
    if different := [other for other in match.candidates if match.values[other] != match.values[column]]:
        names = " and ".join(f"'{printable(header[number])}'" for number in (column, different[0]))
        raise UserError(
            f"labels: the columns {names} of {display_name(path)} both contain names of images: remove one of them or, "
            "if it contains the labels, rename it to `label`"
        )
    title = _normalize(header[column])
    is_name = bool({title, match.make_relative(title)} & match.by_name.keys())
    if is_name and all(_normalize(row.fields[column]) != title for row in rows):
        raise UserError(
            f"labels: the first line of {display_name(path)} must contain column names, such as file,label; it "
            f"contains {printable(title)}"
        )
    return column, match


def _match_images(path: Path, header: list[str], rows: list[_Row], column: int, match: _Match, root: Path) -> list[str]:
    """Return the image that each row names in the column `column`.

    Raises:
        UserError: if a name matches no image or several images.
    """
    matches = [match.by_name.get(value, []) for value in match.values[column]]
    where = f"names in the column '{printable(header[column])}' of {display_name(path)}"
    if missing := [row for row, images in zip(rows, matches, strict=True) if not images]:
        raise UserError(
            f"labels: {len(missing):,} of {len(rows):,} {where} match no image in {display_name(root)}: "
            f"{_list_values(missing, column)}. Remove these lines, or write the images' paths relative to this folder"
        )
    if ambiguous := [row for row, images in zip(rows, matches, strict=True) if len(images) > 1]:
        raise UserError(
            f"labels: {where} match several images in {display_name(root)}: {_list_values(ambiguous, column)}. Write "
            "the images' paths relative to this folder"
        )
    return [image for (image,) in matches]


def _reject_joined_lines(path: Path, table: list[_Row], image_column: int, match: _Match) -> None:
    """Raise UserError if a quoted field seems to contain other lines, because of a stray quotation mark.

    An image name must not contain line breaks. Other fields, such as descriptions, may contain line breaks, but then
    not the names of images that have no row.
    """
    joined = [row for row in table if any(map(_LINE_BREAK.search, row.fields))]
    if not joined:
        return
    with_row = {image for row in table for image in match.find_images(row.fields[image_column])}
    for row in joined:
        for column, field in enumerate(row.fields):
            images = {image for part in _SEPARATOR.split(field) for image in match.find_images(part.strip())}
            is_name = column == image_column and row is not table[0]
            if _LINE_BREAK.search(field) and (is_name or images - with_row):
                raise _joined_lines_error(path, row, column)


def _contain_file_names(columns: Sequence[int], rows: Sequence[_Row], images: Sequence[str]) -> bool:
    """Return whether more than a tenth of a column's values are file names of images, which may have other suffixes."""
    stems = {_without_suffix(basename(_normalize(path_to_text(image)))) for image in images}

    def is_file_name(row: _Row, column: int) -> bool:
        name = basename(_normalize(row.fields[column]))
        return bool(re.search(r"\.[A-Za-z]\w*$", name)) and _without_suffix(name) in stems

    return any(10 * sum(is_file_name(row, column) for row in rows) > len(rows) for column in columns)


def _match_columns(columns: Sequence[int], rows: Sequence[_Row], images: Sequence[str], root: Path) -> _Match:
    """Return columns in the first form in which most values of a column are names of images.

    The values may be paths relative to `root`, paths that lead to `root`, or file names, with or without suffix. If no
    column matches in any form, the form in which a column has the largest number of names is returned.
    """
    texts = [_normalize(path_to_text(image)) for image in images]
    folders = {normalize_unicode(path_to_text(path.name)) for path in (root, root.resolve())}
    conversions: list[Callable[[str], str]] = [str]
    conversions += [partial(_below_folder, folder=folder, cut=cut) for folder in folders for cut in _CUTS]
    best = _Match({}, {}, {}, str)
    for make_relative in conversions:
        values = {column: [make_relative(_normalize(row.fields[column])) for row in rows] for column in columns}
        for shorten in (str, _without_suffix, basename, lambda text: _without_suffix(basename(text))):
            by_name: dict[str, list[str]] = defaultdict(list)
            for text, image in zip(texts, images, strict=True):
                by_name[shorten(text)].append(image)
            counts = {column: sum(name in by_name for name in names) for column, names in values.items()}
            match = _Match(counts, values, by_name, make_relative)
            if match.candidates:
                return match
            best = max(best, match, key=lambda match: match.max_count)
    return best


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
    if any(named):
        raise UserError(
            f"labels: {display_name(path)} has {len(candidates)} columns named '{titles[candidates[0]]}': rename or "
            f"remove all but one of them. Its columns are {_list_titles(header)}"
        )
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
    return format_names([f"{_describe(row.fields[column])} (line {row.number})" for row in rows])


def _describe(field: str) -> str:
    return printable(field) or "an empty field"


def _list_titles(header: Sequence[str]) -> str:
    return format_names([f"'{printable(title)}'" for title in header])


def _joined_lines_error(path: Path, row: _Row, column: int) -> UserError:
    first = row.number + len(_LINE_BREAK.findall("".join(row.fields[:column])))
    last = first + len(_LINE_BREAK.findall(row.fields[column]))
    return _error(
        path,
        row._replace(number=first),
        f"a quotation mark in this line opens a field that ends only in line {last}: remove stray quotation marks or, "
        "if these lines are one field, write it in a single line",
    )


def _error(path: Path, row: _Row, problem: str) -> UserError:
    return UserError(f"labels: {display_name(path)}, line {row.number}: {problem}")
