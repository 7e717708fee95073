"""What the methods require of their inputs. This module does not load torch, so that checking a grid is fast."""

import json
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError, safe_open

from rr.errors import UserError
from rr.params import BYOLConfig, DeepClusterConfig, ExtensionConfig, MethodConfig
from rr.params.backbones import BUILTIN_BACKBONES
from rr.params.methods import TrainableConfig, WeightsFile
from rr.runtime.hashing import file_sha256
from rr.runtime.weights_lookup import find_weights


@dataclass(frozen=True)
class Requirements:
    """What a method requires of its mini-batches and labels.

    Attributes:
        min_batch_size: the smallest number of images for which the loss is defined. Datasets whose last mini-batch is
            smaller are rejected.
        drop_last: whether the last mini-batch of an epoch is skipped if it is smaller than the others.
        label_fraction: the fraction of each class's training labels that the loss receives.
    """

    min_batch_size: int = 2
    drop_last: bool = False
    label_fraction: float = 0.0


def data_requirements(config: MethodConfig) -> Requirements:
    """Return the requirements of a method; the defaults suit most methods."""
    if isinstance(config, ExtensionConfig):
        return Requirements(config.min_batch_size, config.drop_last, config.label_fraction)
    match config.kind:
        case "relational":
            # With two views, a single image has a single pair, and a single pair has no batch statistics.
            return Requirements(min_batch_size=1 if config.views > 2 else 2, label_fraction=config.label_fraction)
        case "supervised":
            return Requirements(min_batch_size=1 if config.views > 1 else 2, label_fraction=1.0)
        case "rotation":
            return Requirements(min_batch_size=1)  # one image has four rotations
        case "infomax":
            return Requirements(drop_last=True)
        case _:
            return Requirements()


def images_per_epoch(config: MethodConfig, num_images: int) -> int:
    """Return how many of `num_images` training images one epoch uses. `config` must belong to a trainable method."""
    assert isinstance(config, TrainableConfig)
    return num_images - (num_images % config.batch_size if data_requirements(config).drop_last else 0)


def depends_on_num_epochs(config: MethodConfig) -> bool:
    """Return whether the first epochs depend on the total number of epochs, or whether this is unknown."""
    return (
        not isinstance(config, TrainableConfig)
        or config.schedule.kind != "constant"
        or (isinstance(config, BYOLConfig) and config.momentum_schedule != "constant")
        or isinstance(config, ExtensionConfig)  # may use `Method.progress`
    )


def count_clusters(config: DeepClusterConfig, num_classes: int) -> int:
    """Return the total number of clusters for a dataset with `num_classes` classes."""
    return config.clusters * (num_classes if config.clusters_per == "class" else 1)


def find_training_problem(config: MethodConfig, labels: np.ndarray, num_classes: int) -> str | None:
    """Return why a method cannot be trained on images with these labels and how to fix it, or None if it can.

    Args:
        config: an entry under `methods` in params.yaml.
        labels: label of each training image, int64 (N,); -1 if unlabeled.
        num_classes: number of classes in the dataset, or 0 if it has none.
    """
    if not isinstance(config, TrainableConfig):
        return None
    return (
        _find_label_problem(config, labels, num_classes)
        or _find_cluster_problem(config, len(labels), num_classes)
        or _find_batch_problem(config, len(labels))
    )


def find_backbone_problem(config: MethodConfig, backbone: str) -> str | None:
    """Return why a method cannot train a backbone and how to fix it, or None if it can."""
    if config.kind != "infomax" or backbone in BUILTIN_BACKBONES:
        return None
    return (
        f"the method needs the feature maps of the first layer, which the backbone {backbone} does not provide: use "
        f"one of {', '.join(BUILTIN_BACKBONES)}"
    )


