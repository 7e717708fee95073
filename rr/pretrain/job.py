"""The description of one pretraining run."""

from dataclasses import dataclass

from rr.params import DatasetConfig, DynamicsConfig, MethodConfig


@dataclass(frozen=True)
class Job:
    """Everything that determines the result of a pretraining run, except for the data and the code.

    Attributes:
        dataset: The dataset to train on. Only its mean and standard deviation matter.
        backbone: Name of the backbone.
        method: Hyperparameters of the method.
        num_classes: Number of classes of the dataset, 0 if it has none.
        seed: Seed of all random numbers.
        precision: `float32` or `bfloat16`.
        dynamics: What to measure during training.
        fingerprint: Hash of everything that must be equal for the run to continue from a checkpoint.
    """

    dataset: DatasetConfig
    backbone: str
    method: MethodConfig
    num_classes: int
    seed: int
    precision: str
    dynamics: DynamicsConfig
    fingerprint: str
