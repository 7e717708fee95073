"""Image retrieval: rank the training images by similarity to each test image."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from rr.compute.thread_pool import parallel_for
from rr.data.image_grid import make_image_grid, shrink_tiles
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.relation_head import NumpyRelationHead
from rr.evaluate.result import ProtocolResult
from rr.evaluate.similarity import normalize_rows
from rr.params import RetrievalConfig

_BATCH_SIZE = 256  # number of queries whose similarities are computed together
_NUM_RERANKED = 100  # number of nearest images per query that the relation head reorders
_EXAMPLE_QUERIES, _EXAMPLE_NEIGHBORS = 10, 10
# Blue and orange (Okabe-Ito) differ in lightness, and can be told apart with any kind of color vision.
_FRAME_WIDTH, _CORRECT_COLOR, _WRONG_COLOR, _QUERY_COLOR = 2, (0, 114, 178), (230, 159, 0), (255, 255, 255)


@dataclass(frozen=True)
class Ranking:
    """The nearest gallery images of Q queries, and the precision of the rankings.

    Attributes:
        nearest: gallery rows of each query's nearest images, int64 (Q, num_neighbors).
        similarity: their similarities to the query, float32 (Q, num_neighbors).
        precision: the precisions at their ranks (see `_precisions_at`), float64 (Q, num_neighbors).
        average_precision: average precision of each query's ranking of the whole gallery, float64 (Q,).
    """

    nearest: np.ndarray
    similarity: np.ndarray
    precision: np.ndarray
    average_precision: np.ndarray

    def for_queries(self, start: int, stop: int) -> "Ranking":
        """Return the part for the queries from `start` to `stop` − 1; its arrays are views."""
        arrays = (self.nearest, self.similarity, self.precision, self.average_precision)
        return Ranking(*(array[start:stop] for array in arrays))


def evaluate(inputs: EvaluationInputs, config: RetrievalConfig) -> ProtocolResult:
    """Rank the training images for each test image by the cosine similarity or Euclidean distance of the features.

    A training image is relevant if it has the same class as the query. The metrics are the `mean_average_precision`
    over the whole ranking and, for each cutoff k:

    - `precision_at_k`: fraction of the first k images that are relevant;
    - `recall_at_k`: fraction of the relevant images that are among the first k;
    - `hit_rate_at_k`: fraction of queries with a relevant image among the first k. In deep metric learning, this is
      called recall at k.

    Images with equal similarity are ranked in file order. For the average precision, they share the same rank, as in
    scikit-learn.

    If the backbone was trained with a relation head, the head also reorders the 100 nearest images of each query.
    Images with equal logits keep their order, but share the same rank for the average precision. The metrics of the
    reordered ranking are `reranked_mean_average_precision` and `reranked_precision_at_k`.

    The example image has one row for the first test image of each class, up to 10 rows. Each row shows the query and
    its 10 nearest training images. Images of the same class have a blue frame, and all others have an orange frame.
    """
    train, test = inputs.train, inputs.test
    max_cutoff = max(config.cutoffs)
    head = inputs.load_relation_head()
    num_neighbors = min(max(max_cutoff, _NUM_RERANKED if head else _EXAMPLE_NEIGHBORS), len(train))
    ranking = rank_gallery(
        train.features, train.labels, test.features, test.labels, num_neighbors,
        euclidean=config.distance == "euclidean", threads=inputs.threads,
    )  # fmt: skip
    nearest, average_precision = ranking.nearest, ranking.average_precision
    is_relevant = train.labels[nearest] == test.labels[:, None]
    num_relevant = np.bincount(train.labels, minlength=test.labels.max() + 1)[test.labels]
    metrics = {"mean_average_precision": float(average_precision.mean())}
    for k in config.cutoffs:
        num_hits = is_relevant[:, :k].sum(1)
        metrics[f"precision_at_{k}"] = float((num_hits / k).mean())
        metrics[f"recall_at_{k}"] = float((num_hits / num_relevant).mean())
        metrics[f"hit_rate_at_{k}"] = float((num_hits > 0).mean())
    columns = {}
    if head:
        is_relevant_first = is_relevant[:, :_NUM_RERANKED]
        order, reranked_precision = _rerank_nearest(
            head, train.features, test.features, nearest[:, :_NUM_RERANKED], is_relevant_first, inputs.threads
        )
        reranked = np.take_along_axis(is_relevant_first, order, 1)
        # The average precision is the mean of the precisions at the ranks of the relevant images. Reordering the first
        # images changes only the precisions at their ranks.
        gain = ((reranked_precision - ranking.precision[:, :_NUM_RERANKED]) * is_relevant_first).sum(1) / num_relevant
        columns["reranked_average_precision"] = average_precision + gain
        metrics["reranked_mean_average_precision"] = float(columns["reranked_average_precision"].mean())
        for k in config.cutoffs:  # the images after the first 100 keep their places
            num_hits = reranked[:, :k].sum(1) + is_relevant[:, _NUM_RERANKED:k].sum(1)
            metrics[f"reranked_precision_at_{k}"] = float((num_hits / k).mean())
    return ProtocolResult(
        metrics=metrics | {"train_images": len(train)},
        rows=np.arange(len(test)),
        predictions=train.labels[nearest[:, 0]],
        columns={
            "average_precision": average_precision,
            **columns,
            "neighbors": train.index[nearest[:, :max_cutoff]],
            "neighbor_labels": train.labels[nearest[:, :max_cutoff]],
            "similarities": ranking.similarity[:, :max_cutoff],
        },
        examples=_render_examples(nearest[:, :_EXAMPLE_NEIGHBORS], is_relevant[:, :_EXAMPLE_NEIGHBORS], inputs),
    )


def rank_gallery(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    num_neighbors: int,
    *,
    euclidean: bool,
    threads: int,
) -> Ranking:
    """Return each query's nearest gallery images, and the average precision of its ranking.

    Args:
        gallery: features, float32 (N, D).
        gallery_labels: int64 (N,).
        queries: features, float32 (Q, D).
        query_labels: int64 (Q,).
        num_neighbors: number of images to return for each query.
        euclidean: whether to use the negative squared Euclidean distance as similarity instead of the cosine.
        threads: number of threads to rank queries with.
    """
    if not euclidean:
        gallery, queries = normalize_rows(gallery), normalize_rows(queries)
    squared_norms = np.square(gallery).sum(1)
    rows_by_class = {int(label): np.flatnonzero(gallery_labels == label) for label in np.unique(query_labels)}
    shape = (len(queries), num_neighbors)
    ranking = Ranking(np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape), np.empty(len(queries)))
    for start in range(0, len(queries), _BATCH_SIZE):
        batch = queries[start : start + _BATCH_SIZE]
        products = batch @ gallery.T
        scores = (2 * products - squared_norms - np.square(batch).sum(1, keepdims=True)) if euclidean else products
        stop = start + len(batch)
        rank = partial(
            _rank_gallery_for_queries, ranking.for_queries(start, stop), scores, query_labels[start:stop], rows_by_class
        )
        parallel_for(rank, len(batch), threads)
    return ranking


def _rank_gallery_for_queries(
    ranking: Ranking,
    scores: np.ndarray,
    query_labels: np.ndarray,
    rows_by_class: dict[int, np.ndarray],
    start: int,
    stop: int,
) -> None:
    """Rank the gallery for the queries from `start` to `stop` − 1, and write the results into `ranking`."""
    num_neighbors = ranking.nearest.shape[1]
    for query in range(start, stop):
        row = scores[query]
        ascending = np.sort(row)  # several times faster than argsort
        candidates = np.flatnonzero(row >= ascending[-num_neighbors])
        order = candidates[np.argsort(-row[candidates], kind="stable")[:num_neighbors]]
        ranking.nearest[query], ranking.similarity[query] = order, row[order]
        relevant = np.sort(row[rows_by_class[int(query_labels[query])]])
        ranking.precision[query] = _precisions_at(row[order], ascending, relevant)
        ranking.average_precision[query] = _precisions_at(relevant, ascending, relevant).mean()


def _precisions_at(scores: np.ndarray, all_scores: np.ndarray, relevant_scores: np.ndarray) -> np.ndarray:
    """Return the fraction of relevant images among all images that score at least as high as each of `scores`.

    Images with equal scores share the same rank. `all_scores` and `relevant_scores` must be in ascending order.
    """
    num_at_least = len(all_scores) - np.searchsorted(all_scores, scores)
    num_relevant_at_least = len(relevant_scores) - np.searchsorted(relevant_scores, scores)
    return np.asarray(num_relevant_at_least / num_at_least)


def _rerank_nearest(
    head: NumpyRelationHead,
    gallery: np.ndarray,
    queries: np.ndarray,
    nearest: np.ndarray,
    is_relevant: np.ndarray,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the order in which the head ranks each query's nearest images, and the precisions at their new ranks.

    Args:
        head: the relation head.
        gallery: features, float32 (N, D).
        queries: features, float32 (Q, D).
        nearest: gallery rows of each query's nearest images, int64 (Q, num_neighbors).
        is_relevant: whether each of these images is relevant, bool (Q, num_neighbors).
        threads: number of threads to rank queries with.

    Returns:
        The order, int64 (Q, num_neighbors), and the precision at the new rank of each image in `nearest` (see
        `_precisions_at`), float64 (Q, num_neighbors).
    """
    orders, precisions = np.empty_like(nearest), np.empty(nearest.shape)
    gallery_terms, query_terms = head.compute_pair_terms(gallery), head.compute_pair_terms(queries)

    def rerank_for_queries(start: int, stop: int) -> None:
        for query in range(start, stop):
            own = [terms[query : query + 1] for terms in query_terms]
            logits = head.logits_from_terms(own, [terms[nearest[query]] for terms in gallery_terms])
            orders[query] = np.argsort(-logits, kind="stable")
            precisions[query] = _precisions_at(logits, np.sort(logits), np.sort(logits[is_relevant[query]]))

    parallel_for(rerank_for_queries, len(queries), threads)
    return orders, precisions


def _render_examples(nearest: np.ndarray, is_relevant: np.ndarray, inputs: EvaluationInputs) -> np.ndarray:
    """Return a grid with one row for the first query of each class: the query and its nearest training images."""
    queries = np.unique(inputs.test.labels, return_index=True)[1][:_EXAMPLE_QUERIES]
    tiles = []
    for query, image in zip(queries, shrink_tiles(inputs.read_images("test", queries)), strict=True):
        tiles.append(_add_frame(image, _QUERY_COLOR))
        neighbors = shrink_tiles(inputs.read_images("train", nearest[query]))
        colors = (_CORRECT_COLOR if relevant else _WRONG_COLOR for relevant in is_relevant[query])
        tiles += [_add_frame(image, color) for image, color in zip(neighbors, colors, strict=True)]
    return make_image_grid(np.stack(tiles), nearest.shape[1] + 1)


def _add_frame(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    framed = np.empty((image.shape[0] + 2 * _FRAME_WIDTH, image.shape[1] + 2 * _FRAME_WIDTH, 3), np.uint8)
    framed[:] = color
    framed[_FRAME_WIDTH:-_FRAME_WIDTH, _FRAME_WIDTH:-_FRAME_WIDTH] = image
    return framed
