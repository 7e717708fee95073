"""The compiled part of `cpu`: one image in, all its views out.

A view is worked on in strips of whole rows that fit the first-level cache: the strip is resized, then adjusted, then
written. Contrast needs the mean of the whole view, so everything from it on is a second round over the strips.

All functions share this file because numba's disk cache notices changes only in the file of the compiled function,
not in those of the functions it calls. Arrays are indexed, not sliced (a slice costs reference counts), and the last
index counts from zero, so that LLVM can drop numba's test for negative indices and vectorise.
"""

# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np
from numba import njit

STRIP_PIXELS = 1536
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0, 1, 2, 3  # as in rr.views.draw, frozen into the compiled code

f32 = np.float32
ZERO, ONE, TWO, THREE, FOUR, SIX = f32(0), f32(1), f32(2), f32(3), f32(4), f32(6)
LUMA_R, LUMA_G, LUMA_B = f32(0.2989), f32(0.587), f32(0.114)  # torchvision's rgb_to_grayscale
RED, GREEN, BLUE = np.int32(0xFF), np.int32(0xFF00), np.int32(0xFF0000)  # bytes of a packed pixel

fast = njit(fastmath=True)
# For positions, where an error grows with the side: rounded as torch's own code, in which the resize is compiled with
# fused multiply-adds and the affine grid is not.
fused, plain = njit(fastmath={"contract"}), njit


@fast
def clamp(x):
    return min(max(x, ZERO), ONE)


@fast
def luma(r, g, b):
    return LUMA_R * r + LUMA_G * g + LUMA_B * b


# ---------------------------------------------------------------------------------------------------------- geometry


@fused
def taps(start, length, side, position, share):
    """Bilinear taps along one axis: output i is in[position[i]] + share[i] * (in[position[i] + 1] - in[position[i]]).

    The arithmetic is that of torch's upsample_bilinear2d with align_corners=False: float32, half-pixel centres,
    clamped at the edges of the box. What lies outside the image reads position `side`, where `pack` puts zeros.
    """
    step = f32(length) / f32(side)
    for i in range(side):
        at = max(step * (f32(i) + f32(0.5)) - f32(0.5), ZERO)
        low = min(np.int64(at), length - 1)
        pixel = start + low
        inside = pixel >= 0 and pixel < side
        position[i] = np.uint64(pixel if inside else side)
        share[i] = at - f32(low) if inside and low < length - 1 else ZERO


