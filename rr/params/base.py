"""Building blocks of the `params.yaml` models: the strict base class, and bounded types for names and numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rr.errors import UserError

# Names become folder names, DVC stage names and shell words. These characters are safe in all three.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
SHA256 = r"^[0-9a-f]{64}$"
Name = Annotated[str, Field(pattern=NAME)]
# Fits into a 32-bit integer. Larger numbers are typos, and libraries reject them with unclear errors.
MAX_COUNT = 10**9
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e30)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e6)]

# Keys from earlier versions, with their new names (SECTION.KEY if they are now in a section). Only error messages use
# them.
RENAMED_KEYS = {
    "backbone_rate": "backbone_lr",
    "classifier_rate": "classifier_lr",
    "covariance": "covariance_weight",
    "decay": "schedule.lr_decay",
    "depths": "cutoffs",
    "every": "every_n_epochs",
    "hidden": "hidden_dim",
    "invariance": "invariance_weight",
    "iterations": "max_iter",
    "labelled": "label_fraction",
    "lr_decay": "schedule.lr_decay",
    "mean": "loss",
    "milestones": "schedule.milestones",
    "momentum": "optimizer.momentum",
    "neighbours": "neighbors",
    "outputs": "projection_dim",
    "prior": "prior_weight",
    "redundancy": "redundancy_weight",
    "side": "image_size",
    "starts": "n_init",
    "test_share": "test_fraction",
    "unreadable": "on_unreadable",
    "variance": "variance_weight",
    "weight_decay": "optimizer.weight_decay",
}


class UnknownNameError(UserError, ValueError):
    """Raised for a name that is not defined. It is also a ValueError, so pydantic reports it."""


class StrictModel(BaseModel):
    """A section that rejects unknown keys and wrong types, and cannot be changed after loading.

    Values that determine a result have no default here. DVC compares the values in `params.yaml`, so it would not
    notice a changed default. The exceptions are keys for the source and storage of your own images, the number of
    clusters of `embedding`, and keys whose default is the paper's recipe. The records contain the defaults of these
    keys, so `rr verify` would notice a change.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
