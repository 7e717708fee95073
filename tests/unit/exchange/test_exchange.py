"""Tests of `rr import`, the `imported` method and `rr export`: conversion of weights, and errors."""

import argparse
import datetime
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import ROOT, Malicious, RunRr
from networks import random_backbone, random_images
from ruamel.yaml import YAML
from safetensors.torch import save_file
from torch import Tensor, nn

import rr
from rr import backbones, methods
from rr.backbones.base import Backbone
from rr.backbones.weights import load_backbone, save_backbone
from rr.data.preprocessing import Preprocessing
from rr.errors import UserError
from rr.exchange import export_weights
from rr.exchange.export_weights import SUFFIXES, export_backbone
from rr.exchange.import_weights import import_backbone
from rr.methods.initial_weights import load_initial_weights
from rr.methods.relation.head import RelationHead
from rr.methods.requirements import find_weights_problem
from rr.params import ImportedConfig
from rr.runtime.hashing import file_sha256
from rr.runtime.weights_lookup import find_weights

FORMATS = ["safetensors", "state-dict", "torchscript", "torch-export", "onnx"]


def authors_state(name: str, backbone: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with the keys of the authors' code."""
    state = backbone.state_dict()
    if name != "conv4":
        return state
    parts = {"0": "conv", "1": "bn"}
    renamed = {}
    for key, value in state.items():
        _, block, part, rest = key.split(".")
        renamed[f"layer{int(block) + 1}.{parts[part]}.{rest}"] = value
    return renamed


def authors_checkpoint(name: str, backbone: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(backbone.parameters())
    return {
        "backbone": authors_state(name, backbone),
        "relation": nn.Linear(128, 1).state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
    }


def has_same_features(actual: nn.Module, expected: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(actual(random_images(3, 32)), expected(random_images(3, 32)))


@pytest.mark.parametrize("name", ["conv4", "resnet8", "resnet32", "resnet34"])
def test_checkpoint_of_the_authors_gives_the_same_features(tmp_path: Path, name: str) -> None:
    backbone = random_backbone(name)
    torch.save(authors_checkpoint(name, backbone), tmp_path / "epoch_9.0.tar")
    message = import_backbone(tmp_path / "epoch_9.0.tar", name)
    written = tmp_path / f"epoch_9.0-{name}.safetensors"
    assert has_same_features(load_backbone(written), backbone)
    assert f'kind: imported\n    path: "{written}"\n    sha256: {file_sha256(written)}' in message
    save_backbone(backbone, tmp_path / "direct.safetensors")
    assert written.read_bytes() == (tmp_path / "direct.safetensors").read_bytes()


def test_weights_of_torchvision_can_be_used_without_a_dataset(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(weights=None).eval()
    file, output = tmp_path / "resnet18.pth", tmp_path / "b.safetensors"
    torch.save(network.state_dict(), file)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    options: dict[str, Any]
    texts = {"mean": "0.485,0.456,0.406", "std": "0.229, 0.224, 0.225"}
    import_backbone(file, "resnet18", output, image_size=64, **texts)
    extractor = rr.load_backbone(output)
    assert (extractor.image_size, extractor.mean, extractor.std) == (64, mean, std)
    network.fc = nn.Identity()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    inputs = torchvision.transforms.functional.normalize(torch.from_numpy(pixels).permute(2, 0, 1) / 255, mean, std)
    with torch.inference_mode():
        expected = network(inputs[None]).numpy()
    np.testing.assert_allclose(extractor(pixels), expected, rtol=1e-3, atol=1e-4)

    output.unlink()
    for options, message in [
        ({"image_size": 64, "mean": "0.5,0.5,0.5"}, "--mean, --std: pass both, and the size"),
        (texts, "--mean, --std: pass both, and the size"),
        ({"image_size": 64, **texts, "mean": "124,116,104"}, r"--mean 124,116,104: mean must be three numbers in \[0"),
        ({"image_size": 64, **texts, "std": "imagenet"}, "--std imagenet: std must be three numbers"),
        ({"image_size": 64}, "resnet18 accepts images of any size"),
    ]:
        with pytest.raises(UserError, match=message):
            import_backbone(file, "resnet18", output, **options)
    assert not output.exists()
    save_backbone(random_backbone("conv4"), tmp_path / "own.safetensors")
    with pytest.raises(UserError, match=r"own\.safetensors is already a backbone file"):
        import_backbone(tmp_path / "own.safetensors", "conv4", output, image_size=64, **texts)


def add_data_parallel_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


def remove_batch_counts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def add_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"fc.weight": torch.ones(10, 64), "fc.bias": torch.ones(10)}


@pytest.mark.parametrize("name", ["conv4", "resnet8"])
@pytest.mark.parametrize("alter", [dict, add_data_parallel_prefix, remove_batch_counts, add_classifier])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_state_dict_is_imported_from_every_format(tmp_path: Path, name: str, alter: Callable, kind: str) -> None:
    backbone, file = random_backbone(name), tmp_path / "weights"
    state = alter(authors_state(name, backbone))
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    import_backbone(file, name, tmp_path / "out/b.safetensors")
    assert has_same_features(load_backbone(tmp_path / "out/b.safetensors"), backbone)


def test_backbone_file_is_imported_unchanged(tmp_path: Path) -> None:
    head = RelationHead(64)
    preprocessing = Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    save_backbone(random_backbone("conv4"), tmp_path / "a.safetensors", preprocessing, {"relation_head": head}, "cat")
    message = import_backbone(tmp_path / "a.safetensors", "conv4", tmp_path / "b.safetensors")
    assert f"sha256: {file_sha256(tmp_path / 'a.safetensors')}" in message
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"a\.safetensors is the input file"):
        import_backbone(tmp_path / "a.safetensors", "conv4", tmp_path / "a.safetensors")
    backbone = random_backbone("conv4")
    backbone.get_parameter("blocks.0.0.weight").data[0] = torch.nan
    save_backbone(backbone, tmp_path / "nan.safetensors")
    before = (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"nan\.safetensors is damaged \(blocks\.0\.0\.weight contains NaN or infinity"):
        import_backbone(tmp_path / "nan.safetensors", "conv4", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == before


@pytest.mark.parametrize("layer", ["relation_head", "trained_classifier"])
def test_damaged_layer_of_a_backbone_file_is_not_copied(tmp_path: Path, layer: str) -> None:
    module = RelationHead(64) if layer == "relation_head" else nn.Linear(64, 10)
    next(module.parameters()).data[0] = torch.nan
    weights, output = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_backbone(random_backbone("conv4"), weights, None, {layer: module}, "cat")
    for copy in (
        lambda: import_backbone(weights, "conv4", output),
        lambda: export_backbone(weights, FORMATS[0], output),
    ):
        with pytest.raises(UserError, match=rf"damaged \({layer}\.(linear\.)?weight contains NaN or infinity\)"):
            copy()
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("name", ["photo.jpg", "photo.NEF", "params.yaml", "notes"])
def test_file_of_another_kind_is_not_replaced(tmp_path: Path, name: str) -> None:
    weights, file = tmp_path / "a.safetensors", tmp_path / name
    save_backbone(random_backbone("conv4"), weights)
    file.write_bytes(b"content")
    with pytest.raises(UserError, match=rf"--output .*{name} does not end in \.safetensors: use a name that does"):
        import_backbone(weights, "conv4", file)
    with pytest.raises(UserError, match=rf"--output .*{name} does not end in \.pt or \.pth: use a name that does"):
        export_backbone(weights, "state-dict", file)
    assert file.read_bytes() == b"content"


def test_names_of_tensors_are_escaped_and_shortened(tmp_path: Path, rr: RunRr) -> None:
    file, keys = tmp_path / "c.pt", [r"\x1b[31m1\n", r"\x1b[31m2\n"]
    command = ("import", file, "--backbone", "conv4", "-o", tmp_path / "b.safetensors")
    state = random_backbone("conv4").state_dict()
    several = {f"\x1b[31m{i}\n.{key}": value + i for i in (1, 2) for key, value in state.items()}
    torch.save({"\x1b" + 400 * "x": torch.zeros(2)} | several, file)
    ambiguous, chosen = rr(*command), rr(*command, "--key", keys[0])
    assert ambiguous.err.endswith(f"under '{keys[0]}' and '{keys[1]}': choose one of them with --key\n")
    ignored = rf"\x1b{96 * 'x'}…{100 * 'x'}, {keys[1]}.blocks.0.0.weight, "
    assert f"from the weights under '{keys[0]}'; ignored 25 tensors: {ignored}" in chosen.out
    torch.save({key: value[..., None] for key, value in several.items()}, file)
    mismatch = rr(*command)
    assert rf" under '{keys[0]}' do not match conv4: " in mismatch.err
    assert (mismatch.code, mismatch.err.count("\n"), mismatch.err.count("\x1b")) == (2, 1, 0)


@pytest.mark.parametrize("format", ["safetensors", "state-dict"])
def test_output_name_that_is_not_utf8_raises(tmp_path: Path, format: str) -> None:
    save_backbone(random_backbone("conv4"), tmp_path / "a.safetensors")
    output = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.pt"))
    with pytest.raises(UserError, match=r"--output .*caf\\xe9\.pt is not valid UTF-8: use a different name"):
        export_backbone(tmp_path / "a.safetensors", format, output)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("actual", "requested", "message"),
    [
        ("conv4", "resnet8", r"do not match resnet8: conv1.weight is missing; use --backbone conv4"),
        ("resnet8", "resnet32", r"resnet32: 120 tensors are missing: layer1.1.conv1.weight, …; use --backbone resnet8"),
        ("resnet32", "resnet8", r": 144 tensors are unexpected: layer1.1.conv1.weight, …; use --backbone resnet32"),
        (
            "resnet18",
            "resnet8",
            r"conv1.weight \(\(64, 3, 7, 7\) float32 instead of \(16, 3, 3, 3\) .*; .* resnet18",
        ),
    ],
)
def test_wrong_backbone_raises(tmp_path: Path, actual: str, requested: str, message: str) -> None:
    torch.save(authors_checkpoint(actual, random_backbone(actual)), tmp_path / "c.tar")
    with pytest.raises(UserError, match=message):
        import_backbone(tmp_path / "c.tar", requested)
    assert os.listdir(tmp_path) == ["c.tar"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type_are_imported(tmp_path: Path, dtype: torch.dtype) -> None:
    backbone = random_backbone("resnet8").to(dtype)
    state = backbone.state_dict() | {"bn1.num_batches_tracked": torch.tensor(100_000)}
    torch.save({key: value.to(dtype) for key, value in state.items()}, tmp_path / "c.pt")
    import_backbone(tmp_path / "c.pt", "resnet8", tmp_path / "b.safetensors")
    loaded = load_backbone(tmp_path / "b.safetensors")
    assert has_same_features(loaded, backbone.float())
    assert loaded.state_dict()["bn1.num_batches_tracked"].dtype == torch.int64


RUNNING_MEANS = "bn1.running_mean, layer1.0.bn1.running_mean, layer1.0.bn2.running_mean, …"


@pytest.mark.parametrize(
    ("alter", "requested", "message"),
    [
        (
            lambda key: key.replace("downsample", "shortcut"),
            "resnet18",
            "resnet18: 15 tensors are missing: layer2.0.downsample.0.weight, layer2.0.downsample.1.weight, "
            "layer2.0.downsample.1.bias, …; 18 tensors are unexpected: layer2.0.shortcut.0.weight, .*; all other",
        ),
        (
            lambda key: "" if key.endswith("running_mean") else key,
            "resnet50",
            f"do not match resnet50 or any other backbone; the closest one is resnet18: 20 tensors are missing: "
            f"{RUNNING_MEANS}; all other tensors match resnet18: fix the tensors that differ, or use the original "
            "checkpoint",
        ),
        (
            lambda key: key.replace("conv1.", "stem.") if key.startswith("conv1") else key,
            "resnet18",
            "do not match resnet18: 1 tensor is missing: conv1.weight; all other tensors match resnet18",
        ),
    ],
)
def test_differences_from_the_closest_backbone_are_named(
    tmp_path: Path, alter: Callable[[str], str], requested: str, message: str
) -> None:
    state = {alter(key): value for key, value in random_backbone("resnet18").state_dict().items()}
    torch.save({key: value for key, value in state.items() if key}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=message):
        import_backbone(tmp_path / "c.pt", requested)


def set_nan(state: dict[str, Tensor]) -> Any:
    return state | {"conv1.weight": state["conv1.weight"] * float("nan")}


def nest_deeply(state: dict[str, Tensor]) -> Any:
    content: Any = state
    for _ in range(150):
        content = [content]
    return content


def convert_to_integers(state: dict[str, Tensor]) -> Any:
    return state | {"conv1.weight": state["conv1.weight"].long()}


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (set_nan, "conv1.weight contains NaN or infinite values"),
        (
            convert_to_integers,
            r"do not match resnet8: 1 tensor is of a different shape or type: conv1.weight \(.* int64 instead of .*\); "
            "all other tensors match resnet8: fix the tensors that differ, or use the original checkpoint",
        ),
        (lambda state: {"backbone": 3}, "does not contain a state dict"),
        (lambda state: [*state.values()], "does not contain a state dict"),
        (
            lambda state: {"optimizer": {0: torch.ones(1)}},
            r"does not contain a state dict \(searched: lists, tuples, and dicts whose keys are text, up to 100 levels",
        ),
        (nest_deeply, "does not contain a state dict"),
        (
            lambda state: {"a.b": torch.ones(1)},
            r"conv1.weight is missing; pass .* with --backbone .*\. The file contains a.b$",
        ),
        (lambda state: {}, "does not contain a state dict"),
        (
            lambda state: {"model": {key: value.numpy() for key, value in state.items()}},
            r"use a file with a dict that maps names to tensors \(not NumPy arrays, or tensors on the meta device, ",
        ),
        (
            lambda state: {key: value.to("meta") for key, value in state.items()},
            r"does not contain a state dict .* tensors on the meta device, which have no values\)",
        ),
        (
            lambda state: {key: torch.zeros_like(value) for key, value in state.items()},
            "with these weights, different images have the same features, as if the weights were zero; use another",
        ),
        (
            lambda state: state | {"bn1.running_var": -state["bn1.running_var"]},
            "bn1.running_var is a variance, but contains negative values; use another checkpoint",
        ),
    ],
)
def test_invalid_state_dict_raises(tmp_path: Path, alter: Callable, message: str) -> None:
    torch.save(alter(random_backbone("resnet8").state_dict()), tmp_path / "c.pt")
    with pytest.raises(UserError, match=message):
        import_backbone(tmp_path / "c.pt", "resnet8")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<!DOCTYPE html>", r"is not a checkpoint \(an HTML page \(from a failed download\?\)\): use another file"),
        (b"\x89HDF\r\n\x1a\n", r"is not a checkpoint \(an HDF5 file\)"),
        (b"PK\x03\x04damaged", "is damaged or not a checkpoint"),
    ],
)
def test_file_of_another_kind_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "c.pt").write_bytes(data)
    with pytest.raises(UserError, match=message):
        import_backbone(tmp_path / "c.pt", "conv4")


