"""Tests of the conversions between numpy and Arrow, which equal those of pyarrow."""

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


def test_conversions_do_not_load_pandas() -> None:
    code = (
        "import sys, numpy as np, pyarrow as pa\n"
        "from rr.data.arrow import to_arrow, to_numpy\n"
        "to_numpy(pa.chunked_array([to_arrow(np.arange(3))]))\n"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
