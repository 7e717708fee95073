"""`rr export`: convert a backbone to a format for other programs, and check that its features are unchanged."""

import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rr import backbones
from rr.backbones.base import Backbone
from rr.backbones.weights import list_saved_layers, load_backbone, load_classifier, read_metadata
from rr.data.preprocessing import Preprocessing, parse_preprocessing
from rr.errors import UserError
from rr.evaluate.relation_head import load_relation_head
from rr.exchange.model_card import write_model_card
from rr.runtime.atomic import atomic_write
from rr.runtime.output_path import check_output_path
from rr.runtime.weights_lookup import find_weights

TOLERANCE = 1e-5  # maximum difference between the features, relative to the largest feature
SUFFIXES = {
    "safetensors": [".safetensors"],
    "state-dict": [".pt", ".pth"],
    "torchscript": [".pt", ".pth"],
    "torch-export": [".pt2"],
    "onnx": [".onnx"],
}
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_backbone(weights: Path, format: str, output: Path, image_size: int | None = None) -> str:
    """Write the backbone in the file `weights` to `output`, load the new file, and compare the features.

    The `safetensors` format is a copy of the file, with the layers that were saved with the backbone. All other formats
    contain only the backbone. `state-dict` contains its weights, with this project's keys or, for networks from
    torchvision and timm, with the keys of these libraries. The `torchscript`, `torch-export` and `onnx` formats contain
    the model in eval mode. It maps float32 images (B, 3, image_size, image_size) to features (B, num_features), for any
    B. `image_size` defaults to the size of the images on which the backbone was pretrained or, if that is unknown, 32;
    the other formats do not accept it. A model card (Markdown) is written next to the file.

    Returns:
        A message for the user, which includes the preprocessing of the backbone's images if it is known.

    Raises:
        UserError: if `weights` is not a backbone file or is for a different image size, if `image_size` has no effect
            on the format, if `output` cannot be written or does not have the format's suffix, if packages for ONNX are
            missing, or if the features of the exported model differ. In all these cases, `output` is not changed.
            UserError is also raised if the record next to the weights is damaged.
    """
    if image_size is not None and format in ("safetensors", "state-dict"):
        raise UserError(
            f"--image-size {image_size} has no effect with --format {format}, which stores only weights: omit this "
            "option"
        )
    weights = find_weights(weights)
    check_output_path("--output", output, SUFFIXES[format], weights, must_be_utf8=True)
    missing = [package for package in _ONNX_PACKAGES if find_spec(package) is None] if format == "onnx" else []
    if missing:
        raise UserError(
            f"--format onnx needs the packages {', '.join(missing)}: run pip install 'relational-reasoning[export]'"
        )
    backbone = load_backbone(weights)
    try:
        preprocessing = parse_preprocessing(read_metadata(weights))
    except ValueError as invalid:
        raise UserError(f"{weights}: {invalid}: export the file from another run") from invalid
    image_size = image_size or backbone.image_size or (preprocessing.image_size if preprocessing else 32)
    if backbone.image_size not in (None, image_size):
        raise UserError(
            f"--image-size {image_size}: {weights} contains {backbone.name} for images of {backbone.image_size} x "
            f"{backbone.image_size} pixels: use --image-size {backbone.image_size}"
        )
    generator = torch.Generator().manual_seed(0)
    example_B3SS, other_B3SS = (torch.randn((B, 3, image_size, image_size), generator=generator) for B in (2, 5))
    with atomic_write(output, concurrent=True) as temporary, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # users cannot act on warnings from torch's exporters
        if format == "safetensors":
            load_classifier(weights)  # this checks the layers that are copied with the backbone
            load_relation_head(weights)
            temporary.write_bytes(weights.read_bytes())
        else:
            temporary.write_bytes(_serialize(backbone, format, example_B3SS))
        error = _relative_error(_load_model(backbone, format, temporary)(other_B3SS), backbone(other_B3SS))
        if not error <= TOLERANCE:
            raise UserError(
                f"{weights}: after export as {format}, the features have a relative error of {error:.1e} (maximum: "
                f"{TOLERANCE:.0e}). Nothing was written; choose another --format"
            )
    card = write_model_card(backbone, weights, output, format, image_size)
    message = f"{output}: {backbone.name} as {format}, relative error of the features {error:.1e}; model card: {card}"
    if format != "safetensors" and (layers := list_saved_layers(weights)):
        message += f"\nnot exported, because this format contains only the backbone: {' and '.join(layers)}"
    return f"{message}\n{_describe_images(preprocessing)}" if preprocessing else message


def _describe_images(preprocessing: Preprocessing) -> str:
    """Return a line that describes the images on which the backbone was pretrained."""
    size = preprocessing.image_size
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    return (
        f"pretrained on RGB images of {size} x {size} pixels with values in [0, 1], normalized with mean ({mean}) and "
        f"std ({std})"
    )


def _relative_error(actual_BD: Tensor, expected_BD: Tensor) -> float:
    """Return the maximum difference relative to the largest expected value, or infinity if the shapes differ."""
    if actual_BD.shape != expected_BD.shape:
        return float("inf")
    tiny = torch.finfo(expected_BD.dtype).tiny
    return float((actual_BD - expected_BD).abs().max() / expected_BD.abs().max().clamp(min=tiny))


def _serialize(backbone: Backbone, format: str, example_B3SS: Tensor) -> bytes:
    """Return the contents of the exported file. The example is used to trace the model.

    The contents are not written directly to a file, because torch reports a full disk as an internal error.
    """
    buffer = io.BytesIO()
    shapes = ({0: torch.export.Dim("batch", min=1)},)  # the batch may have any size
    match format:
        case "state-dict":
            torch.save(backbone.state_dict(), buffer)
        case "torchscript":
            torch.jit.save(torch.jit.trace(backbone, example_B3SS), buffer)
        case "torch-export":
            torch.export.save(torch.export.export(backbone, (example_B3SS,), dynamic_shapes=shapes), buffer)
        case "onnx":
            program: Any = torch.onnx.export(
                backbone, (example_B3SS,), dynamo=True, dynamic_shapes=shapes, input_names=["images"],
                output_names=["features"], verbose=False,
            )  # fmt: skip
            for node in program.model.graph.all_nodes():
                node.metadata_props.clear()  # they contain stack traces with paths on this machine
            buffer.write(program.model_proto.SerializeToString())
    return buffer.getvalue()


def _load_model(backbone: Backbone, format: str, source: Path) -> Callable[[Tensor], Tensor]:
    """Load the file that `export_backbone` wrote. The result maps images (B, 3, S, S) to features."""
    match format:
        case "safetensors":
            return load_backbone(source)
        case "state-dict":
            loaded = backbones.build(backbone.name, backbone.image_size, backbone.config)
            loaded.load_state_dict(torch.load(source, weights_only=True))
            return loaded.eval()
        case "torchscript":
            return torch.jit.load(source)
        case "torch-export":
            return torch.export.load(io.BytesIO(source.read_bytes())).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return lambda images_B3SS: torch.from_numpy(session.run(None, {"images": images_B3SS.numpy()})[0])