def add_prefix(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def make_heads(*names: str) -> dict[str, Tensor]:
    return {f"{name}.{kind}": torch.ones(2) for name in names for kind in ("weight", "bias")}


def rename_sequential(name: str, state: dict[str, Tensor], *, with_all_layers: bool) -> dict[str, Tensor]:
    """Return the state dict of `torch.nn.Sequential(*backbone.children())`, or of its layers with weights."""
    children = backbones.build(name).named_children()
    layers = [layer for layer, module in children if with_all_layers or module.state_dict()]
    parts = {key: key.partition(".") for key in state}
    return {f"{layers.index(layer)}.{rest}": state[key] for key, (layer, _, rest) in parts.items()}


def make_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters())


def convert_to_channels_last(state: dict[str, Tensor]) -> dict[str, Tensor]:
    formats = {4: torch.channels_last}
    return {key: value.to(memory_format=formats.get(value.ndim, torch.preserve_format)) for key, value in state.items()}


def share_storage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with equal values. Those of the same dtype are views of one tensor, as in fused optimizers."""
    shared = {}
    for dtype in {value.dtype for value in state.values()}:
        names = [name for name, value in state.items() if value.dtype == dtype]
        sizes = [state[name].numel() for name in names]
        parts = torch.cat([state[name].flatten() for name in names]).split(sizes)
        shared |= {name: part.view(state[name].shape) for name, part in zip(names, parts, strict=True)}
    return shared


# For each program, a function that wraps a state dict as the program does, and the tensors that are ignored.
LAYOUTS: dict[str, tuple[Callable[[str, dict[str, Tensor]], Any], str]] = {
    "DataParallel": (lambda name, state: add_prefix("module.", state), ""),
    "torch.compile": (lambda name, state: {"net": add_prefix("_orig_mod.", state)}, ""),
    "compiled DDP": (lambda name, state: {"model": add_prefix("_orig_mod.module.encoder.", state)}, ""),
    "Lightning": (
        lambda name, state: {
            "epoch": 3, "pytorch-lightning_version": "2.4.0", "hyper_parameters": {"lr": 0.1},
            "state_dict": add_prefix("model.", state), "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        },
        "",
    ),
    "solo-learn": (
        lambda name, state: {"state_dict": add_prefix("backbone.", state) | make_heads("projector.0", "classifier")},
        "4 tensors: projector.0.weight, projector.0.bias, classifier.weight, classifier.bias",
    ),
    "lightly": (
        lambda name, state: {
            "state_dict": add_prefix("backbone.", rename_sequential(name, state, with_all_layers=True))
            | make_heads("projection_head.layers.0")
        },
        "2 tensors: projection_head.layers.0.weight, projection_head.layers.0.bias",
    ),
    "layers with weights": (lambda name, state: rename_sequential(name, state, with_all_layers=False), ""),
    "timm": (
        lambda name, state: {"state_dict": state | make_heads("fc"), "args": argparse.Namespace(lr=0.1)},
        "2 tensors: fc.weight, fc.bias",
    ),
    "MoCo without a key encoder": (
        lambda name, state: {"state_dict": add_prefix("module.encoder_q.", state) | {"module.queue": torch.ones(2)}},
        "1 tensor: module.queue",
    ),
    "nested twice": (
        lambda name, state: {"model_state_dict": {"network": state}, "head": make_heads("1")},
        "2 tensors: head.1.weight, head.1.bias",
    ),
    "deeply nested": (
        lambda name, state: {"a": {"b": {"c": {"d": {"e": {"f": {"g": add_prefix("net.", state)}}}}}}},
        "",
    ),
    "lists and tuples": (lambda name, state: [3, ("epoch", [{"model": state}]), make_heads("1")],
        "2 tensors: 2.1.weight, 2.1.bias",
    ),
    "VISSL": (
        lambda name, state: {
            "classy_state_dict": {"base_model": {"model": {"trunk": add_prefix("_feature_blocks.", state)}}},
        },
        "",
    ),
    "averaged weights": (
        lambda name, state: {"n_averaged": torch.tensor(3)} | add_prefix("module.", state) | make_heads("module.fc"),
        "3 tensors: n_averaged, module.fc.weight, module.fc.bias",
    ),
    "scheduler and scaler": (
        lambda name, state: {
            "model": state, "scheduler": torch.optim.lr_scheduler.MultiStepLR(make_optimizer(), [3]).state_dict(),
            "scaler": torch.amp.GradScaler("cpu").state_dict(), "device": torch.device("cuda", 0), "seen": {1, 2},
        },
        "",
    ),
    "trainable parameters": (
        lambda name, state: {key: nn.Parameter(value, value.is_floating_point()) for key, value in state.items()},
        "",
    ),
    "channels last": (lambda name, state: convert_to_channels_last(state), ""),
    "parts of one storage": (lambda name, state: share_storage(state), ""),
    "sparse and meta tensors": (
        lambda name, state: {
            "model": state, "mask": {"weight": torch.eye(2).to_sparse(), "bias": torch.ones(2, device="meta")},
        },
        "",
    ),
    "numbers as keys": (lambda name, state: {0: make_heads("fc"), "model": state}, ""),
    "equal copies": (
        lambda name, state: {"model": state, "model_ema": {key: value.clone() for key, value in state.items()}},
        r"\d+ tensors: .*, …",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["conv4", "resnet8", "resnet18"])
def test_layout_of_another_program_is_imported(tmp_path: Path, name: str, layout: str) -> None:
    wrap, ignored = LAYOUTS[layout]
    backbone = random_backbone(name)
    torch.save(wrap(name, backbone.state_dict()), tmp_path / "c.pt")
    message = import_backbone(tmp_path / "c.pt", name, tmp_path / "b.safetensors")
    assert has_same_features(load_backbone(tmp_path / "b.safetensors"), backbone)
    expected = f"; ignored {ignored}. To use" if ignored else r"features(, from the weights [^;]*)?\. To"
    assert re.search(expected, message)


def test_sequence_of_the_layers_of_torchvision_is_imported(tmp_path: Path) -> None:
    """lightly and others drop the classifier this way. The layers are then numbered as in torchvision's network."""
    backbone = random_backbone("resnet18")
    network = torchvision.models.resnet18()
    network.load_state_dict(backbone.state_dict(), strict=False)
    layers = nn.Sequential(*list(network.children())[:-1], nn.Flatten())
    torch.save({"state_dict": add_prefix("backbone.", layers.state_dict())}, tmp_path / "c.pt")
    import_backbone(tmp_path / "c.pt", "resnet18", tmp_path / "b.safetensors")
    assert has_same_features(load_backbone(tmp_path / "b.safetensors"), backbone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "library_model"),
    [
        ("mobilenet_v3_small", 32, lambda: torchvision.models.mobilenet_v3_small()),  # keeps a layer of its classifier
        ("convnext_tiny", 32, lambda: torchvision.models.convnext_tiny()),
        ("vit_b_32", 64, lambda: torchvision.models.vit_b_32(image_size=64)),
        ("timm-vit_tiny_patch16_224", 64, lambda: timm.create_model("vit_tiny_patch16_224", img_size=64)),
        ("timm-convnext_atto", 32, lambda: timm.create_model("convnext_atto")),
    ],
)
@pytest.mark.parametrize("prefix", ["", "state_dict.module.backbone."])
def test_state_dict_of_torchvision_and_timm_is_imported(
    tmp_path: Path, name: str, size: int, library_model: Callable[[], nn.Module], prefix: str
) -> None:
    torch.manual_seed(0)
    model = library_model()
    state = add_prefix(prefix.removeprefix("state_dict."), model.state_dict())
    torch.save({"state_dict": state} if prefix else state, tmp_path / "c.pt")
    message = import_backbone(tmp_path / "c.pt", name, tmp_path / "b.safetensors", image_size=size)
    assert "; ignored " in message  # the classifier
    loaded = load_backbone(tmp_path / "b.safetensors")
    assert loaded.image_size == size
    (classifier,) = [layer for layer in model.modules() if getattr(layer, "out_features", 0) == 1000]
    features: list[Tensor] = []
    classifier.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    images = torch.rand(2, 3, size, size)
    with torch.inference_mode():
        model.eval()(images)
        torch.testing.assert_close(loaded(images), features[0])


