"""The description of one pretraining run."""

from dataclasses import dataclass

from rr.data.index import Preprocessing
from rr.params import DynamicsConfig, ExtensionBackboneConfig, MethodConfig


@dataclass(frozen=True)
class Job:
    """Everything that determines the result of a pretraining run, except the data and the code.

    Attributes:
        dataset: section of the dataset in params.yaml. Only the image size, mean and standard deviation are used.
        backbone: name of the backbone.
        method: hyperparameters of the method.
        num_classes: number of classes of the dataset, 0 if it has none.
        seed: seed of all random numbers.
        precision: `float32` or `bfloat16`.
        dynamics: what to measure during training.
        fingerprint: hash of everything that must be equal for the run to continue from a checkpoint.
        backbone_config: the entry of a user's own backbone in params.yaml; None for all others.
    """

    dataset: Preprocessing
    backbone: str
    method: MethodConfig
    num_classes: int
    seed: int
    precision: str
    dynamics: DynamicsConfig
    fingerprint: str
    backbone_config: ExtensionBackboneConfig | None = None
