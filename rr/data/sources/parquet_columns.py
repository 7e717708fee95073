"""Choose the image and label columns of a Parquet file, and read the labels and class names."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rr.data import raw
from rr.data.printable_names import display_name, normalize_unicode, printable
from rr.data.sources.class_names import LABEL_LIKE, LABEL_NAMES, means_unlabeled
from rr.data.sources.split_names import MAX_SPLITS, TRAIN, find_split, split_words
from rr.errors import UserError
from rr.params import ParquetSource

_IMAGE_NAMES = ("image", "img")
_HOW_TO_EMBED = (
    "write the contents of the image files as bytes, one image in each row (text such as paths, URLs or base64, lists, "
    "pixel values and dictionary-encoded bytes are not read)"
)
_KEY_HINT = "in this dataset's source in params.yaml"


class Columns(NamedTuple):
    """The names of the columns to read. `label` is None if the images are unlabeled."""

    image: str
    label: str | None


def choose_columns(path: Path, schema: pa.Schema, source: ParquetSource) -> Columns:
    """Return the image and label columns that `source` names or, by default, the columns that can be recognized.

    Raises:
        UserError: if the columns do not exist or have unsuitable types, or if several columns are possible.
    """
    features = _read_huggingface_features(schema)
    return Columns(
        _choose_image_column(path, schema, source.image, features),
        None if source.labels == "none" else _choose_label_column(path, schema, source.label, features),
    )


def check_columns(path: Path, schema: pa.Schema, columns: Columns, expected: pa.Schema, expected_path: Path) -> None:
    """Raise UserError if a file lacks columns that another file of the dataset has, or if their types differ."""
    for name in filter(None, columns):
        _check_unique(path, schema, name)
        if name not in schema.names:
            raise _column_error(
                path,
                schema,
                f"has no column '{printable(name)}', which {display_name(expected_path)} has; export both files with "
                "the same columns",
            )
        field, other = schema.field(name).type, expected.field(name).type
        is_same_kind = is_image_type(field) if name == columns.image else _label_kind(field) == _label_kind(other)
        if not is_same_kind:
            raise _column_error(
                path,
                schema,
                f"has a different type in column '{printable(name)}' than {display_name(expected_path)} ({other}); "
                "export both files with the same column types",
            )


def find_null_columns(metadata: pq.FileMetaData) -> frozenset[str]:
    """Return the columns that contain only nulls, according to the statistics of a file with at least one row.

    Each struct field is a column. For a file without rows, the result is empty.
    """
    if not metadata.num_rows:
        return frozenset()
    with_values = set()
    for number in range(metadata.num_columns):
        for group in range(metadata.num_row_groups):
            chunk = metadata.row_group(group).column(number)
            if not chunk.statistics or chunk.statistics.null_count != chunk.num_values:
                with_values.add(chunk.path_in_schema)
                break
    return frozenset({metadata.schema.column(number).path for number in range(metadata.num_columns)} - with_values)


def check_no_label_in_path(names: Sequence[str]) -> None:
    """Raise UserError if a file is in a folder such as `label=cat`."""
    for name in names:
        for folder in name.split("/")[:-1]:
            key, separator, _ = folder.partition("=")
            if separator and LABEL_LIKE.fullmatch(key.lower()):
                raise UserError(
                    f"{display_name(name)}: labels in folder names ({printable(folder)}) are not read: write them into "
                    f"a column, or set `labels: none` {_KEY_HINT}"
                )


def has_image_column(schema: pa.Schema, source: ParquetSource) -> bool:
    """Return whether a file has a column that may contain images."""
    return any(is_image_type(field.type) for field in schema if source.image in (None, field.name))


def has_any_label(file: pq.ParquetFile, columns: Columns) -> bool:
    """Return whether a file has at least one label."""
    if columns.label is None or columns.label not in file.schema_arrow.names:
        return False
    labels = file.read(columns=[columns.label]).columns  # several only if other columns have the same name
    return any(label not in (None, raw.UNLABELED) for column in labels for label in column.to_pylist())


def read_labels(
    path: Path, file: pq.ParquetFile, column: str, excluded_rows: Collection[int], *, checks_names: bool
) -> list[int] | list[str | None]:
    """Return the labels of all rows: integers (-1 if unlabeled) or strings (None if unlabeled).

    Excluded rows are treated as unlabeled. Strings may have surrounding spaces.

    Raises:
        UserError: if an integer is out of range, if a string is empty or, if `checks_names` is true, if a string means
            "unlabeled".
    """
    array = file.read(columns=[column])[column]
    is_text = _label_kind(array.type) == "text"
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.string())
    values = [None if row in excluded_rows else value for row, value in enumerate(array.to_pylist())]
    if not is_text:
        labels = [raw.UNLABELED if value is None else value for value in values]
        for label in (min(labels, default=0), max(labels, default=0)):
            raw.check_label(label, display_name(path))
        return labels
    values = [value and normalize_unicode(value) for value in values]
    if empty := [row for row, value in enumerate(values) if value is not None and not value.strip()]:
        raise UserError(
            f"{display_name(path)}, row {empty[0]}: the label in column '{printable(column)}' is an empty "
            "string; use null for unlabeled images"
        )
    if checks_names and (unlabeled := sorted(value for value in {*values} if value and means_unlabeled(value))):
        raise UserError(
            f"{display_name(path)}, row {values.index(unlabeled[0])}: the label in column '{printable(column)}' is the "
            f"text '{printable(unlabeled[0])}'; use null for unlabeled images (or, in a column of integers, -1) or, if "
            "this is a class, specify `splits` in this dataset's source in params.yaml"
        )
    return values


def find_splits_in_other_columns(file: pq.ParquetFile, columns: Columns) -> dict[str, set[str]]:
    """Return, for each column that is not in `columns`, the splits whose names occur in its values.

    A column with many distinct values is assumed to contain no split names. For a column of Booleans or integers, such
    as `is_train` or `split`, the column name is considered instead of the values.
    """
    schema = file.schema_arrow
    roles = {}
    for field in schema:
        kind = _label_kind(field.type)
        if field.name in columns or schema.names.count(field.name) != 1 or kind is None:
            continue
        values: set[Any] = set()
        for batch in file.iter_batches(batch_size=1000, columns=[field.name]):
            values.update(value for value in batch.column(field.name).to_pylist() if value not in (None, ""))
            if len(values) > MAX_SPLITS:
                values.clear()
                break
        if kind == "text" and not pa.types.is_boolean(field.type):
            roles[field.name] = {role for value in values for word in split_words(value) if (role := find_split(word))}
        else:
            words = split_words(field.name)
            is_split = any(find_split(word) or word.lower() in ("split", "fold") for word in words)
            roles[field.name] = {TRAIN, "test"} if values and is_split else set()
    return roles


def read_class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Return the class names in a file's metadata (`huggingface` key), or None if they are missing."""
    names = _read_huggingface_features(schema).get(column, {}).get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    # JSON text may contain escaped lone surrogates, which are not valid characters.
    return [normalize_unicode(name.encode("utf-8", "backslashreplace").decode()) for name in names]


