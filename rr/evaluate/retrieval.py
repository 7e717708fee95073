"""Image retrieval: the training pictures ranked by their nearness to each test picture."""

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rr.compute.thread_pool import share
from rr.data.beton import Beton
from rr.errors import UserError
from rr.evaluate.result import Found
from rr.params import Retrieval
from rr.runtime.image_grid import arrange

_QUERIES = 256
SHOWN_QUERIES, SHOWN_NEAREST = 10, 10
_FRAME, _RIGHT, _WRONG, _QUERY = 2, (30, 140, 60), (200, 40, 40), (255, 255, 255)


def run(settings: Retrieval, train: tuple[Tensor, Beton], test: tuple[Tensor, Beton]) -> Found:
    """Rank the pictures of `train` for each of `test` by cosine or Euclidean distance of their features (N, D).

    A picture of the query's class is right. Metrics: `mean_average_precision` over the whole ranking, and for each
    depth k `precision_at_k` (share of the first k that are right), `recall_at_k` (share of all right ones that are
    among them) and `hit_rate_at_k` (share of queries with a right one among them; what deep metric learning calls
    recall at k). Of equally near pictures the first in file order comes first; average precision counts them together,
    as scikit-learn does.

    The examples have a row for the first test picture of each class (10 at most): the query, then its 10 nearest, in a
    green frame where the class is the same and a red one where not. Raises UserError for a depth above the gallery.
    """
    depth = max(settings.depths)
    if depth > len(train[1]):
        raise UserError(
            f"retrieval at depth {depth} needs as many training pictures; there are {len(train[1])}: "
            "lower the depths of the protocol in params.yaml"
        )
    listed = min(max(depth, SHOWN_NEAREST), len(train[1]))
    nearest, nearness, precision = rank(
        train[0], train[1].labels, test[0], test[1].labels, listed, euclidean=settings.distance == "euclidean"
    )
    right = train[1].labels[nearest] == test[1].labels[:, None]
    relevant = np.bincount(train[1].labels, minlength=test[1].labels.max() + 1)[test[1].labels]
    metrics = {"mean_average_precision": float(precision.mean())}
    for k in settings.depths:
        found = right[:, :k].sum(1)
        metrics[f"precision_at_{k}"] = float((found / k).mean())
        metrics[f"recall_at_{k}"] = float((found / relevant).mean())
        metrics[f"hit_rate_at_{k}"] = float((found > 0).mean())
    return Found(
        metrics=metrics | {"train_images": len(train[1])},
        rows=np.arange(len(test[1])),
        guesses=train[1].labels[nearest[:, 0]],
        columns={
            "average_precision": precision,
            "neighbours": list(train[1].index[nearest[:, :depth]]),
            "neighbour_labels": list(train[1].labels[nearest[:, :depth]]),
            "similarities": list(nearness[:, :depth]),
        },
        examples=_examples(nearest[:, :SHOWN_NEAREST], right[:, :SHOWN_NEAREST], train[1], test[1]),
    )


def rank(
    gallery: Tensor,
    gallery_labels: np.ndarray,
    queries: Tensor,
    query_labels: np.ndarray,
    depth: int,
    *,
    euclidean: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `depth` nearest of the gallery, their nearness, and the average precision of each query.

    Features float32 (N, D) and (Q, D); labels int64. Nearness is the cosine, or minus the squared distance. Returns
    rows of the gallery int64 (Q, depth), nearness float32 (Q, depth), average precision float64 (Q,).
    """
    if not euclidean:
        gallery, queries = F.normalize(gallery), F.normalize(queries)
    squares = gallery.square().sum(1)
    by_class = {int(label): np.flatnonzero(gallery_labels == label) for label in np.unique(query_labels)}
    nearest = np.empty((len(queries), depth), np.int64)
    nearness = np.empty((len(queries), depth), np.float32)
    precision = np.empty(len(queries))
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        products = part @ gallery.T
        scores = (2 * products - squares - part.square().sum(1, keepdim=True)) if euclidean else products
        stop = start + len(part)
        work = partial(
            _rank_each, scores.cpu().numpy(), query_labels[start:stop], by_class,
            nearest[start:stop], nearness[start:stop], precision[start:stop],
        )  # fmt: skip
        share(work, len(part), torch.get_num_threads())
    return nearest, nearness, precision


def _rank_each(
    scores: np.ndarray,
    labels: np.ndarray,
    by_class: dict[int, np.ndarray],
    nearest: np.ndarray,
    nearness: np.ndarray,
    precision: np.ndarray,
    first: int,
    stop: int,
) -> None:
    """Fill the rows `first` to `stop`. Sorting values alone is several times as fast as sorting their places."""
    depth = nearest.shape[1]
    for query in range(first, stop):
        row = scores[query]
        ascending = np.sort(row)
        candidates = np.flatnonzero(row >= ascending[-depth])
        order = candidates[np.argsort(-row[candidates], kind="stable")[:depth]]
        nearest[query], nearness[query] = order, row[order]
        right = np.sort(row[by_class[int(labels[query])]])
        # At the place of each right one: how many are at least as near, and how many of those are right.
        at_least = len(ascending) - np.searchsorted(ascending, right)
        right_at_least = len(right) - np.searchsorted(right, right)
        precision[query] = (right_at_least / at_least).mean()


def _examples(nearest: np.ndarray, right: np.ndarray, train: Beton, test: Beton) -> np.ndarray:
    queries = np.unique(test.labels, return_index=True)[1][:SHOWN_QUERIES]
    rows = []
    for query in queries:
        asked, _ = next(test.batches(np.array([query]), 1))
        rows.append(_framed(np.array(asked[0]), _QUERY))
        found, _ = next(train.batches(nearest[query], nearest.shape[1]))
        colours = (_RIGHT if good else _WRONG for good in right[query])
        rows += [_framed(image, colour) for image, colour in zip(found, colours, strict=True)]
    return arrange(np.stack(rows), nearest.shape[1] + 1)


def _framed(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    framed = np.empty((image.shape[0] + 2 * _FRAME, image.shape[1] + 2 * _FRAME, 3), np.uint8)
    framed[:] = colour
    framed[_FRAME:-_FRAME, _FRAME:-_FRAME] = image
    return framed
