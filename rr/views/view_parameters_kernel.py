"""Numba kernels that sample the parameters of views with the counter-based generator Philox.

All functions are in one file, because numba's disk cache detects changes only in the file of the compiled function,
not in the files of the functions that it calls.
"""

# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np
from numba import njit

# Random words are generated in blocks of four, numbered as below. Each value always uses the same word. If one
# operation needs fewer words (for example, when a crop is accepted early), the other operations still use the same
# words.
MAX_CROP_TRIES = 10  # blocks 0 to 9, one per attempt: area, aspect ratio, top, left
FLAGS_BLOCK = 10  # flip, jitter, grayscale, order of the jitter
FACTORS_BLOCK = 11  # brightness, contrast, saturation, hue
AFFINE_BLOCK = 12  # whether to apply the affine map, angle, horizontal translation, vertical translation
AFFINE_BLOCK_2 = 13  # zoom, shear, whether to erase
ERASE_BLOCK = 14  # top, left
FILTER_BLOCK = 15  # whether to blur, sigma, whether to solarize

MASK_32 = np.uint64(0xFFFFFFFF)
SHIFT_32 = np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@njit
def philox(c0, c1, c2, c3, k0, k1):
    """Return four random 32-bit words for a 128-bit counter c and a 64-bit key k.

    This is Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011). All arguments and
    results are uint64 with values below 2**32.
    """
    for _ in range(10):
        p0 = MULTIPLIER_0 * c0
        p1 = MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (p1 >> SHIFT_32) ^ c1 ^ k0, p1 & MASK_32, (p0 >> SHIFT_32) ^ c3 ^ k1, p0 & MASK_32
        k0 = (k0 + WEYL_0) & MASK_32
        k1 = (k1 + WEYL_1) & MASK_32
    return c0, c1, c2, c3


@njit
def uniform01(word):
    """Convert a random word to a float64 in [0, 1)."""
    return np.float64(word) * 2.0**-32


@njit
def uniform(word, low, high):
    """Convert a random word to a float64 that is uniformly distributed in [low, high)."""
    return low + (high - low) * uniform01(word)


@njit
def randint(word, count):
    """Convert a random word to an int64 that is uniformly distributed in [0, count), up to a bias of count / 2**32."""
    return np.int64((word * np.uint64(count)) >> SHIFT_32)


@njit
def philox_block(block, seed, epoch, index, view):
    """Return the four random words of one block.

    The key is the seed (64 bits). The counter consists of block (8 bits), view (24), epoch (32) and image index (64).
    """
    block_and_view = (block & np.uint64(0xFF)) | (view << np.uint64(8))
    return philox(
        block_and_view & MASK_32, epoch & MASK_32, index & MASK_32, index >> SHIFT_32, seed & MASK_32, seed >> SHIFT_32
    )


@njit
def sample_resized_crop(image_height, image_width, scale, ratio, seed, epoch, index, view):
    """Return a random crop (top, left, height, width), like torchvision's `RandomResizedCrop.get_params`."""
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(MAX_CROP_TRIES):
        w0, w1, w2, w3 = philox_block(np.uint64(attempt), seed, epoch, index, view)
        area = image_height * image_width * uniform(w0, scale[0], scale[1])
        aspect = math.exp(uniform(w1, log_low, log_high))
        width = np.int64(np.rint(math.sqrt(area * aspect)))
        height = np.int64(np.rint(math.sqrt(area / aspect)))
        if 0 < width <= image_width and 0 < height <= image_height:
            return randint(w2, image_height - height + 1), randint(w3, image_width - width + 1), height, width
    height, width = image_height, image_width
    if width / height < ratio[0]:
        height = np.int64(np.rint(width / ratio[0]))
    elif width / height > ratio[1]:
        width = np.int64(np.rint(height * ratio[1]))
    return (image_height - height) // 2, (image_width - width) // 2, height, width


