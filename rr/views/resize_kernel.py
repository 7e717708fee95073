"""Numba kernels that shrink or enlarge a box of an image as torchvision does for tensors with `antialias=True`.

The filter is a triangle (bilinear). If the box is shrunk, the triangle is widened so that all pixels contribute.

The functions are compiled without fastmath, so the result does not depend on how LLVM vectorizes them.
"""

# mypy: disable-error-code="no-untyped-def,operator"

import numpy as np
from numba import njit

f32 = np.float32


@njit(inline="always")
def triangle_taps(in_size, out_size, first, starts, counts, weights):
    """Compute the source pixels and weights along one axis, for the outputs `first` to `first + S - 1`.

    Both are the same as in torch: output i has the center (i + 0.5) * in_size / out_size, and its weights add up to 1.

    Args:
        in_size: number of source pixels.
        out_size: number of output pixels to which they are resized.
        first: the first output to compute.
        starts: the array for the first source pixel of each output, int64 (S,).
        counts: the array for the number of source pixels of each output, int64 (S,).
        weights: the array for their weights, float32 (S, max_taps(in_size, out_size)).
    """
    scale = in_size / out_size
    support = max(scale, 1.0)
    for i in range(starts.shape[0]):
        center = scale * (first + i + 0.5)
        start = max(np.int64(center - support + 0.5), 0)
        count = min(np.int64(center + support + 0.5), in_size) - start
        total = 0.0
        for tap in range(count):
            total += max(1.0 - abs((start + tap + 0.5 - center) / support), 0.0)
        for tap in range(count):
            weights[i, tap] = f32(max(1.0 - abs((start + tap + 0.5 - center) / support), 0.0) / total)
        starts[i], counts[i] = start, count


@njit(inline="always")
def max_taps(in_size, out_size):
    """Return the maximum number of source pixels per output pixel."""
    return np.int64(2.0 * max(in_size / out_size, 1.0)) + 2


@njit(cache=True, nogil=True)
def resize_box(pixels, top, left, height, width, out_height, out_width, first_row, first_column, out):
    """Resize a box of an image, and write a window of the result to `out`, rounded to integers.

    The rows are combined before the columns, because the loop that combines rows runs over contiguous memory.

    Args:
        pixels: uint8 (H, W, 3).
        top: first row of the box in `pixels`. Pixels outside the box are not used.
        left: first column of the box.
        height: height of the box.
        width: width of the box.
        out_height: height to which the box is resized.
        out_width: width to which the box is resized.
        first_row: first row of the window in the resized box.
        first_column: first column of the window.
        out: uint8 (S, S, 3), the window.
    """
    rows = pixels.reshape((pixels.shape[0], 3 * pixels.shape[1]))
    out_rows = out.reshape((out.shape[0], 3 * out.shape[1]))
    side = out.shape[1]
    y_start, y_count = np.empty(out.shape[0], np.int64), np.empty(out.shape[0], np.int64)
    y_weight = np.empty((out.shape[0], max_taps(height, out_height)), f32)
    triangle_taps(height, out_height, first_row, y_start, y_count, y_weight)
    x_start, x_count = np.empty(side, np.int64), np.empty(side, np.int64)
    x_weight = np.empty((side, max_taps(width, out_width)), f32)
    triangle_taps(width, out_width, first_column, x_start, x_count, x_weight)
    first_used = 3 * (left + x_start[0])
    num_used = 3 * (left + x_start[side - 1] + x_count[side - 1]) - first_used
    row = np.empty(num_used, f32)
    for i in range(side):
        x_start[i] = 3 * (left + x_start[i]) - first_used
    for y in range(out.shape[0]):
        row[:] = f32(0.5)  # so that the conversion below rounds to the nearest integer
        for tap in range(y_count[y]):
            # Use a slice whose index starts at zero, so that LLVM can vectorize the loop.
            source = rows[top + y_start[y] + tap, first_used : first_used + num_used]
            weight = y_weight[y, tap]
            for x in range(num_used):
                row[x] += weight * f32(source[x])
        for x in range(side):
            red = green = blue = f32(0)
            for tap in range(x_count[x]):
                weight, position = x_weight[x, tap], x_start[x] + 3 * tap
                red += weight * row[position]
                green += weight * row[position + 1]
                blue += weight * row[position + 2]
            out_rows[y, 3 * x] = np.uint8(red)
            out_rows[y, 3 * x + 1] = np.uint8(green)
            out_rows[y, 3 * x + 2] = np.uint8(blue)
