"""Tests of torchvision and timm networks: names, features, weights and error messages."""

import copy
import json
from pathlib import Path

import pytest
import torch
from networks import random_images
from safetensors.torch import save_file
from torchvision import models

from rr import backbones
from rr.backbones.weights import load_backbone, save_backbone
from rr.errors import UserError
from rr.exchange.export_weights import export_backbone
from rr.params.backbones import BUILTIN_BACKBONES, TORCHVISION_BACKBONES

# torchvision models that are not supported. rr/params/backbones.py gives the reasons.
UNSUPPORTED = {
    "googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0",
    "mnasnet1_3",
}  # fmt: skip


def build(name: str, image_size: int) -> backbones.Backbone:
    if name.startswith("timm-"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return backbones.build(name, image_size)


def test_list_contains_every_classification_model_of_torchvision() -> None:
    assert {*models.list_models(module=models)} == {*TORCHVISION_BACKBONES, *BUILTIN_BACKBONES} & {
        *models.list_models()
    } | UNSUPPORTED
    assert not {*TORCHVISION_BACKBONES} & {*BUILTIN_BACKBONES}


@pytest.mark.parametrize(
    ("name", "image_size", "num_features"),
    [
        ("mobilenet_v3_small", 32, 1024), ("shufflenet_v2_x0_5", 32, 1024), ("regnet_y_400mf", 32, 440),
        ("vit_b_32", 64, 768), ("timm-vit_tiny_patch16_224", 32, 192), ("timm-resnet10t", 32, 512),
    ],
)  # fmt: skip
def test_features_and_weights(name: str, image_size: int, num_features: int, tmp_path: Path) -> None:
    backbone = build(name, image_size)
    assert backbone.training
    images = random_images(4, image_size)
    backbone(images).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    with torch.no_grad():  # torch computes attention differently if gradients are recorded
        expected = backbone.eval()(images)
    assert expected.shape == (4, backbone.num_features) == (4, num_features)
    save_backbone(backbone, tmp_path / "weights")
    for copied in (load_backbone(tmp_path / "weights"), copy.deepcopy(backbone)):
        with torch.no_grad():
            assert torch.equal(copied(images), expected)
    export_backbone(tmp_path / "weights", "torchscript", tmp_path / "program.pt", image_size)
    with pytest.raises(UserError, match=f"use --image-size {image_size}"):
        export_backbone(tmp_path / "weights", "torchscript", tmp_path / "program.pt", image_size + 32)


def test_weights_and_features_are_those_of_torchvision() -> None:
    backbone, reference = build("mobilenet_v3_small", 32).eval(), models.mobilenet_v3_small(weights=None).eval()
    state = reference.state_dict()
    classifier = {key: state.pop(key) for key in ("classifier.3.weight", "classifier.3.bias")}
    assert list(backbone.state_dict()) == list(state)
    backbone.load_state_dict(state)
    images = random_images(4, 32)
    actual = torch.nn.functional.linear(backbone(images), *classifier.values())
    torch.testing.assert_close(actual, reference(images))


def test_weights_are_part_of_a_larger_state_dict() -> None:
    first, second = (torch.nn.Sequential(build("mobilenet_v3_small", 32)) for _ in range(2))
    with torch.no_grad():
        next(first.parameters()).fill_(1)
    assert "0.features.0.0.weight" in first.state_dict()
    second.load_state_dict(first.state_dict())
    assert next(second.parameters()).eq(1).all()


def test_equal_seeds_give_equal_weights() -> None:
    first, second = build("mobilenet_v3_small", 32), build("mobilenet_v3_small", 32)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("vit_b_16", 37, "vit_b_16 cannot be used with images of 37 x 37 pixels .*indivisible"),
        ("alexnet", 32, "alexnet cannot be used with images of 32 x 32 pixels .*too small"),
        ("timm-vit_tinny_patch16_224", 32, "timm has no model 'vit_tinny_patch16_224'; did you mean 'vit_tiny_"),
        ("timm-nothing_like_it", 32, r"timm has no model 'nothing_like_it'; timm.list_models\(\) in Python lists"),
    ],
)
def test_unsuitable_network_raises(name: str, image_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, image_size)


def test_missing_image_size_raises() -> None:
    with pytest.raises(ValueError, match="mobilenet_v2 is built for one image size"):
        backbones.build("mobilenet_v2")


@pytest.mark.parametrize("image_size", [5000, -1, "32", [32]])
def test_file_with_an_invalid_image_size_is_rejected_before_the_network_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_size: object
) -> None:
    metadata = {"backbone": "mobilenet_v2", "image_size": image_size, "features": 1280}
    save_file({"a": torch.zeros(1)}, tmp_path / "weights", metadata={"rr": json.dumps(metadata)})
    monkeypatch.setattr(backbones, "build", pytest.fail)
    with pytest.raises(UserError, match=r"weights is damaged \(its metadata has an invalid image_size, "):
        load_backbone(tmp_path / "weights")
