"""Labels held back, to learn from few of them."""

import numpy as np


def keep_share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Keep `share` of each class's labels, chosen by `seed`, and replace the others by -1; int64 (N,).

    Of every class at least one label stays, unless the share is 0.
    """
    kept = np.full_like(labels, -1)
    if share <= 0:
        return kept
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        order = np.random.Generator(np.random.Philox(key=[seed, int(label)])).permutation(len(members))
        chosen = members[order[: max(1, round(share * len(members)))]]
        kept[chosen] = label
    return kept
