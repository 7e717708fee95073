"""Tests of the search for duplicates, on changed photographs and on constructed signatures."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photographs import photographs
from PIL import Image, ImageEnhance, ImageOps

from rr.data.duplicates import (
    MAX_HASH_DISTANCE,
    MIN_CORRELATION,
    Duplicate,
    Signature,
    compute_signature,
    find_duplicates,
)
from rr.data.image_summary import is_blank

NO_TEST_IMAGES = np.zeros(2, bool)


def encode_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def crop(image: Image.Image, pixels: int) -> Image.Image:
    return ImageOps.crop(image, pixels)


@pytest.mark.parametrize(
    ("kind", "at_least", "change"),
    [
        ("near duplicate", 30, lambda image: encode_jpeg(image, 30)),
        ("near duplicate", 30, lambda image: image.resize((106, 106))),
        ("near duplicate", 30, lambda image: image.resize((240, 180))),
        ("near duplicate", 30, lambda image: crop(image, 2)),
        ("near duplicate", 27, lambda image: crop(image, 5)),
        ("near duplicate", 27, lambda image: image.rotate(2, Image.Resampling.BICUBIC)),
        ("near duplicate", 27, lambda image: ImageEnhance.Brightness(image).enhance(1.3)),
        ("near duplicate", 30, lambda image: ImageEnhance.Contrast(image).enhance(0.7)),
        ("mirrored duplicate", 30, ImageOps.mirror),
        ("mirrored duplicate", 30, lambda image: encode_jpeg(ImageOps.mirror(image), 50)),
    ],
)
def test_changed_photographs_are_found(kind: str, at_least: int, change: Callable[[Image.Image], Image.Image]) -> None:
    found = 0
    for pixels in photographs():
        signatures = [compute_signature(image) for image in (pixels, np.asarray(change(Image.fromarray(pixels))))]
        duplicates, _ = find_duplicates(signatures, NO_TEST_IMAGES)
        found += [(duplicate.kind, duplicate.image, duplicate.other) for duplicate in duplicates] == [(kind, 1, 0)]
    assert found >= at_least


@pytest.mark.parametrize(
    "change", [lambda image: crop(image, 21), lambda image: image.rotate(90), ImageOps.flip, ImageOps.invert]
)
def test_strongly_changed_photographs_are_not_found(change: Callable[[Image.Image], Image.Image]) -> None:
    found = 0
    for pixels in photographs():
        signatures = [compute_signature(image) for image in (pixels, np.asarray(change(Image.fromarray(pixels))))]
        found += bool(find_duplicates(signatures, NO_TEST_IMAGES)[0])
    assert found <= 3


def test_different_photographs_are_not_duplicates() -> None:
    signatures = [compute_signature(pixels) for pixels in photographs()]
    assert find_duplicates(signatures, np.arange(30) % 2 == 0) == ([], pytest.approx(np.zeros(30, bool)))


def test_hash_is_computed_by_definition() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    gray = np.asarray(Image.fromarray(pixels).convert("L"), np.float64)
    waves = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32) + 1) / 64)  # cosine transform, type II
    frequencies = waves @ gray @ waves.T
    bits = "".join(str(int(value > np.median(frequencies))) for value in frequencies.ravel())
    signature = compute_signature(pixels)
    assert signature.hash == int(bits, 2)
    assert signature.mirrored_hash == compute_signature(pixels[:, ::-1].copy()).hash
    assert np.abs(signature.thumbnail - pixels.reshape(8, 4, 8, 4, 3).mean((1, 3))).max() <= 0.5
    assert (signature.height, signature.width) == (32, 32)


@pytest.mark.parametrize(
    ("change", "expected"), [(0, True), (4, True), (5, False)], ids=["constant", "compressed", "with a dot"]
)
def test_blank_image(change: int, expected: bool) -> None:
    pixels = np.full((90, 70, 3), (250, 100, 0), np.uint8)
    pixels[47, 31, 1] += change
    assert is_blank(pixels) is expected
    assert compute_signature(pixels).is_blank is expected


def make_signature(name: str, value: int, seed: int = 0, *, is_blank: bool = False) -> Signature:
    """Return a signature with a random thumbnail and a mirrored hash that is far from all hashes in these tests."""
    thumbnail = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Signature(name.encode(), value, ~value & (2**64 - 1), thumbnail, 32, 32, is_blank)


def test_test_images_stay_and_training_images_can_be_left_out() -> None:
    a, b = make_signature("a", 0b1111), make_signature("b", 0b1110)
    for is_test, kept, left_out in ([False, True], 1, 0), ([True, False], 0, 1):
        duplicates, is_leaked = find_duplicates([a, b], np.array(is_test))
        assert [(d.kind, d.image, d.other) for d in duplicates] == [("near duplicate", left_out, kept)]
        assert is_leaked.tolist() == is_test
        duplicates, is_leaked = find_duplicates([a, a], np.array(is_test))
        assert duplicates == [Duplicate("exact duplicate", left_out, kept, 1.0)]
        assert is_leaked.tolist() == is_test


def test_every_copy_of_a_leaked_test_image_is_leaked() -> None:
    signatures = [
        make_signature("a", 0),
        make_signature("b", 1),
        make_signature("b", 1),
        make_signature("c", 2**40 - 1),
    ]
    duplicates, is_leaked = find_duplicates(signatures, np.array([False, True, True, True]))
    assert [(d.kind, d.image, d.other) for d in duplicates] == [("near duplicate", 0, 1), ("exact duplicate", 2, 1)]
    assert is_leaked.tolist() == [False, True, True, False]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_test_image_similar_to_a_training_copy_of_another_test_image_is_leaked(order: tuple[int, ...]) -> None:
    images = [make_signature("a", 0), make_signature("b", 1), make_signature("a", 0)]
    is_test = [True, True, False]
    _, is_leaked = find_duplicates([images[i] for i in order], np.array([is_test[i] for i in order]))
    assert is_leaked.tolist() == [is_test[i] for i in order]


def test_image_that_is_only_similar_to_a_left_out_image_stays() -> None:
    values = [0, 2**8 - 1, 2**16 - 1]  # the second is near both others, which differ in 16 bits
    duplicates, _ = find_duplicates([make_signature(str(v), v) for v in values], np.zeros(3, bool))
    assert [(d.image, d.other) for d in duplicates] == [(1, 0)]


def change_thumbnail(signature: Signature) -> Signature:
    """Return the signature with a changed thumbnail, whose correlation with the original thumbnail is about 0.98."""
    noise = np.random.default_rng(1).normal(0, 15, signature.thumbnail.shape)
    return signature._replace(thumbnail=np.clip(signature.thumbnail + noise, 0, 255).astype(np.uint8))


def test_training_image_duplicates_a_test_image_rather_than_a_more_similar_training_image() -> None:
    train, image, test = (make_signature(str(v), v) for v in (0, 2**8 - 1, 2**16 - 1))
    duplicates, _ = find_duplicates([train, image, change_thumbnail(test)], np.array([False, False, True]))
    assert [(d.image, d.other) for d in duplicates] == [(1, 2)]


@pytest.mark.parametrize("changed", [0, 1])
def test_image_duplicates_the_most_similar_other_image(changed: int) -> None:
    signatures = [make_signature(str(v), v) for v in (0, 2**16 - 1, 2**8 - 1)]
    signatures[changed] = change_thumbnail(signatures[changed])
    duplicates, _ = find_duplicates(signatures, np.zeros(3, bool))
    assert duplicates == [Duplicate("near duplicate", 2, 1 - changed, pytest.approx(1))]


def test_equal_hashes_with_different_thumbnails_are_not_duplicates() -> None:
    signatures = [make_signature("a", 7, seed=0), make_signature("b", 7, seed=1)]
    assert find_duplicates(signatures, NO_TEST_IMAGES)[0] == []


def test_blank_images_are_only_compared_for_equality() -> None:
    white, gray = make_signature("white", 0, is_blank=True), make_signature("gray", 0, is_blank=True)
    assert find_duplicates([white, gray], NO_TEST_IMAGES)[0] == []
    assert find_duplicates([white, white], NO_TEST_IMAGES)[0] == [Duplicate("exact duplicate", 1, 0, 1.0)]


@given(st.integers(0, 2**31))
def test_result_is_a_maximal_set_without_duplicates(seed: int) -> None:
    """No two images that stay are duplicates of each other, and each image that is left out has a duplicate."""
    rng = np.random.default_rng(seed)
    values = [
        int(base) ^ sum(1 << int(bit) for bit in rng.choice(64, 5, False)) for base in rng.integers(0, 3, 20) << 30
    ]
    signatures = [make_signature(str(value), value) for value in values]
    is_test = rng.random(20) < 0.3
    duplicates, _ = find_duplicates(signatures, is_test)
    left_out = {duplicate.image for duplicate in duplicates}
    assert len(left_out) == len(duplicates)
    near = [[(a ^ b).bit_count() <= MAX_HASH_DISTANCE for a in values] for b in values]
    stay = [row for row in range(20) if row not in left_out]
    assert not any(near[a][b] for a in stay for b in stay if a != b)
    assert all(near[duplicate.image][duplicate.other] for duplicate in duplicates)
    assert all(duplicate.correlation > MIN_CORRELATION for duplicate in duplicates)