@njit(cache=True, nogil=True)
def fill_parameters(
    seed, epoch, indices, side, first_view, view_step, crop_kind, scale, ratio, border, probabilities, strengths,
    blur_sigmas, affine_ranges, erase_side, crop, flip, jitter, jitter_factors, jitter_order, grayscale, blur_sigma,
    solarize, affine, affine_params, erase,
):  # fmt: skip
    """Sample the parameters of every `view_step`-th view, starting with `first_view`.

    The results are written to the arrays of a `ViewParameters` (`crop` to `erase`).

    `seed` and `epoch` (uint64) and `indices` (int64) are arguments to `sample_view_parameters`; `side` is the size of
    the images. `crop_kind` is 0 for no crop, 1 for a resized crop with the ranges `scale` and `ratio`, and 2 for a
    padded crop with a border of `border` pixels. The order of `probabilities` is flip, jitter, grayscale, affine map,
    erasing, blur and solarization; the order of `strengths` is brightness, contrast, saturation and hue. `blur_sigmas`
    is the range of the blur's standard deviation. `affine_ranges` contains the maximum rotation in degrees, the maximum
    translation in pixels, the lowest and highest zoom, and the maximum shear in degrees. `erase_side` is the side of
    the erased square in pixels.
    """
    num_views, num_images = flip.shape
    flip_p, jitter_p, grayscale_p, affine_p, erase_p, blur_p, solarize_p = probabilities
    degrees, shift, zoom_low, zoom_high, shear = affine_ranges
    for view in range(first_view, num_views, view_step):
        for m in range(num_images):
            stream = (seed, epoch, np.uint64(indices[m]), np.uint64(view))
            top, left, height, width = np.int64(0), np.int64(0), np.int64(side), np.int64(side)
            if crop_kind == 1:
                top, left, height, width = sample_resized_crop(side, side, scale, ratio, *stream)
            elif crop_kind == 2:
                _, _, w2, w3 = philox_block(np.uint64(0), *stream)
                top = randint(w2, 2 * border + 1) - border
                left = randint(w3, 2 * border + 1) - border
            crop[view, m, 0] = top
            crop[view, m, 1] = left
            crop[view, m, 2] = height
            crop[view, m, 3] = width

            w0, w1, w2, w3 = philox_block(np.uint64(FLAGS_BLOCK), *stream)
            flip[view, m] = uniform01(w0) < flip_p
            jitter[view, m] = uniform01(w1) < jitter_p
            grayscale[view, m] = uniform01(w2) < grayscale_p
            sample_permutation(w3, jitter_order[view, m])

            w0, w1, w2, w3 = philox_block(np.uint64(FACTORS_BLOCK), *stream)
            jitter_factors[view, m, 0] = uniform(w0, max(0.0, 1.0 - strengths[0]), 1.0 + strengths[0])
            jitter_factors[view, m, 1] = uniform(w1, max(0.0, 1.0 - strengths[1]), 1.0 + strengths[1])
            jitter_factors[view, m, 2] = uniform(w2, max(0.0, 1.0 - strengths[2]), 1.0 + strengths[2])
            jitter_factors[view, m, 3] = uniform(w3, -strengths[3], strengths[3])

            blur_sigma[view, m] = 0.0
            solarize[view, m] = False
            if blur_p > 0.0 or solarize_p > 0.0:
                w0, w1, w2, _ = philox_block(np.uint64(FILTER_BLOCK), *stream)
                if uniform01(w0) < blur_p:
                    blur_sigma[view, m] = uniform(w1, blur_sigmas[0], blur_sigmas[1])
                solarize[view, m] = uniform01(w2) < solarize_p

            affine[view, m] = False
            affine_params[view, m] = (0.0, 0.0, 0.0, 1.0, 0.0)
            erase[view, m] = 0
            if affine_p > 0.0 or erase_p > 0.0:
                w0, w1, w2, w3 = philox_block(np.uint64(AFFINE_BLOCK), *stream)
                w4, w5, w6, _ = philox_block(np.uint64(AFFINE_BLOCK_2), *stream)
                affine[view, m] = uniform01(w0) < affine_p
                affine_params[view, m, 0] = uniform(w1, -degrees, degrees)
                affine_params[view, m, 1] = np.rint(uniform(w2, -shift, shift))
                affine_params[view, m, 2] = np.rint(uniform(w3, -shift, shift))
                affine_params[view, m, 3] = uniform(w4, zoom_low, zoom_high)
                affine_params[view, m, 4] = uniform(w5, -shear, shear)
                if uniform01(w6) < erase_p and erase_side < side:
                    w0, w1, _, _ = philox_block(np.uint64(ERASE_BLOCK), *stream)
                    erase[view, m, 0] = randint(w0, side - erase_side + 1)
                    erase[view, m, 1] = randint(w1, side - erase_side + 1)
                    erase[view, m, 2] = erase_side
                    erase[view, m, 3] = erase_side


@njit
def sample_permutation(word, order):
    """Write a random permutation of 0, 1, 2, 3 to `order`, int8 (4,).

    This is a Fisher-Yates shuffle with a random number below 24, so all 24 permutations have the same probability.
    """
    for i in range(4):
        order[i] = i
    digits = randint(word, 24)
    for last in range(3, 0, -1):
        j = digits % (last + 1)
        digits //= last + 1
        order[last], order[j] = order[j], order[last]
