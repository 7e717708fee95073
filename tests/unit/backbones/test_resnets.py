"""The ResNets against independent computations, and what every backbone offers: `features`, `name`, `forward_local`."""

import copy
from typing import get_args

import pytest
import torch
from networks import images, network
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from rr import backbones
from rr.params import Backbone

# By the stem and the stages 1, 2, 3; together 77,392, 466,256 and 855,120.
PARAMETERS = {
    "resnet8": [464, 4_672, 14_528, 57_728],
    "resnet32": [464, 23_360, 88_768, 353_664],
    "resnet56": [464, 42_048, 163_008, 649_600],
}
TOTALS = {"conv4": 24_648, "resnet8": 77_392, "resnet32": 466_256, "resnet56": 855_120, "resnet34": 21_284_672}
LOCAL = {"conv4": (8, 1), "resnet8": (16, 1), "resnet18": (64, 2)}  # channels, and by what the side is divided


def size(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("name", get_args(Backbone))
def test_every_backbone_that_params_knows_is_built(name: str) -> None:
    with torch.device("meta"):
        backbone = backbones.build(name)
        features, maps = backbone.eval().forward_local(torch.empty(2, 3, 64, 64))
    assert backbone.name == name
    assert features.shape == (2, backbone.features)
    assert maps.shape[:2] == (2, backbone.local_channels)
    assert size([backbone]) == TOTALS.get(name, size([backbone]))


def test_an_unknown_name_is_an_error() -> None:
    for name in ("vgg16", "resnet20", ""):
        with pytest.raises(ValueError, match="no backbone is called"):
            backbones.build(name)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_by_stage(name: str) -> None:
    backbone = backbones.build(name)
    stages = [[backbone.conv1, backbone.bn1], [backbone.layer1], [backbone.layer2], [backbone.layer3]]
    assert [size(stage) for stage in stages] == PARAMETERS[name]
    assert size([backbone]) == sum(PARAMETERS[name]) == TOTALS[name]


def test_first_weights() -> None:
    torch.manual_seed(0)
    backbone = backbones.build("resnet56")
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            deviation = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
            many = module.weight.numel()
            assert abs(float(module.weight.detach().mean())) < 5 * deviation / many**0.5
            assert float(module.weight.detach().std()) == pytest.approx(deviation, rel=5 / (2 * many) ** 0.5)
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("side", [32, 64, 96, 45])
def test_resnet8_equals_its_formula(side: int) -> None:
    """In float64, from the names in the state dict alone."""
    backbone = network("resnet8").double()
    state, x = backbone.state_dict(), images(2, side).double()

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
    assert h.shape == (2, 64, -(-side // 4), -(-side // 4))
    found, found_maps = backbone.forward_local(x)
    assert torch.allclose(found, h.flatten(2).mean(2), rtol=1e-10, atol=1e-10)
    assert torch.allclose(found_maps, maps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", [32, 64, 96, 45])
def test_resnet34_equals_torchvisions(side: int) -> None:
    backbone = network("resnet34")
    theirs = models.resnet34(weights=None)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        assert torch.allclose(backbone(images(2, side)), theirs.eval()(images(2, side)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [32, 45])
@pytest.mark.parametrize("name", LOCAL)
def test_local_maps_come_with_the_same_features_gradients_and_statistics(name: str, side: int) -> None:
    first = network(name).train()
    second = copy.deepcopy(first)
    features = first(images(4, side))
    local_features, maps = second.forward_local(images(4, side))
    channels, divisor = LOCAL[name]
    assert maps.shape == (4, channels, -(-side // divisor), -(-side // divisor))
    assert channels == second.local_channels
    assert (maps >= 0).all()
    assert torch.allclose(features, local_features, rtol=1e-4, atol=1e-5)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features * weights).sum().backward()
    (local_features * weights).sum().backward()
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert (one.grad - two.grad).abs().max() <= 1e-4 * one.grad.abs().max()
    for one, two in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-6)