def test_networks_for_one_size_need_the_size(tmp_path: Path) -> None:
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"--backbone shufflenet_v2_x0_5: this network is built for images of one size"):
        import_backbone(tmp_path / "c.pt", "shufflenet_v2_x0_5")
    with pytest.raises(UserError, match=r"--image-size 32: conv4 accepts images of any size; omit this option"):
        import_backbone(tmp_path / "c.pt", "conv4", image_size=32)
    with pytest.raises(UserError, match=r"do not match shufflenet_v2_x1_0: .*, or a torchvision or timm model"):
        import_backbone(tmp_path / "c.pt", "shufflenet_v2_x1_0", image_size=32)
    import_backbone(tmp_path / "c.pt", "shufflenet_v2_x0_5", tmp_path / "b.safetensors", image_size=32)
    file = tmp_path / "b.safetensors"
    config = ImportedConfig(kind="imported", path=str(file), sha256=file_sha256(file))
    assert find_weights_problem(config, "shufflenet_v2_x0_5", 32) is None
    problem = find_weights_problem(config, "shufflenet_v2_x0_5", 64)
    assert "for images of 32 x 32 pixels, but the dataset's image_size is 64: run rr import with" in str(problem)


def test_prefix_in_a_safetensors_file_is_removed(tmp_path: Path) -> None:
    backbone = random_backbone("resnet8")
    save_file(add_prefix("module.backbone.", backbone.state_dict()) | make_heads("module.head"), tmp_path / "a")
    message = import_backbone(tmp_path / "a", "resnet8", tmp_path / "b.safetensors")
    assert has_same_features(load_backbone(tmp_path / "b.safetensors"), backbone)
    assert "from the weights under 'module.backbone'; ignored 2 tensors: module.head." in message


