"""Numba kernels that compute all views of an image.

A view is processed in strips of rows that fit in the first-level cache. Each strip is resized, color-jittered and
written. However, the contrast adjustment needs the mean of the complete view, so this adjustment and all steps after it
form a second pass over the strips.

All functions are in one file, because numba's disk cache detects changes only in the file of the compiled function, not
in the files of the functions that it calls. Arrays are indexed instead of sliced, because a slice updates reference
counts. The innermost index starts at zero, so that LLVM can remove numba's test for negative indices and vectorize the
loop.

Shapes: images M, views K, side S. A strip holds `rows` rows of S pixels.
"""

# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np
from numba import njit

STRIP_PIXELS = 1536
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3  # as in rr.views.view_parameters; numba compiles them as constants

f32 = np.float32
ZERO, ONE, TWO, THREE, FOUR, SIX = f32(0), f32(1), f32(2), f32(3), f32(4), f32(6)
LUMA_R, LUMA_G, LUMA_B = f32(0.2989), f32(0.587), f32(0.114)  # as in torchvision's rgb_to_grayscale
RED, GREEN, BLUE = np.int32(0xFF), np.int32(0xFF00), np.int32(0xFF0000)  # bytes of a packed pixel

# Without `forceinline`, the process that compiles the kernel and those that load it from the cache may call different
# machine code for a helper. Their pixels then differ in the last bit (observed for sides 2, 5 and 37).
fast_njit = njit(fastmath=True, forceinline=True)
# Rounding errors in positions grow with the side, so positions are rounded as in torch. torch's resize is compiled with
# fused multiply-adds (contract), but its affine grid is not (njit without fastmath).
contract_njit = njit(fastmath={"contract"}, forceinline=True)


@fast_njit
def clamp(x):
    """Limit a value to [0, 1]."""
    return min(max(x, ZERO), ONE)


@fast_njit
def luma(r, g, b):
    """Return the luma of a pixel (ITU-R BT.601)."""
    return LUMA_R * r + LUMA_G * g + LUMA_B * b


# ---------------------------------------------------------------------------------------------------------- geometry


@contract_njit
def bilinear_taps(start, length, side, position, weight):
    """Compute the source positions and weights of a bilinear resize along one axis.

    Output i is in[position[i]] + weight[i] * (in[position[i] + 1] - in[position[i]]). The arithmetic is the same as in
    torch's upsample_bilinear2d with align_corners=False: float32, half-pixel centers, clamped at the edges of the box.
    If the source is outside the image, the position is `side`, where `pack_pixel_pairs` stores zero.

    Args:
        start: the first pixel of the box, which may be outside the image.
        length: the side of the box in pixels.
        side: the side of the image and of the output.
        position: the array for the positions, uint64 (S,).
        weight: the array for the weights, float32 (S,).
    """
    step = f32(length) / f32(side)
    for i in range(side):
        source = max(step * (f32(i) + f32(0.5)) - f32(0.5), ZERO)
        low = min(np.int64(source), length - 1)
        pixel = start + low
        inside = pixel >= 0 and pixel < side
        position[i] = np.uint64(pixel if inside else side)
        weight[i] = source - f32(low) if inside and low < length - 1 else ZERO


@fast_njit
def pack_pixel_pairs(images, m, pixels, pairs):
    """Pack each pixel of image m and its right neighbor into one 64-bit word.

    A single load then reads both horizontal neighbors of all channels. The image is packed once for all its views.

    Args:
        images: uint8 (M, S, 3 S).
        m: the index of the image.
        pixels: a temporary array, uint64 (S + 2,).
        pairs: the array for the result, uint64 (S + 1, S + 1). The low half of a word holds the bytes of pixel x, and
            the high half holds the bytes of pixel x + 1. The last row and column are zero.
    """
    side = images.shape[1]
    pixels[side] = pixels[side + 1] = np.uint64(0)
    pairs[side] = np.uint64(0)
    for y in range(side):
        for x in range(side):
            pixels[x] = np.uint64(
                np.uint32(images[m, y, 3 * x])
                | (np.uint32(images[m, y, 3 * x + 1]) << np.uint32(8))
                | (np.uint32(images[m, y, 3 * x + 2]) << np.uint32(16))
            )
        for x in range(side + 1):
            pairs[y, x] = pixels[x] | (pixels[x + 1] << np.uint64(32))


