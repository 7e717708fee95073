"""The role of a pretraining method in the report: only self-supervised methods compete for the best result."""

from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """The role of a method, as the report prints it after the method's name; empty for a self-supervised method."""

    SELF_SUPERVISED = ""
    LOWER_BOUND = "lower bound"
    UPPER_BOUND = "upper bound"
    TRAINED_WITH_LABELS = "trained with labels"
    SEMI_SUPERVISED = "semi-supervised"
    INITIAL_WEIGHTS = "initial weights"
    IMPORTED = "imported"


EXPLANATIONS = {
    Role.LOWER_BOUND: "the untrained backbone with its initial weights",
    Role.UPPER_BOUND: "supervised training on all labels",
    Role.TRAINED_WITH_LABELS: "a method that uses all labels of the training images",
    Role.SEMI_SUPERVISED: "a method that uses some labels of the training images",
    Role.INITIAL_WEIGHTS: "training that starts from weights in a file; how they were trained is not recorded",
    Role.IMPORTED: "weights from elsewhere; how they were trained is not recorded",
}


def find_role(settings: dict[str, Any], label_fraction: float = 0.0) -> Role:
    """Return the role of a method.

    Args:
        settings: the method's settings, as recorded by the run.
        label_fraction: fraction of the labels that the method uses, if its settings do not contain it.
    """
    match settings["kind"]:
        case "random":
            return Role.LOWER_BOUND
        case "supervised":
            return Role.UPPER_BOUND
        case "imported":
            return Role.IMPORTED
    if fraction := settings.get("label_fraction", label_fraction):
        return Role.TRAINED_WITH_LABELS if fraction == 1 else Role.SEMI_SUPERVISED
    return Role.INITIAL_WEIGHTS if settings.get("initial_weights") else Role.SELF_SUPERVISED


def explain_roles(roles: set[Role]) -> dict[str, str]:
    """Return the meaning of each role in `roles` that the report prints, in the order in which they are defined."""
    return {str(role): meaning for role, meaning in EXPLANATIONS.items() if role in roles}
