"""Find the labels of a dataset before it is converted, or even fetched."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rr import paths
from rr.data.arrow import to_numpy
from rr.data.class_names_metadata import parse_class_names
from rr.data.shapes import CLASS_NAMES as SHAPES_CLASSES
from rr.data.sources import digits, slimagenet, tiny_imagenet
from rr.data.sources.validation_split import count_validation_images
from rr.errors import UserError
from rr.evaluate.protocol_checks import DatasetLabels
from rr.params import Params, PublishedSource
from rr.workflow import stage_runs
from rr.workflow.records import find_current_record

# Numbers of training images, test images and classes for the sources whose size never varies. All classes of a source
# have the same number of images (in `digits`, almost the same). A dataset without labels has 0 classes.
_FIXED_SIZES = {
    "digits": (digits.NUM_TRAIN, digits.CLASSES * digits.TEST_PER_CLASS, digits.CLASSES),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "cifar100_20": (50_000, 10_000, 20),
    "stl10": (5_000, 8_000, 10),
    "stl10_unlabeled": (100_000, 8_000, 0),
    "tiny_imagenet": (
        tiny_imagenet.CLASSES * tiny_imagenet.TRAIN_PER_CLASS, tiny_imagenet.TEST, tiny_imagenet.CLASSES,
    ),
    "slimagenet64": (
        slimagenet.CLASSES * slimagenet.TRAIN_PER_CLASS,
        slimagenet.CLASSES * (slimagenet.PER_CLASS - slimagenet.TRAIN_PER_CLASS),
        slimagenet.CLASSES,
    ),
}  # fmt: skip


def find_dataset_labels(params: Params, name: str) -> DatasetLabels | None:
    """Return the class names and labels of a dataset, or None if they are unknown until `rr fetch` has run.

    This function reads the files written by `rr fetch` and `rr convert`, unless the images were fetched with different
    parameters. It ignores damaged files, because the stages that read them report the damage.
    """
    files = paths.DatasetPaths(name)
    try:
        if not must_fetch(params, name):
            return _read_labels(files.images if files.images.is_file() else files.index)
    except (OSError, pa.ArrowException, KeyError, ValueError, UserError):
        pass
    return _make_labels(params.datasets[name].source)


def must_fetch(params: Params, name: str) -> bool:
    """Return whether `rr fetch` has not run for a dataset, or has run with different parameters."""
    files = paths.DatasetPaths(name)
    if not files.images.exists() and not files.index.exists():
        return True
    has_record = paths.record_file(files.raw_dir).is_file()  # files without a record come from another machine
    return has_record and find_current_record(stage_runs.make_fetch_run(params, name)) is None


def _read_labels(path: Path) -> DatasetLabels:
    """Read the labels from a dataset's raw file or index."""
    table = pq.ParquetFile(path).read(["split", "label"])  # `pq.read_table` would load pyarrow.dataset
    labels = to_numpy(table["label"])
    is_test = np.array(table["split"].to_pylist()) == "test"
    return DatasetLabels(parse_class_names(table.schema.metadata), labels[~is_test], labels[is_test])


def _make_labels(source: Any) -> DatasetLabels | None:
    """Return labels in arbitrary order, or None if the source's numbers of images and classes are unknown."""
    if source.kind == "shapes":
        num_train, num_test, num_classes = source.train, source.test, len(SHAPES_CLASSES)
    elif source.kind in _FIXED_SIZES:
        num_train, num_test, num_classes = _FIXED_SIZES[source.kind]
        if isinstance(source, PublishedSource) and source.validation_fraction:
            num_test = count_validation_images(num_train, num_classes, source.validation_fraction)
            num_train -= num_test
    else:
        return None
    train, test = (
        np.arange(count) % num_classes if num_classes else np.full(count, -1) for count in (num_train, num_test)
    )
    return DatasetLabels([str(label) for label in range(num_classes)], train, test)
