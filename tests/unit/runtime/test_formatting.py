"""Tests of the formats of sizes, rates, durations and counts."""

import pytest

from rr.runtime.formatting import format_bytes, format_count, format_duration, format_rate


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 kB"), (12_300, "12 kB"), (999_400, "999 kB"), (999_600, "1.0 MB"), (3_940_000, "3.9 MB"),
        (159_300_000, "159.3 MB"), (999_960_000, "1.00 GB"), (1_900_000_000, "1.90 GB"), (4.43474e12, "4,434.74 GB"),
    ],
)  # fmt: skip
def test_unit_depends_on_the_size(count: float, expected: str) -> None:
    assert format_bytes(count) == expected


@pytest.mark.parametrize(
    ("rate", "unit", "expected"),
    [
        (12_345.6, "views", "12,346 views/s"),
        (4.26, "epochs", "4.3 epochs/s"),
        (0.4, "epochs", "2.5 s/epoch"),
        (1 / 12, "epochs", "12 s/epoch"),
        (1 / 900, "parts", "15 min/part"),
        (2.5e6, "bytes", "2.5 MB/s"),
        (1000.0, "bytes", "0.0 MB/s"),
    ],
)
def test_rate_is_formatted(rate: float, unit: str, expected: str) -> None:
    assert format_rate(rate, unit) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (-5, "0 s"), (99, "99 s"), (100, "2 min"), (6000, "1.7 h"), (172_799, "48.0 h"), (10**6, "11.6 d")],
)
def test_duration_is_formatted(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


def test_count_is_formatted() -> None:
    assert format_count(1, "images") == "1 image"
    assert format_count(2000, "images") == "2,000 images"
    assert format_count(1, "other processes", "other process") == "1 other process"
