"""The `protocols` section: how a pretrained backbone is evaluated."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from rr.params.augmentations import AugmentationConfig
from rr.params.base import Count, PositiveFloat, StrictModel
from rr.params.extensions import accept_extensions
from rr.params.optimizers import OptimizerConfig, ScheduleConfig, check_warmup

# Protocol kinds that use only numpy. They run on the CPU, without loading torch.
NUMPY_PROTOCOLS = ("knn", "retrieval")
CLASSIFICATION_PROTOCOLS = ("linear", "finetune", "knn")  # kinds that measure accuracy

LabelFraction = Annotated[float, Field(gt=0, le=1)]


class LabelUse(StrictModel):
    """How many training labels of each class a protocol uses. Set exactly one of the two keys.

    Attributes:
        label_fraction: fraction of the labels of each class.
        images_per_class: number of labeled images of each class.
    """

    label_fraction: LabelFraction | None = None
    images_per_class: Count | None = None

    @model_validator(mode="after")
    def _check_labels(self) -> "LabelUse":
        if (self.label_fraction is None) == (self.images_per_class is None):
            raise ValueError("set exactly one of label_fraction and images_per_class")
        return self


class LinearConfig(LabelUse):
    """A linear layer trained on the frozen features of some or all labeled training images.

    Attributes:
        epochs: number of passes over these images.
        batch_size: number of images in a mini-batch.
        learning_rate: learning rate of Adam. If a list is given, the rate with the highest accuracy on held-out images
            is used: a fifth of these images, but at least one image of each class that has at least two.
    """

    kind: Literal["linear"]
    epochs: Count
    batch_size: Count
    learning_rate: PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=2)]

    @field_validator("learning_rate", mode="wrap")
    @classmethod
    def _check_learning_rate(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """Replace pydantic's errors, one per possible type of a learning rate, with a single error."""
        try:
            return validate(value)
        except ValidationError:
            raise ValueError("must be a positive number, or a list of at least two of them to choose from") from None


class FinetuneConfig(LabelUse):
    """A backbone and a linear layer trained together, each with its own learning rate.

    Attributes:
        augmentation: augmentation of the training images.
        epochs: number of passes over the labeled training images.
        batch_size: number of images in a mini-batch.
        backbone_lr: learning rate of the backbone.
        classifier_lr: learning rate of the linear layer.
        optimizer: the optimizer.
        schedule: how both learning rates change during training.
    """

    kind: Literal["finetune"]
    augmentation: AugmentationConfig
    epochs: Count
    batch_size: Count
    backbone_lr: PositiveFloat
    classifier_lr: PositiveFloat
    optimizer: OptimizerConfig
    schedule: ScheduleConfig

    @model_validator(mode="after")
    def _check_warmup(self) -> "FinetuneConfig":
        check_warmup(self.schedule, self.epochs)
        return self


class KnnConfig(StrictModel):
    """A k-nearest-neighbor vote by cosine similarity, weighted by exp(similarity / temperature).

    Attributes:
        neighbors: k, the number of training images that vote.
        temperature: a smaller value gives more weight to the nearest images.
    """

    kind: Literal["knn"]
    neighbors: Count
    temperature: PositiveFloat


class RetrievalConfig(StrictModel):
    """A ranking of the training images for each test image.

    Attributes:
        distance: cosine or Euclidean distance between features.
        cutoffs: values of N for precision, recall and hit rate at N.
    """

    kind: Literal["retrieval"]
    distance: Literal["cosine", "euclidean"]
    cutoffs: Annotated[list[Count], Field(min_length=1)]


class EmbeddingConfig(StrictModel):
    """An analysis of the features of test images (no labels needed): t-SNE map, clusters, neighbors, outliers.

    Attributes:
        images: maximum number of test images, chosen at random; memory use grows with the square of this number.
        perplexity: t-SNE perplexity.
        clusters: number of k-means clusters.
        augmentation: augmentation for the two views of each image that `alignment` compares.
    """

    kind: Literal["embedding"]
    images: Annotated[int, Field(ge=10, le=10_000)]
    perplexity: PositiveFloat
    clusters: Count = 10
    augmentation: AugmentationConfig


class ExtensionProtocolConfig(StrictModel):
    """Settings of a user-defined protocol; the protocol's `Config` class subclasses this one.

    If `needs_labels` is true, the protocol receives only the labeled images of a target.
    """

    kind: str
    needs_labels: ClassVar[bool] = True
    required_function: ClassVar[str] = "evaluate"


_BuiltinConfig = Annotated[
    LinearConfig | FinetuneConfig | KnnConfig | RetrievalConfig | EmbeddingConfig, Field(discriminator="kind")
]
ProtocolConfig = Annotated[_BuiltinConfig, accept_extensions(_BuiltinConfig, ExtensionProtocolConfig)]
