"""The paper's figures, from `paper.csv`: one row each, with where it stands and how far it can be trusted.

The tables carry the numbers of version 1 on arXiv; "Heads" is the head ablation of the final version, "Appendix B" what
is believed to stand there and could not be recovered. The comparisons of aggregations and of losses have no row at all:
even their backbones and data sets are not known.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

SEEDS = 3  # behind every mean of the paper
FILE = Path(__file__).with_name("paper.csv")

Table = Literal["Table 1", "Table 2", "Table 3", "Heads", "Figure 2a", "Figure 2b", "Figure 2c", "Appendix B"]
Method = Literal[
    "supervised", "random", "deepcluster", "rotation", "infomax", "simclr", "relational", "dot", "encoder-dot"
]
Dataset = Literal["cifar10", "cifar100", "cifar100-20", "tiny-imagenet", "slimagenet64", "stl10", "stl10-unlabelled"]
# Digitised: read off a plot. Not given: the paper prints "n/a". Not recovered: it may stand there, but was not at hand.
Status = Literal["confirmed", "digitised", "unconfirmed", "not given", "not recovered"]

_WORDS = {
    "supervised": "Supervised",
    "random": "Random weights",
    "deepcluster": "DeepCluster",
    "rotation": "RotationNet",
    "infomax": "Deep InfoMax",
    "simclr": "SimCLR",
    "relational": "Relational",
    "dot": "Dot product",
    "encoder-dot": "Encoder + dot product",
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
    "stl10-unlabelled": "STL-10",
}


@dataclass(frozen=True)
class Figure:
    """One figure of the paper; mean and standard deviation (over three seeds) in `unit`.

    `views` (K) and `labelled` (share of the labels) are None where the row is no point of their study.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    experiment: Annotated[str, Field(pattern="^[A-Z][1-9]$")]
    table: Table
    method: Method
    backbone: Literal["conv4", "resnet8", "resnet32", "resnet34", "resnet56"]
    dataset: Dataset
    target: Dataset
    protocol: Literal["linear", "finetune"]
    views: Annotated[int, Field(ge=2)] | None
    labelled: Annotated[float, Field(ge=0, le=1)] | None
    mean: float | None
    std: Annotated[float, Field(ge=0)] | None
    unit: Literal["percent", "points above K = 2", "points above conv4"]
    status: Status
    source: Annotated[str, Field(min_length=1)]

    @property
    def key(self) -> tuple[Any, ...]:
        """What no two rows share: what was measured, where it stands, and how it is known."""
        place = (self.table, self.method, self.backbone, self.dataset, self.target, self.protocol)
        return (*place, self.views, self.labelled, self.status)


_Figures = TypeAdapter(list[Figure])


@cache
def figures(file: Path = FILE) -> tuple[Figure, ...]:
    """Every figure, in the file's order. Raises ValueError for an unknown word, a number too many, or a row twice."""
    with open(file, encoding="utf-8", newline="") as text:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(text)]
    try:
        found = _Figures.validate_python(rows)
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        row, *place = mistake["loc"]
        raise ValueError(f"{file.name}, figure {row}, {'.'.join(map(str, place))}: {mistake['msg']}") from error
    seen = set()
    for one in found:
        known = one.status not in ("not given", "not recovered")
        if known != (one.mean is not None) or (one.std is not None and not known):
            raise ValueError(f"{file.name}: {one.key} is {one.status}, so it has {'a' if known else 'no'} mean")
        if one.key in seen:
            raise ValueError(f"{file.name}: {one.key} stands twice")
        seen.add(one.key)
    return tuple(found)


def word(name: str) -> str:
    """A method, backbone or data set as the paper writes it."""
    return _WORDS[name]
