"""Convert between numpy arrays and Arrow table columns without pandas.

pyarrow's own conversions load pandas if it is installed, which takes 0.2 s.
"""

import numpy as np
import pyarrow as pa


def to_arrow(values: np.ndarray) -> pa.Array:
    """Return numbers (N,) as an Arrow array, or numbers (N, K) as an array of N lists.

    An object array of bytes (N,) becomes an array of binary values.
    """
    if values.dtype == object:
        return pa.array(values.tolist(), pa.binary())
    values = np.ascontiguousarray(values)
    flat = pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), values.size, [None, pa.py_buffer(values.ravel())])
    if values.ndim == 1:
        return flat
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(to_arrow(offsets), flat)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Return a numeric column without missing values as an array (N,)."""
    return np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks])
