"""Test that the preprocessing in a backbone file is checked."""

from typing import Any

import pytest

from rr.data.preprocessing import Preprocessing, parse_preprocessing

METADATA = {"side": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def test_preprocessing_is_read_from_metadata() -> None:
    expected = Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert parse_preprocessing(METADATA) == expected
    assert parse_preprocessing(METADATA | {"stored_size": None}) == expected
    assert parse_preprocessing(METADATA | {"stored_size": 48}) == Preprocessing(32, expected.mean, expected.std, 48)
    for name in METADATA:
        assert parse_preprocessing({key: value for key, value in METADATA.items() if key != name}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 4}, "invalid image size, 4"),
        ({"side": 2000}, "invalid image size, 2000"),
        ({"side": "32"}, "invalid image size, '32'"),
        ({"side": True}, "invalid image size, True"),
        ({"side": None}, "image_size must be a positive integer, got None"),
        ({"stored_size": 0}, "invalid image size, 0"),
        ({"mean": None}, r"mean must be three numbers in \[0, 1\], got None"),
        ({"mean": [0.5, 0.4]}, r"mean must be three numbers in \[0, 1\], got \[0.5, 0.4\]"),
        ({"mean": [0.5, 0.4, 10**400]}, r"mean must be three numbers in \[0, 1\], got"),
        ({"mean": [0.5, 0.4, float("nan")]}, r"mean must be three numbers in \[0, 1\], got"),
        ({"mean": "0.5"}, r"mean must be three numbers in \[0, 1\], got '0.5'"),
        ({"std": [0.2, 0.3, 0.0]}, r"std must be three numbers in \(0, 1\], got \[0.2, 0.3, 0.0\]"),
        ({"std": [0.2, 0.3, {}]}, r"std must be three numbers in \(0, 1\], got"),
        ({"std": [60.0, 50.0, 40.0]}, r"std must be three numbers in \(0, 1\], got"),
    ],
)
def test_invalid_metadata_raises(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_preprocessing(METADATA | changes)
