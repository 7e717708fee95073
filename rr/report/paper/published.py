"""The paper's results from `paper.csv`. Each row lists one result, its source and its status.

The last rows are lightly's results for methods that are not in the paper or whose recipe differs from the paper's.

The tables contain the values from version 1 on arXiv. "Heads" is the head ablation in the final version. "Appendix B"
lists results that are believed to be in the appendix but whose values could not be recovered. The paper's comparisons
of aggregation functions and losses have no rows, because not even the backbones and datasets are known.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

PAPER_SEEDS = 3  # number of seeds behind every mean in the paper
LIGHTLY = "lightly"  # the table of results that are not from the paper
PAPER_CSV = Path(__file__).with_name("paper.csv")

TableName = Literal[
    "Table 1", "Table 2", "Table 3", "Heads", "Figure 2a", "Figure 2b", "Figure 2c", "Appendix B", "lightly"
]  # fmt: skip
MethodKind = Literal[
    "supervised", "random", "deepcluster", "rotation", "infomax", "simclr", "relational", "dot", "encoder-dot", "byol",
    "barlow",
]  # fmt: skip
DatasetName = Literal["cifar10", "cifar100", "cifar100-20", "tiny-imagenet", "slimagenet64", "stl10", "stl10-unlabeled"]
# "digitized": read from a plot. "not given": the paper prints "n/a" or nothing. "not recovered": believed to exist, but
# no source is available.
Status = Literal["confirmed", "digitized", "unconfirmed", "not given", "not recovered"]

_PAPER_NAMES = {
    "supervised": "Supervised",
    "random": "Random weights",
    "deepcluster": "DeepCluster",
    "rotation": "RotationNet",
    "infomax": "Deep InfoMax",
    "simclr": "SimCLR",
    "relational": "Relational",
    "dot": "Dot product",
    "encoder-dot": "Encoder + dot product",
    "byol": "BYOL",
    "barlow": "Barlow Twins",
    "conv4": "Conv-4",
    "resnet8": "ResNet-8",
    "resnet32": "ResNet-32",
    "resnet34": "ResNet-34",
    "resnet56": "ResNet-56",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar100-20": "CIFAR-100-20",
    "tiny-imagenet": "tiny-ImageNet",
    "slimagenet64": "SlimageNet64",
    "stl10": "STL-10",
    "stl10-unlabeled": "STL-10",
}


@dataclass(frozen=True)
class PublishedResult:
    """One result from the paper: mean and standard deviation over `num_seeds` seeds, measured in `unit`.

    `views` (K) and `label_fraction` are set only in the studies that vary them.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    experiment: Annotated[str, Field(pattern="^[A-Z][1-9]$")]
    table: TableName
    method: MethodKind
    backbone: Literal["conv4", "resnet8", "resnet32", "resnet34", "resnet56", "resnet18-cifar"]
    dataset: DatasetName
    target: DatasetName
    protocol: Literal["linear", "finetune", "knn"]
    views: Annotated[int, Field(ge=2)] | None
    label_fraction: Annotated[float, Field(ge=0, le=1)] | None
    mean: float | None
    std: Annotated[float, Field(ge=0)] | None
    unit: Literal["percent", "points above K = 2", "points above conv4"]
    status: Status
    source: Annotated[str, Field(min_length=1)]

    @property
    def num_seeds(self) -> int:
        """The number of seeds behind the result."""
        return 1 if self.table == LIGHTLY else PAPER_SEEDS

    @property
    def is_trained_classifier_accuracy(self) -> bool:
        """Whether this is most likely the accuracy of the trained network itself, not of a new linear layer.

        The authors' code prints this accuracy at the end of supervised training.
        """
        return self.method == "supervised" and self.target == self.dataset

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured, where the result is printed, and its status. No two rows have the same key."""
        measured = (self.table, self.method, self.backbone, self.dataset, self.target, self.protocol)
        return (*measured, self.views, self.label_fraction, self.status)


_PublishedResults = TypeAdapter(list[PublishedResult])


@cache
def load_published() -> tuple[PublishedResult, ...]:
    """Return all results in the order of `paper.csv`.

    Raises:
        ValueError: if a value is invalid or inconsistent with the status of its row, or if a row occurs twice.
    """
    with open(PAPER_CSV, encoding="utf-8", newline="") as text:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(text)]
    try:
        results = _PublishedResults.validate_python(rows)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        row, *column = first["loc"]
        raise ValueError(
            f"{PAPER_CSV.name}, line {int(row) + 2}, {'.'.join(map(str, column))}: {first['msg']}"
        ) from error
    first_lines: dict[tuple[Any, ...], int] = {}
    for line, result in enumerate(results, 2):
        place, has_value = f"{PAPER_CSV.name}, line {line}", result.status not in ("not given", "not recovered")
        if has_value and result.mean is None:
            raise ValueError(f"{place}: a result with the status {result.status!r} needs a mean")
        if not has_value and (result.mean, result.std) != (None, None):
            raise ValueError(f"{place}: a result with the status {result.status!r} must have neither a mean nor a std")
        if first_lines.setdefault(result.key, line) != line:
            raise ValueError(f"{place}: repeats the result in line {first_lines[result.key]}")
    return tuple(results)


def name_in_paper(name: str) -> str:
    """Return the paper's spelling of the name of a method, backbone or dataset."""
    return _PAPER_NAMES[name]
