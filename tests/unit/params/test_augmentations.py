"""Test that an augmentation in params.yaml does what its keys say."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PAPER_AUGMENTATION, write_params
from pydantic import TypeAdapter

from rr.errors import UserError
from rr.params import load_params
from rr.params.augmentations import AugmentationConfig
from rr.views import Augmentation, sample_view_parameters
from rr.views.augmentation import _STRENGTHS

PARSER = TypeAdapter(AugmentationConfig)
FULL = json.loads(PARSER.dump_json(Augmentation()))


def parse(values: dict[str, Any]) -> Augmentation:
    return PARSER.validate_json(json.dumps(values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": [0.2, 1.0], "ratio": [0.75, 1.3]}, "scale and ratio have no effect without crop: set crop, for"),
        ({"padding": 0.1}, "padding has no effect without crop: set crop, for example to padded, or to none if it"),
        ({"brightness": 0.8, "hue": 0.2}, "brightness and hue have no effect without jitter: set jitter,"),
        ({"contrast": 0.0}, "contrast has no effect without jitter"),
        ({"blur_sigma": [0.1, 2.0]}, "blur_sigma has no effect without blur"),
        ({"affine": 0.5, "degrees": 5.0, "erase_area": 0.2}, "erase_area has no effect without erase"),
        ({"zoom": [0.5, 1.0]}, "zoom has no effect without affine"),
        ({"crop": "padded", "padding": 0.0}, "crop: padded has no effect, because padding is 0: raise padding, or set"),
        ({"crop": "resized", "scale": [1, 1]}, "crop: resized has no effect, because scale is [1, 1] and ratio"),
        ({"jitter": 1.0}, "jitter has no effect, because brightness, contrast, saturation and hue are 0: raise"),
        ({"affine": 1.0, "degrees": 0.0}, "affine has no effect, because degrees, translate and shear are 0 and zoom"),
        ({"erase": 1.0}, "erase has no effect, because erase_area is 0: raise it, or set erase to 0.0"),
        ({"erase": 1.0, "erase_area": 1.0}, "erase has no effect, because erase_area is 1, and a square as large as"),
        (FULL | {"jitter": 0.8}, "jitter has no effect, because"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("entry", ["methods.relational.augmentation", "methods.relational.second_augmentation",
                                   "protocols.finetune.augmentation", "protocols.embedding.augmentation"])  # fmt: skip
def test_augmentation_without_effect_is_one_clear_line(
    tmp_path: Path, values: dict[str, Any], message: str, entry: str
) -> None:
    section, name, key = entry.split(".")
    write_params(tmp_path, lambda params: params[section][name].update({key: values}))
    with pytest.raises(UserError) as caught:
        load_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: {entry}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        FULL,
        PAPER_AUGMENTATION,
        PAPER_AUGMENTATION | {"jitter": 0.0},
        PAPER_AUGMENTATION | {"crop": "none", "scale": [0.2, 1.0]},
        PAPER_AUGMENTATION | {"crop": "padded", "scale": [0.2, 1.0]},
        {"crop": "resized", "scale": [1.0, 1.0], "ratio": [2.0, 3.0]},
        {"erase": 0.0, "erase_area": 0.1, "affine": 0.0, "degrees": 5.0, "blur": 0.0, "blur_sigma": [0.1, 2.0]},
        {"affine": 1.0, "zoom": [1.0, 1.1]},
    ],
)
def test_operation_that_is_switched_off_may_have_strengths(values: dict[str, Any]) -> None:
    augmentation = parse(values)
    assert {name: json.loads(PARSER.dump_json(augmentation))[name] for name in values} == values
    assert parse(json.loads(PARSER.dump_json(augmentation))) == augmentation  # a record contains all keys


def test_every_key_is_an_operation_or_a_strength() -> None:
    strengths = [name for names in _STRENGTHS.values() for name in names]
    without_strengths = ["flip", "grayscale", "solarize"]
    assert sorted([*_STRENGTHS, *strengths, *without_strengths]) == sorted(field.name for field in fields(Augmentation))


@pytest.mark.parametrize("size", [8, 15, 32])
@pytest.mark.parametrize(
    "policy",
    [
        {"crop": "padded", "padding": 0.0},
        {"crop": "resized", "scale": (1.0, 1.0)},
        {"crop": "resized", "scale": (1.0, 1.0), "ratio": (1.0, 2.0)},
        {"jitter": 1.0},
        {"affine": 1.0},
        {"erase": 1.0},
        {"erase": 1.0, "erase_area": 1.0},
    ],
)
def test_rejected_policies_leave_images_as_they_are(
    policy: dict[str, Any], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="has no effect"):
        Augmentation(**policy)
    monkeypatch.setattr(Augmentation, "_check_effect", lambda self: None)
    parameters = sample_view_parameters(Augmentation(**policy), 0, 0, np.arange(200), 2, size)
    assert (parameters.crop == [0, 0, size, size]).all()
    assert np.isin(parameters.jitter_factors, [0, 1]).all()
    assert (parameters.affine_params == [0, 0, 0, 1, 0]).all()
    assert not parameters.erase[..., 2:].any()  # height and width
