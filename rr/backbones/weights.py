"""Save and load backbone files: weights in the safetensors format, with the name and the preprocessing as metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from rr import backbones
from rr.data.preprocessing import Preprocessing, is_valid_image_size
from rr.errors import UserError, raise_if_lfs_pointer
from rr.runtime.atomic import atomic_write

if TYPE_CHECKING:  # importing pydantic would add a tenth of a second to a gallery search
    from rr.params import ExtensionBackboneConfig


# Name prefixes of the tensors of the layers that are saved with a backbone. No backbone tensor has these prefixes.
CLASSIFIER_PREFIX = "trained_classifier."
LAYER_PREFIXES = (CLASSIFIER_PREFIX, "relation_head.")


def save_backbone(
    backbone: backbones.Backbone,
    path: Path,
    preprocessing: Preprocessing | None = None,
    layers: Mapping[str, nn.Module] | None = None,
    aggregation: str | None = None,
) -> None:
    """Save the weights of `backbone` to `path`. Identical arguments produce byte-identical files.

    Args:
        backbone: the backbone, on any device.
        path: the file to write.
        preprocessing: the preprocessing of the dataset on which the backbone was pretrained. It is added to the
            metadata.
        layers: layers to save in the same file, by name: the `trained_classifier` or the `relation_head` that was
            trained with the backbone.
        aggregation: how the relation head combines two representations. It is added to the metadata.
    """
    # Use a single metadata key, because safetensors writes multiple keys in random order.
    metadata: dict[str, Any] = {"backbone": backbone.name, "features": backbone.num_features}
    if backbone.image_size:
        metadata["image_size"] = backbone.image_size
    if backbone.config:
        metadata["config"] = backbone.config.model_dump(mode="json")
    if preprocessing:
        metadata |= {"side": preprocessing.image_size, "mean": preprocessing.mean, "std": preprocessing.std}
        if preprocessing.stored_size:
            metadata["stored_size"] = preprocessing.stored_size
    if aggregation:
        metadata["aggregation"] = aggregation
    tensors = backbone.state_dict()
    for name, layer in (layers or {}).items():
        tensors |= layer.state_dict(prefix=f"{name}.")
    # A network may use a module under several names, but safetensors refuses tensors that share memory.
    state = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, metadata={"rr": json.dumps(metadata)}))


def check_image_size(backbone: backbones.Backbone, image_size: int, weights: Path) -> None:
    """Raise UserError if a backbone was built for images of a size other than `image_size`."""
    if backbone.image_size not in (None, image_size):
        raise UserError(
            f"{weights} contains {backbone.name} for images of {backbone.image_size} × {backbone.image_size} pixels, "
            f"not of {image_size} × {image_size}: use a dataset or preprocessing with image_size "
            f"{backbone.image_size}"
        )


def load_backbone(path: Path, *, frozen: bool = True) -> backbones.Backbone:
    """Load a backbone file, and return the backbone in eval mode.

    Args:
        path: the file.
        frozen: whether to freeze all parameters. If False, the same parameters are trainable as in a new backbone.

    Raises:
        UserError: if the file is missing, damaged or not a backbone file, or if a tensor has the wrong dtype or
            contains NaN or infinity.
    """
    with _translate_read_errors(path), safe_open(path, "pt") as file:
        metadata = _read_metadata(file)
        image_size = metadata.get("image_size")
        if image_size is not None and not is_valid_image_size(image_size):
            raise ValueError(f"its metadata has an invalid image_size, {image_size}")
        config = _load_config(path, metadata["config"]) if "config" in metadata else None
        backbone = backbones.build(metadata["backbone"], image_size, config)
        names = [name for name in file.keys() if not name.startswith(LAYER_PREFIXES)]  # noqa: SIM118
        _load_tensors(backbone, {name: file.get_tensor(name) for name in names})
    return (backbone.requires_grad_(False) if frozen else backbone).eval()


def _load_config(path: Path, entry: dict[str, Any]) -> ExtensionBackboneConfig:
    """Return the config of a user-defined backbone, whose class is in this project's extensions folder."""
    from rr.params import ExtensionBackboneConfig
    from rr.params.extensions import load_config_class

    try:
        return load_config_class(entry["kind"], ExtensionBackboneConfig).model_validate_json(json.dumps(entry))
    except ValueError as error:
        raise UserError(
            f"{path} contains a backbone of kind {entry['kind']}, which cannot be loaded ({error}): work "
            "in the folder of the project that trained it"
        ) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata that `save_backbone` wrote to a backbone file, as JSON values.

    Raises:
        UserError: if the file is missing, damaged or not a backbone file.
    """
    with _translate_read_errors(path), safe_open(path, "np") as file:
        return _read_metadata(file)


def list_saved_layers(path: Path) -> list[str]:
    """Return which of the layers `trained_classifier` and `relation_head` a backbone file contains.

    Raises:
        UserError: if the file is missing, damaged or not a safetensors file.
    """
    with _translate_read_errors(path), safe_open(path, "np") as file:
        keys = list(file.keys())
    return [prefix[:-1] for prefix in LAYER_PREFIXES if any(key.startswith(prefix) for key in keys)]


def load_classifier(path: Path) -> nn.Linear | None:
    """Return the classifier stored in a backbone file, or None if the backbone was trained without one.

    The classifier is in eval mode, with frozen weights.

    Raises:
        UserError: if the file is missing, damaged or not a backbone file, or if a tensor has the wrong dtype or
            contains NaN or infinity.
    """
    with _translate_read_errors(path), safe_open(path, "pt") as file:
        num_features = _read_metadata(file)["features"]
        names = [name for name in file.keys() if name.startswith(CLASSIFIER_PREFIX)]  # noqa: SIM118
        if not names:
            return None
        state = {name.removeprefix(CLASSIFIER_PREFIX): file.get_tensor(name) for name in names}
        if state["weight"].shape[1:] != (num_features,):
            raise ValueError(f"its classifier does not have {num_features} inputs")
        classifier = nn.Linear(num_features, len(state["weight"]))
        _load_tensors(classifier, state, CLASSIFIER_PREFIX)
    return classifier.requires_grad_(False).eval()


def _read_metadata(file: Any) -> dict[str, Any]:
    metadata = json.loads((file.metadata() or {})["rr"])
    if not isinstance(metadata, dict):
        raise ValueError("its metadata entry 'rr' is not a JSON object")
    return metadata


def find_non_finite(module: nn.Module) -> str | None:
    """Return the name of a weight or buffer that contains NaN or infinity, or None if all of them are finite."""
    return next((name for name, value in module.state_dict().items() if not value.isfinite().all()), None)


def _load_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> None:
    """Load tensors into a module. `prefix` is the beginning of their names in the file.

    Raises:
        RuntimeError: if the names or shapes are not those of the module's tensors.
        ValueError: if a dtype is not that of the module's tensor, or if a value is NaN or infinite.
    """
    for key, expected in module.state_dict().items():  # load_state_dict would convert other dtypes
        if key in tensors and tensors[key].dtype != expected.dtype:
            raise ValueError(f"{prefix}{key} has the dtype {tensors[key].dtype} instead of {expected.dtype}")
    module.load_state_dict(tensors)
    if name := find_non_finite(module):
        raise ValueError(f"{prefix}{name} contains NaN or infinity")


@contextmanager
def _translate_read_errors(path: Path) -> Iterator[None]:
    """Raise a UserError in place of an error that occurs while the `with` block reads the backbone file at `path`."""
    try:
        raise_if_lfs_pointer(path)
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist: use the backbone.safetensors from a run, or a file written by rr import"
        ) from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or not a safetensors file ({error}): use the backbone.safetensors from a run, or "
            "convert a checkpoint with rr import"
        ) from error
    except KeyError as error:
        raise UserError(
            f"{path} was not written by rr (its metadata has no {error} entry): convert it with rr import"
        ) from error
    except (ValueError, TypeError, RuntimeError) as error:
        problem = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{path} is damaged ({problem}): create it again with rr pretrain or rr import") from error
