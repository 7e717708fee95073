"""The section `protocols`: how a pretrained backbone is evaluated."""

from typing import Annotated, Literal

from pydantic import Field

from rr.params.base import Count, PositiveFloat, StrictModel
from rr.params.optimizers import OptimizerConfig, ScheduleConfig
from rr.views.augmentation import Augmentation

# Kinds of protocols that use only numpy. They run on the CPU, without loading torch.
NUMPY_PROTOCOLS = ("knn", "retrieval")

LabelFraction = Annotated[float, Field(gt=0, le=1)]


class LinearConfig(StrictModel):
    """A linear layer trained on frozen features with a fraction of each class's training labels."""

    kind: Literal["linear"]
    label_fraction: LabelFraction
    epochs: Count
    batch_size: Count
    learning_rate: PositiveFloat


class FinetuneConfig(StrictModel):
    """A backbone and a linear layer trained together, each with its own learning rate."""

    kind: Literal["finetune"]
    label_fraction: LabelFraction
    augmentation: Augmentation
    epochs: Count
    batch_size: Count
    backbone_lr: PositiveFloat
    classifier_lr: PositiveFloat
    optimizer: OptimizerConfig
    schedule: ScheduleConfig


class KnnConfig(StrictModel):
    """A k-nearest-neighbor vote by cosine similarity, weighted by exp(similarity / temperature)."""

    kind: Literal["knn"]
    neighbors: Count
    temperature: PositiveFloat


class RetrievalConfig(StrictModel):
    """A ranking of the training images for every test image. `cutoffs` lists the values of k in "precision at k"."""

    kind: Literal["retrieval"]
    distance: Literal["cosine", "euclidean"]
    cutoffs: Annotated[list[Count], Field(min_length=1)]


class EmbeddingConfig(StrictModel):
    """Geometry of the representation: t-SNE map, silhouette, alignment and uniformity of `images` test images.

    `augmentation` creates the two views of each image that are compared for alignment.
    """

    kind: Literal["embedding"]
    images: Annotated[int, Field(ge=10)]
    perplexity: PositiveFloat
    augmentation: Augmentation


ProtocolConfig = Annotated[
    LinearConfig | FinetuneConfig | KnnConfig | RetrievalConfig | EmbeddingConfig, Field(discriminator="kind")
]