MOCO = ("state_dict.module.encoder_q", "state_dict.module.encoder_k")
DINO = ("student.module.backbone", "teacher.backbone")


@pytest.mark.parametrize(("keys", "key"), [(MOCO, "encoder_k"), (MOCO, MOCO[1]), (DINO, "teacher.backbone")])
def test_several_backbones_require_a_key(tmp_path: Path, rr: RunRr, keys: tuple[str, str], key: str) -> None:
    first, second = random_backbone("resnet8"), random_backbone("resnet8").requires_grad_(False)
    second.get_parameter("conv1.weight")[0] += 1
    content: dict[str, Any] = {}
    for place, backbone in zip(keys, (first, second), strict=True):
        path, _, prefix = place.partition(".")
        content.setdefault(path, {}).update(add_prefix(f"{prefix}.", backbone.state_dict()))
    torch.save(content, tmp_path / "c.pt")
    command = ("import", tmp_path / "c.pt", "--backbone", "resnet8", "--output", tmp_path / "b.safetensors")
    outcome = rr(*command)
    assert outcome.code == 2
    assert f"several resnet8 backbones, under '{keys[0]}' and '{keys[1]}': choose" in outcome.err
    outcome = rr(*command, "--key", "teacher.head")
    assert f"--key teacher.head: {tmp_path}/c.pt has no weights of resnet8 under this key, only under " in outcome.err
    assert f"'{keys[0]}' and '{keys[1]}': pass one of these keys\n" in outcome.err
    assert not (tmp_path / "b.safetensors").exists()
    assert rr(*command, "--key", key).code == 0
    assert has_same_features(load_backbone(tmp_path / "b.safetensors"), second)