@fast_njit
def resize_row(pairs, y, xs, x_weight, row_pairs, row_cache, slot):
    """Interpolate image row y horizontally into row_cache[slot], with values in [0, 255 * 256**channel].

    `row_cache` is float32 (2, 3, S). Green and blue are not shifted within the word, because shifts take time. Instead,
    the weights of the vertical interpolation include the division by 256 and 65536 at no cost.
    """
    side = xs.shape[0]
    for i in range(side):
        row_pairs[i] = pairs[y, xs[i]]
    for i in range(side):
        left = np.int32(row_pairs[i] & np.uint64(0xFFFFFFFF))
        right = np.int32(row_pairs[i] >> np.uint64(32))
        weight = x_weight[i]
        r, g, b = f32(left & RED), f32(left & GREEN), f32(left & BLUE)
        row_cache[slot, 0, i] = r + weight * (f32(right & RED) - r)
        row_cache[slot, 1, i] = g + weight * (f32(right & GREEN) - g)
        row_cache[slot, 2, i] = b + weight * (f32(right & BLUE) - b)


@fast_njit
def resize_strip(pairs, strip_index, ys, y_weight, xs, x_weight, row_pairs, row_cache, cached_y, out):
    """Resize the output rows of one strip into out[strip_index]; `out` is float32 (strips, 3, rows, S) in [0, 1].

    Consecutive output rows mostly interpolate between the same two image rows. `row_cache`, float32 (2, 3, S), holds
    the last two image rows after horizontal interpolation, and `cached_y`, int64 (2,), holds their numbers.
    """
    height, side = out.shape[2], out.shape[3]
    for r in range(height):
        y = np.int64(ys[strip_index * height + r])
        weight = y_weight[strip_index * height + r]
        low = y & 1
        if cached_y[low] != y:
            resize_row(pairs, y, xs, x_weight, row_pairs, row_cache, low)
            cached_y[low] = y
        high = low
        if weight != ZERO:
            high = 1 - low
            if cached_y[high] != y + 1:
                resize_row(pairs, y + 1, xs, x_weight, row_pairs, row_cache, high)
                cached_y[high] = y + 1
        scale = ONE / f32(255)
        for c in range(3):
            w0, w1 = (ONE - weight) * scale, weight * scale
            for i in range(side):
                out[strip_index, c, r, i] = w0 * row_cache[low, c, i] + w1 * row_cache[high, c, i]
            scale *= ONE / f32(256)


