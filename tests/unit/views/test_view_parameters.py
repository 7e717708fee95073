"""Tests of the random parameters of views: generator, independence of each view, and torchvision's distributions."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from philox import philox_words
from scipy import stats
from torchvision import transforms as T

from rr.views import Augmentation, ViewParameters, sample_view_parameters
from rr.views.torch_views import pack_parameters

ALL_AUGMENTATIONS = Augmentation(
    crop="resized",
    flip=0.5,
    jitter=0.8,
    brightness=0.8,
    contrast=0.6,
    saturation=1.5,
    hue=0.2,
    grayscale=0.2,
    affine=0.5,
    degrees=18.0,
    translate=0.1,
    zoom=(0.9, 1.1),
    shear=10.0,
    erase=0.5,
    erase_area=0.25,
    blur=0.5,
    solarize=0.2,
)
ARRAYS = [field.name for field in dataclasses.fields(ViewParameters) if field.name != "image_size"]
N = 4000  # images of a statistical test


def select(parameters: ViewParameters, views=slice(None), images=slice(None)) -> dict[str, np.ndarray]:
    """Return the arrays of some views of some images."""
    return {name: getattr(parameters, name)[views][:, images] for name in ARRAYS}


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_same_distribution(actual, expected) -> None:
    """Run a Kolmogorov-Smirnov test, which is conservative for discrete values. The seeds are fixed."""
    assert stats.ks_2samp(np.asarray(actual, float), np.asarray(expected, float), method="asymp").pvalue > 1e-3


# The published test vectors of Random123 for philox4x32 with 10 rounds: counter, key, result.
@pytest.mark.parametrize(
    ("counter_and_key", "expected"),
    [
        ((0,) * 6, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 6, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_published_vectors(counter_and_key, expected):
    from rr.views.view_parameters_kernel import philox

    assert tuple(int(word) for word in philox(*map(np.uint64, counter_and_key))) == expected


def test_random_words_depend_on_all_bits_of_their_arguments():
    streams = [
        philox_words(15, *arguments)
        for arguments in [
            (1, 2, 3, 4),
            (2, 2, 3, 4),
            (1 + 2**32, 2, 3, 4),
            (1, 3, 3, 4),
            (1, 2, 4, 4),
            (1, 2, 3 + 2**32, 4),
            (1, 2, 3, 5),
        ]
    ]
    assert len(np.unique(np.concatenate(streams))) == len(streams) * 60


def test_parameters_have_documented_shapes_and_types():
    p = sample_view_parameters(
        ALL_AUGMENTATIONS, seed=1, epoch=0, image_indices=np.arange(5), num_views=3, image_size=32
    )
    assert (p.num_views, p.num_images, p.image_size) == (3, 5, 32)
    expected = {
        "crop": (np.int32, (4,)),
        "flip": (np.bool_, ()),
        "jitter": (np.bool_, ()),
        "jitter_factors": (np.float32, (4,)),
        "jitter_order": (np.int8, (4,)),
        "grayscale": (np.bool_, ()),
        "blur_sigma": (np.float32, ()),
        "solarize": (np.bool_, ()),
        "affine": (np.bool_, ()),
        "affine_params": (np.float32, (5,)),
        "erase": (np.int32, (4,)),
    }
    assert {name: (getattr(p, name).dtype.type, getattr(p, name).shape[2:]) for name in ARRAYS} == expected


@settings(max_examples=30)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_view_does_not_depend_on_its_batch(seed, epoch, indices, random):
    batch = sample_view_parameters(ALL_AUGMENTATIONS, seed, epoch, np.array(indices), num_views=4, image_size=40)
    positions = [random.randrange(len(indices)) for _ in range(3)]
    subset = sample_view_parameters(
        ALL_AUGMENTATIONS, seed, epoch, np.array(indices)[positions], num_views=2, image_size=40
    )
    assert_equal(select(batch, slice(2), positions), select(subset))


def test_seed_epoch_index_and_view_number_change_the_view():
    def jitter_factors(seed=1, epoch=0, index=0, num_views=2):
        return sample_view_parameters(ALL_AUGMENTATIONS, seed, epoch, np.array([index]), num_views, 32).jitter_factors

    base = jitter_factors()
    assert not np.array_equal(base[0], base[1])
    for other in (jitter_factors(seed=2), jitter_factors(epoch=1), jitter_factors(index=1)):
        assert not np.isin(base, other).any()


@pytest.mark.parametrize(
    ("field", "off", "parameter"),
    [
        ("crop", "none", "crop"),
        ("flip", 0.0, "flip"),
        ("jitter", 0.0, "jitter"),
        ("grayscale", 0.0, "grayscale"),
        ("blur", 0.0, "blur_sigma"),
        ("solarize", 0.0, "solarize"),
        ("affine", 0.0, "affine"),
        ("erase", 0.0, "erase"),
    ],
)
def test_switching_off_an_operation_changes_no_other_parameter(field, off, parameter):
    policies = (ALL_AUGMENTATIONS, dataclasses.replace(ALL_AUGMENTATIONS, **{field: off}))
    a, b = (sample_view_parameters(policy, 1, 0, np.arange(50), 2, 32) for policy in policies)
    assert [name for name in ARRAYS if not np.array_equal(getattr(a, name), getattr(b, name))] == [parameter]
    assert parameter == "crop" or not getattr(b, parameter).any()


def test_blur_and_solarization_have_their_distributions():
    p = sample_view_parameters(
        Augmentation(blur=0.5, blur_sigma=(0.1, 2.0), solarize=0.2), 0, 0, np.arange(N), num_views=2, image_size=32
    )
    blurred = p.blur_sigma > 0
    assert abs(blurred.mean() - 0.5) < 0.03
    assert abs(p.solarize.mean() - 0.2) < 0.03
    assert abs(p.solarize[blurred].mean() - 0.2) < 0.04  # independent of the blur
    assert_same_distribution(p.blur_sigma[blurred], np.random.default_rng(0).uniform(0.1, 2.0, N))


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [
        ((0.08, 1.0), (0.75, 4 / 3)),
        ((0.9, 1.0), (0.3, 3.0)),  # most attempts fail, so the fallback is frequent
        ((1.0, 1.0), (1.5, 2.0)),  # always the fallback, with a limited height
        ((1.0, 1.0), (0.4, 0.6)),  # always the fallback, with a limited width
    ],
)
@pytest.mark.parametrize("image_size", [32, 37])
def test_resized_crop_has_the_distribution_of_torchvision(scale, ratio, image_size):
    torch.manual_seed(0)
    image = torch.empty(3, image_size, image_size)
    expected = np.array([T.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(N)])
    actual = sample_view_parameters(
        Augmentation(crop="resized", scale=scale, ratio=ratio), 0, 0, np.arange(N), 1, image_size
    ).crop[0]
    for column in range(4):
        assert_same_distribution(actual[:, column], expected[:, column])
    assert_same_distribution(actual[:, 2] * actual[:, 3], expected[:, 2] * expected[:, 3])
    assert_same_distribution(actual[:, 2] / actual[:, 3], expected[:, 2] / expected[:, 3])
    assert (actual[:, :2] >= 0).all()
    assert (actual[:, :2] + actual[:, 2:] <= image_size).all()


def test_padded_crop_has_the_distribution_of_torchvision():
    torch.manual_seed(0)
    image = torch.empty(3, 40, 40)
    expected = np.array([T.RandomCrop.get_params(image, (32, 32))[:2] for _ in range(N)]) - 4
    actual = sample_view_parameters(Augmentation(crop="padded"), 0, 0, np.arange(N), 1, 32).crop[0]
    for column in range(2):
        assert_same_distribution(actual[:, column], expected[:, column])
        assert set(actual[:, column]) == set(range(-4, 5))
    assert (actual[:, 2:] == 32).all()


def test_without_crop_the_box_is_the_image():
    assert (sample_view_parameters(Augmentation(), 0, 0, np.arange(9), 2, 32).crop == [0, 0, 32, 32]).all()


def test_jitter_has_the_distribution_of_torchvision():
    torch.manual_seed(0)
    low_high = [(0.2, 1.8), (0.4, 1.6), (0.0, 2.5), (-0.2, 0.2)]
    expected = [T.ColorJitter.get_params(*low_high) for _ in range(N)]
    p = sample_view_parameters(ALL_AUGMENTATIONS, 0, 0, np.arange(N), 1, 32)
    for column, (low, high) in enumerate(low_high):
        actual = p.jitter_factors[0, :, column]
        assert_same_distribution(actual, [t[1 + column] for t in expected])
        assert low <= actual.min() <= low + 0.01
        assert high - 0.01 <= actual.max() <= high
    codes, counts = np.unique(p.jitter_order[0] @ [64, 16, 4, 1], return_counts=True)
    assert len(codes) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("name", ["flip", "jitter", "grayscale", "affine", "erase"])
@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
def test_flags_have_their_probability(name, probability):
    policy = dataclasses.replace(ALL_AUGMENTATIONS, **{name: probability})
    values = getattr(sample_view_parameters(policy, 0, 0, np.arange(N), 1, 32), name)[0]
    count = int((values[:, 2] > 0).sum() if name == "erase" else values.sum())
    if probability in (0.0, 1.0):
        assert count == N * probability
    else:
        assert stats.binomtest(count, N, probability).pvalue > 1e-3


def test_flags_are_independent():
    p = sample_view_parameters(
        dataclasses.replace(ALL_AUGMENTATIONS, jitter=0.5, grayscale=0.5), 0, 0, np.arange(N), 1, 32
    )
    bits = np.stack([p.flip[0], p.jitter[0], p.grayscale[0], p.affine[0], p.erase[0, :, 2] > 0]).astype(float)
    correlation = np.corrcoef(bits) - np.eye(5)
    assert np.abs(correlation).max() < 4 / np.sqrt(N)


def test_affine_has_the_distribution_of_torchvision():
    torch.manual_seed(0)
    args = ([-18.0, 18.0], [0.1, 0.1], [0.9, 1.1], [-10.0, 10.0], [37, 37])
    params = [T.RandomAffine.get_params(*args) for _ in range(N)]
    expected = np.array([(angle, tx, ty, scale, shear[0]) for angle, (tx, ty), scale, shear in params])
    actual = sample_view_parameters(ALL_AUGMENTATIONS, 0, 0, np.arange(N), 1, 37).affine_params[0]
    for column in range(5):
        assert_same_distribution(actual[:, column], expected[:, column])


@pytest.mark.parametrize(("image_size", "area", "erase_size"), [(32, 0.25, 16), (32, 0.0625, 8), (96, 0.111, 32)])
def test_erase_has_the_distribution_of_torchvision(image_size, area, erase_size):
    torch.manual_seed(0)
    policy = Augmentation(erase=1.0, erase_area=area)
    actual = sample_view_parameters(policy, 0, 0, np.arange(N), 1, image_size).erase[0]
    assert (actual[:, 2:] == erase_size).all()
    image = torch.empty(3, image_size, image_size)
    expected = [T.RandomErasing.get_params(image, (area, area), (1.0, 1.0), [0.0])[:4] for _ in range(N)]
    for column in range(4):
        assert_same_distribution(actual[:, column], [t[column] for t in expected])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must be an integer in"),
        ({"seed": 2**64}, "seed must be"),
        ({"seed": 1.0}, "seed must be"),
        ({"epoch": 2**32}, "epoch must be"),
        ({"num_views": 0}, r"num_views must be an integer in \[1,"),
        ({"num_views": True}, "num_views must be"),
        ({"image_size": 0}, "image_size must be"),
        ({"image_indices": np.zeros((2, 2), int)}, "image_indices must be a vector of integers"),
        ({"image_indices": np.zeros(2)}, "image_indices must be a vector of integers"),
        ({"image_indices": np.array([3, -1])}, "image_indices must not be negative"),
        ({"augmentation": ()}, r"augmentation must be an Augmentation or a sequence of them, got \(\)"),
        ({"augmentation": "flip"}, "augmentation must be an Augmentation or a sequence of them, got 'flip'"),
        ({"augmentation": (Augmentation(), None)}, "augmentation must be an Augmentation or a sequence of them, got"),
    ],
)
def test_invalid_argument_raises(change, message):
    valid = {"augmentation": Augmentation(), "seed": 0, "epoch": 0, "image_indices": np.arange(2), "num_views": 1}
    with pytest.raises(ValueError, match=message):
        sample_view_parameters(**{**valid, "image_size": 8, **change})


def test_parameters_of_an_empty_batch_can_be_packed() -> None:
    parameters = sample_view_parameters(
        Augmentation(), seed=0, epoch=0, image_indices=np.arange(0), num_views=2, image_size=8
    )
    assert pack_parameters(parameters).shape == (0, 28)
