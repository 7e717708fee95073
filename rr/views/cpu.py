"""Views on the CPU: a compiled kernel, shared between threads by image.

Before the division by std, the paper's policy differs from torchvision's functional operations on float tensors by at
most 3e-6, and every policy by at most 1e-5 (3e-5 where jitter factors near 3 multiply each other). From the 8-bit PIL
path of the official code it differs by 1.2/255 in the mean and 6/255 at the 99th percentile, because PIL rounds to
bytes after every step and has an 8-bit hue; single pixels differ by up to 40/255.

The bilinear resize does not antialias. PIL does when it shrinks, but a crop is never larger than the view it is
resized to, and there both agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from rr.compute.thread_pool import share
from rr.views import kernel
from rr.views.checks import check_fit, check_images, check_normalisation
from rr.views.draw import ViewParameters


def apply(
    images: NDArray[np.uint8],
    parameters: ViewParameters,
    mean: Sequence[float],
    std: Sequence[float],
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Makes the views that `parameters` describes.

    Uses `numba.get_num_threads()` threads and releases the interpreter lock in them; the result is bit-identical for
    any number of them.

    Args:
        images: uint8 (M, S, S, 3).
        parameters: of K views of M images of side S.
        mean, std: three numbers each, of channels in [0, 1].
        out: float32 (K, M, S, S, 3), C-contiguous, to write to; allocated if missing.

    Returns:
        float32 (K, M, S, S, 3), normalised, view-major.

    Raises:
        ValueError: shapes or types do not fit.
    """
    count, side = check_images(images, np.uint8)
    check_fit(parameters, count, side)
    gain, offset = check_normalisation(mean, std)
    shape = (parameters.views, count, side, side, 3)
    if out is None:
        out = np.empty(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous float32 of shape {shape}, got {out.dtype} of shape {out.shape}")
    if count == 0:
        return out

    images = np.ascontiguousarray(images)
    matrix = parameters.inverse_affine()
    rows = kernel.strip_rows(side)

    def work(start: int, stop: int) -> None:
        p = parameters
        kernel.apply_range(
            images, start, stop, rows, p.crop, p.flip, p.jitter, p.factors, p.order, p.grayscale, p.affine, matrix,
            p.erase, gain, offset, out,
        )  # fmt: skip

    share(work, count, numba.get_num_threads())
    return out
