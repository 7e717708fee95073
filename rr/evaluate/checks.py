"""Check whether a dataset can be a target, and whether it suits a protocol, without loading torch.

The stage `evaluate` and `rr.workflow.checks`, which checks a grid before the first training, report the same messages.
"""

from collections.abc import Sequence

import numpy as np

from rr.params import LinearConfig, ProtocolConfig

_MAX_LISTED = 10


def find_target_problem(
    target: str, class_names: Sequence[str], train_labels: np.ndarray, test_labels: np.ndarray
) -> str | None:
    """Return why no backbone can be evaluated on a dataset, and what to do, or None.

    Args:
        target: name of the dataset.
        class_names: names of the classes by label; empty if the dataset has no labels.
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
        reason = f"{' and '.join(unlabeled)} are unlabeled: label them, or {remove}"
    elif (highest := max(labels.max() for labels in splits.values())) >= len(class_names):
        reason = (
            f"the label {highest} has no class name (the number of class names is {len(class_names)}): correct the "
            "source and run rr fetch again"
        )
    elif len(classes := np.unique(test_labels)) < 2:
        reason = (
            f"all of its test images belong to one class ({class_names[classes[0]]}), so no result would mean "
            f"anything: add test images of another class, or {remove}"
        )
    elif missing := sorted(class_names[label] for label in {*classes.tolist()} - {*train_labels.tolist()}):
        more = f" and {len(missing) - _MAX_LISTED:,} more" if len(missing) > _MAX_LISTED else ""
        reason = (
            f"the test split contains classes without training images: {', '.join(missing[:_MAX_LISTED])}{more}. Add "
            f"training images of these classes, or remove their test images, or {remove}"
        )
    else:
        return None
    return f"{target} cannot be a target, because {reason}"


def find_protocol_problem(
    name: str, config: ProtocolConfig, target: str, train_labels: np.ndarray, test_labels: np.ndarray, seed: int
) -> str | None:
    """Return why a protocol cannot be used on a dataset, and what to do, or None.

    The dataset must have passed `find_target_problem`.

    Args:
        name: name of the protocol.
        config: its section of params.yaml.
        target: name of the dataset.
        train_labels: label of each training image, int64 (N,).
        test_labels: label of each test image, int64 (N_test,).
        seed: seed of the evaluation.
    """
    num_images = len(train_labels)
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
                    f"images_per_class: {per_class:,} exceeds the number of training images of the smallest class of "
                    f"{target} ({counts.min():,}): lower it in params.yaml"
                )
            elif config.kind == "linear" and _has_no_validation_images(config, counts):
                problem = (
                    f"learning_rate: choosing one of several needs two labeled images of a class of {target}: use more "
                    "labels or a single learning rate in params.yaml"
                )
            elif config.label_fraction and config.label_fraction * num_images < num_classes:
                problem = (
                    f"label_fraction: {config.label_fraction:g} of the training images of {target} ({num_images:,}) is "
                    f"fewer than one for each of {num_classes:,} classes: raise it in params.yaml"
                )
            else:
                return None
        case "knn":
            if config.neighbors <= num_images:
                return None
            problem = (
                f"neighbors: {config.neighbors:,} exceeds the number of training images of {target} ({num_images:,}): "
                "lower it in params.yaml"
            )
        case "retrieval":
            if max(config.cutoffs) <= num_images:
                return None
            problem = (
                f"cutoffs: {max(config.cutoffs):,} exceeds the number of training images of {target} "
                f"({num_images:,}): lower it in params.yaml"
            )
        case "embedding":
            labels = test_labels[sample_test_rows(len(test_labels), config.images, seed)]
            if config.perplexity >= len(labels):
                problem = (
                    f"perplexity: must be below the number of sampled test images of {target} ({len(labels):,}), got "
                    f"{config.perplexity:g}: lower it in params.yaml"
                )
            elif not 2 <= len(np.unique(labels)) < len(labels):
                can_help = len(np.unique(test_labels)) < len(test_labels)
                remedy = (
                    f"raise images in params.yaml (at most {len(test_labels):,})" if can_help else "add test images"
                )
                problem = (
                    f"images: the silhouette needs images of two classes, and two images of a class, but the number of "
                    f"classes of the {len(labels):,} sampled test images of {target} is {len(np.unique(labels)):,}: "
                    f"{remedy}, or remove {name} from grid.protocol"
                )
            else:
                return None
    return f"protocols.{name}.{problem}"


def _has_no_validation_images(config: LinearConfig, counts: np.ndarray) -> bool:
    """Return whether a learning rate cannot be chosen, because the protocol uses a single image of each class.

    `counts` are the numbers of training images of the classes.
    """
    if not isinstance(config.learning_rate, list):
        return False
    if config.images_per_class:
        return config.images_per_class == 1
    return bool(((config.label_fraction or 1) * counts).round().max() < 2)


def sample_test_rows(num_test_images: int, max_images: int, seed: int) -> np.ndarray:
    """Return the sorted rows of the random sample of test images that the protocol `embedding` uses, int64 (R,)."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(num_test_images)
    return np.sort(order[:max_images])
