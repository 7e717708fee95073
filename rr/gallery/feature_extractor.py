"""Extract features with a frozen backbone. The backbone and its preprocessing determine the vector of an image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from rr.backbones.base import Backbone
from rr.backbones.weights import load_backbone
from rr.compute.device import resolve_device
from rr.data import raw
from rr.data.index import Preprocessing, evaluation_side
from rr.errors import UserError
from rr.runtime.hashing import file_sha256
from rr.views import normalize

# Limits of a batch: large enough to be fast, but small enough that the activations of a large backbone fit in memory.
_MAX_BATCH_PIXELS, _MAX_BATCH_IMAGES = 1 << 22, 512


@dataclass(frozen=True)
class FeatureExtractor:
    """A frozen backbone and the preprocessing that it requires.

    Attributes:
        backbone: the backbone in eval mode, on `device`.
        weights: the file from which it was loaded.
        sha256: SHA-256 of that file.
        image_size: height and width of the images in pixels.
        mean: mean of each channel, for values in [0, 1].
        std: standard deviation of each channel, for values in [0, 1].
        device: torch device of the backbone.
        stored_size: the `stored_size` of the dataset if the backbone was trained on photographs, otherwise None. It
            determines how an image is resized.
    """

    backbone: Backbone
    weights: Path
    sha256: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str
    stored_size: int | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """Everything that determines the vectors, in the form in which an index stores it."""
        photographs = {"stored_size": str(self.stored_size)} if self.stored_size else {}
        return photographs | {
            "weights": self.sha256,
            "backbone": self.backbone.name,
            "side": str(self.image_size),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
        }

    @property
    def num_features(self) -> int:
        """Length of a feature vector."""
        return self.backbone.features

    @property
    def batch_size(self) -> int:
        """Number of images to process at a time."""
        return max(1, min(_MAX_BATCH_IMAGES, _MAX_BATCH_PIXELS // self.image_size**2))

    def decode(self, data: bytes) -> np.ndarray:
        """Decode and resize an encoded image as `rr evaluate` does, uint8 (image_size, image_size, 3).

        Raises:
            UnreadableImageError: if the image cannot be decoded.
        """
        if self.stored_size is None:
            return raw.decode_image(data, self.image_size)
        photograph = raw.decode_photograph(data, self.stored_size)
        return raw.crop_center(photograph, evaluation_side(self.image_size), self.image_size)

    def extract(self, images_BSS3: np.ndarray) -> np.ndarray:
        """Return the features of uint8 images, float32 (B, D), computed in the same way as in `rr evaluate`.

        Raises:
            UserError: if a feature is NaN or infinite.
        """
        batches = [np.empty((0, self.num_features), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images_BSS3), self.batch_size):
                images = images_BSS3[start : start + self.batch_size]
                inputs = normalize(images, mean=self.mean, std=self.std, device=self.device)
                batches.append(self.backbone(inputs).float().cpu().numpy())
        features_BD = np.concatenate(batches)
        if not np.isfinite(features_BD).all():
            raise UserError(
                f"{self.weights}: the features of some images are NaN or infinite, so the weights are unusable: "
                "download the file or train the backbone again"
            )
        return features_BD


def load_feature_extractor(
    weights: Path,
    dataset: Preprocessing | None,
    device: str,
    hint: str = "add --dataset NAME to take them from that dataset in params.yaml (normally the pretraining dataset)",
) -> FeatureExtractor:
    """Load a backbone file as a feature extractor.

    Args:
        weights: the backbone file.
        dataset: dataset whose image size, mean and std are used; by default, those in the metadata of the file.
        device: "auto", "cpu", "cuda" or "cuda:<number>".
        hint: end of the error message about metadata that lack a valid image size, mean or std.

    Raises:
        UserError: if the file is not a valid backbone file, if `dataset` is None and the metadata lacks a valid image
            size, mean or std, or if the device does not exist.
    """
    device = resolve_device(device)
    backbone = load_backbone(weights).to(device)
    if dataset is None:
        try:
            dataset = read_preprocessing(weights)
        except ValueError as error:
            raise UserError(f"{weights}: {error}: {hint}") from error
        if dataset is None:
            raise UserError(f"{weights}: its metadata lacks the image size, mean or std: {hint}")
    return FeatureExtractor(
        backbone, weights, file_sha256(weights), dataset.image_size, dataset.mean, dataset.std, device,
        dataset.stored_size,
    )  # fmt: skip


def read_preprocessing(weights: Path) -> Preprocessing | None:
    """Return the preprocessing in the metadata of a backbone file, or None if it lacks the image size, mean or std.

    Raises:
        ValueError: if one of them is not valid.
    """
    with safe_open(weights, "np") as file:
        metadata = json.loads(file.metadata()["rr"])
    if not {"side", "mean", "std"} <= metadata.keys():
        return None
    image_size, mean, std = metadata["side"], metadata["mean"], metadata["std"]
    stored_size = metadata.get("stored_size")
    sizes = [image_size] if stored_size is None else [image_size, stored_size]
    is_valid_size = all(isinstance(size, int) and 8 <= size <= 1024 for size in sizes)
    if not (is_valid_size and _is_float_triple(mean) and _is_float_triple(std) and all(std)):
        raise ValueError(f"its metadata has an invalid image size ({image_size}), mean ({mean}) or std ({std})")
    return Preprocessing(image_size, tuple(mean), tuple(std), stored_size)


def _is_float_triple(values: object) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(isinstance(v, float) and isfinite(v) for v in values)