@fast
def pack(images, m, pixels, pairs):
    """uint64 (S + 1, S + 1) `pairs`: the bytes of pixel x in the low word and those of pixel x + 1 in the high word.

    So one load brings both horizontal neighbours of all channels. Done once for all views of an image. The last row
    and column are zero. `images` is uint8 (M, S, 3 S), `pixels` uint64 (S + 2,) scratch.
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


@fast
def resize_row(pairs, y, xs, x_share, gathered, rows, slot):
    """Horizontal interpolation of image row y into rows[slot], float32 (2, 3, S), range [0, 255 * 256**channel].

    Green and blue stay at their place in the word: the vertical weights undo that for nothing, shifts cost.
    """
    side = xs.shape[0]
    for i in range(side):
        gathered[i] = pairs[y, xs[i]]
    for i in range(side):
        here = np.int32(gathered[i] & np.uint64(0xFFFFFFFF))
        there = np.int32(gathered[i] >> np.uint64(32))
        share = x_share[i]
        r, g, b = f32(here & RED), f32(here & GREEN), f32(here & BLUE)
        rows[slot, 0, i] = r + share * (f32(there & RED) - r)
        rows[slot, 1, i] = g + share * (f32(there & GREEN) - g)
        rows[slot, 2, i] = b + share * (f32(there & BLUE) - b)


@fast
def resize_strip(pairs, strip, ys, y_share, xs, x_share, gathered, rows, held, by_row):
    """Resizes the output rows of one strip into by_row[strip], float32 (strips, 3, rows, S), range [0, 1].

    `held` int64 (2,) tells which image row each half of `rows` has, as consecutive output rows mostly share theirs.
    """
    height, side = by_row.shape[2], by_row.shape[3]
    for r in range(height):
        y = np.int64(ys[strip * height + r])
        share = y_share[strip * height + r]
        low = y & 1
        if held[low] != y:
            resize_row(pairs, y, xs, x_share, gathered, rows, low)
            held[low] = y
        high = low
        if share != ZERO:
            high = 1 - low
            if held[high] != y + 1:
                resize_row(pairs, y + 1, xs, x_share, gathered, rows, high)
                held[high] = y + 1
        scale = ONE / f32(255)
        for c in range(3):
            w0, w1 = (ONE - share) * scale, share * scale
            for i in range(side):
                by_row[strip, c, r, i] = w0 * rows[low, c, i] + w1 * rows[high, c, i]
            scale *= ONE / f32(256)


@plain
def warp(source, target, matrix, k, m, side):
    """Affine map with zeros outside, from and to float32 (strips, 3, rows, S).

    As RandomAffine on a float tensor: grid_sample with zero padding, then multiplied by the equally sampled mask of
    the image, so the border fades twice.
    """
    height = source.shape[2]
    half = f32(0.5) * f32(side)
    a, b, c = matrix[k, m, 0] / half, matrix[k, m, 1] / half, matrix[k, m, 2] / half
    d, e, f = matrix[k, m, 3] / half, matrix[k, m, 4] / half, matrix[k, m, 5] / half
    for y in range(side):
        v = f32(y) + f32(0.5) - half
        for x in range(side):
            u = f32(x) + f32(0.5) - half
            across = ((a * u + b * v + c + ONE) * f32(side) - ONE) * f32(0.5)
            down = ((d * u + e * v + f + ONE) * f32(side) - ONE) * f32(0.5)
            left, top = np.int64(math.floor(across)), np.int64(math.floor(down))
            share_x, share_y = across - f32(left), down - f32(top)
            total = red = green = blue = ZERO
            for dy in range(2):
                for dx in range(2):
                    row, column = top + dy, left + dx
                    if min(row, column) < 0 or max(row, column) >= side:
                        continue
                    weight = (share_x if dx else ONE - share_x) * (share_y if dy else ONE - share_y)
                    total += weight
                    red += weight * source[row // height, 0, row % height, column]
                    green += weight * source[row // height, 1, row % height, column]
                    blue += weight * source[row // height, 2, row % height, column]
            target[y // height, 0, y % height, x] = red * total
            target[y // height, 1, y % height, x] = green * total
            target[y // height, 2, y % height, x] = blue * total


# ------------------------------------------------------------------------------------------------------------ colour
# On strips: float32 (strips, 3, pixels), range [0, 1], in place.


@fast
def adjust_brightness(image, strip, factor):
    for c in range(3):
        for i in range(image.shape[2]):
            image[strip, c, i] = min(factor * image[strip, c, i], ONE)


@fast
def adjust_contrast(image, strip, factor, mean):
    offset = (ONE - factor) * mean
    for c in range(3):
        for i in range(image.shape[2]):
            image[strip, c, i] = clamp(factor * image[strip, c, i] + offset)


@fast
def adjust_saturation(image, strip, factor):
    rest = ONE - factor
    for i in range(image.shape[2]):
        r, g, b = image[strip, 0, i], image[strip, 1, i], image[strip, 2, i]
        gray = rest * luma(r, g, b)
        image[strip, 0, i] = clamp(factor * r + gray)
        image[strip, 1, i] = clamp(factor * g + gray)
        image[strip, 2, i] = clamp(factor * b + gray)


@fast
def adjust_hue(image, strip, shift):
    """The HSV round trip of torchvision's adjust_hue without branches.

    With the hue h in sixths of a turn and d = max - min, a channel is min + d * clamp(ramp(h)), where the ramp is
    |h - 3| - 1 for red, 2 - |h - 2| for green and 2 - |h - 4| for blue. Value and saturation never leave registers.
    """
    turn = SIX * shift
    for i in range(image.shape[2]):
        r, g, b = image[strip, 0, i], image[strip, 1, i], image[strip, 2, i]
        low = min(min(r, g), b)
        high = max(max(r, g), b)
        d = high - low
        inverse = ONE / (d if d > ZERO else ONE)
        h = (g - b) * inverse if high == r else (TWO + (b - r) * inverse if high == g else FOUR + (r - g) * inverse)
        h += turn
        h = h + SIX if h < ZERO else h
        h = h - SIX if h >= SIX else h
        image[strip, 0, i] = low + d * clamp(abs(h - THREE) - ONE)
        image[strip, 1, i] = low + d * clamp(TWO - abs(h - TWO))
        image[strip, 2, i] = low + d * clamp(TWO - abs(h - FOUR))


@fast
def luma_sum(image, strip):
    total = ZERO
    for i in range(image.shape[2]):
        total += luma(image[strip, 0, i], image[strip, 1, i], image[strip, 2, i])
    return total


@fast
def adjust(image, strip, first, last, order, factors, k, m, mean):
    """Steps first to last - 1 of the colour jitter. Steps that change nothing are skipped."""
    for step in range(first, last):
        code = order[k, m, step]
        factor = factors[k, m, code]
        if code == HUE:
            if factor != ZERO:
                adjust_hue(image, strip, factor)
        elif factor == ONE:
            continue
        elif code == BRIGHTNESS:
            adjust_brightness(image, strip, factor)
        elif code == SATURATION:
            adjust_saturation(image, strip, factor)
        else:
            adjust_contrast(image, strip, factor, mean)


# ------------------------------------------------------------------------------------------------------------ output


@fast
def store(image, strip, gray, gain, offset, out, k, m):
    """Greyscale, normalisation and interleaving of a strip into out[k, m, strip], (3 pixels,)."""
    gain_r, gain_g, gain_b = gain[0], gain[1], gain[2]
    offset_r, offset_g, offset_b = offset[0], offset[1], offset[2]
    if gray:
        for i in range(image.shape[2]):
            y = luma(image[strip, 0, i], image[strip, 1, i], image[strip, 2, i])
            out[k, m, strip, 3 * i] = y * gain_r + offset_r
            out[k, m, strip, 3 * i + 1] = y * gain_g + offset_g
            out[k, m, strip, 3 * i + 2] = y * gain_b + offset_b
    else:
        for i in range(image.shape[2]):
            out[k, m, strip, 3 * i] = image[strip, 0, i] * gain_r + offset_r
            out[k, m, strip, 3 * i + 1] = image[strip, 1, i] * gain_g + offset_g
            out[k, m, strip, 3 * i + 2] = image[strip, 2, i] * gain_b + offset_b


@plain
def blank(out, k, m, erase):
    """Zeros the erase box in out[k, m], (S, 3 S)."""
    side = out.shape[2]
    top, left, height, width = erase[k, m]
    for y in range(max(top, 0), min(top + height, side)):
        for i in range(3 * max(left, 0), 3 * min(left + width, side)):
            out[k, m, y, i] = ZERO


def strip_rows(side):
    """The most rows that divide the side and hold at most STRIP_PIXELS pixels; at least 1."""
    return max(rows for rows in range(1, side + 1) if side % rows == 0 and (rows * side <= STRIP_PIXELS or rows == 1))


# Not fastmath: inlining would carry that into `warp`.
@njit(cache=True, nogil=True)
def apply_range(
    images, start, stop, height, crop, flip, jitter, factors, order, grayscale, affine, matrix, erase, gain, offset, out
):
    """All views of images start to stop - 1.

    Args:
        images: uint8 (M, S, S, 3).
        height: rows of a strip, from `strip_rows`.
        crop to erase: the arrays of a `ViewParameters`, (K, M, ...), and `matrix` from its `inverse_affine`.
        gain, offset: float32 (3,), normalisation of [0, 1] values.
        out: float32 (K, M, S, S, 3), written for these images only.
    """
    views, count = flip.shape
    side = images.shape[1]
    strips, pixels = side // height, height * side
    # The last axis holds pixels and channels together: with a stride of exactly 3, LLVM interleaves in registers.
    bytes_of = images.reshape((count, side, 3 * side))
    out_strips = out.reshape((views, count, strips, 3 * pixels))
    out_rows = out.reshape((views, count, side, 3 * side))

    packing, pairs = np.empty(side + 2, np.uint64), np.empty((side + 1, side + 1), np.uint64)
    flat, warped = np.empty((strips, 3, pixels), f32), np.empty((strips, 3, pixels), f32)
    flat_rows = flat.reshape((strips, 3, height, side))
    warped_rows = warped.reshape((strips, 3, height, side))
    gathered, rows, held = np.empty(side, np.uint64), np.empty((2, 3, side), f32), np.empty(2, np.int64)
    ys, y_share = np.empty(side, np.uint64), np.empty(side, f32)
    xs, x_share = np.empty(side, np.uint64), np.empty(side, f32)

    for m in range(start, stop):
        pack(bytes_of, m, packing, pairs)
        for k in range(views):
            taps(crop[k, m, 0], crop[k, m, 2], side, ys, y_share)
            taps(crop[k, m, 1], crop[k, m, 3], side, xs, x_share)
            if flip[k, m]:
                for i in range(side // 2):
                    j = side - 1 - i
                    xs[i], xs[j] = xs[j], xs[i]
                    x_share[i], x_share[j] = x_share[j], x_share[i]
            held[0] = held[1] = -1

            steps = 4 if jitter[k, m] else 0
            pause = steps  # or the step of the contrast, before which the mean of the whole view must be known
            for step in range(steps):
                if order[k, m, step] == CONTRAST and factors[k, m, CONTRAST] != ONE:
                    pause = step

            if affine[k, m]:
                for strip in range(strips):
                    resize_strip(pairs, strip, ys, y_share, xs, x_share, gathered, rows, held, warped_rows)
                warp(warped_rows, flat_rows, matrix, k, m, side)
            total = 0.0
            for strip in range(strips):
                if not affine[k, m]:
                    resize_strip(pairs, strip, ys, y_share, xs, x_share, gathered, rows, held, flat_rows)
                adjust(flat, strip, 0, pause, order, factors, k, m, ZERO)
                if pause < steps:
                    total += luma_sum(flat, strip)
                else:
                    store(flat, strip, grayscale[k, m], gain, offset, out_strips, k, m)
            if pause < steps:
                mean = f32(total / (side * side))
                for strip in range(strips):
                    adjust(flat, strip, pause, steps, order, factors, k, m, mean)
                    store(flat, strip, grayscale[k, m], gain, offset, out_strips, k, m)
            if erase[k, m, 2] > 0:
                blank(out_rows, k, m, erase)
