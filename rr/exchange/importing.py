"""`rr import`: convert a checkpoint of the authors' code, or any matching state dict, to a backbone file."""

import json
import re
import warnings
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rr import backbones
from rr.backbones.weights import save_backbone
from rr.errors import UserError, format_suggestion
from rr.params import BackboneName
from rr.paths import PARAMS_FILE
from rr.runtime.hashing import file_sha256


def import_backbone(file: Path, backbone_name: str, output: Path | None = None) -> str:
    """Convert the weights in `file` to a backbone file with float32 weights.

    Args:
        file: checkpoint of the authors' code (a dict whose entry `backbone` is a state dict; see `save` in their
            methods/*.py), state dict written by `torch.save`, or safetensors file.
        backbone_name: architecture of the backbone.
        output: file to write; by default `<file>-<backbone_name>.safetensors` in the folder of `file`.

    Returns:
        A message for the user, with the lines to add to params.yaml.

    Raises:
        UserError: if `backbone_name` is unknown, if `file` is missing, damaged or contains Python objects other than
            tensors, if `output` is `file` or a folder, or if the weights do not match the architecture or contain NaN
            or infinite values.
    """
    if backbone_name not in get_args(BackboneName):
        raise UserError(
            f"--backbone {backbone_name}: unknown backbone; {format_suggestion(backbone_name, get_args(BackboneName))}"
        )
    if not file.is_file():
        raise UserError(f"{file} is not an existing file: give the path of a checkpoint")
    output = output or file.with_name(f"{file.stem}-{backbone_name}.safetensors")
    if output.is_dir() or output.resolve() == file.resolve():
        kind = "a folder" if output.is_dir() else "the input file"
        raise UserError(f"--output {output} is {kind}: give the path of another file")
    state = {_convert_key(key): value for key, value in _load_state_dict(file).items()}
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}  # the classifier
    if problem := _describe_mismatch(backbone_name, state):
        raise UserError(f"the weights in {file} do not match {backbone_name}: {problem}; {_suggest_backbone(state)}")
    backbone = backbones.build(backbone_name)
    backbone.load_state_dict(backbone.state_dict() | state)
    not_finite = [key for key, value in backbone.state_dict().items() if not value.isfinite().all()]
    if not_finite:
        raise UserError(f"{file}: {not_finite[0]} contains NaN or infinite values; use an earlier checkpoint")
    save_backbone(backbone, output)
    # Stages run in the project folder. In any other folder, a relative path would be wrong, so print an absolute one.
    path = output if PARAMS_FILE.is_file() else output.resolve()
    return (
        f"{output}: {backbone_name}, {backbone.features} features. To use this file, add a method with these lines to "
        "params.yaml:\n"
        f"    kind: imported\n    path: {json.dumps(str(path))}\n    sha256: {file_sha256(output)}"
    )


def _load_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the state dict in `file`, in any of the supported formats, without running code from the file."""
    with open(file, "rb") as opened:
        is_safetensors = opened.read(9)[8:] == b"{"
    try:
        # A pickle can run code. With weights_only=True, torch runs only functions that are needed to create tensors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about a damaged file before it raises an error
            content = load_file(file) if is_safetensors else torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}): copy or download it again") from error
    except Exception as error:  # torch raises various exceptions for damaged files
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise UserError(
                f"{file} contains more than tensors: loading it would run code ({forbidden[1]}), so it was not loaded. "
                "If you trust this file, load it yourself with weights_only=False, save only the state_dict() of the "
                "backbone, and import the saved file"
            ) from error
        reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise UserError(
            f"{file} is damaged or not a checkpoint ({reason}): copy or download it again, or give another file"
        ) from error
    return _extract_state_dict(content, file)


def _extract_state_dict(content: Any, file: Path) -> dict[str, Tensor]:
    """Return the state dict in the `content` of a checkpoint; `file` is for the error message."""
    if isinstance(content, dict) and "backbone" in content:
        content = content["backbone"]
    if not isinstance(content, dict) or not content or not all(map(_is_named_tensor, content.items())):
        raise UserError(
            f"{file} does not contain a state dict: give a file with a dict of tensors, or with a dict that contains a "
            "dict of tensors under the key 'backbone'"
        )
    return content


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    name, value = item
    is_dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return isinstance(name, str) and is_dense


def _convert_key(key: str) -> str:
    """Convert a key to that of this project: drop the prefix of DataParallel, and rename the layers of Conv-4."""
    key = key.removeprefix("module.")
    conv4 = re.fullmatch(r"layer([1-4])\.(conv|bn)\.(\w+)", key)
    return f"blocks.{int(conv4[1]) - 1}.{('conv', 'bn').index(conv4[2])}.{conv4[3]}" if conv4 else key


def _describe_mismatch(backbone_name: str, state: dict[str, Tensor]) -> str | None:
    """Return why `state` does not match the backbone, or None if it does. `num_batches_tracked` is optional."""
    with torch.device("meta"):
        expected = backbones.build(backbone_name).state_dict()
    for key, value in expected.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):
                continue
            return f"{key} is missing"
        actual = state[key]
        if actual.shape != value.shape or actual.is_floating_point() != value.is_floating_point():
            return f"{key} is {_describe_tensor(actual)} instead of {_describe_tensor(value)}"
    return next((f"unexpected key {key}" for key in state if key not in expected), None)


def _describe_tensor(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _suggest_backbone(state: dict[str, Tensor]) -> str:
    """Return the end of an error message, which names the backbones that `state` matches."""
    matches = [name for name in get_args(BackboneName) if _describe_mismatch(name, state) is None]
    if matches:
        return f"use --backbone {' or '.join(matches)}"
    return f"only weights of the following backbones can be imported: {', '.join(get_args(BackboneName))}"
