"""The section `methods`: pretraining methods and their hyperparameters."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rr.params.base import MAX_COUNT, SHA256, Count, Fraction, NonNegativeFloat, PositiveFloat, StrictModel
from rr.params.extensions import accept_extensions
from rr.params.optimizers import ADAM, CONSTANT, OptimizerConfig, ScheduleConfig, check_warmup
from rr.views.augmentation import Augmentation


class WeightsFile(StrictModel):
    """A backbone file, and its SHA-256.

    `path` is a run's `backbone.safetensors`, a file that `rr import` wrote, the name of released weights, or
    `hf-hub:OWNER/NAME`.
    """

    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=SHA256)]


class TrainableConfig(StrictModel):
    """Hyperparameters of every method that trains. `batch_size` counts images, each of which has `views` views.

    Keys with a default are off in the paper's recipes, which use Adam without weight decay, a constant learning rate,
    one augmentation policy, and random initial weights. With a `second_augmentation`, every second view uses that
    policy. With `initial_weights`, training starts from the backbone in that file.
    """

    augmentation: Augmentation
    second_augmentation: Augmentation | None = None
    views: Count
    batch_size: Count
    epochs: Count
    learning_rate: PositiveFloat
    optimizer: OptimizerConfig = ADAM
    schedule: ScheduleConfig = CONSTANT
    initial_weights: WeightsFile | None = None

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The policies that the views of an image use in turn."""
        return (self.augmentation, self.second_augmentation) if self.second_augmentation else (self.augmentation,)

    @model_validator(mode="after")
    def _check(self) -> "TrainableConfig":
        if self.second_augmentation and self.views < 2:
            raise ValueError("second_augmentation needs at least two views; remove it, or raise views")
        check_warmup(self.schedule, self.epochs)
        return self


class ProjectorConfig(TrainableConfig):
    """Hyperparameters of a method with a projector, a network on top of the backbone that only training uses.

    It has `projector_layers` linear layers: `hidden_dim` is the size of all but the last layer, and `projection_dim` is
    the size of the last layer. A batch norm follows the last layer if `projector_output_norm` is true.
    """

    hidden_dim: Count
    projection_dim: Count
    projector_layers: Annotated[int, Field(ge=1, le=16)] = 2
    projector_output_norm: bool = False


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


class RandomConfig(StrictModel):
    """A backbone with random initial weights: the lower bound."""

    kind: Literal["random"]


class ImportedConfig(WeightsFile):
    """A backbone that was pretrained elsewhere."""

    kind: Literal["imported"]


class SimCLRConfig(ProjectorConfig):
    """SimCLR: contrastive learning with two views.

    Let p be the softmax probability of the positive view. The loss `nt-xent` is the mean of -log p. `log-mean-prob` is
    -log of the mean of p, which is what the paper's code computes.
    """

    kind: Literal["simclr"]
    views: Literal[2]
    temperature: PositiveFloat
    loss: Literal["log-mean-prob", "nt-xent"]


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
    are passed to scikit-learn's KMeans.
    """

    kind: Literal["deepcluster"]
    views: Literal[1]
    clusters: Annotated[int, Field(ge=2, le=MAX_COUNT)]
    clusters_per: Literal["class", "dataset"]
    hidden_dim: Count
    n_init: Count
    max_iter: Count


class BYOLConfig(ProjectorConfig):
    """BYOL: prediction of a target network's projection of the other view.

    The target network is an exponential moving average of the online network with decay `momentum`. If
    `momentum_schedule` is `cosine`, the decay increases from `momentum` to 1 during training.
    """

    kind: Literal["byol"]
    views: Literal[2]
    momentum: Annotated[float, Field(ge=0, le=1)]
    momentum_schedule: Literal["constant", "cosine"] = "constant"


class VICRegConfig(ProjectorConfig):
    """VICReg: a weighted sum of variance, invariance and covariance terms of the embeddings of two views."""

    kind: Literal["vicreg"]
    views: Literal[2]
    invariance_weight: NonNegativeFloat
    variance_weight: NonNegativeFloat
    covariance_weight: NonNegativeFloat


class BarlowTwinsConfig(ProjectorConfig):
    """Barlow Twins: the cross-correlation matrix of the embeddings of two views is trained towards the identity.

    `redundancy_weight` is the weight of the off-diagonal entries.
    """

    kind: Literal["barlow"]
    views: Literal[2]
    redundancy_weight: PositiveFloat


class ExtensionConfig(TrainableConfig):
    """Hyperparameters of a method from a user's own module; the method's `Config` class is a subclass of this class.

    The last three class variables are the method's `Requirements` (see `rr.methods.requirements`).
    """

    kind: str
    required_class: ClassVar[str] = "rr.methods.base.Method"
    min_batch_size: ClassVar[int] = 2
    drop_last: ClassVar[bool] = False
    label_fraction: ClassVar[float] = 0.0


_BuiltinConfig = Annotated[
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
MethodConfig = Annotated[_BuiltinConfig, accept_extensions(_BuiltinConfig, ExtensionConfig)]
