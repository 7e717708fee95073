"""The `methods` section: pretraining methods and their hyperparameters."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rr.params.augmentations import Augmentation, AugmentationConfig
from rr.params.base import MAX_COUNT, SHA256, Count, Fraction, NonNegativeFloat, PositiveFloat, StrictModel
from rr.params.extensions import accept_extensions
from rr.params.optimizers import ADAM, CONSTANT, OptimizerConfig, ScheduleConfig, check_warmup


class WeightsFile(StrictModel):
    """A backbone file and its SHA-256.

    Attributes:
        path: a run's `backbone.safetensors`, a file written by `rr import`, the name of released weights, or
            `hf-hub:OWNER/NAME`.
        sha256: SHA-256 of the file.
    """

    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=SHA256)]


class TrainableConfig(StrictModel):
    """Keys of every trainable method. The defaults are the paper's settings for its self-supervised methods.

    Attributes:
        augmentation: the random transformations that turn an image into its views. A strength, such as `brightness`,
            requires the key of its operation, such as `jitter`, which may be 0. An operation with a probability above 0
            must change the image: `jitter: 0.8` is rejected if all four strengths are 0.
        second_augmentation: augmentation of every second view. By default, all views use `augmentation`.
        views: K, the number of views of each image in a mini-batch.
        batch_size: M, the number of images in a mini-batch.
        epochs: number of passes over the training images.
        learning_rate: the learning rate, before `schedule` is applied.
        optimizer: the optimizer.
        schedule: how the learning rate changes during training.
        initial_weights: backbone file from which training starts. By default, the initial weights are random.
    """

    augmentation: AugmentationConfig
    second_augmentation: AugmentationConfig | None = None
    views: Count
    batch_size: Count
    epochs: Annotated[int, Field(ge=1, le=100_000)]
    learning_rate: PositiveFloat
    optimizer: OptimizerConfig = ADAM
    schedule: ScheduleConfig = CONSTANT
    initial_weights: WeightsFile | None = None

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The augmentations that the views of an image use in turn."""
        return (self.augmentation, self.second_augmentation) if self.second_augmentation else (self.augmentation,)

    @model_validator(mode="after")
    def _check(self) -> "TrainableConfig":
        if self.second_augmentation and self.views < 2:
            raise ValueError("second_augmentation needs at least two views; remove it, or raise views")
        check_warmup(self.schedule, self.epochs)
        return self


class ProjectorConfig(TrainableConfig):
    """Keys of every method with a projector: a network on top of the backbone, used only during training.

    Attributes:
        hidden_dim: size of all layers but the last.
        projection_dim: size of the last layer.
        projector_layers: number of linear layers.
        projector_output_norm: whether a batch norm follows the last layer.
    """

    hidden_dim: Count
    projection_dim: Count
    projector_layers: Annotated[int, Field(ge=1, le=16)] = 2
    projector_output_norm: bool = False


class RelationalConfig(TrainableConfig):
    """Relational reasoning (section 3 and Algorithm 1 of the paper).

    Attributes:
        head: `relation`, or one of the paper's ablations: `dot`, the dot product of two representations, or
            `encoder-dot`, the dot product of two encoded representations.
        aggregation: how the relation head combines the two representations of a pair: concatenation, sum, mean or
            maximum.
        loss: the focal loss, or the binary cross-entropy (`bce`).
        gamma: exponent of the focal loss. A larger value gives less weight to pairs that are already predicted well.
        alpha: weight of positive pairs in the focal loss. Negative pairs have a weight of 1 - alpha.
        negatives: how negative pairs are chosen: by rolling the mini-batch, as in the paper's code, or at random, as in
            its text.
        label_fraction: fraction of each class's labels used to form additional positive pairs (semi-supervised
            training); if 0, no labels are used. Some of the training images may be unlabeled.
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

    Attributes:
        temperature: number by which the similarities are divided.
        loss: `nt-xent` is the mean of -log p, where p is the softmax probability of the positive view; `log-mean-prob`
            is -log of the mean of p, as in the paper's code.
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
    """Deep InfoMax with the local objective.

    Attributes:
        prior_weight: weight of the adversarial prior term.
    """

    kind: Literal["infomax"]
    views: Literal[1]
    prior_weight: NonNegativeFloat


class DeepClusterConfig(TrainableConfig):
    """DeepCluster: prediction of cluster assignments, which k-means recomputes before every epoch.

    Attributes:
        clusters: number of clusters per class or, with `clusters_per: dataset`, in total.
        clusters_per: what `clusters` refers to.
        hidden_dim: size of the hidden layer of the network that predicts the cluster.
        n_init: number of k-means initializations (scikit-learn's `n_init`).
        max_iter: maximum number of k-means iterations (scikit-learn's `max_iter`).
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

    The target network is an exponential moving average of the online network.

    Attributes:
        momentum: decay of the moving average.
        momentum_schedule: if `cosine`, the decay increases from `momentum` to 1 during training.
    """

    kind: Literal["byol"]
    views: Literal[2]
    momentum: Annotated[float, Field(ge=0, le=1)]
    momentum_schedule: Literal["constant", "cosine"] = "constant"


class VICRegConfig(ProjectorConfig):
    """VICReg: a weighted sum of three terms computed from the embeddings of two views.

    Attributes:
        invariance_weight: weight of the squared distance between the embeddings of the two views.
        variance_weight: weight of the term that keeps the standard deviation of each dimension at 1 or more.
        covariance_weight: weight of the squared covariances between different dimensions.
    """

    kind: Literal["vicreg"]
    views: Literal[2]
    invariance_weight: NonNegativeFloat
    variance_weight: NonNegativeFloat
    covariance_weight: NonNegativeFloat


class BarlowTwinsConfig(ProjectorConfig):
    """Barlow Twins: the cross-correlation matrix of the embeddings of two views is trained toward the identity.

    Attributes:
        redundancy_weight: weight of the off-diagonal entries.
    """

    kind: Literal["barlow"]
    views: Literal[2]
    redundancy_weight: PositiveFloat


class ExtensionConfig(TrainableConfig):
    """Hyperparameters of a user-defined method; the method's `Config` class subclasses this one.

    The last three class variables are the method's `Requirements` (see `rr.methods.requirements`).
    """

    kind: str
    required_class: ClassVar[str] = "rr.methods.base.Method"
    required_function: ClassVar[str] = "loss"
    constructor_arguments: ClassVar[tuple[str, ...]] = ("config", "backbone")
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
