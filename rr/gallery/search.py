"""The result of a search in a gallery of images."""

from pathlib import Path
from typing import NamedTuple

from rr.gallery.images import ImageFile


class Hit(NamedTuple):
    """An image of the gallery, its rank (from 1) and its cosine similarity to the query."""

    rank: int
    similarity: float
    image: ImageFile


class QueryResult(NamedTuple):
    """A query image and the most similar images of the gallery, in descending order of similarity."""

    query: Path
    hits: list[Hit]
