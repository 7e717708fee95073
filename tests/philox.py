"""The random words from which the parameters of views are computed."""

import numpy as np

from rr.views.view_parameters_kernel import philox_block


def philox_words(num_blocks: int, seed: int, epoch: int, index: int, view: int) -> np.ndarray:
    """Return the first `num_blocks` blocks of random words of one view, uint64 (num_blocks, 4)."""
    arguments = [np.uint64(value) for value in (seed, epoch, index, view)]
    return np.array([philox_block(np.uint64(block), *arguments) for block in range(num_blocks)], np.uint64)
