"""Tests of the augmentation policy."""

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys

import pytest
from helpers import ROOT

from rr.params import load_params
from rr.views import PAPER_AUGMENTATION, Augmentation
from rr.views.augmentation import blur_radius


def test_augmentations_are_off_by_default_and_frozen():
    augmentation = Augmentation()
    assert augmentation.crop == "none"
    assert augmentation.flip == augmentation.jitter == augmentation.affine == augmentation.erase == 0.0
    assert augmentation.blur == augmentation.solarize == 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        augmentation.flip = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", "center"),
        ("scale", (0.0, 1.0)),
        ("scale", (0.5, 0.4)),
        ("scale", (0.5, 1.1)),
        ("scale", 0.5),
        ("ratio", (-1.0, 1.0)),
        ("ratio", (1.0, float("inf"))),
        ("padding", -0.1),
        ("flip", 1.1),
        ("flip", float("nan")),
        ("flip", "often"),
        ("jitter", -0.1),
        ("brightness", -1.0),
        ("contrast", float("inf")),
        ("saturation", -0.5),
        ("hue", 0.6),
        ("grayscale", 2.0),
        ("blur", 1.5),
        ("blur_sigma", (0.0, 1.0)),
        ("solarize", -0.1),
        ("affine", -1.0),
        ("degrees", 200.0),
        ("translate", 1.5),
        ("zoom", (0.0, 1.0)),
        ("shear", 90.0),
        ("erase", 1.5),
        ("erase_area", -0.2),
    ],
)
def test_invalid_value_raises_with_the_field_name(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        Augmentation(**{field: value})


def test_import_loads_neither_torch_nor_numba():
    code = "import sys, rr.views; print(sorted({'torch', 'numba'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(("image_size", "radius"), [(1, 0), (2, 1), (32, 1), (64, 3), (96, 4), (224, 11)])
def test_blur_kernel_has_the_size_of_simclr(image_size, radius):
    assert blur_radius(image_size) == radius
    if image_size >= 32:  # the formula of SimCLR's GaussianBlur
        assert blur_radius(image_size) == (image_size // 10) // 2


def test_strength_without_its_operation_raises() -> None:
    message = "brightness and contrast have no effect without jitter: set jitter, for example to 0.8, or to 0.0 if it"
    with pytest.raises(ValueError, match=message):
        Augmentation("resized", (0.4, 1.0), brightness=0.4, contrast=0.4)
    with pytest.raises(ValueError, match="scale, ratio and padding have no effect without crop: set crop, for example"):
        Augmentation(scale=(0.4, 1.0), ratio=(0.5, 2.0), padding=0.1)
    off = dataclasses.replace(PAPER_AUGMENTATION, jitter=0.0)
    assert off == Augmentation(
        crop="resized", flip=0.5, jitter=0.0, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, grayscale=0.2
    )
    assert copy.deepcopy(off) == pickle.loads(pickle.dumps(off)) == off
    assert list(inspect.signature(Augmentation).parameters)[:3] == ["crop", "scale", "ratio"]


def test_paper_augmentation_is_that_of_params_yaml() -> None:
    methods = load_params(ROOT / "params.yaml").methods
    assert methods["relational"].augmentation == methods["simclr"].augmentation == PAPER_AUGMENTATION
