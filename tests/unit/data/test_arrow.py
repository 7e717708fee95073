"""Tests of the conversions between numpy and Arrow, which must equal pyarrow's."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from rr.data.arrow import to_arrow, to_numpy


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_numbers_equal_those_of_pyarrow(dtype: type) -> None:
    values = np.arange(12, dtype=dtype)
    assert to_arrow(values).equals(pa.array(values))
    assert to_arrow(values[::3]).equals(pa.array(values[::3].copy()))
    rows = values.reshape(4, 3)
    assert to_arrow(rows[:, :2]).equals(pa.array(list(rows[:, :2])))
    column = pa.chunked_array([values[:5], values[5:]])
    assert np.array_equal(to_numpy(column), values)
    assert to_numpy(column).dtype == dtype


@pytest.mark.parametrize(
    "values",
    [
        np.arange(11) % 3 == 0,
        (np.arange(12) % 5 == 0).reshape(4, 3),
        np.array(["a", "", "ü"]),
        np.array([b"a", b"\0"], object),
    ],
)
def test_booleans_text_and_bytes_equal_those_of_pyarrow(values: np.ndarray) -> None:
    assert to_arrow(values).equals(pa.array(values.tolist()))
    assert to_arrow(values[::2]).equals(pa.array(values[::2].tolist()))


def test_numbers_in_the_other_byte_order_are_converted() -> None:
    values = np.array([1.5, 2.5])
    assert to_arrow(values.astype(">f8")).equals(pa.array(values))


def test_conversions_do_not_load_pandas() -> None:
    code = (
        "import sys, numpy as np, pyarrow as pa\n"
        "from rr.data.arrow import to_arrow, to_numpy\n"
        "to_numpy(pa.chunked_array([to_arrow(np.arange(3))]))\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
