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
from rr.errors import UserError, suggest
from rr.params import BackboneName
from rr.paths import PARAMS_FILE
from rr.runtime.hashing import file_sha256


def import_backbone(file: Path, name: str, output: Path | None = None) -> str:
    """Convert the weights in `file` to a backbone file with float32 weights.

    Args:
        file: A checkpoint of the authors' code (a dict with a state dict as `backbone`; see `save` in their
            methods/*.py), a state dict written by `torch.save`, or a safetensors file.
        name: Architecture of the backbone.
        output: File to write; by default `<file>-<name>.safetensors` in the folder of `file`.

    Returns:
        A message for the user, with the lines to add to params.yaml.

    Raises:
        UserError: if `name` is unknown; if `file` is missing, damaged or contains other Python objects than tensors; or
            if the weights do not match the architecture or are not finite.
    """
    if name not in get_args(BackboneName):
        raise UserError(f"--backbone {name}: unknown; {suggest(name, get_args(BackboneName))}")
    if not file.is_file():
        raise UserError(f"{file}: file not found; give the path of a checkpoint")
    output = output or file.with_name(f"{file.stem}-{name}.safetensors")
    if output.resolve() == file.resolve() or output.is_dir():
        raise UserError(f"--output {output}: this is the input file or a folder; choose another output path")
    state = {_map_key(key): value for key, value in _load_state_dict(file).items()}
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}  # the classifier
    if problem := _mismatch(name, state):
        raise UserError(f"{file} is not a {name}: {problem}; {_suggest_backbone(state)}")
    backbone = backbones.build(name)
    backbone.load_state_dict(backbone.state_dict() | state)
    not_finite = [key for key, value in backbone.state_dict().items() if not value.isfinite().all()]
    if not_finite:
        raise UserError(f"{file}: {not_finite[0]} has NaN or infinite values; use an earlier checkpoint")
    save_backbone(backbone, output)
    # Stages run in the project folder. In another folder print an absolute path, because a relative one would be wrong.
    path = output if PARAMS_FILE.is_file() else output.resolve()
    return (
        f"{output}: {name}, {backbone.features} features. To use it, add a method with these lines to params.yaml:\n"
        f"    kind: imported\n    path: {json.dumps(str(path))}\n    sha256: {file_sha256(output)}"
    )


def _load_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the state dict in `file`, which may have any of the formats. No code in the file is run."""
    with open(file, "rb") as opened:
        is_safetensors = opened.read(9)[8:] == b"{"
    try:
        # A pickle can run code. With weights_only=True torch runs only what is needed to create tensors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for damaged files torch warns before it raises
            content = load_file(file) if is_safetensors else torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}): copy or download it again") from error
    except Exception as error:  # torch raises various exceptions for damaged files
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise UserError(
                f"{file} contains more than tensors: loading it would run code ({forbidden[1]}). It was not loaded. If "
                "you trust its origin, load it yourself, save only its state_dict(), and import that file"
            ) from error
        reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise UserError(f"{file} is damaged or not a checkpoint ({reason}): copy or download it again") from error
    return _get_state_dict(content, file)


def _get_state_dict(content: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and "backbone" in content:
        content = content["backbone"]
    if not isinstance(content, dict) or not content or not all(map(_is_weight, content.items())):
        raise UserError(
            f"{file} is not a state dict: it must be a dict of tensors, or a dict that contains one under 'backbone'"
        )
    return content


def _is_weight(item: tuple[Any, Any]) -> bool:
    name, value = item
    is_dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return isinstance(name, str) and is_dense


def _map_key(key: str) -> str:
    """Return this project's key: without the prefix of DataParallel, and `blocks.0.0` for `layer1.conv` of Conv-4."""
    key = key.removeprefix("module.")
    conv4 = re.fullmatch(r"layer([1-4])\.(conv|bn)\.(\w+)", key)
    return f"blocks.{int(conv4[1]) - 1}.{('conv', 'bn').index(conv4[2])}.{conv4[3]}" if conv4 else key


def _mismatch(name: str, state: dict[str, Tensor]) -> str | None:
    """Describe why `state` does not match backbone `name`, or return None. `num_batches_tracked` may be missing."""
    with torch.device("meta"):
        expected = backbones.build(name).state_dict()
    for key, value in expected.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):
                continue
            return f"{key} is missing"
        actual = state[key]
        if actual.shape != value.shape or actual.is_floating_point() != value.is_floating_point():
            return f"{key} is {_describe(actual)}, not {_describe(value)}"
    return next((f"unexpected key {key}" for key in state if key not in expected), None)


def _describe(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _suggest_backbone(state: dict[str, Tensor]) -> str:
    matches = [name for name in get_args(BackboneName) if _mismatch(name, state) is None]
    return f"use --backbone {' or '.join(matches)}" if matches else "it matches no other backbone of this project"
