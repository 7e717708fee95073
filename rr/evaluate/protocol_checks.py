"""Check whether a dataset suits a protocol, without loading torch.

`rr.workflow.grid_checks` uses these functions to check a grid before the first training run. The `evaluate` stage uses
them again, so both report the same messages.
"""

from collections.abc import Sequence

import numpy as np

from rr.data.printable_names import printable
from rr.params import ExtensionProtocolConfig, LinearConfig, ProtocolConfig
from rr.runtime.formatting import format_names

_MIN_EMBEDDING_IMAGES = 4  # for t-SNE with a perplexity of at least 1


def find_target_problem(
    target: str, class_names: Sequence[str], train_labels: np.ndarray, test_labels: np.ndarray
) -> str | None:
    """Explain why a dataset does not suit protocols that need labels and how to fix it, or return None if it does.

    Args:
        target: name of the dataset.
        class_names: class names by label; empty if the dataset has no labels.
        train_labels: label of each training image, int64 (N,); -1 if unlabeled.
        test_labels: label of each test image, int64 (N_test,); -1 if unlabeled.
    """
    remove = f"remove {target} from grid.target in params.yaml"
    splits = {"training": train_labels, "test": test_labels}
    unlabeled = [
        f"{count:,} of {len(labels):,} {split} images"
        for split, labels in splits.items()
        if (count := int((labels < 0).sum()))
    ]
    if unlabeled:
        reason = f"{' and '.join(unlabeled)} are unlabeled: label them, or use only the embedding protocol, or {remove}"
    elif (highest := max(labels.max() for labels in splits.values())) >= len(class_names):
        reason = (
            f"the label {highest} has no class name (the number of class names is {len(class_names)}): fix the "
            "source and run rr fetch again"
        )
    elif len(classes := np.unique(test_labels)) < 2:
        reason = (
            f"all of its test images belong to one class ({printable(class_names[classes[0]])}), so the results "
            f"would be meaningless: add test images of a different class, or {remove}"
        )
    elif missing := sorted(class_names[label] for label in {*classes.tolist()} - {*train_labels.tolist()}):
        names = format_names([printable(name) for name in missing])
        reason = (
            f"some classes in the test split have no training images: {names}. Add training images for these classes, "
            f"or remove their test images, or {remove}"
        )
    else:
        return None
    return f"{target} cannot be a target, because {reason}"


def find_protocol_problem(
    name: str,
    config: ProtocolConfig,
    target: str,
    class_names: Sequence[str],
    train_labels: np.ndarray,
    test_labels: np.ndarray,
) -> str | None:
    """Explain why a protocol cannot be used on a dataset and how to fix it, or return None if it can.

    All built-in protocols except `embedding` need labels (see `find_target_problem`). A user-defined protocol specifies
    whether it needs them.

    Args:
        name: name of the protocol.
        config: the protocol's section in params.yaml.
        target: name of the dataset.
        class_names: class names by label; empty if the dataset has no labels.
        train_labels: label of each training image, int64 (N,); -1 if unlabeled.
        test_labels: label of each test image, int64 (N_test,); -1 if unlabeled.
    """
    needs_labels, num_images = config.kind != "embedding", len(train_labels)
    if isinstance(config, ExtensionProtocolConfig):
        needs_labels = config.needs_labels
    if needs_labels and (target_problem := find_target_problem(target, class_names, train_labels, test_labels)):
        return target_problem
    match config.kind:
        case "linear" | "finetune":
            counts = np.unique(train_labels, return_counts=True)[1]
            num_classes, per_class = len(counts), config.images_per_class
            if config.kind == "finetune" and config.batch_size < 2:
                problem = (
                    f"batch_size: finetuning needs mini-batches of at least two images, got {config.batch_size}: raise "
                    "it in params.yaml"
                )
            elif per_class and per_class > counts.min():
                problem = (
                    f"images_per_class: {per_class:,} exceeds the number of training images in the smallest class of "
                    f"{target} ({counts.min():,}): lower it in params.yaml"
                )
            elif config.kind == "linear" and _has_no_validation_images(config, counts):
                problem = (
                    f"learning_rate: choosing among several values requires a class of {target} with at least two "
                    "labeled images: use more labels or a single learning rate in params.yaml"
                )
            elif config.label_fraction and config.label_fraction * num_images < num_classes:
                problem = (
                    f"label_fraction: {config.label_fraction:g} of the {num_images:,} training images in {target} is "
                    f"less than one image for each of the {num_classes:,} classes: raise it in params.yaml"
                )
            else:
                return None
        case "knn":
            if config.neighbors <= num_images:
                return None
            problem = (
                f"neighbors: {config.neighbors:,} exceeds the number of training images in {target} ({num_images:,}): "
                "lower it in params.yaml"
            )
        case "retrieval":
            if max(config.cutoffs) <= num_images:
                return None
            problem = (
                f"cutoffs: {max(config.cutoffs):,} exceeds the number of training images in {target} "
                f"({num_images:,}): lower it in params.yaml"
            )
        case "embedding":
            if len(test_labels) >= _MIN_EMBEDDING_IMAGES:
                return None
            problem = (
                f"images: needs at least {_MIN_EMBEDDING_IMAGES} test images, but {target} has {len(test_labels):,}: "
                f"add images, or remove {name} from grid.protocol"
            )
        case _:  # a user-defined protocol
            return None
    return f"protocols.{name}.{problem}"


def _has_no_validation_images(config: LinearConfig, counts: np.ndarray) -> bool:
    """Return whether no learning rate can be chosen because the protocol uses a single image per class.

    `counts` is the number of training images in each class.
    """
    if not isinstance(config.learning_rate, list):
        return False
    if config.images_per_class:
        return config.images_per_class == 1
    return bool(((config.label_fraction or 1) * counts).round().max() < 2)
