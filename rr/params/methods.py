"""The section `methods`: pretraining methods and their hyperparameters. This module also lists the backbones."""

from typing import Annotated, Literal

from pydantic import Field

from rr.params.base import MAX_COUNT, SHA256, Count, Fraction, NonNegativeFloat, PositiveFloat, StrictModel
from rr.views.augmentation import Augmentation

# The backbones of the paper, followed by the other ResNets of torchvision.models.
BackboneName = Literal[
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


class TrainableConfig(StrictModel):
    """Hyperparameters of every method that trains. `batch_size` counts images, each of which has `views` views."""

    augmentation: Augmentation
    batch_size: Count
    epochs: Count
    learning_rate: PositiveFloat


class RelationalConfig(TrainableConfig):
    """Relational reasoning (section 3 and Algorithm 1 of the paper).

    `head` is `relation`, or one of the paper's ablations: `dot`, the dot product of two representations, or
    `encoder-dot`, the dot product of two encoded representations. `aggregation` applies to the relation head only.
    `label_fraction` is the fraction of each class's labels that supply additional positive pairs (semi-supervised
    training); 0 means that no labels are used.
    """

    kind: Literal["relational"]
    views: Annotated[int, Field(ge=2, le=256)]
    head: Literal["relation", "dot", "encoder-dot"]
    aggregation: Literal["cat", "sum", "mean", "max"]
    loss: Literal["focal", "bce"]
    gamma: NonNegativeFloat
    alpha: Fraction
    negatives: Literal["roll", "random"]
    label_fraction: Annotated[float, Field(ge=0, le=1)]


class SupervisedConfig(TrainableConfig):
    """A backbone and a linear layer trained on the labels: the upper bound."""

    kind: Literal["supervised"]
    views: Annotated[int, Field(ge=1, le=256)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    milestones: list[Fraction]
    lr_decay: PositiveFloat


class RandomConfig(StrictModel):
    """A backbone with random initial weights: the lower bound."""

    kind: Literal["random"]


class ImportedConfig(StrictModel):
    """A pretrained backbone from a file that `rr import` has written, with the SHA-256 of the file."""

    kind: Literal["imported"]
    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=SHA256)]


class SimCLRConfig(TrainableConfig):
    """SimCLR: contrastive learning with two views.

    Let p be the softmax probability of the positive view. The loss `nt-xent` is the mean of -log p. `log-mean-prob` is
    -log of the mean of p, which is what the paper's code computes.
    """

    kind: Literal["simclr"]
    views: Literal[2]
    temperature: PositiveFloat
    loss: Literal["log-mean-prob", "nt-xent"]
    hidden_dim: Count
    projection_dim: Count


class RotationNetConfig(TrainableConfig):
    """Prediction of the rotation of a view: 0, 90, 180 or 270 degrees."""

    kind: Literal["rotation"]
    views: Annotated[int, Field(ge=1, le=256)]


class InfoMaxConfig(TrainableConfig):
    """Deep InfoMax with the local objective. `prior_weight` is the weight of the adversarial prior term."""

    kind: Literal["infomax"]
    views: Literal[1]
    prior_weight: NonNegativeFloat


class DeepClusterConfig(TrainableConfig):
    """DeepCluster: prediction of cluster assignments, which k-means recomputes before every epoch.

    `clusters` is the number of clusters per class, or in total if `clusters_per` is `dataset`. `n_init` and `max_iter`
    are those of scikit-learn's KMeans.
    """

    kind: Literal["deepcluster"]
    views: Literal[1]
    clusters: Annotated[int, Field(ge=2, le=MAX_COUNT)]
    clusters_per: Literal["class", "dataset"]
    hidden_dim: Count
    n_init: Count
    max_iter: Count


class BYOLConfig(TrainableConfig):
    """BYOL: prediction of a target network's projection of the other view.

    The target network is an exponential moving average of the online network with decay `momentum`.
    """

    kind: Literal["byol"]
    views: Literal[2]
    momentum: Annotated[float, Field(ge=0, le=1)]
    hidden_dim: Count
    projection_dim: Count


class VICRegConfig(TrainableConfig):
    """VICReg: a weighted sum of variance, invariance and covariance terms of the embeddings of two views."""

    kind: Literal["vicreg"]
    views: Literal[2]
    invariance_weight: NonNegativeFloat
    variance_weight: NonNegativeFloat
    covariance_weight: NonNegativeFloat
    hidden_dim: Count
    projection_dim: Count


class BarlowTwinsConfig(TrainableConfig):
    """Barlow Twins: the cross-correlation matrix of the embeddings of two views is trained towards the identity.

    `redundancy_weight` is the weight of the off-diagonal entries.
    """

    kind: Literal["barlow"]
    views: Literal[2]
    redundancy_weight: PositiveFloat
    hidden_dim: Count
    projection_dim: Count


MethodConfig = Annotated[
    RelationalConfig
    | SupervisedConfig
    | RandomConfig
    | ImportedConfig
    | SimCLRConfig
    | RotationNetConfig
    | InfoMaxConfig
    | DeepClusterConfig
    | BYOLConfig
    | VICRegConfig
    | BarlowTwinsConfig,
    Field(discriminator="kind"),
]
