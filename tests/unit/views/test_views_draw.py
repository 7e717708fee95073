"""Random parameters: the generator, the independence of each view, and torchvision's distributions."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision import transforms as T

from rr.views import Augmentation, ViewParameters, draw

EVERYTHING = Augmentation(
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
)
ARRAYS = [field.name for field in dataclasses.fields(ViewParameters) if field.name != "side"]
N = 4000


def rows(parameters: ViewParameters, views=slice(None), images=slice(None)) -> dict[str, np.ndarray]:
    return {name: getattr(parameters, name)[views][:, images] for name in ARRAYS}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def same_distribution(ours, theirs) -> None:
    """Kolmogorov-Smirnov; for discrete values it is conservative. Seeds are fixed, so this cannot be flaky."""
    assert stats.ks_2samp(np.asarray(ours, float), np.asarray(theirs, float), method="asymp").pvalue > 1e-3


# Random123's published known-answer vectors of philox4x32, 10 rounds: counter, key, result.
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
def test_philox_known_answers(counter_and_key, expected):
    from rr.views.draw_kernel import philox

    assert tuple(int(word) for word in philox(*map(np.uint64, counter_and_key))) == expected


def test_words_use_every_part_of_the_position():
    from rr.views.draw_kernel import words

    streams = [
        words(15, *position)
        for position in [
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


def test_shapes_and_types():
    p = draw(EVERYTHING, seed=1, epoch=0, index=np.arange(5), views=3, side=32)
    assert (p.views, p.count, p.side) == (3, 5, 32)
    expected = {
        "crop": (np.int32, (4,)),
        "flip": (np.bool_, ()),
        "jitter": (np.bool_, ()),
        "factors": (np.float32, (4,)),
        "order": (np.int8, (4,)),
        "grayscale": (np.bool_, ()),
        "affine": (np.bool_, ()),
        "motion": (np.float32, (5,)),
        "erase": (np.int32, (4,)),
    }
    assert {name: (getattr(p, name).dtype.type, getattr(p, name).shape[2:]) for name in ARRAYS} == expected


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_a_view_depends_on_nothing_but_its_position(seed, epoch, index, random):
    whole = draw(EVERYTHING, seed, epoch, np.array(index), views=4, side=40)
    picks = [random.randrange(len(index)) for _ in range(3)]
    part = draw(EVERYTHING, seed, epoch, np.array(index)[picks], views=2, side=40)
    assert_same(rows(whole, slice(2), picks), rows(part))


def test_seed_epoch_index_and_view_each_change_the_views():
    def factors(seed=1, epoch=0, index=0, views=2):
        return draw(EVERYTHING, seed, epoch, np.array([index]), views, 32).factors

    base = factors()
    assert not np.array_equal(base[0], base[1])
    for other in (factors(seed=2), factors(epoch=1), factors(index=1)):
        assert not np.isin(base, other).any()


def test_a_step_does_not_shift_the_numbers_of_another():
    bare = dataclasses.replace(EVERYTHING, crop="none", affine=0.0, erase=0.0, jitter=0.0)
    a, b = (draw(policy, 1, 0, np.arange(50), 2, 32) for policy in (EVERYTHING, bare))
    for name in ("flip", "factors", "order", "grayscale"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [
        ((0.08, 1.0), (0.75, 4 / 3)),
        ((0.9, 1.0), (0.3, 3.0)),  # most tries fail, so often the fallback
        ((1.0, 1.0), (1.5, 2.0)),  # always the fallback, limited by the height
        ((1.0, 1.0), (0.4, 0.6)),  # and by the width
    ],
)
@pytest.mark.parametrize("side", [32, 37])
def test_resized_crop_as_torchvision(scale, ratio, side):
    torch.manual_seed(0)
    image = torch.empty(3, side, side)
    theirs = np.array([T.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(N)])
    ours = draw(Augmentation(crop="resized", scale=scale, ratio=ratio), 0, 0, np.arange(N), 1, side).crop[0]
    for column in range(4):
        same_distribution(ours[:, column], theirs[:, column])
    same_distribution(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])
    same_distribution(ours[:, 2] / ours[:, 3], theirs[:, 2] / theirs[:, 3])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= side).all()


def test_padded_crop_as_torchvision():
    torch.manual_seed(0)
    image = torch.empty(3, 40, 40)
    theirs = np.array([T.RandomCrop.get_params(image, (32, 32))[:2] for _ in range(N)]) - 4
    ours = draw(Augmentation(crop="padded"), 0, 0, np.arange(N), 1, 32).crop[0]
    for column in range(2):
        same_distribution(ours[:, column], theirs[:, column])
        assert set(ours[:, column]) == set(range(-4, 5))
    assert (ours[:, 2:] == 32).all()


def test_no_crop_is_the_whole_image():
    assert (draw(Augmentation(), 0, 0, np.arange(9), 2, 32).crop == [0, 0, 32, 32]).all()


def test_jitter_as_torchvision():
    torch.manual_seed(0)
    low_high = [(0.2, 1.8), (0.4, 1.6), (0.0, 2.5), (-0.2, 0.2)]
    theirs = [T.ColorJitter.get_params(*low_high) for _ in range(N)]
    p = draw(EVERYTHING, 0, 0, np.arange(N), 1, 32)
    for column, (low, high) in enumerate(low_high):
        ours = p.factors[0, :, column]
        same_distribution(ours, [t[1 + column] for t in theirs])
        assert low <= ours.min() <= low + 0.01
        assert high - 0.01 <= ours.max() <= high
    codes, counts = np.unique(p.order[0] @ [64, 16, 4, 1], return_counts=True)
    assert len(codes) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("name", ["flip", "jitter", "grayscale", "affine", "erase"])
@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
def test_switches_as_bernoulli(name, probability):
    policy = dataclasses.replace(EVERYTHING, **{name: probability})
    drawn = getattr(draw(policy, 0, 0, np.arange(N), 1, 32), name)[0]
    hits = int((drawn[:, 2] > 0).sum() if name == "erase" else drawn.sum())
    if probability in (0.0, 1.0):
        assert hits == N * probability
    else:
        assert stats.binomtest(hits, N, probability).pvalue > 1e-3


def test_switches_are_independent():
    p = draw(dataclasses.replace(EVERYTHING, jitter=0.5, grayscale=0.5), 0, 0, np.arange(N), 1, 32)
    bits = np.stack([p.flip[0], p.jitter[0], p.grayscale[0], p.affine[0], p.erase[0, :, 2] > 0]).astype(float)
    correlation = np.corrcoef(bits) - np.eye(5)
    assert np.abs(correlation).max() < 4 / np.sqrt(N)


def test_affine_as_torchvision():
    torch.manual_seed(0)
    args = ([-18.0, 18.0], [0.1, 0.1], [0.9, 1.1], [-10.0, 10.0], [37, 37])
    params = [T.RandomAffine.get_params(*args) for _ in range(N)]
    theirs = np.array([(angle, tx, ty, scale, shear[0]) for angle, (tx, ty), scale, shear in params])
    ours = draw(EVERYTHING, 0, 0, np.arange(N), 1, 37).motion[0]
    for column in range(5):
        same_distribution(ours[:, column], theirs[:, column])


@pytest.mark.parametrize(("side", "area", "expected"), [(32, 0.25, 16), (32, 0.0625, 8), (96, 0.111, 32), (32, 1.0, 0)])
def test_erase_as_torchvision(side, area, expected):
    torch.manual_seed(0)
    ours = draw(Augmentation(erase=1.0, erase_area=area), 0, 0, np.arange(N), 1, side).erase[0]
    assert (ours[:, 2:] == expected).all()
    if expected:
        image = torch.empty(3, side, side)
        theirs = [T.RandomErasing.get_params(image, (area, area), (1.0, 1.0), [0.0])[:4] for _ in range(N)]
        for column in range(4):
            same_distribution(ours[:, column], [t[column] for t in theirs])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must be an integer in"),
        ({"seed": 2**64}, "seed must be"),
        ({"seed": 1.0}, "seed must be"),
        ({"epoch": 2**32}, "epoch must be"),
        ({"views": 0}, r"views must be an integer in \[1,"),
        ({"views": True}, "views must be"),
        ({"side": 0}, "side must be"),
        ({"index": np.zeros((2, 2), int)}, "index must be a vector of integers"),
        ({"index": np.zeros(2)}, "index must be a vector of integers"),
        ({"index": np.array([3, -1])}, "index must not be negative"),
    ],
)
def test_bad_arguments(change, message):
    good = {"seed": 0, "epoch": 0, "index": np.arange(2), "views": 1, "side": 8}
    with pytest.raises(ValueError, match=message):
        draw(Augmentation(), **{**good, **change})
