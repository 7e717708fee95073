"""Tests of pairs of views and of partners: hand-computed cases, counts, and that no row is its own negative."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rr.methods.relation.factorized import pair_row_indices
from rr.methods.relation.pairs import (
    choose_positive_rows,
    partners,
    replace_same_class_negatives,
    roll_negative_rows,
    sample_negative_rows,
)


def test_view_pairs_are_lexicographic() -> None:
    pairs = torch.stack(pair_row_indices(4, 1, roll_negative_rows(4, 1)), 1)
    assert pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert pairs.dtype == torch.int64


def test_rolled_negative_rows_by_hand() -> None:
    # For M = 3, the shifts of the three pairs of views are 1, 2 and 1.
    assert roll_negative_rows(3, 3).tolist() == [[2, 0, 1], [1, 2, 0], [2, 0, 1]]


def test_rolled_negative_rows_of_two_images_are_swapped() -> None:
    assert roll_negative_rows(4, 2).tolist() == [[1, 0]] * 6


@pytest.mark.parametrize(("K", "M"), [(2, 2), (4, 3), (8, 7), (8, 64)])
def test_rolled_negative_rows_equal_torch_roll(K: int, M: int) -> None:
    shift = 1
    for negative_rows in roll_negative_rows(K, M):
        assert torch.equal(negative_rows, torch.roll(torch.arange(M), shift))
        shift = 1 if shift + 1 == M else shift + 1


@pytest.mark.parametrize("K", [2, 3, 8, 32])
@pytest.mark.parametrize("M", [2, 3, 7, 64])
def test_num_pairs(K: int, M: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for negative_rows in (roll_negative_rows(K, M), sample_negative_rows(K, M, generator)):
        assert negative_rows.shape == (math.comb(K, 2), M)
        assert negative_rows.dtype == torch.int64
        assert 2 * negative_rows.numel() == M * (K**2 - K)


@given(K=st.integers(2, 9), M=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_negative_is_another_row_of_the_mini_batch(K: int, M: int, seed: int) -> None:
    for negative_rows in (roll_negative_rows(K, M), sample_negative_rows(K, M, torch.Generator().manual_seed(seed))):
        assert ((negative_rows >= 0) & (negative_rows < M)).all()
        if M > 1:
            assert (negative_rows != torch.arange(M)).all()


def test_one_image_has_no_negatives() -> None:
    assert roll_negative_rows(3, 1).shape == sample_negative_rows(3, 1, torch.Generator()).shape == (3, 0)


def test_sampled_negative_rows_are_uniform_and_independent() -> None:
    M, repeats = 5, 400
    generator = torch.Generator().manual_seed(0)
    negative_rows = torch.cat([sample_negative_rows(8, M, generator) for _ in range(repeats)])  # 28 view pairs each
    counts = torch.stack([torch.bincount(negative_rows[:, m], minlength=M) for m in range(M)]).double()
    assert (counts.diagonal() == 0).all()
    expected = len(negative_rows) / (M - 1)
    chi_square = ((counts - expected) ** 2 / expected).sum(1) - expected  # without the diagonal term
    assert (chi_square < 21).all()  # 3 degrees of freedom: p = 0.0001
    pair_codes = (
        negative_rows[:, 0] * M + negative_rows[:, 1]
    )  # independent rows: 4 x 4 combinations, about equally frequent
    frequencies = torch.bincount(pair_codes, minlength=M * M).double()
    frequencies = frequencies[frequencies > 0]
    assert len(frequencies) == (M - 1) ** 2
    expected = len(negative_rows) / (M - 1) ** 2
    assert ((frequencies - expected) ** 2 / expected).sum() < 45  # 15 degrees of freedom


def test_sampled_negative_rows_depend_only_on_the_generator() -> None:
    first, again, other = (sample_negative_rows(4, 9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("K", [0, 1])
def test_fewer_than_two_views_raises(K: int) -> None:
    with pytest.raises(ValueError, match="needs at least 2 views of each image, got K = "):
        roll_negative_rows(K, 4)
    with pytest.raises(ValueError, match="needs at least 2 views of each image, got K = "):
        sample_negative_rows(K, 4, torch.Generator())


def test_no_images_raises() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        roll_negative_rows(2, 0)
    with pytest.raises(ValueError, match="at least one image"):
        sample_negative_rows(2, 0, torch.Generator())


@given(M=st.integers(1, 20), classes=st.integers(1, 4), seed=st.integers(0, 999))
def test_partners_by_class_of_positives_and_negatives(M: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, classes, (M,), generator=generator)
    uniform = torch.rand(10, M, generator=generator)
    positives = choose_positive_rows(labels, uniform)
    assert positives.shape == (10, M)
    rows = torch.arange(M)
    known = labels >= 0
    assert (labels[positives] == labels)[:, known].all()
    assert (positives == rows)[:, ~known].all()
    if M == 1:
        return
    before = sample_negative_rows(5, M, generator)
    negatives = replace_same_class_negatives(labels, before, uniform)
    assert (negatives != rows).all()
    same_class = known & (labels[negatives] == labels)
    others = (labels[:, None] != labels).any(1) | ~known
    assert not same_class[:, others].any()  # same-class negatives remain only if all images belong to one class
    unchanged = ~(known & (labels[before] == labels))
    assert torch.equal(negatives[unchanged], before[unchanged])


def test_partners_by_class_are_uniform() -> None:
    labels = torch.tensor([0, 1, 0, -1, 0, 1])
    uniform = torch.rand(6000, 6, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(choose_positive_rows(labels, uniform)[:, 2], minlength=6)
    assert counts[[1, 3, 5]].sum() == 0
    assert (counts[[0, 2, 4]] - 2000).abs().max() < 150  # four standard deviations
    negatives = replace_same_class_negatives(labels, torch.zeros(6000, 6, dtype=torch.int64), uniform)
    counts = torch.bincount(negatives[:, 2], minlength=6)
    assert counts[[0, 2, 4]].sum() == 0
    assert (counts[[1, 3, 5]] - 2000).abs().max() < 150
    assert (choose_positive_rows(labels, torch.full((1, 6), 0.99999997)) == torch.tensor([4, 5, 4, 3, 4, 5])).all()


def test_partners_are_rolled_by_default_and_random_with_a_generator() -> None:
    assert torch.equal(partners(3, 4), roll_negative_rows(3, 4))
    random = sample_negative_rows(3, 4, torch.Generator().manual_seed(1))
    assert torch.equal(partners(3, 4, torch.Generator().manual_seed(1)), random)
    assert torch.equal(partners(np.int64(3), np.int64(4)), partners(3, 4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_views and num_images must be integers, got 3\.0 and 4"):
        partners(3.0, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"generator must be a torch\.Generator or None, got 1"):
        partners(3, 4, 1)  # type: ignore[arg-type]
