"""Closed, typed models of `params.yaml`: an unknown key or a wrong type is an error that names its path.

Nothing here imports torch, so the command line and the Snakefile check parameters in milliseconds.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rr.errors import UserError, nearest
from rr.views.augmentation import Augmentation

# Names become folders, DVC stage names and shell words, so they are kept to characters that are safe in all three.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]
Triple = tuple[float, float, float]
# Those of the paper, then any other ResNet of torchvision.models.
Backbone = Literal[
    "conv4",
    "resnet8",
    "resnet32",
    "resnet56",
    "resnet34",
    "resnet18",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
]

Augmentation.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]


class Closed(BaseModel):
    """A section in which every key is known, every type exact, and nothing changes after loading.

    What determines a result has no default here: a changed default would escape DVC, which compares the file's text.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ShapesSource(Closed):
    """Pictures generated from a seed: nothing to download."""

    kind: Literal["shapes"]
    train: Annotated[int, Field(ge=10)]
    test: Annotated[int, Field(ge=10)]
    seed: Annotated[int, Field(ge=0)]


class CifarSource(Closed):
    """CIFAR-10 or CIFAR-100 (fine labels), read by torchvision; `path` names a copy to use instead of a download."""

    kind: Literal["cifar10", "cifar100"]
    path: str | None = None


class FolderSource(Closed):
    """One's own pictures: `path/<class>/…`, with or without `train` and `test` between; without classes, unlabelled."""

    kind: Literal["imagefolder"]
    path: Annotated[str, Field(min_length=1)]
    test_share: Share
    unreadable: Literal["stop", "skip"]


class ParquetSource(Closed):
    """One's own pictures in the Hugging Face convention: a struct column `image` with `bytes`, an integer `label`."""

    kind: Literal["parquet"]
    path: Annotated[str, Field(min_length=1)]
    test_share: Share
    unreadable: Literal["stop", "skip"]


Source = Annotated[ShapesSource | CifarSource | FolderSource | ParquetSource, Field(discriminator="kind")]


class Dataset(Closed):
    """Where pictures come from, and the side (pixels), mean and standard deviation (of values in [0, 1]) they get."""

    source: Source
    side: Annotated[int, Field(ge=8, le=1024)]
    mean: Triple
    std: tuple[Rate, Rate, Rate]


class Trained(Closed):
    """What every method that trains is told; `batch_size` counts pictures, each of which has `views` views."""

    augmentation: Augmentation
    batch_size: Count
    epochs: Count
    learning_rate: Rate


class Relational(Trained):
    """Relational reasoning; the paper's section 3 and Algorithm 1.

    `head` is the paper's ablation: `relation`; `dot`, the product of two representations; `encoder-dot`, the product of
    two encoded ones. `aggregation` is the relation head's. `labelled` is the share of each class's labels that supply
    positive pairs (semi-supervised); 0 for none.
    """

    kind: Literal["relational"]
    views: Annotated[int, Field(ge=2, le=256)]
    head: Literal["relation", "dot", "encoder-dot"]
    aggregation: Literal["cat", "sum", "mean", "max"]
    loss: Literal["focal", "bce"]
    gamma: Annotated[float, Field(ge=0)]
    alpha: Share
    negatives: Literal["roll", "random"]
    labelled: Annotated[float, Field(ge=0, le=1)]


