"""`rr import`: a checkpoint of the authors' code, or any state dict that fits, as a backbone file of this project."""

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
from rr.backbones.weights import write_backbone
from rr.errors import UserError, nearest
from rr.params import Backbone
from rr.paths import PARAMS
from rr.runtime.hashing import sha256


def import_backbone(file: Path, name: str, output: Path | None = None) -> str:
    """Write the weights in `file` as backbone `name` to `output` (`<file>-<name>.safetensors`). Returns what to say.

    `file` is a checkpoint of the authors' code (`backbone` in a dict, methods/*.py, `save`), a state dict that
    torch.save wrote, or a safetensors file. Values become float32. Raises UserError for an unknown `name`, for a file
    that is missing, damaged or holds Python objects, and for weights that do not fit or are not finite.
    """
    if name not in get_args(Backbone):
        raise UserError(f"--backbone {name}: unknown; {nearest(name, get_args(Backbone))}")
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the path of a checkpoint")
    output = output or file.with_name(f"{file.stem}-{name}.safetensors")
    if output.resolve() == file.resolve() or output.is_dir():
        raise UserError(f"--output {output}: that is the file to import, or a folder; name another file")
    state = {_own_name(key): value for key, value in _read(file).items()}
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}  # a classifier's
    if problem := _misfit(name, state):
        raise UserError(f"{file} holds no {name}: {problem}; {_advice(state)}")
    backbone = backbones.build(name)
    backbone.load_state_dict(backbone.state_dict() | state)
    bad = [key for key, value in backbone.state_dict().items() if not value.isfinite().all()]
    if bad:
        raise UserError(f"{file}: {bad[0]} has values that are not finite; take a checkpoint from before that")
    write_backbone(name, backbone, output)
    # The stages run in the project's folder; from another one a relative path would lead elsewhere.
    shown = output if PARAMS.is_file() else output.resolve()
    return (
        f"{output}: {name}, {backbone.features} features; for params.yaml, under methods and a name of your choice:\n"
        f"    kind: imported\n    path: {json.dumps(str(shown))}\n    sha256: {sha256(output)}"
    )


def _read(file: Path) -> dict[str, Tensor]:
    """The state dict in `file`, whichever of the formats that is. Runs nothing that the file asks for."""
    with open(file, "rb") as opened:
        is_safetensors = opened.read(9)[8:] == b"{"
    try:
        # A pickle is a program; with weights_only torch carries out no more of it than making tensors takes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of damage by which it then stops
            content = load_file(file) if is_safetensors else torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}): copy or download it again") from error
    except Exception as error:  # torch has no single error for a damaged file
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise UserError(
                f"{file} holds more than tensors: loading it would run code ({foreign[1]}), so it was refused and "
                "nothing in it was run; where you trust its origin, save its state_dict() alone and import that"
            ) from error
        reason = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise UserError(f"{file} is damaged or no checkpoint ({reason}): copy or download it again") from error
    return _state(content, file)


def _state(content: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and "backbone" in content:
        content = content["backbone"]
    if not isinstance(content, dict) or not content or not all(map(_is_entry, content.items())):
        raise UserError(
            f"{file} holds no weights by name: it must be a state_dict, or a dict with one as its 'backbone'"
        )
    return content


def _is_entry(item: tuple[Any, Any]) -> bool:
    name, value = item
    dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta
    return isinstance(name, str) and dense


def _own_name(key: str) -> str:
    """This project's name for a weight: without DataParallel's prefix, Conv-4's `layer1.conv` as `blocks.0.0`."""
    key = key.removeprefix("module.")
    conv4 = re.fullmatch(r"layer([1-4])\.(conv|bn)\.(\w+)", key)
    return f"blocks.{int(conv4[1]) - 1}.{('conv', 'bn').index(conv4[2])}.{conv4[3]}" if conv4 else key


def _misfit(name: str, state: dict[str, Tensor]) -> str | None:
    """What keeps `state` from being backbone `name`, or None. A batch norm's count of batches may be missing."""
    with torch.device("meta"):
        expected = backbones.build(name).state_dict()
    for key, value in expected.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):
                continue
            return f"{key} is missing"
        found = state[key]
        if found.shape != value.shape or found.is_floating_point() != value.is_floating_point():
            return f"{key} is {_describe(found)}, not {_describe(value)}"
    return next((f"{key} is no part of it" for key in state if key not in expected), None)


def _describe(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _advice(state: dict[str, Tensor]) -> str:
    fitting = [name for name in get_args(Backbone) if _misfit(name, state) is None]
    return f"it fits --backbone {' or '.join(fitting)}" if fitting else "it fits no other backbone of this project"
