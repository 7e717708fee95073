"""Test `rr.save_backbone`, and `rr import` for user-defined backbones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers import RunRr, use_own_classes, write_own_classes, write_params
from torch import nn

import rr as api
from rr import backbones
from rr.errors import UserError
from rr.evaluate.relation_head import load_relation_head
from rr.params import load_params

PREPROCESSING = api.Preprocessing(image_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def test_built_backbone_can_be_saved_and_has_the_weights_of_the_seed(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = api.build_backbone("conv4")
    torch.manual_seed(3)
    expected = backbones.build("conv4").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    head = api.RelationHead(network.num_features)
    api.save_backbone(network, tmp_path / "x.safetensors", PREPROCESSING, "conv4", relation_head=head)
    check_same_features(tmp_path / "x.safetensors", network)
    with pytest.raises(UserError, match="unknown backbone 'conv5'; did you mean 'conv4'"):
        api.build_backbone("conv5")


def make_resnet() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    return network


def check_same_features(path: Path, network: nn.Module) -> None:
    expected = api.wrap_network(network, PREPROCESSING)(IMAGES)
    np.testing.assert_allclose(api.load_backbone(path, device="cpu")(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_random_state_is_kept_by_networks_with_random_initial_weights(tmp_path: Path) -> None:
    network = torchvision.models.mobilenet_v2()
    network.classifier = nn.Identity()
    state = torch.get_rng_state()
    api.save_backbone(network, str(tmp_path / "a.safetensors"), PREPROCESSING, "mobilenet_v2")
    assert torch.equal(torch.get_rng_state(), state)
    check_same_features(tmp_path / "a.safetensors", network)


class _Teacher(nn.Module):
    """Two networks of the same architecture, of which the second one computes the features."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = make_resnet(), torchvision.models.resnet18()
        self.target.fc = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.target(images)


def test_weights_that_compute_the_features_are_saved(tmp_path: Path) -> None:
    network = _Teacher()
    api.save_backbone(network, tmp_path / "a.safetensors", PREPROCESSING, "resnet18")
    check_same_features(tmp_path / "a.safetensors", network)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_network_of_torchvision_is_saved(tmp_path: Path, prefix: str) -> None:
    network = nn.Sequential() if prefix else make_resnet()
    if prefix:
        network.add_module("module", make_resnet())
    network(torch.randn(4, 3, 32, 32))  # changes the running statistics
    state, mode = torch.get_rng_state(), network.training
    api.save_backbone(network, tmp_path / "a.safetensors", PREPROCESSING, "resnet18")
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training == mode
    assert next(network.parameters()).requires_grad
    check_same_features(tmp_path / "a.safetensors", network)


def test_relation_head_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, head = backbones.build("conv4"), api.RelationHead(64, aggregation="sum", hidden_dim=8)
    nn.init.normal_(head.linear.weight)
    path = tmp_path / "b.safetensors"
    api.save_backbone(network, path, PREPROCESSING, "conv4", head)
    saved = load_relation_head(path)
    left, right = torch.randn(2, 6, 64).abs()
    with torch.no_grad():
        expected = head.eval()(head.aggregate(left, right)).ravel().numpy()
    np.testing.assert_allclose(saved.logits(left.numpy(), right.numpy()), expected, rtol=1e-4, atol=1e-5)
    with pytest.warns(UserWarning, match="not calibrated"):
        assert 0 < api.compare(IMAGES[0], IMAGES[1], api.load_backbone(path)) < 1


def test_own_backbone_is_saved_and_imported(extensions: Path, rr: RunRr) -> None:
    write_own_classes(extensions)
    write_params(Path(), use_own_classes)
    config = load_params(Path("params.yaml")).backbones["separable"]
    torch.manual_seed(0)
    network = backbones.build("separable", 32, config)
    api.save_backbone(network, "mine.safetensors", PREPROCESSING, "separable")
    check_same_features(Path("mine.safetensors"), network)
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in network.state_dict().items()}}, "c.pth")
    outcome = rr("import", "c.pth", "--backbone", "separable", "--image-size", "32", "--output", "c.safetensors")
    assert outcome.code == 0, outcome.err
    assert "c.safetensors: separable, " in outcome.out
    assert rr("import", "c.safetensors", "--backbone", "separable", "--image-size", "32").code == 0  # is copied
    assert Path("c-separable.safetensors").read_bytes() == Path("c.safetensors").read_bytes()
    outcome = rr("import", "c.pth", "--backbone", "seprable", "--image-size", "32")
    assert (outcome.code, "did you mean 'separable'?" in outcome.err) == (2, True)
    shutil.rmtree("workflow/extensions")
    assert rr("import", "c.pth", "--backbone", "conv4").code == 2  # does not need params.yaml, which is now invalid


