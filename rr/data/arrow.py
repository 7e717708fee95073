"""Convert between numpy arrays and Arrow table columns without pandas.

pyarrow's own conversions load pandas if it is installed, which takes 0.2 s.
"""

import numpy as np
import pyarrow as pa


def to_arrow(values: np.ndarray) -> pa.Array:
    """Return numbers or booleans (N,) as an Arrow array, or (N, K) as an array of N lists.

    An object array of bytes (N,) becomes an array of binary values, and an array of text (N,) becomes an array of
    strings.
    """
    if values.dtype.kind in "OU":
        return pa.array(values.tolist(), pa.binary() if values.dtype == object else pa.string())
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    data = values.ravel()
    if values.dtype == bool:
        data = np.packbits(data, bitorder="little")  # Arrow stores eight booleans in a byte
    flat = pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), values.size, [None, pa.py_buffer(data)])
    if values.ndim == 1:
        return flat
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(to_arrow(offsets), flat)


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """Return a numeric column without missing values as an array (N,)."""
    return np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks])
