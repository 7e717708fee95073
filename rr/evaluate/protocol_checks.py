"""Check whether a dataset suits a protocol, without loading torch.

`rr.workflow.grid_checks` uses these functions to check a grid before the first training run. The `evaluate` stage uses
them again, so both report the same messages.
"""

from typing import NamedTuple

import numpy as np

from rr.data.printable_names import printable
from rr.params import ExtensionProtocolConfig, FinetuneConfig, LinearConfig, ProtocolConfig
from rr.runtime.formatting import format_names

_MIN_EMBEDDING_IMAGES = 4  # for t-SNE with a perplexity of at least 1


class DatasetLabels(NamedTuple):
    """The class names of a dataset and the label of each image (-1 if it is unlabeled).

    Attributes:
        class_names: class names by label; empty if the dataset has no labels.
        train_labels: label of each training image, int64 (N,).
        test_labels: label of each test image, int64 (N_test,).
    """

    class_names: list[str]
    train_labels: np.ndarray
    test_labels: np.ndarray

    @property
    def num_images(self) -> int:
        """The number of images in both splits together."""
        return len(self.train_labels) + len(self.test_labels)

    def without_unlabeled(self) -> "DatasetLabels":
        """Return the labels of the labeled images."""
        train, test = self.train_labels, self.test_labels
        return self._replace(train_labels=train[train >= 0], test_labels=test[test >= 0])


def needs_labels(config: ProtocolConfig) -> bool:
    """Return whether a protocol uses only labeled images. A user-defined protocol specifies this itself."""
    return config.needs_labels if isinstance(config, ExtensionProtocolConfig) else config.kind != "embedding"


def find_target_problem(target: str, dataset: DatasetLabels) -> str | None:
    """Explain why a dataset does not suit protocols that need labels and how to fix it, or return None if it does.

    Unlabeled images are ignored. `target` is the name of the dataset.
    """
    class_names, train_labels, test_labels = dataset.without_unlabeled()
    remove = f"remove {target} from grid.target in params.yaml"
    splits = {"training": train_labels, "test": test_labels}
    unlabeled = [f"{split} images" for split, labels in splits.items() if not labels.size]
    if unlabeled:
        reason = (
            f"its {' and '.join(unlabeled)} have no labels: label some of them, or use only the embedding protocol, or "
            f"{remove}"
        )
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


def find_protocol_problem(name: str, config: ProtocolConfig, target: str, dataset: DatasetLabels) -> str | None:
    """Explain why a protocol cannot be used on a dataset and how to fix it, or return None if it can.

    All built-in protocols except `embedding` need labels (see `find_target_problem`).

    Args:
        name: name of the protocol.
        config: the protocol's section in params.yaml.
        target: name of the dataset.
        dataset: the labels of the dataset.
    """
    if needs_labels(config):
        if target_problem := find_target_problem(target, dataset):
            return target_problem
        dataset = dataset.without_unlabeled()
    num_images = len(dataset.train_labels)
    problem = None  # user-defined protocols have no checks of their own
    match config.kind:
        case "linear" | "finetune":
            problem = _find_classifier_problem(config, target, np.unique(dataset.train_labels, return_counts=True)[1])
        case "knn":
            if config.neighbors > num_images:
                problem = (
                    f"neighbors: {config.neighbors:,} exceeds the number of labeled training images in "
                    f"{target} ({num_images:,}): lower this number in params.yaml"
                )
        case "retrieval":
            if max(config.cutoffs) > num_images:
                problem = (
                    f"cutoffs: {max(config.cutoffs):,} exceeds the number of labeled training images in "
                    f"{target} ({num_images:,}): lower this number in params.yaml"
                )
        case "embedding":
            if len(dataset.test_labels) < _MIN_EMBEDDING_IMAGES:
                problem = (
                    f"images: needs at least {_MIN_EMBEDDING_IMAGES} test images, but {target} has "
                    f"{len(dataset.test_labels):,}: add images, or remove {name} from grid.protocol"
                )
    return f"protocols.{name}.{problem}" if problem else None


def _find_classifier_problem(config: LinearConfig | FinetuneConfig, target: str, counts: np.ndarray) -> str | None:
    """Explain why no linear layer can be trained, or return None. `counts` is the number of images of each class."""
    num_images, per_class = counts.sum(), config.images_per_class
    if isinstance(config, FinetuneConfig) and config.batch_size < 2:
        return (
            f"batch_size: finetuning needs mini-batches of at least two images, got {config.batch_size}: raise it in "
            "params.yaml"
        )
    if per_class and per_class > counts.min():
        return (
            f"images_per_class: {per_class:,} exceeds the number of labeled training images in the smallest class of "
            f"{target} ({counts.min():,}): lower this number in params.yaml"
        )
    if isinstance(config, LinearConfig) and _has_no_validation_images(config, counts):
        return (
            f"learning_rate: choosing among several values requires a class of {target} with at least two labeled "
            "images: use more labels or a single learning rate in params.yaml"
        )
    if config.label_fraction and config.label_fraction * num_images < len(counts):
        return (
            f"label_fraction: {config.label_fraction:g} of the {num_images:,} labeled training images in {target} is "
            f"less than one image for each of the {len(counts):,} classes: raise it in params.yaml"
        )
    return None


def _has_no_validation_images(config: LinearConfig, counts: np.ndarray) -> bool:
    """Return whether no learning rate can be chosen because the protocol uses a single image per class.

    `counts` is the number of training images in each class.
    """
    if not isinstance(config.learning_rate, list):
        return False
    if config.images_per_class:
        return config.images_per_class == 1
    return bool(((config.label_fraction or 1) * counts).round().max() < 2)