OWN_BACKBONE = """
from torch import nn
from torchvision.models import resnet18
from rr.backbones.base import Backbone
from rr.params import ExtensionBackboneConfig

class Mine(Backbone):
    num_features = 512

    class Config(ExtensionBackboneConfig):
        pass

    def __init__(self, config, image_size):
        super().__init__()
        self.network = resnet18()
        self.network.fc = nn.Identity()

    def forward(self, images):
        return self.network(images)
"""


def test_removed_layers_of_an_own_backbone_are_ignored(extensions: Path, rr: RunRr) -> None:
    """The attribute `network` also occurs in the class that wraps other libraries' networks."""
    (extensions / "mine.py").write_text(OWN_BACKBONE)
    write_params(Path(), lambda params: params["backbones"].update(mine={"kind": "mine:Mine"}))
    torch.save(
        {f"network.{name}": value for name, value in torchvision.models.resnet18().state_dict().items()}, "c.pth"
    )
    outcome = rr("import", "c.pth", "--backbone", "mine", "--image-size", "32")
    assert outcome.code == 0, outcome.err


def test_backbone_of_a_feature_extractor_is_saved(tmp_path: Path) -> None:
    network, first, second = make_resnet(), tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    extractor = api.wrap_network(network, PREPROCESSING)
    with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module, got FeatureExtractor: pass its \.backbone$"):
        api.save_backbone(extractor, first, PREPROCESSING, "resnet18")  # type: ignore[arg-type]
    api.save_backbone(extractor.backbone, first, extractor.preprocessing, "resnet18")
    loaded = api.load_backbone(first, device="cpu")
    api.save_backbone(loaded.backbone, second, loaded.preprocessing, "resnet18")
    for path in (first, second):
        check_same_features(path, network)


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = make_resnet()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * self.network(images)


def _set_nan(network: nn.Module) -> nn.Module:
    network.get_parameter("conv1.weight").data[0] = torch.nan
    return network


@pytest.mark.parametrize(
    ("network", "architecture", "error", "message"),
    [
        (torchvision.models.resnet18, "resnet18", ValueError, "returns 1000 values for an image, but resnet18 returns"),
        (_Scaled, "resnet18", ValueError, "has the weights of resnet18, but returns other features"),
        (make_resnet, "resnet34", ValueError, r"does not have the weights of resnet34: \d+ tensors are missing"),
        (make_resnet, "conv4", ValueError, "does not have the weights of conv4: most layers are missing"),
        (make_resnet, "resnet19", UserError, "unknown backbone 'resnet19'; did you mean 'resnet18'?"),
        (lambda: _set_nan(make_resnet()), "resnet18", UserError, "are NaN or infinite"),
        (make_resnet, None, ValueError, "architecture must be the name of a backbone, got None"),
        (lambda: "x", "resnet18", ValueError, "network must be a torch.nn.Module, got str"),
    ],
)
def test_other_networks_raise(tmp_path: Path, network, architecture: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        api.save_backbone(network(), tmp_path / "a.safetensors", PREPROCESSING, architecture)
    assert not list(tmp_path.iterdir())


def test_other_arguments_raise(tmp_path: Path) -> None:
    network, path = make_resnet(), tmp_path / "a.safetensors"
    with pytest.raises(ValueError, match=r"must keep the layers of RelationHead\(512, 'cat', 256\)"):
        api.save_backbone(network, path, PREPROCESSING, "resnet18", api.RelationHead(64))
    with pytest.raises(ValueError, match=r"relation_head must be None or an .*, got Linear"):
        api.save_backbone(network, path, PREPROCESSING, "resnet18", nn.Linear(512, 1))  # type: ignore[arg-type]
    for activation, norm, dtype in ((nn.ReLU(), None, None), (None, nn.Identity(), None), (None, None, torch.half)):
        head = api.RelationHead(512).to(dtype)
        head.activation, head.norm = activation or head.activation, norm or head.norm
        with pytest.raises(ValueError, match="relation_head must keep the layers"):
            api.save_backbone(network, path, PREPROCESSING, "resnet18", head)
    large = api.Preprocessing(image_size=1100, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ValueError, match="1100 is not an image size that backbone files may have"):
        api.save_backbone(network, path, large, "resnet18")
    with pytest.raises(ValueError, match=r"preprocessing must be an rr\.Preprocessing"):
        api.save_backbone(network, path, (32, 0.5, 0.5), "resnet18")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"path .*a\.png does not end in \.safetensors"):
        api.save_backbone(network, tmp_path / "a.png", PREPROCESSING, "resnet18")
    assert not list(tmp_path.iterdir())
