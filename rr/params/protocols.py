"""The section `protocols`: what a backbone is measured by."""

from typing import Annotated, Literal

from pydantic import Field

from rr.params.base import Closed, Count, Rate, Share, Weight
from rr.views.augmentation import Augmentation

Labelled = Annotated[float, Field(gt=0, le=1)]


class Linear(Closed):
    """A linear layer on frozen features; `labelled` is the share of each class's training labels it is given."""

    kind: Literal["linear"]
    labelled: Labelled
    epochs: Count
    batch_size: Count
    learning_rate: Rate


class Finetune(Closed):
    """Backbone and linear layer trained together, each at a rate of its own."""

    kind: Literal["finetune"]
    labelled: Labelled
    augmentation: Augmentation
    epochs: Count
    batch_size: Count
    backbone_rate: Rate
    classifier_rate: Rate
    weight_decay: Weight
    milestones: list[Share]
    decay: Rate


class Knn(Closed):
    """Nearest neighbours by cosine similarity, votes weighted by exp(similarity / temperature)."""

    kind: Literal["knn"]
    neighbours: Count
    temperature: Rate


class Retrieval(Closed):
    """The training pictures ranked for every test picture; `depths` are the k of precision and recall at k."""

    kind: Literal["retrieval"]
    distance: Literal["cosine", "euclidean"]
    depths: Annotated[list[Count], Field(min_length=1)]


class Embedding(Closed):
    """The shape of the space: t-SNE, silhouette, alignment and uniformity of `images` test pictures.

    `augmentation` makes the two views of a picture that alignment compares.
    """

    kind: Literal["embedding"]
    images: Annotated[int, Field(ge=10)]
    perplexity: Rate
    augmentation: Augmentation


Protocol = Annotated[Linear | Finetune | Knn | Retrieval | Embedding, Field(discriminator="kind")]
