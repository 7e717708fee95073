"""Save and load backbone files: safetensors files of weights, with the name and preprocessing as metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from rr import backbones
from rr.errors import UserError
from rr.runtime.atomic import atomic_write

if TYPE_CHECKING:  # importing pydantic would add a tenth of a second to a gallery search
    from rr.params import DatasetConfig


def save_backbone(backbone: backbones.Backbone, path: Path, dataset: DatasetConfig | None = None) -> None:
    """Save the weights of `backbone` to `path`. Equal weights give files of equal bytes.

    Args:
        backbone: the backbone, on any device.
        path: the file to write.
        dataset: the dataset on which the backbone was pretrained. Its image size, mean and std are added to the
            metadata.
    """
    # Use a single metadata key, because safetensors writes several keys in random order.
    metadata: dict[str, Any] = {"backbone": backbone.name, "features": backbone.features}
    if dataset:
        metadata |= {"side": dataset.image_size, "mean": dataset.mean, "std": dataset.std}
    state = {key: value.contiguous().cpu() for key, value in backbone.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, metadata={"rr": json.dumps(metadata)}))


def load_backbone(path: Path) -> backbones.Backbone:
    """Load a backbone file, and return the backbone in eval mode with frozen weights.

    Raises:
        UserError: if the file is missing, damaged or not a backbone file, or if a weight is NaN or infinite.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})["rr"])
            backbone = backbones.build(metadata["backbone"])
            backbone.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        if not all(bool(value.isfinite().all()) for value in backbone.state_dict().values()):
            raise ValueError("a weight is NaN or infinite")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{path} is missing, damaged or not a backbone file of this project ({error}): create it again with rr "
            "pretrain or rr import"
        ) from error
    return backbone.requires_grad_(False).eval()