@njit(forceinline=True)
def warp(source, target, matrix, k, m, side):
    """Apply the affine map of view k of image m to `source`, float32 (strips, 3, rows, S); write to `target`.

    The result is the same as that of RandomAffine on a float tensor, which uses grid_sample with zero padding.
    torchvision then multiplies the result by a mask of the image, which it samples in the same way. Therefore, the
    border is weighted twice.
    """
    height = source.shape[2]
    half = f32(0.5) * f32(side)
    a, b, c = matrix[k, m, 0] / half, matrix[k, m, 1] / half, matrix[k, m, 2] / half
    d, e, f = matrix[k, m, 3] / half, matrix[k, m, 4] / half, matrix[k, m, 5] / half
    for y in range(side):
        v = f32(y) + f32(0.5) - half
        for x in range(side):
            u = f32(x) + f32(0.5) - half
            source_x = ((a * u + b * v + c + ONE) * f32(side) - ONE) * f32(0.5)
            source_y = ((d * u + e * v + f + ONE) * f32(side) - ONE) * f32(0.5)
            left, top = np.int64(math.floor(source_x)), np.int64(math.floor(source_y))
            weight_x, weight_y = source_x - f32(left), source_y - f32(top)
            mask = red = green = blue = ZERO
            for dy in range(2):
                for dx in range(2):
                    row, column = top + dy, left + dx
                    if min(row, column) < 0 or max(row, column) >= side:
                        continue
                    weight = (weight_x if dx else ONE - weight_x) * (weight_y if dy else ONE - weight_y)
                    mask += weight
                    red += weight * source[row // height, 0, row % height, column]
                    green += weight * source[row // height, 1, row % height, column]
                    blue += weight * source[row // height, 2, row % height, column]
            target[y // height, 0, y % height, x] = red * mask
            target[y // height, 1, y % height, x] = green * mask
            target[y // height, 2, y % height, x] = blue * mask


# ------------------------------------------------------------------------------------------------------------- color
# These functions process one strip of a view, `strips[strip_index]`, in place. `strips` is float32 (strips, 3, pixels),
# with values in [0, 1].


@fast_njit
def adjust_brightness(strips, strip_index, factor):
    """Multiply a strip by `factor`, like torchvision's adjust_brightness."""
    for c in range(3):
        for i in range(strips.shape[2]):
            strips[strip_index, c, i] = min(factor * strips[strip_index, c, i], ONE)


@fast_njit
def adjust_contrast(strips, strip_index, factor, mean):
    """Blend a strip with the mean luma of the view, `mean`, like torchvision's adjust_contrast."""
    offset = (ONE - factor) * mean
    for c in range(3):
        for i in range(strips.shape[2]):
            strips[strip_index, c, i] = clamp(factor * strips[strip_index, c, i] + offset)


@fast_njit
def adjust_saturation(strips, strip_index, factor):
    """Blend each pixel of a strip with its luma, like torchvision's adjust_saturation."""
    gray_weight = ONE - factor
    for i in range(strips.shape[2]):
        r, g, b = strips[strip_index, 0, i], strips[strip_index, 1, i], strips[strip_index, 2, i]
        gray = gray_weight * luma(r, g, b)
        strips[strip_index, 0, i] = clamp(factor * r + gray)
        strips[strip_index, 1, i] = clamp(factor * g + gray)
        strips[strip_index, 2, i] = clamp(factor * b + gray)


@fast_njit
def adjust_hue(strips, strip_index, hue_shift):
    """Shift the hue of a strip by converting it to HSV and back without branches, like torchvision's adjust_hue.

    `hue_shift` is a fraction of a full turn of the color wheel. Let h be the hue in sixths of a turn, and
    d = max - min. A channel is min + d * clamp(ramp(h)). The ramp is |h - 3| - 1 for red, 2 - |h - 2| for green and
    2 - |h - 4| for blue. Saturation and value stay in registers.
    """
    turn = SIX * hue_shift
    for i in range(strips.shape[2]):
        r, g, b = strips[strip_index, 0, i], strips[strip_index, 1, i], strips[strip_index, 2, i]
        low = min(min(r, g), b)
        high = max(max(r, g), b)
        d = high - low
        inverse = ONE / (d if d > ZERO else ONE)
        h = (g - b) * inverse if high == r else (TWO + (b - r) * inverse if high == g else FOUR + (r - g) * inverse)
        h += turn
        h = h + SIX if h < ZERO else h
        h = h - SIX if h >= SIX else h
        strips[strip_index, 0, i] = low + d * clamp(abs(h - THREE) - ONE)
        strips[strip_index, 1, i] = low + d * clamp(TWO - abs(h - TWO))
        strips[strip_index, 2, i] = low + d * clamp(TWO - abs(h - FOUR))


@fast_njit
def sum_luma(strips, strip_index):
    """Return the sum of the luma over the pixels of a strip."""
    total = ZERO
    for i in range(strips.shape[2]):
        total += luma(strips[strip_index, 0, i], strips[strip_index, 1, i], strips[strip_index, 2, i])
    return total


@fast_njit
def apply_jitter_steps(strips, strip_index, first_step, stop_step, order, factors, k, m, mean):
    """Apply steps first_step to stop_step - 1 of the color jitter to a strip; skip steps that change nothing.

    `order` and `factors` contain the values of all views; the strip belongs to view k of image m. `mean` is the mean
    luma of the view, which only the contrast adjustment needs.
    """
    for step in range(first_step, stop_step):
        code = order[k, m, step]
        factor = factors[k, m, code]
        if code == HUE:
            if factor != ZERO:
                adjust_hue(strips, strip_index, factor)
        elif factor == ONE:
            continue
        elif code == BRIGHTNESS:
            adjust_brightness(strips, strip_index, factor)
        elif code == SATURATION:
            adjust_saturation(strips, strip_index, factor)
        else:
            adjust_contrast(strips, strip_index, factor, mean)


# ------------------------------------------------------------------------------------------------------------ output


@fast_njit
def normalize_and_store(strips, strip_index, to_grayscale, scale, offset, out, k, m):
    """Normalize a strip (in grayscale if `to_grayscale`) and write it to out[k, m, strip_index], channels last."""
    scale_r, scale_g, scale_b = scale[0], scale[1], scale[2]
    offset_r, offset_g, offset_b = offset[0], offset[1], offset[2]
    if to_grayscale:
        for i in range(strips.shape[2]):
            y = luma(strips[strip_index, 0, i], strips[strip_index, 1, i], strips[strip_index, 2, i])
            out[k, m, strip_index, 3 * i] = y * scale_r + offset_r
            out[k, m, strip_index, 3 * i + 1] = y * scale_g + offset_g
            out[k, m, strip_index, 3 * i + 2] = y * scale_b + offset_b
    else:
        for i in range(strips.shape[2]):
            out[k, m, strip_index, 3 * i] = strips[strip_index, 0, i] * scale_r + offset_r
            out[k, m, strip_index, 3 * i + 1] = strips[strip_index, 1, i] * scale_g + offset_g
            out[k, m, strip_index, 3 * i + 2] = strips[strip_index, 2, i] * scale_b + offset_b


@njit(forceinline=True)
def erase_box(out, k, m, erase):
    """Set the pixels in the erase box of out[k, m], float32 (S, 3 S), to zero."""
    side = out.shape[2]
    top, left, height, width = erase[k, m]
    for y in range(max(top, 0), min(top + height, side)):
        for i in range(3 * max(left, 0), 3 * min(left + width, side)):
            out[k, m, y, i] = ZERO


def rows_per_strip(side):
    """Return the largest divisor of `side` for which a strip has at most STRIP_PIXELS pixels, or 1."""
    return max(rows for rows in range(1, side + 1) if side % rows == 0 and (rows * side <= STRIP_PIXELS or rows == 1))


# Compile this without fastmath, which would also apply to `warp` after inlining.
@njit(cache=True, nogil=True)
def augment_range(
    images, start, stop, strip_height, crop, flip, jitter, factors, order, grayscale, affine, matrix, erase, scale,
    offset, out,
):  # fmt: skip
    """Compute all views of images start to stop - 1.

    `images` is uint8 (M, S, S, 3), and `strip_height` is the number of rows of a strip, from `rows_per_strip`. The
    arrays from `crop` to `erase` are fields of a `ViewParameters`, (K, M, ...); `matrix` is the result of its
    `inverse_affine_matrices`. `scale` and `offset`, float32 (3,), normalize values in [0, 1]. The views are written to
    `out`, float32 (K, M, S, S, 3).
    """
    num_views, num_images = flip.shape
    side = images.shape[1]
    num_strips, strip_pixels = side // strip_height, strip_height * side
    # Pixels and channels share the last axis: with a stride of exactly 3, LLVM interleaves channels in registers.
    image_rows = images.reshape((num_images, side, 3 * side))
    out_strips = out.reshape((num_views, num_images, num_strips, 3 * strip_pixels))
    out_rows = out.reshape((num_views, num_images, side, 3 * side))

    pixel_words, pairs = np.empty(side + 2, np.uint64), np.empty((side + 1, side + 1), np.uint64)
    view, unwarped = np.empty((num_strips, 3, strip_pixels), f32), np.empty((num_strips, 3, strip_pixels), f32)
    view_rows = view.reshape((num_strips, 3, strip_height, side))
    unwarped_rows = unwarped.reshape((num_strips, 3, strip_height, side))
    row_pairs, row_cache, cached_y = np.empty(side, np.uint64), np.empty((2, 3, side), f32), np.empty(2, np.int64)
    ys, y_weight = np.empty(side, np.uint64), np.empty(side, f32)
    xs, x_weight = np.empty(side, np.uint64), np.empty(side, f32)

    for m in range(start, stop):
        pack_pixel_pairs(image_rows, m, pixel_words, pairs)
        for k in range(num_views):
            bilinear_taps(crop[k, m, 0], crop[k, m, 2], side, ys, y_weight)
            bilinear_taps(crop[k, m, 1], crop[k, m, 3], side, xs, x_weight)
            if flip[k, m]:
                for i in range(side // 2):
                    j = side - 1 - i
                    xs[i], xs[j] = xs[j], xs[i]
                    x_weight[i], x_weight[j] = x_weight[j], x_weight[i]
            cached_y[0] = cached_y[1] = -1

            num_steps = 4 if jitter[k, m] else 0
            contrast_step = num_steps  # the step of the contrast adjustment, if there is one
            for step in range(num_steps):
                if order[k, m, step] == CONTRAST and factors[k, m, CONTRAST] != ONE:
                    contrast_step = step

            if affine[k, m]:
                for strip in range(num_strips):
                    resize_strip(
                        pairs, strip, ys, y_weight, xs, x_weight, row_pairs, row_cache, cached_y, unwarped_rows
                    )
                warp(unwarped_rows, view_rows, matrix, k, m, side)
            total = 0.0
            for strip in range(num_strips):
                if not affine[k, m]:
                    resize_strip(pairs, strip, ys, y_weight, xs, x_weight, row_pairs, row_cache, cached_y, view_rows)
                apply_jitter_steps(view, strip, 0, contrast_step, order, factors, k, m, ZERO)
                if contrast_step < num_steps:
                    total += sum_luma(view, strip)
                else:
                    normalize_and_store(view, strip, grayscale[k, m], scale, offset, out_strips, k, m)
            if contrast_step < num_steps:
                mean = f32(total / (side * side))
                for strip in range(num_strips):
                    apply_jitter_steps(view, strip, contrast_step, num_steps, order, factors, k, m, mean)
                    normalize_and_store(view, strip, grayscale[k, m], scale, offset, out_strips, k, m)
            if erase[k, m, 2] > 0:
                erase_box(out_rows, k, m, erase)


# ----------------------------------------------------------------------------------------------------------- filters
# A blur needs the rows above and below, so these functions process complete views after `augment_range`.


@fast_njit
def reflect(position, side):
    """Return the pixel for a position that may be outside the image; reflection does not repeat the edge pixel."""
    return side - 1 - abs(side - 1 - abs(position))


@fast_njit
def blur(views, k, m, sigma, weights, padded, rows):
    """Blur views[k, m], float32 (S, 3 S), like torchvision's gaussian_blur.

    `weights`, float32 (2 * radius + 1,), `padded`, float32 (3 * (S + 2 * radius),), and `rows`, float32 (S, 3 S), are
    temporary arrays.
    """
    side, taps = rows.shape[0], weights.shape[0]
    radius = taps // 2
    total = ZERO
    for t in range(taps):
        distance = f32(t - radius) / sigma
        weights[t] = math.exp(f32(-0.5) * distance * distance)
        total += weights[t]
    for t in range(taps):
        weights[t] /= total
    for y in range(side):
        for x in range(side + 2 * radius):
            source = reflect(x - radius, side)
            for c in range(3):
                padded[3 * x + c] = views[k, m, y, 3 * source + c]
        for i in range(3 * side):
            rows[y, i] = weights[0] * padded[i]
        for t in range(1, taps):
            for i in range(3 * side):
                rows[y, i] += weights[t] * padded[i + 3 * t]
    for y in range(side):
        for i in range(3 * side):
            views[k, m, y, i] = ZERO
        for t in range(taps):
            source = reflect(y + t - radius, side)
            for i in range(3 * side):
                views[k, m, y, i] += weights[t] * rows[source, i]


@fast_njit
def normalize_in_place(views, k, m, scale, offset):
    """Normalize views[k, m] with the same rounding as `normalize_and_store`."""
    for y in range(views.shape[2]):
        for x in range(views.shape[3]):
            for c in range(3):
                views[k, m, y, x, c] = views[k, m, y, x, c] * scale[c] + offset[c]


@njit(cache=True, nogil=True)
def filter_range(views, start, stop, radius, blur_sigma, solarize, erase, scale, offset):
    """Blur, solarize, normalize and erase all views of images start to stop - 1 in place.

    `views`, float32 (K, M, S, S, 3), is the result of `augment_range` without normalization and erasing. `radius` is
    the blur radius in pixels. `blur_sigma` and `solarize` are fields of a `ViewParameters`, (K, M). The other arguments
    are the same as in `augment_range`.
    """
    num_views, num_images, side = views.shape[:3]
    views_rows = views.reshape((num_views, num_images, side, 3 * side))
    weights, padded = np.empty(2 * radius + 1, f32), np.empty(3 * (side + 2 * radius), f32)
    rows = np.empty((side, 3 * side), f32)
    half = f32(0.5)
    for m in range(start, stop):
        for k in range(num_views):
            if blur_sigma[k, m] > ZERO:
                blur(views_rows, k, m, blur_sigma[k, m], weights, padded, rows)
            if solarize[k, m]:
                for y in range(side):
                    for i in range(3 * side):
                        value = views_rows[k, m, y, i]
                        views_rows[k, m, y, i] = ONE - value if value >= half else value
            normalize_in_place(views, k, m, scale, offset)
            if erase[k, m, 2] > 0:
                erase_box(views_rows, k, m, erase)
