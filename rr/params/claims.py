"""The `grid.claims` key: claims that are written down before training and tested in the report."""

from typing import Annotated

from pydantic import Field, model_validator

from rr.params.base import Name, StrictModel

Points = Annotated[float, Field(ge=-100, le=100)]


class Assumption(StrictModel):
    """What `rr plan` assumes to compute the number of seeds that a claim needs.

    Attributes:
        difference: true difference between the accuracies, in percentage points.
        std: standard deviation of each method's accuracy across seeds, in percentage points.
        source: where the numbers come from.
    """

    difference: Points
    std: Annotated[list[Annotated[float, Field(ge=0, le=100)]], Field(min_length=2, max_length=2)]
    source: Annotated[str, Field(min_length=1)]


class ClaimConfig(StrictModel):
    """The claim that the accuracy of `method` exceeds that of `above` by more than `margin` points.

    Attributes:
        method: the method that is claimed to be better.
        above: the method that it is compared with.
        dataset: dataset on which both are pretrained.
        backbone: backbone of both.
        target: dataset on which both are evaluated.
        protocol: a protocol whose kind is `linear`, `finetune` or `knn`.
        margin: difference that must be exceeded, in percentage points.
        assumed: assumptions from which `rr plan` computes the required number of seeds.
    """

    method: Name
    above: Name
    dataset: Name
    backbone: str
    target: Name
    protocol: Name
    margin: Points
    assumed: Assumption | None = None

    @model_validator(mode="after")
    def _check(self) -> "ClaimConfig":
        if self.method == self.above:
            raise ValueError(f"method and above are both '{self.method}'; a claim compares two methods")
        if self.assumed and not any(self.assumed.std):
            raise ValueError(
                "assumed.std must not be 0 for both methods, because the test needs variation across seeds"
            )
        if self.assumed and self.assumed.difference <= self.margin:
            raise ValueError(
                f"assumed.difference must exceed margin ({self.margin:g}), got {self.assumed.difference:g}: otherwise "
                "no number of seeds would be enough"
            )
        return self