class Supervised(Trained):
    """Backbone and linear layer trained on the labels: the upper bound."""

    kind: Literal["supervised"]
    views: Annotated[int, Field(ge=1, le=256)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    milestones: list[Share]
    decay: Rate


class Random(Closed):
    """The freshly initialised backbone: the lower bound."""

    kind: Literal["random"]


class Imported(Closed):
    """A backbone from elsewhere: a file that `rr import` wrote, and its SHA-256."""

    kind: Literal["imported"]
    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class SimCLR(Trained):
    """Contrastive learning of two views; `mean` says where the paper's code and the field differ."""

    kind: Literal["simclr"]
    views: Literal[2]
    temperature: Rate
    mean: Literal["of-ratios", "of-logs"]
    hidden: Count
    outputs: Count


class RotationNet(Trained):
    """Telling by how many quarter turns a view was rotated."""

    kind: Literal["rotation"]
    views: Annotated[int, Field(ge=1, le=256)]


class InfoMax(Trained):
    """Deep InfoMax, local; `prior` weighs the adversarial prior."""

    kind: Literal["infomax"]
    views: Literal[1]
    prior: Annotated[float, Field(ge=0)]


class DeepCluster(Trained):
    """Learning to tell clusters that are found anew before every epoch.

    There are `clusters` of them for each class of the data set, or in all, as `clusters_per` says. k-means starts
    `starts` times and makes at most `iterations` steps.
    """

    kind: Literal["deepcluster"]
    views: Literal[1]
    clusters: Annotated[int, Field(ge=2)]
    clusters_per: Literal["class", "dataset"]
    hidden: Count
    starts: Count
    iterations: Count


class BYOL(Trained):
    """Predicting the representation that a slowly following copy gives of another view."""

    kind: Literal["byol"]
    views: Literal[2]
    momentum: Annotated[float, Field(ge=0, le=1)]
    hidden: Count
    outputs: Count


class VICReg(Trained):
    """Variance, invariance and covariance of two views' embeddings, weighted."""

    kind: Literal["vicreg"]
    views: Literal[2]
    invariance: Annotated[float, Field(ge=0)]
    variance: Annotated[float, Field(ge=0)]
    covariance: Annotated[float, Field(ge=0)]
    hidden: Count
    outputs: Count


class BarlowTwins(Trained):
    """Cross-correlation of two views' embeddings driven to the identity; `redundancy` weighs its other entries."""

    kind: Literal["barlow"]
    views: Literal[2]
    redundancy: Rate
    hidden: Count
    outputs: Count


Method = Annotated[
    Relational
    | Supervised
    | Random
    | Imported
    | SimCLR
    | RotationNet
    | InfoMax
    | DeepCluster
    | BYOL
    | VICReg
    | BarlowTwins,
    Field(discriminator="kind"),
]


class Linear(Closed):
    """A linear layer on frozen features."""

    kind: Literal["linear"]
    epochs: Count
    batch_size: Count
    learning_rate: Rate


class Knn(Closed):
    """Nearest neighbours by cosine similarity, votes weighted by exp(similarity / temperature)."""

    kind: Literal["knn"]
    neighbours: Count
    temperature: Rate


Protocol = Annotated[Linear | Knn, Field(discriminator="kind")]


class Grid(Closed):
    """Every combination is one pretraining; every pretraining × target × protocol one evaluation."""

    data: list[Name]
    dataset: list[Name]
    backbone: list[Backbone]
    method: list[Name]
    seed: list[Annotated[int, Field(ge=0, lt=2**31)]]
    target: list[Name]
    protocol: list[Name]


class Params(Closed):
    """The whole of `params.yaml`."""

    grid: Grid
    threads: Annotated[int, Field(ge=1, le=256)]
    precision: Literal["float32", "bfloat16"]
    datasets: dict[Name, Dataset]
    methods: dict[Name, Method]
    protocols: dict[Name, Protocol]

    @model_validator(mode="after")
    def _names_are_known(self) -> "Params":
        sections: dict[str, dict[str, Any]] = {
            "data": self.datasets,
            "dataset": self.datasets,
            "target": self.datasets,
            "method": self.methods,
            "protocol": self.protocols,
        }
        for axis in Grid.model_fields:
            values = getattr(self.grid, axis)
            if not values:
                raise ValueError(f"grid.{axis}: the list is empty; give at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"grid.{axis}: a value stands twice")
            for name in values if axis in sections else ():
                lookup(sections[axis], name, f"grid.{axis}")
        missing = sorted({*self.grid.dataset, *self.grid.target} - set(self.grid.data))
        if missing:
            raise ValueError(
                f"grid.data: add {', '.join(missing)}; it lists every data set that is fetched and converted"
            )
        return self


def lookup(section: dict[str, Any], name: str, where: str) -> Any:
    """Return `section[name]`; raise ValueError that names `where` and the nearest known word."""
    if name not in section:
        raise ValueError(f"{where}: unknown '{name}'; {nearest(name, section)}")
    return section[name]


def load(path: Path) -> Params:
    """Read and check `path`. Raises UserError with one line per mistake."""
    if not path.is_file():
        raise UserError(f"no {path} here: run this in the project's root, or name the file with --params")
    try:
        return check(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error


def check(content: str, path: Path) -> Params:
    """Check `content` as that of `path`. Raises UserError as `load` does."""
    try:
        raw = YAML(typ="safe", pure=True).load(content)
        text = json.dumps(raw)
    except (YAMLError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no sections: it must begin with 'grid:'")
    try:
        # JSON mode, because there a strict model takes a list for a tuple, yet no "3" for a 3.
        return Params.model_validate_json(text)
    except ValidationError as error:
        lines = [_explain(raw, dict(mistake)) for mistake in error.errors(include_url=False)]
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from error


def _explain(raw: dict[str, Any], mistake: dict[str, Any]) -> str:
    """One line for one of pydantic's errors: path, what is wrong, the nearest known key."""
    location = list(mistake["loc"])
    path, here = [], raw
    for position, part in enumerate(location):
        inside = part in here if isinstance(here, dict) else isinstance(here, list) and isinstance(part, int)
        # A part that is no key of the file is pydantic's tag for a union member, unless it is the missing key itself.
        if inside or position == len(location) - 1:
            path.append(str(part))
        if inside:
            here = here[part]
    where = ".".join(part for part in path if part != "[key]")
    if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where}: unknown key; {nearest(path[-1], _keys(location[:-1]))}"
    if mistake["type"] == "missing":
        return f"{where}: this key is missing"
    if mistake["type"].startswith("union_tag"):
        known = mistake.get("ctx", {}).get("expected_tags", "").replace("'", "")
        given = mistake.get("ctx", {}).get("tag")
        return f"{where}.kind: " + (f"unknown '{given}'; known: {known}" if given else "this key is missing")
    message = mistake["msg"].removeprefix("Value error, ")
    if not where:
        return message
    given = json.dumps(mistake.get("input"))
    return f"{where}: {message[0].lower()}{message[1:]}" + (f" (given: {given})" if len(given) < 60 else "")


def _keys(location: list[Any]) -> list[str]:
    """The keys known at `location`, found by walking the models' annotations."""
    here: Any = Params
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = here.model_fields[part].annotation
            continue
        arguments = get_args(here)
        members = [m for a in arguments for m in (a, *get_args(a)) if isinstance(m, type) and issubclass(m, BaseModel)]
        tagged = [
            m for m in members if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)
        ]
        # A dict's key leads to its value type; a tag leads to the member of the union that carries it.
        here = tagged[0] if tagged and here is not Params else (arguments[-1] if arguments else here)
    if isinstance(here, type) and issubclass(here, BaseModel):
        return list(here.model_fields)
    if here is Augmentation:
        return list(Augmentation.__dataclass_fields__)
    return []
