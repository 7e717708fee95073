"""Save a network that was trained in a user's own loop as a backbone file."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from rr.backbones import Backbone, weights
from rr.data.preprocessing import Preprocessing, is_valid_image_size
from rr.errors import UserError
from rr.gallery.feature_extractor import FeatureExtractor, default_torch_state, wrap_network
from rr.methods.base import find_head_problem
from rr.methods.relation.head import RelationHead
from rr.paths import PARAMS_FILE, expand_user
from rr.runtime.output_path import check_output_path

# The features must not differ by more than this fraction of the largest one. Kernels may round differently.
_TOLERANCE = 1e-3


def build_backbone(architecture: str, image_size: int | None = None) -> Backbone:
    """Return a network with random weights, which depend on torch's global random state.

    `save_backbone` can save it after training. It maps images, float32 (B, 3, S, S), to features (B, num_features).

    Args:
        architecture: name of the backbone, such as `conv4`, `resnet32` or `timm-convnext_tiny`, or a name in the
            `backbones` section of `params.yaml` in the current folder.
        image_size: height and width of the images in pixels, S, at least 8. It is required for timm backbones; Conv-4
            and the ResNets accept all sizes.

    Raises:
        UserError: if the architecture is unknown, or does not accept images of that size.
        ValueError: if an argument is invalid, or if the architecture requires an image size.
    """
    if not isinstance(architecture, str):
        raise ValueError(f"architecture must be the name of a backbone, got {architecture!r}")
    if image_size is not None and not is_valid_image_size(image_size):
        raise ValueError(f"image_size: {image_size!r} is not an image size that backbones may have")
    from rr.exchange.import_weights import find_architecture  # imports pydantic

    return find_architecture(architecture, image_size, PARAMS_FILE).build()


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

    path = expand_user(path)
    check_output_path("path", path, [".safetensors"], must_be_utf8=True)
    extractor = wrap_network(network, preprocessing)  # checks both
    if not isinstance(architecture, str):
        raise ValueError(f"architecture must be the name of a backbone, got {architecture!r}")
    for size in (preprocessing.image_size, preprocessing.stored_size):
        if size is not None and not is_valid_image_size(size):
            raise ValueError(f"preprocessing: {size} is not an image size that backbone files may have")
    with default_torch_state():
        found = find_architecture(architecture, preprocessing.image_size, PARAMS_FILE)
        backbone = found.build()
        candidates = find_candidates(found, {"": network.state_dict()})
    matches = [candidate.state for candidate in candidates if not candidate.num_differences]
    if not matches:
        differences = candidates[0].describe_differences(3) if candidates else "most layers are missing"
        raise ValueError(f"the network does not have the weights of {architecture}: {differences}")
    _load_matching_weights(extractor, backbone, matches, architecture, preprocessing)
    if relation_head is not None and (problem := find_head_problem(relation_head, backbone.num_features)):
        raise ValueError(problem)
    for module in (backbone, relation_head):
        if module is not None and (name := weights.find_non_finite(module)):
            raise UserError(f"{name} contains NaN or infinity: use the weights of an earlier epoch")
    weights.save_backbone(
        backbone, path, preprocessing,
        layers={} if relation_head is None else {"relation_head": relation_head},
        aggregation=None if relation_head is None else relation_head.aggregation,
    )  # fmt: skip


def _load_matching_weights(
    extractor: FeatureExtractor,
    backbone: nn.Module,
    matches: Sequence[dict[str, torch.Tensor]],
    architecture: str,
    preprocessing: Preprocessing,
) -> None:
    """Load those weights with which a backbone returns the same features of random images as a feature extractor.

    Raises:
        ValueError: if it returns other features with all of them.
    """
    size = preprocessing.image_size
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    features = extractor.extract(images)
    backbone.to(extractor.device)  # other devices round differently
    for state in matches:
        backbone.load_state_dict(backbone.state_dict() | state)
        expected = wrap_network(backbone, preprocessing).extract(images)
        if features.shape != expected.shape:
            raise ValueError(
                f"the network returns {features.shape[1]} values for an image, but {architecture} returns "
                f"{expected.shape[1]} features: remove the layers after the features, for example with "
                "network.fc = torch.nn.Identity()"
            )
        difference = np.abs(features - expected).max()
        if difference <= _TOLERANCE * np.abs(expected).max():
            return
    raise ValueError(
        f"the network has the weights of {architecture}, but returns other features (largest difference: "
        f"{difference:.2g}): define it as a backbone in workflow/extensions, and pass the name of that backbone"
    )
