"""From a saved backbone and a beton to a matrix of features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rr import backbones
from rr.atomic import replacing
from rr.errors import UserError
from rr.views import normalise

if TYPE_CHECKING:  # what they import costs a tenth of a second, and a search is to answer at once
    from rr.data.beton import Beton
    from rr.params import Dataset

_BATCH = 512


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


def extract(backbone: nn.Module, data: Beton, dataset: Dataset, device: str, rows: np.ndarray | None = None) -> Tensor:
    """Features of every picture in file order, float32 (N, D) on `device`, without augmentation (paper, protocol).

    Of the pictures at the positions `rows` alone, where given.
    """
    parts = []
    with torch.inference_mode():
        for images, _ in data.batches(np.arange(len(data)) if rows is None else rows, _BATCH):
            parts.append(backbone(normalise(images, mean=dataset.mean, std=dataset.std, device=device)).float())
    return torch.cat(parts).clone()
