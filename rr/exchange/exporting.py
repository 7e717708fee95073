"""`rr export`: a backbone in a format that other programs read, checked against the original before it appears."""

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rr import backbones
from rr.backbones.weights import load_backbone, write_backbone
from rr.errors import UserError
from rr.runtime.atomic import replacing

TOLERANCE = 1e-5  # largest difference of a feature, relative to the largest feature
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
Forward = Callable[[Tensor], Tensor]


def export(file: Path, kind: str, output: Path, side: int = 32) -> str:
    """Write the backbone in `file` to `output` in the format `kind`. Returns what to say.

    Formats: `safetensors` and `state-dict` hold the weights under this project's names, which for the ResNets are
    torchvision's; `torchscript`, `torch-export` and `onnx` hold the computation in eval mode, from float32
    (B, 3, side, side) to (B, features), for any B. What was written is read back and must give the same features on a
    random batch.
    Raises UserError where `file` is no backbone, packages for ONNX are missing, or the features differ; then `output`
    stays as it was.
    """
    write, read = _FORMATS[kind]
    if output.resolve() == file.resolve() or output.is_dir():
        raise UserError(f"--output {output}: that is the file to export, or a folder; name another file")
    missing = [package for package in _ONNX_PACKAGES if find_spec(package) is None] if kind == "onnx" else []
    if missing:
        raise UserError(f"--format onnx needs {', '.join(missing)}: pip install 'rr[export]'")
    backbone = load_backbone(file)
    generator = torch.Generator().manual_seed(0)
    example_B3SS, other_B3SS = (torch.randn((B, 3, side, side), generator=generator) for B in (2, 5))
    with replacing(output) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporters warn of each other, not of what a user could mend
        write(backbone, example_B3SS, temporary)
        expected_BD, found_BD = backbone(other_B3SS), read(backbone, temporary)(other_B3SS)
        difference = _difference(found_BD, expected_BD)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{file} as {kind} gives features that differ by {difference:.1e} of the largest, more than "
                f"{TOLERANCE:.0e}: nothing was written; choose another --format"
            )
    return f"{output}: {backbone.name} as {kind}, features equal within {difference:.1e} of the largest"


def _difference(found_BD: Tensor, expected_BD: Tensor) -> float:
    """Largest difference relative to the largest expected value; infinite for another shape."""
    if found_BD.shape != expected_BD.shape:
        return float("inf")
    tiny = torch.finfo(expected_BD.dtype).tiny
    return float((found_BD - expected_BD).abs().max() / expected_BD.abs().max().clamp(min=tiny))


def _write_safetensors(backbone: nn.Module, example_B3SS: Tensor, target: Path) -> None:
    write_backbone(backbone.name, backbone, target)  # type: ignore[arg-type]


def _read_safetensors(backbone: nn.Module, source: Path) -> Forward:
    return load_backbone(source)


def _write_state_dict(backbone: nn.Module, example_B3SS: Tensor, target: Path) -> None:
    # Here and below through memory, because torch reports a full disk as a bug of its own.
    buffer = io.BytesIO()
    torch.save(backbone.state_dict(), buffer)
    target.write_bytes(buffer.getvalue())


def _read_state_dict(backbone: nn.Module, source: Path) -> Forward:
    fresh = backbones.build(backbone.name)  # type: ignore[arg-type]
    fresh.load_state_dict(torch.load(source, weights_only=True))
    return fresh.eval()


def _write_torchscript(backbone: nn.Module, example_B3SS: Tensor, target: Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(backbone, example_B3SS), buffer)
    target.write_bytes(buffer.getvalue())


def _read_torchscript(backbone: nn.Module, source: Path) -> Forward:
    return torch.jit.load(source)


def _write_torch_export(backbone: nn.Module, example_B3SS: Tensor, target: Path) -> None:
    buffer = io.BytesIO()
    program = torch.export.export(backbone, (example_B3SS,), dynamic_shapes=_any_batch())
    torch.export.save(program, buffer)
    target.write_bytes(buffer.getvalue())


def _read_torch_export(backbone: nn.Module, source: Path) -> Forward:
    return torch.export.load(io.BytesIO(source.read_bytes())).module()


def _write_onnx(backbone: nn.Module, example_B3SS: Tensor, target: Path) -> None:
    program: Any = torch.onnx.export(
        backbone, (example_B3SS,), dynamo=True, dynamic_shapes=_any_batch(), input_names=["images"],
        output_names=["features"], verbose=False,
    )  # fmt: skip
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # among them traces with this machine's paths
    target.write_bytes(program.model_proto.SerializeToString())


def _read_onnx(backbone: nn.Module, source: Path) -> Forward:
    import onnxruntime

    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return lambda images_B3SS: torch.from_numpy(session.run(None, {"images": images_B3SS.numpy()})[0])


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", min=1)},)


_FORMATS = {
    "safetensors": (_write_safetensors, _read_safetensors),
    "state-dict": (_write_state_dict, _read_state_dict),
    "torchscript": (_write_torchscript, _read_torchscript),
    "torch-export": (_write_torch_export, _read_torch_export),
    "onnx": (_write_onnx, _read_onnx),
}
