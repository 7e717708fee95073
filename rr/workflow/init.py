"""`rr init`: add your own images to `params.yaml`, with a grid and settings that suit the images' number and size."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rr.data.folder_listing import (
    BROKEN_LINK,
    OTHER_SUFFIX,
    describe_non_folder,
    file_suffix,
    image_kind,
    list_folder,
)
from rr.data.printable_names import display_name, display_names
from rr.errors import UserError
from rr.evaluate.protocol_checks import DatasetLabels, find_protocol_problem
from rr.params import Params, ParquetSource, parse_params
from rr.params.base import NAME
from rr.paths import PARAMS_FILE, check_image_folder, expand_user
from rr.runtime.formatting import format_count
from rr.workflow.params_file import dump_yaml, make_yaml, set_axis
from rr.workflow.suites import add_methods

# On two cores, training Conv-4 on a million views takes between one minute (32 px) and a quarter of an hour (128 px).
MAX_VIEWS = 1_000_000
_MAX_EPOCHS = 200  # as in the paper
IMAGE_SIZES = (32, 64, 96, 128)
_STORED_SIZES = (160, 256)  # 256 preserves detail in small crops; below 160, squares are about as good
_MAX_IMAGES_OF_LARGEST_SIZE = 100_000  # 3 GB as JPEG
_BASE = "relational"
_PROTOCOLS = ("linear", "knn", "retrieval", "embedding")  # the last one can also be used without labels


class PretrainingSettings(NamedTuple):
    """Pretraining settings: the number of views per image, of images per mini-batch, and of epochs."""

    views: int
    batch_size: int
    epochs: int


def choose_image_size(median_side: int) -> int:
    """Return the largest of 32, 64, 96 and 128 that does not exceed the images' median shorter side, or else 32."""
    return max((size for size in IMAGE_SIZES if size <= median_side), default=IMAGE_SIZES[0])


def choose_stored_size(median_side: int, num_images: int) -> int | None:
    """Return the size at which photographs are stored, or None if squares of the image size are stored instead.

    The size is 256, or 160 if 256 exceeds the images' median shorter side or there are more than 100,000 images.
    If 160 also exceeds the median shorter side, the images are stored as squares.
    """
    sizes = _STORED_SIZES if num_images <= _MAX_IMAGES_OF_LARGEST_SIZE else _STORED_SIZES[:1]
    return max((size for size in sizes if size <= median_side), default=None)


