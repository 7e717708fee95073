"""Formats of counts, sizes and durations."""

import pytest

from rr.runtime.formatting import format_bytes


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 kB"), (12_300, "12 kB"), (999_400, "999 kB"), (999_600, "1.0 MB"), (3_940_000, "3.9 MB"),
        (159_300_000, "159.3 MB"), (999_960_000, "1.00 GB"), (1_900_000_000, "1.90 GB"), (4.43474e12, "4,434.74 GB"),
    ],
)  # fmt: skip
def test_unit_depends_on_the_size(count: float, expected: str) -> None:
    assert format_bytes(count) == expected
