"""Save and load backbone files: safetensors files of weights, with the name and preprocessing as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rr import backbones
from rr.errors import UserError, raise_if_lfs_pointer
from rr.runtime.atomic import atomic_write

if TYPE_CHECKING:  # importing pydantic would add a tenth of a second to a gallery search
    from rr.params import DatasetConfig


# Name prefixes of the tensors of layers that are saved with a backbone. No tensor of a backbone has these prefixes.
CLASSIFIER_PREFIX, RELATION_HEAD_PREFIX = "trained_classifier.", "relation_head."


def save_backbone(
    backbone: backbones.Backbone,
    path: Path,
    dataset: DatasetConfig | None = None,
    layers: Mapping[str, nn.Module] | None = None,
    aggregation: str | None = None,
) -> None:
    """Save the weights of `backbone` to `path`. Equal arguments give byte-identical files.

    Args:
        backbone: the backbone, on any device.
        path: the file to write.
        dataset: the dataset on which the backbone was pretrained. Its image size, mean and std are added to the
            metadata.
        layers: layers to save in the same file, by name: the `trained_classifier` or the `relation_head` that was
            trained with the backbone.
        aggregation: how the relation head combines two representations. It is added to the metadata.
    """
    # Use a single metadata key, because safetensors writes several keys in random order.
    metadata: dict[str, Any] = {"backbone": backbone.name, "features": backbone.features}
    if backbone.image_size:
        metadata["image_size"] = backbone.image_size
    if dataset:
        metadata |= {"side": dataset.image_size, "mean": dataset.mean, "std": dataset.std}
    if aggregation:
        metadata["aggregation"] = aggregation
    tensors = backbone.state_dict()
    for name, layer in (layers or {}).items():
        tensors |= layer.state_dict(prefix=f"{name}.")
    state = {key: value.contiguous().cpu() for key, value in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, metadata={"rr": json.dumps(metadata)}))


def load_backbone(path: Path) -> backbones.Backbone:
    """Load a backbone file, and return the backbone in eval mode with frozen weights.

    Raises:
        UserError: if the file is missing, damaged or not a backbone file, or if a weight is NaN or infinite.
    """
    return load_network(path)[0]


def load_network(path: Path) -> tuple[backbones.Backbone, nn.Linear | None]:
    """Load a backbone file, and return the backbone and the classifier that was trained with it, or None.

    Both are in eval mode and have frozen weights.

    Raises:
        UserError: if the file is missing, damaged or not a backbone file, or if a weight is NaN or infinite.
    """
    try:
        raise_if_lfs_pointer(path)
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {})["rr"])
            backbone = backbones.build(metadata["backbone"], metadata.get("image_size"))
            names = [name for name in file.keys() if not name.startswith(RELATION_HEAD_PREFIX)]  # noqa: SIM118
            state = {name: file.get_tensor(name) for name in names}
        classifier_state = {key: state.pop(key) for key in list(state) if key.startswith(CLASSIFIER_PREFIX)}
        backbone.load_state_dict(state)
        classifier = _make_classifier(classifier_state, backbone.features) if classifier_state else None
        weights = [*backbone.state_dict().values(), *(classifier.state_dict().values() if classifier else ())]
        if not all(bool(value.isfinite().all()) for value in weights):
            raise ValueError("a weight is NaN or infinite")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: give the backbone.safetensors of a run, or a file written by rr import"
        ) from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or not a safetensors file ({error}): give the backbone.safetensors of a run, or "
            "convert a checkpoint with rr import"
        ) from error
    except KeyError as error:
        raise UserError(
            f"{path} was not written by rr (its metadata has no entry {error}): convert it with rr import"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        problem = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{path} is damaged ({problem}): create it again with rr pretrain or rr import") from error
    return backbone.requires_grad_(False).eval(), classifier


def _make_classifier(state: dict[str, Tensor], num_features: int) -> nn.Linear:
    """Return the classifier with these weights, whose keys start with CLASSIFIER_PREFIX."""
    classifier = nn.Linear(num_features, len(state[f"{CLASSIFIER_PREFIX}weight"]))
    classifier.load_state_dict({key.removeprefix(CLASSIFIER_PREFIX): value for key, value in state.items()})
    return classifier.requires_grad_(False).eval()
