"""Tests of the ResNets against independent computations, and of the attributes that every backbone has."""

import copy
import math
from itertools import pairwise

import pytest
import torch
from networks import random_backbone, random_images
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from rr import backbones
from rr.params.backbones import BUILTIN_BACKBONES

# Number of parameters in the first convolution block and in stages 1, 2 and 3.
STAGE_PARAMETERS = {
    "resnet8": [464, 4_672, 14_528, 57_728],
    "resnet32": [464, 23_360, 88_768, 353_664],
    "resnet56": [464, 42_048, 163_008, 649_600],
}
TOTAL_PARAMETERS = {"conv4": 24_648} | {name: sum(stages) for name, stages in STAGE_PARAMETERS.items()}
LOCAL_MAPS = {"conv4": (8, 1), "resnet8": (16, 1), "resnet18": (64, 2)}  # channels and stride of the feature maps


def count_parameters(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def count_torchvision_parameters(name: str) -> int:
    """Return the number of parameters of torchvision's network without its classifier but with the stem of `name`."""
    network = models.get_model(name.removesuffix("-cifar"), weights=None)
    smaller_stem = 64 * 3 * (7**2 - 3**2) if name.endswith("-cifar") else 0
    return count_parameters([network]) - count_parameters([network.fc]) - smaller_stem


@pytest.mark.parametrize("name", BUILTIN_BACKBONES)
def test_every_builtin_backbone_can_be_built(name: str) -> None:
    with torch.device("meta"):
        backbone = backbones.build(name)
        num_parameters = TOTAL_PARAMETERS.get(name) or count_torchvision_parameters(name)
        features, maps = backbone.eval().forward_with_local_maps(torch.empty(2, 3, 64, 64))
    assert backbone.name == name
    assert features.shape == (2, backbone.num_features)
    assert maps.shape[:2] == (2, backbone.local_channels)
    assert count_parameters([backbone]) == num_parameters


def test_unknown_name_raises() -> None:
    for name in ("resnet20", "squeezenet1_0", "timm-", "timm-a.b", ""):
        with pytest.raises(ValueError, match=r"unknown backbone "):
            backbones.build(name)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_cifar_stem_keeps_the_resolution(name: str) -> None:
    backbone, plain = backbones.build(f"{name}-cifar"), backbones.build(name)
    assert backbone.conv1.weight.shape == (64, 3, 3, 3)
    _, maps = backbone.eval().forward_with_local_maps(random_images(2, 32))
    assert maps.shape == (2, 64, 32, 32)
    shapes = {key: value.shape for key, value in plain.state_dict().items() if key != "conv1.weight"}
    ours = {key: value.shape for key, value in backbone.state_dict().items() if key != "conv1.weight"}
    assert ours == shapes
    # The standard deviation of the initial weights is that of torchvision: sqrt(2 / fan_out).
    assert backbone.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", STAGE_PARAMETERS)
def test_number_of_parameters_per_stage(name: str) -> None:
    backbone = backbones.build(name)
    stages = [[backbone.conv1, backbone.bn1], [backbone.layer1], [backbone.layer2], [backbone.layer3]]
    assert [count_parameters(stage) for stage in stages] == STAGE_PARAMETERS[name]


@pytest.mark.parametrize("name", TOTAL_PARAMETERS)
def test_batch_norm_starts_with_weight_1_and_bias_0_and_convolutions_have_no_bias(name: str) -> None:
    for module in backbones.build(name).modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def authors_initial_weights(name: str) -> list[Tensor]:
    """Return the weights of the convolutions as the authors' code samples them (backbones/conv4.py, resnet_small.py).

    Their code creates the projection of a block before the other layers of the block, but samples the weights of the
    projection last. The order of creation also matters, because the constructor of a layer draws random numbers.
    """
    layers: list[nn.Conv2d] = []
    channels = [3, 8, 16, 32, 64] if name == "conv4" else [3, 16]
    for inputs, outputs in pairwise(channels):
        layers.append(nn.Conv2d(inputs, outputs, 3, bias=False))
    for stage, outputs in enumerate([16, 32, 64] if name != "conv4" else []):
        inputs = [16, 16, 32][stage]
        projection = [nn.Conv2d(inputs, outputs, 1, bias=False)] if inputs != outputs else []
        layers += [nn.Conv2d(inputs, outputs, 3, bias=False), nn.Conv2d(outputs, outputs, 3, bias=False), *projection]
        for _ in range(2 * {"resnet8": 0, "resnet32": 4, "resnet56": 8}[name]):
            layers.append(nn.Conv2d(outputs, outputs, 3, bias=False))
    for layer in layers:
        layer.weight.data.normal_(
            0, math.sqrt(2.0 / (layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels))
        )
    return [layer.weight for layer in layers]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", TOTAL_PARAMETERS)
def test_initial_weights_are_bit_identical_to_those_of_the_authors_code(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    expected = authors_initial_weights(name)
    torch.manual_seed(seed)
    modules = backbones.build(name).modules()
    weights = [module.weight for module in modules if isinstance(module, nn.Conv2d)]
    assert len(weights) == len(expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights, expected, strict=True))


@pytest.mark.parametrize("size", [32, 64, 96, 45])
def test_resnet8_equals_functional_implementation(size: int) -> None:
    """The functional implementation uses only the state dict."""
    backbone = random_backbone("resnet8").double()
    state, x = backbone.state_dict(), random_images(2, size).double()

    def norm(x: Tensor, name: str) -> Tensor:
        shift, mean = state[f"{name}.bias"], state[f"{name}.running_mean"]
        scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5) ** 0.5
        return (x - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]

    maps = h = F.relu(norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        block, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        out = F.relu(norm(F.conv2d(h, state[f"{block}.conv1.weight"], stride=stride, padding=1), f"{block}.bn1"))
        out = norm(F.conv2d(out, state[f"{block}.conv2.weight"], padding=1), f"{block}.bn2")
        if stage > 1:
            h = norm(F.conv2d(h, state[f"{block}.downsample.0.weight"], stride=stride), f"{block}.downsample.1")
        h = F.relu(out + h)
    assert h.shape == (2, 64, -(-size // 4), -(-size // 4))
    actual, actual_maps = backbone.forward_with_local_maps(x)
    assert torch.allclose(actual, h.flatten(2).mean(2), rtol=1e-10, atol=1e-10)
    assert torch.allclose(actual_maps, maps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [32, 64, 96, 45])
def test_resnet34_equals_torchvision_resnet34(size: int) -> None:
    backbone = random_backbone("resnet34")
    reference = models.resnet34(weights=None)
    reference.fc = nn.Identity()
    reference.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        assert torch.allclose(
            backbone(random_images(2, size)), reference.eval()(random_images(2, size)), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("size", [32, 45])
@pytest.mark.parametrize("name", LOCAL_MAPS)
def test_forward_with_local_maps_gives_the_same_features_gradients_and_statistics(name: str, size: int) -> None:
    first = random_backbone(name).train()
    second = copy.deepcopy(first)
    features = first(random_images(4, size))
    local_features, maps = second.forward_with_local_maps(random_images(4, size))
    channels, stride = LOCAL_MAPS[name]
    assert maps.shape == (4, channels, -(-size // stride), -(-size // stride))
    assert channels == second.local_channels
    assert (maps >= 0).all()
    assert torch.allclose(features, local_features, rtol=1e-4, atol=1e-5)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features * weights).sum().backward()
    (local_features * weights).sum().backward()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert (a.grad - b.grad).abs().max() <= 1e-4 * a.grad.abs().max()
    for a, b in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
