"""Check the mean and std that are used to normalize image channels."""

from typing import Any


def parse_channel_values(name: str, values: Any) -> tuple[float, float, float]:
    """Return the mean or std of the three channels as floats.

    The limits reject statistics of pixel values in [0, 255], which would silently ruin the results.

    Args:
        name: "mean" or "std".
        values: a sequence of three numbers.

    Raises:
        ValueError: if `values` are not three numbers in [0, 1] or, for the std, in (0, 1].
    """
    try:
        triple = () if isinstance(values, str) else tuple(map(float, values))
    except (TypeError, ValueError, OverflowError):  # OverflowError: for a very large integer
        triple = ()
    if len(triple) != 3 or not all(0 <= value <= 1 for value in triple) or (name == "std" and 0 in triple):
        interval = "(0, 1]" if name == "std" else "[0, 1]"
        raise ValueError(f"{name} must be three numbers in {interval}, got {values!r}")
    red, green, blue = triple
    return red, green, blue