def find_weights_problem(config: WeightsFile, backbone: str, image_size: int | None) -> str | None:
    """Return why a backbone file cannot be used and how to fix it, or None if it can be used.

    Args:
        config: the file and its SHA-256.
        backbone: the architecture that the file must contain.
        image_size: side of the images in pixels, or None for an architecture that accepts any size.
    """
    try:
        path = find_weights(config.path)
    except UserError as error:
        return str(error)
    if not path.is_file():
        return f"{path}: no such file: create it with rr import, or fix this path in params.yaml"
    sha256 = file_sha256(path)
    if sha256 != config.sha256:
        return (
            f"{path}: the SHA-256 of the file is {sha256}, but the sha256 in params.yaml is {config.sha256}: restore "
            "the file, or update the sha256"
        )
    try:
        with safe_open(path, "np") as file:
            metadata = json.loads((file.metadata() or {})["rr"])
            name, built_for = metadata["backbone"], metadata.get("image_size")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return f"{path}: not a backbone file of this project: create it with rr import"
    if name != backbone:
        return (
            f"{path} contains weights of {name}, but the backbone of this run is {backbone}: run the method with "
            f"backbone {name}"
        )
    if built_for not in (None, image_size):
        return (
            f"{path} contains {name} for images of {built_for} x {built_for} pixels, but the dataset's image_size "
            f"is {image_size}: run rr import with --image-size {image_size}, or change image_size in params.yaml"
        )
    return None


def _find_label_problem(config: MethodConfig, labels: np.ndarray, num_classes: int) -> str | None:
    if not data_requirements(config).label_fraction:
        return None
    remedy = "choose a method that needs no labels"
    if config.kind == "relational":
        remedy = "set the method's label_fraction to 0.0 in params.yaml"
    num_unlabeled = int((labels < 0).sum())
    is_semi_supervised = config.kind == "relational"
    if num_unlabeled and not (is_semi_supervised and num_unlabeled < len(labels)):
        needs = "labeled training images" if is_semi_supervised else "a label for every training image"
        return (
            f"the method needs {needs}, but {num_unlabeled:,} of {len(labels):,} are unlabeled: {remedy}, or label the "
            "images"
        )
    if labels.max() >= num_classes:
        return (
            f"the label {labels.max()} has no class name (the number of class names is {num_classes}): fix the "
            "source and run rr fetch again"
        )
    num_trained = len(np.unique(labels[labels >= 0]))
    if num_trained < 2:
        return (
            "the method needs labeled training images from at least two classes, but the number of classes with such "
            f"images is {num_trained}: {remedy}, or add or label images of a different class"
        )
    return None


def _find_cluster_problem(config: MethodConfig, num_images: int, num_classes: int) -> str | None:
    if config.kind != "deepcluster":
        return None
    if config.clusters_per == "class" and num_classes < 1:
        return (
            "clusters_per is class, but the dataset has no classes: in params.yaml, set the method's clusters_per to "
            "dataset and its clusters to the total number of clusters"
        )
    num_clusters = count_clusters(config, num_classes)
    if num_clusters > num_images:
        return (
            f"the method needs at least one training image for each of its {num_clusters:,} clusters, but the number "
            f"of training images is {num_images:,}: lower the method's clusters in params.yaml"
        )
    return None


def _find_batch_problem(config: TrainableConfig, num_images: int) -> str | None:
    batch_size, requirements = config.batch_size, data_requirements(config)  # type: ignore[arg-type]
    minimum = max(2, requirements.min_batch_size)
    if min(batch_size, num_images) < minimum:
        remedy = "raise the method's batch_size in params.yaml" if batch_size < minimum else "add training images"
        return (
            f"a mini-batch must contain at least {'two' if minimum == 2 else minimum} images, but batch_size is "
            f"{batch_size:,} and the number of training images is {num_images:,}: {remedy}"
        )
    if requirements.drop_last:
        if num_images < batch_size:
            return (
                f"the method needs at least one full mini-batch, but batch_size is {batch_size:,} and the number of "
                f"training images is {num_images:,}: lower the method's batch_size in params.yaml"
            )
    elif 0 < num_images % batch_size < requirements.min_batch_size:
        return (
            f"the last mini-batch contains {num_images % batch_size} of the {num_images:,} training images, because "
            f"batch_size is {batch_size:,}, but the method needs at least {requirements.min_batch_size} images in "
            "every mini-batch: choose a different batch_size for the method in params.yaml"
        )
    return None
