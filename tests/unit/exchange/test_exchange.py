"""`rr import`, the method `imported` and `rr export`: weights from and for elsewhere, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rr
from networks import images, network
from safetensors.torch import save_file
from torch import Tensor, nn

from rr import backbones
from rr.backbones.weights import load_backbone, write_backbone
from rr.errors import UserError
from rr.exchange import exporting
from rr.exchange.exporting import export
from rr.exchange.importing import import_backbone
from rr.methods.imported import imported
from rr.params import Imported
from rr.runtime.hashing import sha256

FORMATS = ["safetensors", "state-dict", "torchscript", "torch-export", "onnx"]


def authors_state(name: str, backbone: nn.Module) -> dict[str, Tensor]:
    """The weights under the names that the authors' code gives them."""
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
    optimiser = torch.optim.Adam(backbone.parameters())
    return {
        "backbone": authors_state(name, backbone),
        "relation": nn.Linear(128, 1).state_dict(),
        "optimizer": optimiser.state_dict(),
        "epoch": 3,
    }


def same(found: nn.Module, expected: nn.Module) -> bool:
    with torch.no_grad():
        return torch.equal(found(images(3, 32)), expected(images(3, 32)))


@pytest.mark.parametrize("name", ["conv4", "resnet8", "resnet32", "resnet34"])
def test_the_authors_checkpoints_give_the_same_features(tmp_path: Path, name: str) -> None:
    backbone = network(name)
    torch.save(authors_checkpoint(name, backbone), tmp_path / "epoch_9.0.tar")
    said = import_backbone(tmp_path / "epoch_9.0.tar", name)
    written = tmp_path / f"epoch_9.0-{name}.safetensors"
    assert same(load_backbone(written), backbone)
    assert f'kind: imported\n    path: "{written}"\n    sha256: {sha256(written)}' in said
    write_backbone(name, backbone, tmp_path / "direct.safetensors")
    assert written.read_bytes() == (tmp_path / "direct.safetensors").read_bytes()


def parallel(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


def uncounted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def classifying(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"fc.weight": torch.ones(10, 64), "fc.bias": torch.ones(10)}


@pytest.mark.parametrize("name", ["conv4", "resnet8"])
@pytest.mark.parametrize("alter", [dict, parallel, uncounted, classifying])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_state_dicts_of_every_kind(tmp_path: Path, name: str, alter: Callable, kind: str) -> None:
    backbone, file = network(name), tmp_path / "weights"
    state = alter(authors_state(name, backbone))
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    import_backbone(file, name, tmp_path / "out/b.safetensors")
    assert same(load_backbone(tmp_path / "out/b.safetensors"), backbone)


def test_an_imported_file_imports_again(tmp_path: Path) -> None:
    write_backbone("conv4", network("conv4"), tmp_path / "a.safetensors")
    import_backbone(tmp_path / "a.safetensors", "conv4", tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(UserError, match="file to import"):
        import_backbone(tmp_path / "a.safetensors", "conv4", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        ("conv4", "resnet8", r"no resnet8: conv1.weight is missing; it fits --backbone conv4"),
        ("resnet8", "resnet32", r"no resnet32: layer1.1.conv1.weight is missing; it fits --backbone resnet8"),
        ("resnet32", "resnet8", r"no resnet8: layer1.1.conv1.weight is no part of it; it fits --backbone resnet32"),
        ("resnet18", "resnet8", r"conv1.weight is \(64, 3, 7, 7\) float32, not \(16, 3, 3, 3\) float32; .* resnet18"),
    ],
)
def test_another_backbone_is_refused(tmp_path: Path, found: str, wanted: str, message: str) -> None:
    torch.save(authors_checkpoint(found, network(found)), tmp_path / "c.tar")
    with pytest.raises(UserError, match=message):
        import_backbone(tmp_path / "c.tar", wanted)
    assert os.listdir(tmp_path) == ["c.tar"]


def not_finite(state: dict[str, Tensor]) -> Any:
    return state | {"conv1.weight": state["conv1.weight"] * float("nan")}


def integers(state: dict[str, Tensor]) -> Any:
    return state | {"conv1.weight": state["conv1.weight"].long()}


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (not_finite, "conv1.weight has values that are not finite"),
        (integers, "conv1.weight is .* int64, not .*; it fits no other backbone"),
        (lambda state: {"backbone": 3}, "holds no weights by name"),
        (lambda state: [*state.values()], "holds no weights by name"),
        (lambda state: {**state, 3: torch.ones(1)}, "holds no weights by name"),
        (lambda state: {}, "holds no weights by name"),
    ],
)
def test_what_is_no_state_dict_of_a_backbone(tmp_path: Path, alter: Callable, message: str) -> None:
    torch.save(alter(network("resnet8").state_dict()), tmp_path / "c.pt")
    with pytest.raises(UserError, match=message):
        import_backbone(tmp_path / "c.pt", "resnet8")


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    file, trace = tmp_path / "c.tar", tmp_path / "trace"
    content = authors_checkpoint("conv4", network("conv4")) | {"epoch": Malicious(trace)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"would run code \(\w+.mkdir\), so it was refused"):
        import_backbone(file, "conv4")
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # the file is as bad as it was meant to be


