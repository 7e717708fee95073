"""Backbone files: weights as safetensors, with the backbone's name and its preprocessing in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from rr import backbones
from rr.errors import UserError
from rr.runtime.atomic import replacing

if TYPE_CHECKING:  # importing pydantic takes a tenth of a second, which a search of a gallery would feel
    from rr.params import Dataset


def write_backbone(name: str, backbone: nn.Module, target: Path, dataset: Dataset | None = None) -> None:
    """Write the weights of `backbone`, which `name` builds, to `target`; the same weights give the same bytes.

    With the `dataset` it was pretrained on, the file also says which side, mean and std its pictures had.
    """
    # One key only: safetensors writes several in a random order, and the file is to be the same on every run.
    about: dict[str, Any] = {"backbone": name, "features": backbone.features}
    if dataset:
        about |= {"side": dataset.side, "mean": dataset.mean, "std": dataset.std}
    state = {key: value.contiguous().cpu() for key, value in backbone.state_dict().items()}
    with replacing(target) as temporary:
        temporary.write_bytes(save(state, metadata={"rr": json.dumps(about)}))


def load_backbone(weights: Path) -> nn.Module:
    """Rebuild the backbone that `weights` describes, frozen, in eval mode. Raises UserError when it is no such file."""
    try:
        with safe_open(weights, "pt") as file:
            about = json.loads((file.metadata() or {})["rr"])
            backbone = backbones.build(about["backbone"])
            backbone.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        if not all(bool(value.isfinite().all()) for value in backbone.state_dict().values()):
            raise ValueError("weights that are not finite")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{weights} is missing or no backbone of this project ({error}): run rr pretrain or rr import again"
        ) from error
    return backbone.requires_grad_(False).eval()
