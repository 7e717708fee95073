"""The description of one pretraining."""

from dataclasses import dataclass

from rr.params import Dataset, Dynamics
from rr.params import Method as Settings


@dataclass(frozen=True)
class Job:
    """All that determines a pretraining's result, beside the data and the code."""

    dataset: Dataset
    backbone: str
    method: Settings
    classes: int
    seed: int
    precision: str
    dynamics: Dynamics
    fingerprint: str  # the hash of everything that a resume file must agree with