def test_position_in_a_list_is_a_key(tmp_path: Path) -> None:
    first, second = random_backbone("conv4").state_dict(), random_backbone("conv4").state_dict()
    second["blocks.0.0.weight"] = second["blocks.0.0.weight"] + 1
    torch.save({"models": [first, second]}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"under 'models\.0' and 'models\.1': choose one of them with --key"):
        import_backbone(tmp_path / "c.pt", "conv4")
    import_backbone(tmp_path / "c.pt", "conv4", tmp_path / "b.safetensors", "models.1")
    torch.save({"models": [first]}, tmp_path / "single.pt")
    with pytest.raises(UserError, match=r"--key 1: .* under this key, only under 'models\.0': omit --key$"):
        import_backbone(tmp_path / "single.pt", "conv4", key="1")
    imported = load_backbone(tmp_path / "b.safetensors").state_dict()
    assert torch.equal(imported["blocks.0.0.weight"], second["blocks.0.0.weight"])


def test_top_level_has_the_key_of_a_dot(tmp_path: Path) -> None:
    state, other = random_backbone("conv4").state_dict(), random_backbone("conv4").state_dict()
    other["blocks.0.0.weight"] = other["blocks.0.0.weight"] + 1
    torch.save({**state, "ema": other}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"under '\.' and 'ema': choose"):
        import_backbone(tmp_path / "c.pt", "conv4")
    import_backbone(tmp_path / "c.pt", "conv4", tmp_path / "b.safetensors", ".")
    imported = load_backbone(tmp_path / "b.safetensors").state_dict()
    assert torch.equal(imported["blocks.0.0.weight"], state["blocks.0.0.weight"])