def other_image_columns(schema: pa.Schema, columns: Columns) -> list[str]:
    """Return the names of the columns that may contain images, or lists of images, but are not read."""

    def may_be_image(kind: pa.DataType) -> bool:
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return may_be_image(kind.value_type) if is_list else is_image_type(kind)

    return [printable(field.name) for field in schema if field.name not in columns and may_be_image(field.type)]


def is_image_type(kind: pa.DataType) -> bool:
    """Return whether values of a type may be images: bytes, or a struct with a `bytes` field."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and (
            pa.types.is_null(kind.field("bytes").type) or is_image_type(kind.field("bytes").type)
        )
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def describe_columns(schema: pa.Schema) -> dict[str, str]:
    """Return the type of each column."""
    return {printable(field.name): str(field.type) for field in schema}


def missing_image_problem(data: bytes | None, path: Any) -> str:
    """Return what is wrong with a row whose image bytes `data` are empty or None. `path` is the path that it stores."""
    if data is not None:
        return "the image is empty (0 bytes)"
    if not path:
        return "the image is missing"
    return (
        f"the image is missing; only its path is stored ({printable(str(path))}): write the file with embedded images"
    )


def _choose_image_column(path: Path, schema: pa.Schema, key: str | None, features: dict[str, Any]) -> str:
    candidates = list(dict.fromkeys(field.name for field in schema if is_image_type(field.type)))
    if key is not None:
        _check_unique(path, schema, key)
        if key not in candidates:
            raise _column_error(
                path,
                schema,
                f"has no column '{printable(key)}' of images; fix the `image` key {_KEY_HINT}, or {_HOW_TO_EMBED}",
            )
        return key
    marked = [name for name in candidates if features.get(name, {}).get("_type") == "Image"]
    named = [name for expected in _IMAGE_NAMES for name in _match_ignoring_case(candidates, expected)]
    choice = named[:1] or (marked if len(marked) == 1 else candidates)
    if len(choice) == 1:
        _check_unique(path, schema, choice[0])
        return choice[0]
    if candidates:
        raise _column_error(path, schema, f"has several columns of bytes; set `image: NAME` {_KEY_HINT}")
    raise _column_error(
        path,
        schema,
        f"has no column of embedded images (bytes, or a struct with a 'bytes' field): {_HOW_TO_EMBED}",
    )


def _choose_label_column(path: Path, schema: pa.Schema, key: str | None, features: dict[str, Any]) -> str | None:
    def is_label_column(name: str) -> bool:
        return any(field.name == name and _label_kind(field.type) for field in schema)

    if key is not None:
        _check_unique(path, schema, key)
        if not is_label_column(key):
            raise _column_error(
                path,
                schema,
                f"has no column '{printable(key)}' of integers or text; fix the `label` key {_KEY_HINT}",
            )
        return key
    if named := [name for expected in LABEL_NAMES for name in _match_ignoring_case(schema.names, expected)]:
        _check_unique(path, schema, named[0])
        if is_label_column(named[0]):
            return named[0]
        problem = f"has a column '{named[0]}' that contains neither integers nor text"
        raise _column_error(path, schema, f"{problem}; convert it, or set `label: NAME` or `labels: none` {_KEY_HINT}")
    columns = [name for name in dict.fromkeys(schema.names) if is_label_column(name)]
    marked = [name for name in columns if features.get(name, {}).get("_type") == "ClassLabel"]
    candidates = marked or [name for name in columns if LABEL_LIKE.fullmatch(name.lower())]
    if len(candidates) == 1:
        _check_unique(path, schema, candidates[0])
        return candidates[0]
    if all(is_image_type(field.type) for field in schema):
        return None
    problem = "has several columns that may be labels" if candidates else "has no column that is named like a label"
    raise _column_error(
        path, schema, f"{problem}; set `label: NAME`, or `labels: none` for unlabeled images, {_KEY_HINT}"
    )


def _match_ignoring_case(names: Sequence[str], expected: str) -> list[str]:
    """Return the names that match `expected` (lower case) regardless of case, with `expected` itself first."""
    return sorted((name for name in names if name.lower() == expected), reverse=True)


def _label_kind(kind: pa.DataType) -> str | None:
    """Return the kind of labels that a type can hold, "integer" or "text" (also for Booleans), or None."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return "integer"
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if is_string or pa.types.is_boolean(kind):
        return "text"
    return None


def _read_huggingface_features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return the description of each column in a file's `huggingface` metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _check_unique(path: Path, schema: pa.Schema, name: str) -> None:
    """Raise UserError if several columns have the name `name`."""
    if (count := schema.names.count(name)) > 1:
        raise _column_error(path, schema, f"has {count} columns named '{printable(name)}': rename all but one of them")


def _column_error(path: Path, schema: pa.Schema, problem: str) -> UserError:
    columns = ", ".join(f"'{printable(field.name)}' ({field.type})" for field in schema)
    return UserError(f"{display_name(path)} {problem}. Its columns are {columns}")