def test_a_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(network("conv4"), tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"would run code \(rr.backbones.conv4.Conv4\)"):
        import_backbone(tmp_path / "c.pt", "conv4")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str) -> None:
    file, backbone = tmp_path / "c", network("conv4")
    if kind == "safetensors":
        save_file(backbone.state_dict(), file)
    else:
        torch.save(backbone.state_dict(), file, _use_new_zipfile_serialization=kind == "zip")
    whole = file.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 5):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is damaged"):
            import_backbone(file, "conv4")


def test_import_from_the_command_line(tmp_path: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(authors_checkpoint("conv4", network("conv4")), "c.tar")
    outcome = rr("import", "c.tar", "--backbone", "conv4", "--output", "own.safetensors")
    assert outcome.code == 0
    assert f'path: "{tmp_path / "own.safetensors"}"' in outcome.out  # elsewhere, a relative path would mean nothing
    (tmp_path / "params.yaml").touch()
    assert 'path: "own.safetensors"' in rr("import", "c.tar", "--backbone", "conv4", "--output", "own.safetensors").out
    assert rr("import", "d.tar", "--backbone", "conv4").err.startswith("rr: d.tar: no such file")
    assert "did you mean 'conv4'" in rr("import", "c.tar", "--backbone", "conv5").err
    outcome = rr("export", "own.safetensors", "--format", "state-dict", "--output", "c.pt")
    assert outcome.code == 0
    assert outcome.out.startswith("c.pt: conv4 as state-dict")
    assert rr("export", "none.safetensors", "--format", "state-dict", "--output", "d.pt").code == 2
    assert not Path("d.pt").exists()


def test_imported_is_a_method_around_the_files_weights(tmp_path: Path) -> None:
    weights, backbone = tmp_path / "b.safetensors", network("resnet8")
    write_backbone("resnet8", backbone, weights)
    settings = Imported(kind="imported", path=str(weights), sha256=sha256(weights))
    method = imported(settings, backbones.build("resnet8"))
    assert method.features == 64
    assert same(method.backbone.eval(), backbone)
    with pytest.raises(UserError, match="holds a resnet8, and the run is of conv4"):
        imported(settings, backbones.build("conv4"))
    with pytest.raises(UserError, match="its SHA-256 is"):
        imported(settings.model_copy(update={"sha256": "0" * 64}), backbones.build("resnet8"))
    with pytest.raises(UserError, match="no such file"):
        imported(settings.model_copy(update={"path": "missing"}), backbones.build("resnet8"))
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(UserError, match="no backbone of this project"):
        imported(settings.model_copy(update={"sha256": sha256(weights)}), backbones.build("resnet8"))


def forward(kind: str, name: str, file: Path) -> Callable[[Tensor], Tensor]:
    """Read an export the way another program would."""
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "side", "kind"),
    [
        *(("conv4", 45, kind) for kind in FORMATS),
        *(("resnet8", 32, kind) for kind in FORMATS),
        ("resnet18", 32, "onnx"),
    ],
)
def test_exports_give_the_same_features_for_any_batch(tmp_path: Path, name: str, side: int, kind: str) -> None:
    backbone, output = network(name), tmp_path / "out.pt2"
    write_backbone(name, backbone, tmp_path / "b.safetensors")
    said = export(tmp_path / "b.safetensors", kind, output, side)
    assert said.startswith(f"{output}: {name} as {kind}")
    again = forward(kind, name, output)
    with torch.no_grad():
        for B in (1, 7):
            expected = backbone(images(B, side))
            assert (again(images(B, side)) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert sorted(os.listdir(tmp_path)) == ["b.safetensors", "out.pt2"]


def test_an_export_that_computes_something_else_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(backbone: nn.Module, example: Tensor, target: Path) -> None:
        state = backbone.state_dict()
        torch.save(state | {"blocks.0.1.bias": state["blocks.0.1.bias"] + 1e-3}, target)

    write_backbone("conv4", network("conv4"), tmp_path / "b.safetensors")
    (tmp_path / "out").write_text("old")
    monkeypatch.setitem(exporting._FORMATS, "state-dict", (spoil, exporting._read_state_dict))
    with pytest.raises(UserError, match=r"differ by .* nothing was written"):
        export(tmp_path / "b.safetensors", "state-dict", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["b.safetensors", "out"]


def test_onnx_without_its_packages_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_backbone("conv4", network("conv4"), tmp_path / "b.safetensors")
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r"needs onnxscript: pip install 'rr\[export\]'"):
        export(tmp_path / "b.safetensors", "onnx", tmp_path / "out")
    with pytest.raises(UserError, match="file to export"):
        export(tmp_path / "b.safetensors", "safetensors", tmp_path / "b.safetensors")