@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_next_to_weights_are_ignored(tmp_path: Path, zipped: bool) -> None:
    backbone = random_backbone("conv4")
    content = authors_checkpoint("conv4", backbone) | {
        "loss": np.float32(0.5), "accuracy": np.float64(0.5), "step": np.int64(3), "best": np.bool_(True),
        "curve": np.arange(3.0), "names": np.array(["a", "b"]), "objects": np.array([None, "x"], object),
        "args": argparse.Namespace(lr=0.1, folder=Path("x")), "start": datetime.datetime(2024, 1, 1),
        "counts": defaultdict(list, a=[1]), "rng": torch.get_rng_state(),
    }  # fmt: skip
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    message = import_backbone(tmp_path / "c.pt", "conv4", tmp_path / "b.safetensors")
    assert has_same_features(load_backbone(tmp_path / "b.safetensors"), backbone)
    assert "ignored 3 tensors: rng, relation.weight, relation.bias" in message


def test_weights_of_a_larger_backbone_under_a_prefix_raise(tmp_path: Path) -> None:
    torch.save({"state_dict": add_prefix("net.", random_backbone("resnet32").state_dict())}, tmp_path / "c.pt")
    message = (
        r"the weights in .* under 'state_dict.net' do not match resnet8: 144 tensors are unexpected: "
        "net.layer1.1.conv1.weight, …; use --backbone resnet32"
    )
    with pytest.raises(UserError, match=message):
        import_backbone(tmp_path / "c.pt", "resnet8")


def test_torchscript_program_raises(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"c\.pt is a TorchScript program: save its weights"):
        import_backbone(tmp_path / "c.pt", "conv4")


@pytest.mark.filterwarnings("ignore")
def test_exported_program_raises_and_its_weights_can_be_imported(tmp_path: Path) -> None:
    backbone = random_backbone("conv4")
    program = tmp_path / "c.pt2"
    torch.export.save(torch.export.export(backbone, (torch.zeros(1, 3, 32, 32),)), program)
    with pytest.raises(UserError, match=r"c\.pt2 is a zip archive, but not a checkpoint\. If torch.export saved it, "):
        import_backbone(program, "conv4")
    torch.save(torch.export.load(program).state_dict, tmp_path / "c.pt")  # as the message says
    import_backbone(tmp_path / "c.pt", "conv4", tmp_path / "b.safetensors")
    assert has_same_features(load_backbone(tmp_path / "b.safetensors"), backbone)


