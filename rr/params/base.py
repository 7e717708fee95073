"""What every section of `params.yaml` is made of: closed models, and names and numbers with their bounds."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rr.views.augmentation import Augmentation

# Names become folders, DVC stage names and shell words, so they are kept to characters that are safe in all three.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Name = Annotated[str, Field(pattern=NAME)]
MOST = 10**9  # what a 32-bit count holds; larger numbers are slips, and fail somewhere deep in a library
Count = Annotated[int, Field(ge=1, le=MOST)]
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1e30)]
Weight = Annotated[float, Field(ge=0, le=1e6)]

Augmentation.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]


class Closed(BaseModel):
    """A section in which every key is known, every type exact, and nothing changes after loading.

    What determines a result has no default here: a changed default would escape DVC, which compares the file's text.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
