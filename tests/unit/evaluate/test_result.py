"""Tests of the checks on the results of a user-defined protocol."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch

from rr.data.arrow import to_arrow
from rr.errors import UserError
from rr.evaluate.result import ProtocolResult, check_result

IMAGE = np.zeros((1, 1, 3), np.uint8)


def check_column(values: object) -> np.ndarray:
    """Check a result with two rows and a column."""
    result = ProtocolResult({"m": 0.5}, np.arange(2), {"c": values}, IMAGE)  # type: ignore[dict-item]
    return check_result("mine:Mine", result, 2, 2).columns["c"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1, 2]),
        (torch.tensor([0.5, 1.5]), [0.5, 1.5]),
        (np.array([False, True]), [False, True]),
        (np.array([[1, 2], [3, 4]], ">i4"), [[1, 2], [3, 4]]),
        (["a", "bc"], ["a", "bc"]),
        (np.array([b"a", b"\0"], object), [b"a", b"\0"]),
    ],
)
def test_columns_can_be_stored(values: object, expected: list) -> None:
    assert to_arrow(check_column(values)).equals(pa.array(expected, to_arrow(check_column(values)).type))


@pytest.mark.parametrize(
    ("make_values", "got"),
    [
        (lambda: np.zeros((2, 2, 2)), r"float64 of shape \(2, 2, 2\)"),
        (lambda: 0.5, r"float64 of shape \(\)"),
        (lambda: np.zeros(2, "datetime64[D]"), r"datetime64\[D\]"),
        (lambda: np.zeros(2, complex), "complex128"),
        (lambda: np.zeros(2, np.longdouble), "float128"),
        (lambda: np.array(["a", "b"], object), "object"),
        (lambda: [b"a", b"b"], "S1"),
        (lambda: [["a"], ["b"]], "U1"),
    ],
)
def test_columns_that_cannot_be_stored_raise(make_values: Callable[[], object], got: str) -> None:
    with pytest.raises(UserError, match=rf"mine:Mine: the column c must contain numbers of .*, got .*{got}"):
        check_column(make_values())


def test_column_that_cannot_be_converted_raises() -> None:
    for values in ([[1], [1, 2]], torch.ones(2, requires_grad=True)):
        with pytest.raises(UserError, match="mine:Mine: the column c cannot be converted to an array"):
            check_column(values)
