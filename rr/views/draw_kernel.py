"""The compiled part of `draw`: the Philox generator and the sampling of one view.

The generator and its user share this file because numba's disk cache notices changes only in the file of the compiled
function itself, not in the files of the functions it calls.
"""

# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np
from numba import njit

# Words of the stream of one view. Each purpose has its own block of four words, so that using fewer words for one
# (an early accepted crop, a policy without jitter) never shifts another.
CROP_TRIES = 10  # blocks 0 to 9: area, aspect ratio, top, left of one try
SWITCHES = 10  # flip, jitter, greyscale, order of the jitter
FACTORS = 11  # brightness, contrast, saturation, hue
AFFINE = 12  # switch, angle, horizontal and vertical shift
AFFINE_MORE = 13  # zoom, shear, switch of the erasing
ERASE = 14  # top, left

U32 = np.uint64(0xFFFFFFFF)
THIRTY_TWO = np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@njit
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 (Salmon et al., SC 2011): four 32-bit words from a 128-bit counter and a 64-bit key.

    All arguments and results are uint64 that hold 32 bits.
    """
    for _ in range(10):
        p0 = MULTIPLIER_0 * c0
        p1 = MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (p1 >> THIRTY_TWO) ^ c1 ^ k0, p1 & U32, (p0 >> THIRTY_TWO) ^ c3 ^ k1, p0 & U32
        k0 = (k0 + WEYL_0) & U32
        k1 = (k1 + WEYL_1) & U32
    return c0, c1, c2, c3


@njit
def unit(word):
    """float64 in [0, 1) from a word."""
    return np.float64(word) * 2.0**-32


@njit
def between(word, low, high):
    """float64, uniform between low and high."""
    return low + (high - low) * unit(word)


@njit
def below(word, count):
    """int64, uniform in [0, count); the bias is under count / 2**32."""
    return np.int64((word * np.uint64(count)) >> THIRTY_TWO)


@njit(cache=True, nogil=True)
def words(blocks, seed, epoch, index, view):
    """uint64 (blocks, 4): the first words of the stream of one view, for tests and inspection."""
    out = np.empty((blocks, 4), np.uint64)
    for block in range(blocks):
        out[block] = block_of(np.uint64(block), np.uint64(seed), np.uint64(epoch), np.uint64(index), np.uint64(view))
    return out


@njit
def block_of(block, seed, epoch, index, view):
    """Four words. Key: the 64 bits of the seed. Counter: block (8 bits) and view (24), epoch (32), image index (64)."""
    position = (block & np.uint64(0xFF)) | (view << np.uint64(8))
    return philox(position & U32, epoch & U32, index & U32, index >> THIRTY_TWO, seed & U32, seed >> THIRTY_TWO)


@njit
def resized_crop(side, scale, ratio, seed, epoch, index, view):
    """(top, left, height, width) as `torchvision.transforms.RandomResizedCrop.get_params` on a square image."""
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(CROP_TRIES):
        w0, w1, w2, w3 = block_of(np.uint64(attempt), seed, epoch, index, view)
        area = side * side * between(w0, scale[0], scale[1])
        aspect = math.exp(between(w1, log_low, log_high))
        width = np.int64(np.rint(math.sqrt(area * aspect)))
        height = np.int64(np.rint(math.sqrt(area / aspect)))
        if 0 < width <= side and 0 < height <= side:
            return below(w2, side - height + 1), below(w3, side - width + 1), height, width
    height = width = side
    if ratio[0] > 1.0:
        height = np.int64(np.rint(side / ratio[0]))
    elif ratio[1] < 1.0:
        width = np.int64(np.rint(side * ratio[1]))
    return (side - height) // 2, (side - width) // 2, height, width


@njit(cache=True, nogil=True)
def fill(
    seed, epoch, indices, side, crop_kind, scale, ratio, border, probabilities, strengths, motion_ranges, erase_side,
    crop, flip, jitter, factors, order, grayscale, affine, motion, erase,
):  # fmt: skip
    """Draws all views into the arrays of a `ViewParameters`; see `draw` for what each argument means."""
    views, count = flip.shape
    flip_p, jitter_p, grayscale_p, affine_p, erase_p = probabilities
    degrees, shift, zoom_low, zoom_high, shear = motion_ranges
    for view in range(views):
        for m in range(count):
            at = (seed, epoch, np.uint64(indices[m]), np.uint64(view))
            top, left, height, width = np.int64(0), np.int64(0), np.int64(side), np.int64(side)
            if crop_kind == 1:
                top, left, height, width = resized_crop(side, scale, ratio, *at)
            elif crop_kind == 2:
                _, _, w2, w3 = block_of(np.uint64(0), *at)
                top = below(w2, 2 * border + 1) - border
                left = below(w3, 2 * border + 1) - border
            crop[view, m, 0] = top
            crop[view, m, 1] = left
            crop[view, m, 2] = height
            crop[view, m, 3] = width

            w0, w1, w2, w3 = block_of(np.uint64(SWITCHES), *at)
            flip[view, m] = unit(w0) < flip_p
            jitter[view, m] = unit(w1) < jitter_p
            grayscale[view, m] = unit(w2) < grayscale_p
            draw_order(w3, order[view, m])

            w0, w1, w2, w3 = block_of(np.uint64(FACTORS), *at)
            factors[view, m, 0] = between(w0, max(0.0, 1.0 - strengths[0]), 1.0 + strengths[0])
            factors[view, m, 1] = between(w1, max(0.0, 1.0 - strengths[1]), 1.0 + strengths[1])
            factors[view, m, 2] = between(w2, max(0.0, 1.0 - strengths[2]), 1.0 + strengths[2])
            factors[view, m, 3] = between(w3, -strengths[3], strengths[3])

            affine[view, m] = False
            motion[view, m] = (0.0, 0.0, 0.0, 1.0, 0.0)
            erase[view, m] = 0
            if affine_p > 0.0 or erase_p > 0.0:
                w0, w1, w2, w3 = block_of(np.uint64(AFFINE), *at)
                w4, w5, w6, _ = block_of(np.uint64(AFFINE_MORE), *at)
                affine[view, m] = unit(w0) < affine_p
                motion[view, m, 0] = between(w1, -degrees, degrees)
                motion[view, m, 1] = np.rint(between(w2, -shift, shift))
                motion[view, m, 2] = np.rint(between(w3, -shift, shift))
                motion[view, m, 3] = between(w4, zoom_low, zoom_high)
                motion[view, m, 4] = between(w5, -shear, shear)
                if unit(w6) < erase_p and erase_side < side:
                    w0, w1, _, _ = block_of(np.uint64(ERASE), *at)
                    erase[view, m, 0] = below(w0, side - erase_side + 1)
                    erase[view, m, 1] = below(w1, side - erase_side + 1)
                    erase[view, m, 2] = erase_side
                    erase[view, m, 3] = erase_side


@njit
def draw_order(word, order):
    """Writes a uniformly drawn permutation of 0, 1, 2, 3 into int8 (4,) `order` (Fisher-Yates on the digits of 24)."""
    for step in range(4):
        order[step] = step
    code = below(word, 24)
    for last in range(3, 0, -1):
        pick = code % (last + 1)
        code //= last + 1
        order[last], order[pick] = order[pick], order[last]
