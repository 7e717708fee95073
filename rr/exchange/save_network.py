"""Save a network that was trained in a user's own loop as a backbone file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rr.backbones import weights
from rr.data.preprocessing import Preprocessing
from rr.errors import UserError
from rr.gallery.feature_extractor import wrap_network
from rr.methods.relation.head import RelationHead
from rr.paths import PARAMS_FILE
from rr.runtime.output_path import check_output_path

# The features must not differ by more than this fraction of the largest one. Kernels may round differently.
_TOLERANCE = 1e-3


def save_backbone(
    network: nn.Module,
    path: str | os.PathLike[str],
    preprocessing: Preprocessing,
    architecture: str,
    relation_head: RelationHead | None = None,
) -> None:
    """Save a network that you have trained yourself as a backbone file.

    `load_backbone` and all commands that take weights can read the file. To evaluate it in the workflow, use it in a
    method with `kind: imported`.

    Args:
        network: the network, on any device. Its weights have the names that `rr import` understands, and in eval mode
            it returns the features of the architecture.
        path: the file to write. An existing file is replaced.
        preprocessing: the image size, and the mean and std with which images were normalized.
        architecture: name of the backbone, such as `conv4`, `resnet18` (without its last layer) or
            `timm-convnext_tiny`, or a name in the `backbones` section of `params.yaml` in the current folder.
        relation_head: the head that was trained with the network, which `compare` needs.

    Raises:
        UserError: if the architecture is unknown, if a weight is NaN or infinite, or if the file cannot be written.
        ValueError: if an argument has the wrong type, if the network does not have the weights of the architecture or
            returns other features, or if the relation head is for features of a different size.
    """
    from rr.exchange.import_weights import find_architecture, find_candidates  # imports pydantic

    wrap_network(network, preprocessing)  # checks both
    if relation_head is not None and not isinstance(relation_head, RelationHead):
        raise ValueError(f"relation_head must be an rr.RelationHead, got {type(relation_head).__name__}")
    check_output_path("path", Path(path), [".safetensors"], must_be_utf8=True)
    found = find_architecture(architecture, preprocessing.image_size, PARAMS_FILE)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        backbone = found.build()
    candidates = find_candidates(found, {"": network.state_dict()})
    if not candidates or candidates[0].num_differences:
        differences = candidates[0].describe_differences(3) if candidates else "most layers are missing"
        raise ValueError(f"the network does not have the weights of {architecture}: {differences}")
    backbone.load_state_dict(backbone.state_dict() | candidates[0].state)
    for module in (backbone, relation_head):
        if module is not None and (name := weights.find_non_finite(module)):
            raise UserError(f"{name} contains NaN or infinity: use the weights of an earlier epoch")
    _check_same_features(network, backbone, architecture, preprocessing)
    if relation_head is not None and relation_head.num_features != backbone.num_features:
        raise ValueError(
            f"relation_head is for {relation_head.num_features} features, but {architecture} has "
            f"{backbone.num_features}"
        )
    weights.save_backbone(
        backbone, Path(path), preprocessing,
        layers={} if relation_head is None else {"relation_head": relation_head},
        aggregation=None if relation_head is None else relation_head.aggregation,
    )  # fmt: skip


def _check_same_features(
    network: nn.Module, backbone: nn.Module, architecture: str, preprocessing: Preprocessing
) -> None:
    """Raise ValueError if two networks with the same weights return different features of random images."""
    size = preprocessing.image_size
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    features, expected = (wrap_network(module, preprocessing).extract(images) for module in (network, backbone))
    if features.shape != expected.shape:
        raise ValueError(
            f"the network returns {features.shape[1]} values for an image, but {architecture} returns "
            f"{expected.shape[1]} features: remove the layers after the features, for example with "
            "network.fc = torch.nn.Identity()"
        )
    difference = np.abs(features - expected).max()
    if not difference <= _TOLERANCE * np.abs(expected).max():
        raise ValueError(
            f"the network has the weights of {architecture}, but returns other features (largest difference: "
            f"{difference:.2g}): define it as a backbone in workflow/extensions, and pass the name of that backbone"
        )