def test_zero_weights_in_a_backbone_file_raise(tmp_path: Path) -> None:
    backbone = random_backbone("conv4")
    backbone.load_state_dict({key: torch.zeros_like(value) for key, value in backbone.state_dict().items()})
    save_backbone(backbone, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="with these weights, different images have the same features"):
        import_backbone(tmp_path / "b.safetensors", "conv4", tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.filterwarnings("ignore")
def test_onnx_model_raises(tmp_path: Path) -> None:
    save_backbone(random_backbone("conv4"), tmp_path / "b.safetensors")
    model = tmp_path / "c.onnx"
    export_backbone(tmp_path / "b.safetensors", "onnx", model)
    with pytest.raises(UserError, match=r"c\.onnx is an ONNX model, from which rr cannot read weights: import the PyT"):
        import_backbone(model, "conv4")
    with pytest.raises(UserError, match=r"c\.onnx is an ONNX model: use the backbone\.safetensors from "):
        find_weights(model)


@pytest.mark.parametrize(("name", "save"), [("c.npz", np.savez), ("c.npy", np.save)])
def test_numpy_arrays_raise(tmp_path: Path, name: str, save: Callable) -> None:
    save(tmp_path / name, np.zeros(3))
    with pytest.raises(UserError, match=r"c\.np. contains NumPy arrays: save a state dict instead, with torch\.save\("):
        import_backbone(tmp_path / name, "conv4")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_raises_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    file, trace = tmp_path / "c.tar", tmp_path / "trace"
    content = authors_checkpoint("conv4", random_backbone("conv4")) | {"epoch": Malicious(trace)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"would run code \(\w+.mkdir\), so it was not loaded"):
        import_backbone(file, "conv4")
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # the file does run code if it is loaded without protection


def test_pickled_module_raises(tmp_path: Path) -> None:
    torch.save(random_backbone("conv4"), tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"would run code \(rr.backbones.conv4.Conv4\)"):
        import_backbone(tmp_path / "c.pt", "conv4")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_file_raises(tmp_path: Path, kind: str) -> None:
    file, backbone = tmp_path / "c", random_backbone("conv4")
    if kind == "safetensors":
        save_file(backbone.state_dict(), file)
    else:
        torch.save(backbone.state_dict(), file, _use_new_zipfile_serialization=kind == "zip")
    content = file.read_bytes()
    for length in (0, 5, 100, len(content) // 2, len(content) - 5):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match="is damaged" if length else "is not a checkpoint .the file is empty"):
            import_backbone(file, "conv4")


def test_git_lfs_pointer_raises(tmp_path: Path) -> None:
    file = tmp_path / "backbone.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for load in (load_backbone, lambda path: import_backbone(path, "conv4")):
        with pytest.raises(UserError, match="is a Git LFS pointer instead of the file: run `git lfs pull`"):
            load(file)


def test_import_command_prints_a_valid_path(tmp_path: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(authors_checkpoint("conv4", random_backbone("conv4")), "c.tar")
    outcome = rr("import", "c.tar", "--backbone", "conv4", "--output", "new.safetensors")
    assert outcome.code == 0
    assert f'path: "{tmp_path / "new.safetensors"}"' in outcome.out  # absolute, because this is not a project folder
    (tmp_path / "params.yaml").touch()
    assert 'path: "new.safetensors"' in rr("import", "c.tar", "--backbone", "conv4", "--output", "new.safetensors").out
    assert rr("import", "d.tar", "--backbone", "conv4").err.startswith("rr: d.tar does not exist or is not a file")
    assert "did you mean 'conv4'" in rr("import", "c.tar", "--backbone", "conv5").err
    outcome = rr("export", "new.safetensors", "--format", "state-dict", "--output", "c.pt")
    assert outcome.code == 0
    assert outcome.out.startswith("c.pt: conv4 as state-dict")
    assert rr("export", "none.safetensors", "--format", "state-dict", "--output", "d.pt").code == 2
    assert not Path("d.pt").exists()


def test_path_in_the_message_is_valid_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = 'bird "\N{BIRD}" \N{LATIN SMALL LETTER E WITH ACUTE}.safetensors'
    save_backbone(random_backbone("conv4"), Path("a.safetensors"))
    message = import_backbone(Path("a.safetensors"), "conv4", Path(name))
    entry = YAML(typ="safe").load(message.partition("params.yaml:\n")[2])
    assert entry["path"] == str(tmp_path / name)


def test_default_output_does_not_replace_another_import(tmp_path: Path) -> None:
    first, second = random_backbone("conv4").state_dict(), random_backbone("conv4").state_dict()
    second["blocks.0.0.weight"] = second["blocks.0.0.weight"] + 1
    torch.save({"a": first, "b": second}, tmp_path / "c.pt")
    output = tmp_path / "c-conv4.safetensors"
    import_backbone(tmp_path / "c.pt", "conv4", key="a")
    before = output.read_bytes()
    import_backbone(tmp_path / "c.pt", "conv4", key="a")  # the same contents
    preprocessing = Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    save_backbone(random_backbone("conv4"), tmp_path / "c.safetensors", preprocessing)
    for file, key in (("c.pt", "b"), ("c.safetensors", None)):
        with pytest.raises(UserError, match=r"c-conv4\.safetensors already exists with other contents: pass a differ"):
            import_backbone(tmp_path / file, "conv4", key=key)
    assert output.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3
    import_backbone(tmp_path / "c.pt", "conv4", output, "b")
    assert output.read_bytes() != before


def test_imported_method_has_the_weights_of_the_file(tmp_path: Path) -> None:
    weights, backbone = tmp_path / "b.safetensors", random_backbone("resnet8")
    save_backbone(backbone, weights)
    config = ImportedConfig(kind="imported", path=str(weights), sha256=file_sha256(weights))
    method = methods.build(config, backbones.build("resnet8"), num_classes=0)
    assert method.num_features == 64
    assert has_same_features(method.backbone.eval(), backbone)
    with pytest.raises(UserError, match="contains weights of resnet8, but the backbone of this run is conv4"):
        load_initial_weights(config, backbones.build("conv4"))
    with pytest.raises(UserError, match="the SHA-256 of the file is"):
        load_initial_weights(config.model_copy(update={"sha256": "0" * 64}), backbones.build("resnet8"))
    with pytest.raises(UserError, match=r"missing\.safetensors: no such file: create it with rr import"):
        load_initial_weights(config.model_copy(update={"path": "missing.safetensors"}), backbones.build("resnet8"))
    with pytest.raises(UserError, match="missing does not exist and is not the name of released weights"):
        load_initial_weights(config.model_copy(update={"path": "missing"}), backbones.build("resnet8"))
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(UserError, match="not a backbone file of this project"):
        load_initial_weights(config.model_copy(update={"sha256": file_sha256(weights)}), backbones.build("resnet8"))


def load_export(kind: str, name: str, file: Path) -> Callable[[Tensor], Tensor]:
    """Load an exported file as another program would."""
    if kind == "safetensors":
        return load_backbone(file)
    if kind == "state-dict":
        backbone = backbones.build(name).eval()
        backbone.load_state_dict(torch.load(file, weights_only=True))
        return backbone
    if kind == "torchscript":
        return torch.jit.load(file)
    if kind == "torch-export":
        return torch.export.load(file).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return lambda x: torch.from_numpy(session.run(["features"], {"images": x.numpy()})[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "image_size", "kind"),
    [
        *(("conv4", 45, kind) for kind in FORMATS),
        *(("resnet8", 32, kind) for kind in FORMATS),
        ("resnet18", 32, "onnx"),
    ],
)
def test_export_gives_the_same_features_for_any_batch_size(
    tmp_path: Path, name: str, image_size: int, kind: str
) -> None:
    backbone, output = random_backbone(name), tmp_path / f"out{SUFFIXES[kind][0]}"
    save_backbone(backbone, tmp_path / "b.safetensors")
    size_option = None if kind in ("safetensors", "state-dict") else image_size
    message = export_backbone(tmp_path / "b.safetensors", kind, output, size_option)
    assert message.startswith(f"{output}: {name} as {kind}")
    forward = load_export(kind, name, output)
    with torch.no_grad():
        for B in (1, 7):
            expected = backbone(random_images(B, image_size))
            assert (forward(random_images(B, image_size)) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert sorted(os.listdir(tmp_path)) == ["b.safetensors", output.name, f"{output.name}.md"]
    if kind == "onnx":
        assert os.fsencode(ROOT) not in output.read_bytes()


def read_exported_weights(kind: str, file: Path) -> dict[str, Tensor]:
    """Return the state dict that an exported file contains, as another program would read it."""
    if kind == "state-dict":
        return torch.load(file, weights_only=True)
    if kind == "torchscript":
        return torch.jit.load(file).state_dict()
    return torch.export.load(io.BytesIO(file.read_bytes())).state_dict


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "size", "kind"),
    [
        *(("conv4", None, kind) for kind in ("state-dict", "torchscript", "torch-export")),
        ("resnet8", None, "state-dict"),
        ("shufflenet_v2_x0_5", 32, "state-dict"),
        ("shufflenet_v2_x0_5", 32, "torchscript"),
    ],
)
def test_exported_weights_can_be_imported_again(tmp_path: Path, name: str, size: int | None, kind: str) -> None:
    backbone, output = random_backbone(name, size), tmp_path / f"out{SUFFIXES[kind][0]}"
    head, preprocessing = RelationHead(backbone.num_features), Preprocessing(32, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    save_backbone(backbone, tmp_path / "full.safetensors", preprocessing, {"relation_head": head}, "cat")
    export_backbone(tmp_path / "full.safetensors", kind, output)
    torch.save(read_exported_weights(kind, output), tmp_path / "c.pt")
    message = import_backbone(tmp_path / "c.pt", name, tmp_path / "imported.safetensors", image_size=size)
    assert "ignored" not in message
    save_backbone(backbone, tmp_path / "direct.safetensors")  # only the backbone
    assert (tmp_path / "imported.safetensors").read_bytes() == (tmp_path / "direct.safetensors").read_bytes()


def test_export_keeps_the_preprocessing(tmp_path: Path) -> None:
    weights, output = tmp_path / "b.safetensors", tmp_path / "out.safetensors"
    dataset = Preprocessing(24, (0.5, 0.25, 0.125), (0.1, 0.2, 0.3), stored_size=40)
    save_backbone(random_backbone("conv4"), weights, dataset)
    message = export_backbone(weights, "safetensors", output)
    assert "24 x 24 pixels with values in [0, 1], normalized with mean (0.5, 0.25, 0.125) and std (0.1, 0" in message
    assert output.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "state-dict"])
def test_image_size_without_effect_raises(tmp_path: Path, rr: RunRr, kind: str) -> None:
    save_backbone(random_backbone("conv4"), tmp_path / "b.safetensors")
    output = tmp_path / f"out{SUFFIXES[kind][0]}"
    outcome = rr("export", tmp_path / "b.safetensors", "--format", kind, "--output", output, "--image-size", "64")
    message = f"--image-size 64 has no effect with --format {kind}, which stores only weights: omit this option"
    assert (outcome.code, outcome.err) == (2, f"rr: {message}\n")
    assert not output.exists()


def test_export_of_released_weights(tmp_path: Path) -> None:
    """The safetensors format keeps the relation head and the description of the training."""
    weights = find_weights("conv4-cifar10-relational-k4")
    message = export_backbone(weights, "safetensors", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == weights.read_bytes()
    assert "not exported" not in message
    card, released = (
        path.read_text().partition("## Training\n")[2]
        for path in (tmp_path / "out.safetensors.md", weights.with_name(f"{weights.name}.md"))
    )
    assert "method | relational-k4 |" in card
    assert card == released
    message = export_backbone(weights, "state-dict", tmp_path / "out.pt")
    assert "\nnot exported, because this format contains only the backbone: relation_head" in message


@pytest.mark.filterwarnings("ignore")
def test_export_has_the_image_size_of_the_pretraining(tmp_path: Path) -> None:
    weights, output = tmp_path / "b.safetensors", tmp_path / "out.pt2"
    save_backbone(random_backbone("conv4"), weights, Preprocessing(48, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    export_backbone(weights, "torch-export", output)
    model = torch.export.load(io.BytesIO(output.read_bytes())).module()
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 64)
    with pytest.raises(AssertionError, match="48"):
        model(torch.zeros(1, 3, 32, 32))


def test_export_with_wrong_features_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serialize_with_changed_bias(backbone: Backbone, *_: object) -> bytes:
        state, buffer = backbone.state_dict(), io.BytesIO()
        torch.save(state | {"blocks.0.1.bias": state["blocks.0.1.bias"] + 1e-3}, buffer)
        return buffer.getvalue()

    save_backbone(random_backbone("conv4"), tmp_path / "b.safetensors")
    (tmp_path / "out.pt").write_text("old")
    monkeypatch.setattr(export_weights, "_serialize", serialize_with_changed_bias)
    with pytest.raises(UserError, match=r"relative error of .* Nothing was written"):
        export_backbone(tmp_path / "b.safetensors", "state-dict", tmp_path / "out.pt")
    assert (tmp_path / "out.pt").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["b.safetensors", "out.pt"]


def test_onnx_without_its_packages_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_backbone(random_backbone("conv4"), tmp_path / "b.safetensors")
    monkeypatch.setattr(export_weights, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(
        UserError, match=r"needs the packages onnxscript: run pip install 'relational-reasoning\[export\]'"
    ):
        export_backbone(tmp_path / "b.safetensors", "onnx", tmp_path / "out.onnx")
    with pytest.raises(UserError, match=r"b\.safetensors is the input file"):
        export_backbone(tmp_path / "b.safetensors", "safetensors", tmp_path / "b.safetensors")
