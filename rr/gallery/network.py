"""A backbone and what its pictures must be like: all that decides which vector a picture has."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from rr.backbones.weights import load_backbone
from rr.compute.device import choose
from rr.errors import UserError
from rr.views import normalise

# Pixels and pictures of a batch: enough to be fast, few enough for the activations of a large network.
_PIXELS, _PICTURES = 1 << 22, 512


@dataclass(frozen=True)
class Network:
    """A frozen backbone on `device`, the sha256 of its file, and `side`, `mean` and `std` of the pictures it takes."""

    backbone: nn.Module
    sha256: str
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str

    @property
    def about(self) -> dict[str, str]:
        """What decides the vectors, as the metadata of a file of them."""
        return {
            "weights": self.sha256,
            "backbone": str(self.backbone.name),
            "side": str(self.side),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
        }

    @property
    def features(self) -> int:
        """D, the length of a vector."""
        return int(self.backbone.features)  # type: ignore[arg-type]

    @property
    def batch(self) -> int:
        """How many pictures to embed at a time."""
        return max(1, min(_PICTURES, _PIXELS // self.side**2))

    def embed(self, images_BSS3: np.ndarray) -> np.ndarray:
        """Map uint8 (B, side, side, 3) to float32 (B, D), as `rr.evaluate.features.extract` does.

        Raises UserError for weights so far off that a feature is infinite or no number.
        """
        rows = [np.empty((0, self.features), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images_BSS3), self.batch):
                part = images_BSS3[start : start + self.batch]
                inputs = normalise(part, mean=self.mean, std=self.std, device=self.device)
                rows.append(self.backbone(inputs).float().cpu().numpy())
        features_BD = np.concatenate(rows)
        if not np.isfinite(features_BD).all():
            raise UserError("the weights give features that are not finite: they are damaged, get them again")
        return features_BD


def load(weights: Path, dataset: str | None, params: Path, device: str) -> Network:
    """Read `weights`; `dataset`, a name in `params`, decides side, mean and std before what the file says of them.

    Raises UserError where the file is no backbone, neither says which side, mean and std, or the device is none.
    """
    chosen = choose(device)
    backbone = load_backbone(weights).to(chosen)
    if dataset is not None:
        from rr import stages

        section = stages.dataset(dataset, params)
        side, mean, std = section.side, section.mean, section.std
    else:
        with safe_open(weights, "np") as file:
            about = json.loads(file.metadata()["rr"])
        if not {"side", "mean", "std"} <= about.keys():
            raise UserError(
                f"{weights} does not say which side, mean and std its pictures had: name a data set of params.yaml "
                "that does, with --dataset"
            )
        side, mean, std = about["side"], about["mean"], about["std"]
        if not (isinstance(side, int) and 8 <= side <= 1024 and _is_triple(mean) and _is_triple(std) and all(std)):
            raise UserError(f"{weights} is damaged (side {side}, mean {mean}, std {std}): get it again")
        mean, std = tuple(mean), tuple(std)
    return Network(backbone, hashlib.sha256(weights.read_bytes()).hexdigest(), side, mean, std, chosen)


def _is_triple(values: object) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(isinstance(v, float) and isfinite(v) for v in values)
