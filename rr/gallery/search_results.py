"""The results of a search in a gallery of images."""

import math
from pathlib import Path
from typing import NamedTuple

from rr.gallery.images import ImageFile


class Hit(NamedTuple):
    """A gallery image that is similar to a query.

    Attributes:
        rank: the rank, starting at 1.
        similarity: the cosine similarity to the query.
        image: the image. Its `name`, the path relative to the gallery's folder, is also the value of the `path` column
            in the table that `rr.embed` returns for the folder.
        probability: the probability that both are views of the same image, or None if the relation head was not used.
            Only `rr retrieve --rerank` uses it, so the probability is None in the results of `Gallery.search`.
        percentile: the percentage of random pairs of gallery images with a lower score, or NaN if this was not
            computed or if there are too few pairs. The score is the value that ranks the hits: the similarity, or the
            relation head's logit.
    """

    rank: int
    similarity: float
    image: ImageFile
    probability: float | None = None
    percentile: float = math.nan

    @property
    def score_text(self) -> str:
        """The probability, or the similarity if there is no probability."""
        return f"{self.similarity if self.probability is None else self.probability:.4f}"

    @property
    def percentile_text(self) -> str:
        """The percentile, or a dash if it is unknown."""
        return "–" if math.isnan(self.percentile) else f"{self.percentile:.2f}"


class QueryResult(NamedTuple):
    """A query image and the most similar gallery images, in the order of their ranks."""

    query: Path
    hits: list[Hit]
