"""The section `methods`, and the names of backbones."""

from typing import Annotated, Literal

from pydantic import Field

from rr.params.base import MOST, Closed, Count, Rate, Share, Weight
from rr.views.augmentation import Augmentation

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
    gamma: Weight
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
    prior: Weight


class DeepCluster(Trained):
    """Learning to tell clusters that are found anew before every epoch.

    There are `clusters` of them for each class of the data set, or in all, as `clusters_per` says. k-means starts
    `starts` times and makes at most `iterations` steps.
    """

    kind: Literal["deepcluster"]
    views: Literal[1]
    clusters: Annotated[int, Field(ge=2, le=MOST)]
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
    invariance: Weight
    variance: Weight
    covariance: Weight
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
