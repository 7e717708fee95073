"""The description of one pretraining run."""

from dataclasses import dataclass

from rr.data.preprocessing import Preprocessing
from rr.params import DynamicsConfig, ExtensionBackboneConfig, MethodConfig


@dataclass(frozen=True)
class Job:
    """Everything that determines the result of a pretraining run, except for the data and the code.

    Attributes:
        preprocessing: how the dataset's images become network inputs.
        backbone: name of the backbone.
        method: hyperparameters of the method.
        num_classes: number of classes in the dataset, or 0 if it has none.
        seed: seed for all random numbers.
        precision: `float32` or `bfloat16`.
        dynamics: how often, and on how many images, to measure the learning dynamics.
        fingerprint: hash of everything that determines the result.
        backbone_config: the params.yaml entry of a user-defined backbone; None for all others.
        fingerprint_without_epochs: the same hash without the number of epochs and the method's name, or empty if the
            steps depend on this number. A run can continue from the checkpoint of a run with the same hash.
    """

    preprocessing: Preprocessing
    backbone: str
    method: MethodConfig
    num_classes: int
    seed: int
    precision: str
    dynamics: DynamicsConfig
    fingerprint: str
    backbone_config: ExtensionBackboneConfig | None = None
    fingerprint_without_epochs: str = ""
