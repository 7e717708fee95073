"""The `optimizer` and `schedule` keys of methods and protocols that train."""

from typing import Annotated, Literal

from pydantic import Field

from rr.params.base import MAX_COUNT, Fraction, NonNegativeFloat, PositiveFloat, StrictModel

Momentum = Annotated[float, Field(ge=0, lt=1)]
WarmupEpochs = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class AdamConfig(StrictModel):
    """Adam, which adds weight decay to the gradient, or AdamW, which applies it separately (decoupled weight decay).

    Attributes:
        weight_decay: strength of the weight decay. AdamW does not decay biases or the parameters of normalization
            layers; Adam decays all parameters.
    """

    kind: Literal["adam", "adamw"]
    weight_decay: NonNegativeFloat


class SGDConfig(StrictModel):
    """Stochastic gradient descent with momentum.

    Attributes:
        momentum: momentum coefficient.
        weight_decay: strength of the weight decay, which applies to all parameters.
    """

    kind: Literal["sgd"]
    momentum: Momentum
    weight_decay: NonNegativeFloat


class LARSConfig(StrictModel):
    """LARS: SGD with steps proportional to the norm of each weight tensor, except for biases and normalization layers.

    Attributes:
        momentum: momentum coefficient.
        weight_decay: strength of the weight decay, which does not apply to biases or normalization layers.
        trust_coefficient: ratio of a step's norm to the weight's norm, before the learning rate and momentum are
            applied.
    """

    kind: Literal["lars"]
    momentum: Momentum
    weight_decay: NonNegativeFloat
    trust_coefficient: PositiveFloat


class SmoothScheduleConfig(StrictModel):
    """A constant learning rate, or one that follows half a cosine from its full value to 0.

    Attributes:
        warmup_epochs: number of initial epochs during which the learning rate increases linearly from 0.
    """

    kind: Literal["constant", "cosine"]
    warmup_epochs: WarmupEpochs


class StepsScheduleConfig(StrictModel):
    """A learning rate that changes at the `milestones`.

    Attributes:
        warmup_epochs: number of initial epochs during which the learning rate increases linearly from 0.
        milestones: fractions of the epochs, rounded down to whole epochs.
        lr_decay: factor by which the learning rate is multiplied at each milestone.
    """

    kind: Literal["steps"]
    warmup_epochs: WarmupEpochs
    milestones: list[Fraction]
    lr_decay: PositiveFloat


OptimizerConfig = Annotated[AdamConfig | SGDConfig | LARSConfig, Field(discriminator="kind")]
ScheduleConfig = Annotated[SmoothScheduleConfig | StepsScheduleConfig, Field(discriminator="kind")]


def check_warmup(schedule: ScheduleConfig, epochs: int) -> None:
    """Raise ValueError if the warm-up takes all epochs, because the learning rate would always be too low."""
    if schedule.warmup_epochs >= epochs:
        raise ValueError(
            f"schedule.warmup_epochs must be less than epochs ({epochs}), got {schedule.warmup_epochs}: lower "
            "warmup_epochs, or raise epochs"
        )


ADAM = AdamConfig(kind="adam", weight_decay=0.0)
CONSTANT = SmoothScheduleConfig(kind="constant", warmup_epochs=0)