def choose_settings(num_images: int) -> PretrainingSettings:
    """Return settings that limit training to a million views, but allow at least one epoch with two views per image.

    The number of views per image is 8; it is reduced to 4 or 2 if an epoch would otherwise have more than a million
    views. The number of epochs is at most 200. A mini-batch has 64 images or, if there are fewer than 256 images, a
    quarter of them, but at least two. With two views, it has fewer if the last mini-batch would otherwise have a single
    image.
    """
    views = next((views for views in (8, 4) if views * num_images <= MAX_VIEWS), 2)
    epochs = min(_MAX_EPOCHS, max(1, MAX_VIEWS // (views * num_images)))
    batch_size = min(64, max(2, num_images // 4))
    while views == 2 and num_images % batch_size == 1:
        batch_size -= 1
    return PretrainingSettings(views, batch_size, epochs)


def choose_name(path: Path, name: str | None, params: Params, params_file: Path) -> str:
    """Return the name of the dataset: `name` or, if it is None, the name of the folder or file at `path`.

    `params` are the contents of `params_file`.

    Users who need other `source` keys can define the dataset first. The definition must then have the same path.

    Raises:
        UserError: if the name is invalid, or if `params` already has a different dataset with this name or a method
            with the name that `set_grid_for_dataset` would use.
    """
    if not (name := name or _default_name(path)):
        raise UserError(
            f"cannot derive a dataset name from {display_name(path)}, because dataset names may contain only "
            "letters (A to Z), digits, - and _: choose a name with --name"
        )
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"invalid name '{display_name(name)}': choose one with --name that starts with a letter or digit and "
            "contains only letters, digits, - and _"
        )
    is_other = name in params.datasets and not _is_source_of(path, name, params)
    if is_other or _method_name(name) in params.methods:
        raise UserError(
            f"{params_file} already defines {name}: if images were added or removed, run `rr fetch --dataset {name}`. "
            "Then run `dvc repro`, if the grid lists it. For another folder, choose a different name with --name"
        )
    return name


def check_base_method(params: Params, params_file: Path) -> None:
    """Raise UserError if `params`, the contents of `params_file`, lack the method that `rr init` copies."""
    if _BASE not in params.methods:
        raise UserError(
            f"{params_file} does not define the method {_BASE}, which rr init needs: copy it from the params.yaml of a "
            "new project (rr init in an empty folder creates one)"
        )


def find_in_grid(path: Path, name: str | None, source: dict[str, str], params: Params) -> str | None:
    """Return the name of the dataset with the images at `path` if an earlier `rr init` has added it, or None.

    The result is also None if the grid no longer trains on the dataset, or if `source`, the return value of
    `make_source_config`, contradicts the dataset's source. That source may have additional keys.
    """
    name = name or _default_name(path)
    if not _is_source_of(path, name, params):
        return None
    values = params.datasets[name].source.model_dump()
    is_same = all(values.get(key) == value for key, value in source.items() if key != "path")
    is_trained = any(name in grid.dataset and _method_name(name) in grid.method for grid in params.grid)
    return name if is_same and is_trained else None


def _default_name(path: Path) -> str:
    """Return the name of a folder or file without accents, as a valid name of a dataset.

    Other invalid characters become hyphens. The result is empty if there are letters other than A to Z.
    """
    absolute = Path(os.path.abspath(expand_user(path)))  # does not follow links
    text = unicodedata.normalize("NFKD", absolute.stem if absolute.is_file() else absolute.name)
    text = "".join(char for char in text if not unicodedata.combining(char))
    if any(char.isalpha() and not char.isascii() for char in text):
        return ""
    return re.sub("[^A-Za-z0-9_-]+", "-", text).strip("-_")


def _is_source_of(path: Path, name: str, params: Params) -> bool:
    """Return whether `params` defines a dataset `name` whose images come from `path`."""
    source_path = getattr(params.datasets[name].source, "path", None) if name in params.datasets else None
    return source_path is not None and expand_user(source_path).resolve() == expand_user(path).resolve()


def check_folder(path: Path) -> None:
    """Raise UserError if `path` is not valid UTF-8, or if it overlaps with a folder that `rr` writes to."""
    check_utf8(path)
    check_image_folder(path)


def check_utf8(path: Path) -> None:
    """Raise UserError if `path` is not valid UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{display_name(path)}: the path is not valid UTF-8, so params.yaml cannot contain it: rename it, or use a "
            "link to it"
        ) from error


def make_source_config(
    path: Path,
    name: str | None,
    params: Params,
    params_file: Path,
    *,
    labels: str = "auto",
    skip_unreadable: bool = False,
) -> dict[str, str]:
    """Return the `source` section for a folder of images, a Parquet file, or a folder of Parquet files.

    The kind is that of the dataset with the same name and path in `params`, if there is one.

    Args:
        path: the folder or file.
        name: the dataset's name; defaults to that of the folder or file.
        params: the contents of `params_file`.
        params_file: the parameter file.
        labels: the `labels` key of the source: "auto", "none" or, for a folder of images, the path of a CSV file.
        skip_unreadable: whether to leave out images that cannot be read.

    Raises:
        UserError: if `path` is neither a folder nor a Parquet file, if it contains both images and Parquet files with
            images, or if `labels` is the path of a CSV file but the images are in Parquet files.
    """
    options = {"path": str(path)}
    if labels != "auto":
        options["labels"] = labels
    if skip_unreadable:
        options["on_unreadable"] = "skip"
    kind = _find_source_kind(path, name, params, params_file, options)
    if kind == "parquet" and labels not in ("auto", "none"):
        raise UserError(
            "--labels applies only to folders of images: in Parquet files, the labels are in a column, which the "
            "key `label` of the source names"
        )
    return {"kind": kind, **options}


def _find_source_kind(path: Path, name: str | None, params: Params, params_file: Path, options: dict[str, str]) -> str:
    """Return the kind of source at `path`; see `make_source_config`. `options` are the other keys of the source."""
    expanded = expand_user(path)
    if expanded.is_file() and expanded.suffix.lower() == ".parquet":
        return "parquet"
    if not expanded.is_dir():
        what = describe_non_folder(expanded)
        raise UserError(f"{display_name(path)} is not a folder or a Parquet file{what}: use a folder of images")
    name = name or _default_name(path)
    if _is_source_of(path, name, params):
        return params.datasets[name].source.kind
    listing = list_folder(expanded, image_kind())
    tables = [
        file.name
        for file in listing.skipped
        if file_suffix(file.name) == ".parquet" and file.reason in (OTHER_SUFFIX, BROKEN_LINK)
    ]
    if tables and not listing.files:
        return "parquet"
    if not any(_may_contain_images(expanded / table) for table in tables):
        return "imagefolder"
    parquet_options = {key: value for key, value in options.items() if key != "labels" or value == "none"}
    entries = [
        format_dataset_entry(name or "images", {"kind": "imagefolder", **options}),
        format_dataset_entry(name or "images", {"kind": "parquet", **parquet_options}),
    ]
    images = display_names(listing.files)
    raise UserError(
        f"{display_name(path)} contains images ({images}) and Parquet files with images "
        f"({display_names(tables)}), and either may be the dataset. Use a folder "
        f"that contains only one of them or, to choose, {explain_entry('one of these entries', params_file)}:\n"
        + "\n".join(entries)
    )


def _may_contain_images(path: Path) -> bool:
    """Return whether a Parquet file has a column that may contain images, or True if the file cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rr.data.sources.parquet_columns import has_image_column

    try:
        with open(path, "rb") as file:
            schema = pq.read_schema(file)
    except (OSError, pa.ArrowException):
        return True
    return has_image_column(schema, ParquetSource(kind="parquet", path=str(path)))


def add_dataset(text: str, name: str, source: dict[str, str], image_size: int, stored_size: int | None = None) -> str:
    """Return the text of a parameter file with one more dataset. Comments are kept."""
    yaml = make_yaml()
    params = yaml.load(text)
    value = yaml.load("{source: {}, image_size: 0}")
    value.fa.set_block_style()
    value["source"].fa.set_flow_style()
    value["source"].update(source)
    value["image_size"] = image_size
    if stored_size:
        value["stored_size"] = stored_size
        value.yaml_add_eol_comment("height and width of the views and of the evaluated images", "image_size")
        value.yaml_add_eol_comment("shorter side of the stored photographs; views are cropped from them", "stored_size")
    params["datasets"].insert(0, name, value)  # at the end, it would follow the next section's comment
    return dump_yaml(yaml, params)


def set_grid_for_dataset(text: str, name: str, labels: DatasetLabels) -> str:
    """Return the text of a parameter file whose grid trains on the dataset `name` and, if possible, evaluates on it.

    A method with the settings from `choose_settings` is added. The grid also includes random weights as a lower bound,
    and the protocols that the labels and the number of images allow. Without labels, this is only `embedding`.

    Args:
        text: the text of the parameter file, which defines the dataset and the method `relational`.
        name: name of the dataset.
        labels: its labels.

    Raises:
        UserError: if there are fewer than two training images.
    """
    num_images = len(labels.train_labels)
    if num_images < 2:
        raise UserError(f"{name}: a training split of {format_count(num_images, 'images')} is too small: add images")
    params = parse_params(text, Path("params.yaml"))
    method, settings = _method_name(name), choose_settings(num_images)
    known = [protocol for protocol in _PROTOCOLS if protocol in params.protocols]
    protocols = [p for p in known if not find_protocol_problem(p, params.protocols[p], name, labels)]
    grid: dict[str, list[Any]] = {
        "data": [name],
        "dataset": [name],
        "backbone": ["conv4"],
        "method": ["random", method] if protocols and "random" in params.methods else [method],
        "seed": [1],
        "target": [name] if protocols else [],
        "protocol": protocols,
    }
    yaml = make_yaml()
    content = yaml.load(text)
    for axis, values in grid.items():
        set_axis(content["grid"], axis, values)
    if "claims" in content["grid"]:
        set_axis(content["grid"], "claims", [])  # the old ones are about the previous grid
    add_methods(content["methods"], {method: {"base": _BASE, **settings._asdict()}}, "rr init")
    num_views = settings.views * settings.epochs * num_images
    content["methods"].yaml_set_comment_before_after_key(
        method,
        f"Written by rr init for {num_images:,} training images: {settings.views} views per image and "
        f"epoch,\n{format_count(settings.epochs, 'epochs')}, {num_views:,} views in total.",
        indent=2,
    )
    return dump_yaml(yaml, content)


def format_dataset_entry(name: str, source: dict[str, str]) -> str:
    """Return a dataset's `params.yaml` entry, for a message that explains how to edit the file."""
    return add_dataset("datasets:\n  {}\n", name, source, 64).partition("\n")[2].rstrip()


def explain_entry(what: str, params_file: Path) -> str:
    """Return the end of a message that asks the user to add `what`, such as an entry, to the parameter file."""
    create = "" if params_file.is_file() else f"run `rr init` without arguments, which creates {params_file}, "
    return f"{create}add {what} to the `datasets` section of {params_file}, and run the same command again"


def describe_new_dataset(params: Params, path: Path, name: str, test_labels: np.ndarray) -> str:
    """Return a few lines that describe what the parameter file at `path` now contains and which commands to run next.

    `test_labels` contains the label of each test image, int64 (N_test,); -1 if unlabeled.
    """
    method = _method_name(name)
    settings: Any = params.methods[method]
    grid, dataset = params.grid[0], params.datasets[name]
    size = f"{dataset.image_size} × {dataset.image_size} pixels"
    if dataset.stored_size:
        size += f", cropped from photographs with a shorter side of at most {dataset.stored_size} pixels"
    evaluations = f"evaluations: {', '.join(grid.protocol)}"
    if not grid.target:
        reason = "too few test images"
        if len(test_labels) > 0 and test_labels.min() == test_labels.max() != -1:
            reason = "all test images belong to one class, and there are too few for an evaluation without labels"
        evaluations = f"no evaluations: {reason}"
    message = (
        f"{path}: dataset {name} with images of {size}; method {method} with {settings.views} views per "
        f"image, batches of {settings.batch_size} images and {format_count(settings.epochs, 'epochs')}; {evaluations}"
    )
    if path.resolve() != PARAMS_FILE.resolve():  # the only file that DVC reads
        return message
    next_commands = (
        f"`rr check {name}` looks for duplicates and other problems; `dvc repro` trains and writes the report"
    )
    return f"{message}\nnext: {next_commands}"


def _method_name(dataset: str) -> str:
    return f"{_BASE}-{dataset}"
