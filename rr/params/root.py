"""The whole of `params.yaml`: the grid, and the sections its names stand for."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rr.errors import nearest
from rr.params.base import Closed, Name
from rr.params.datasets import Dataset
from rr.params.methods import Backbone, Method
from rr.params.protocols import Protocol


class Grid(Closed):
    """Every combination is one pretraining; every pretraining × target × protocol one evaluation."""

    data: list[Name]
    dataset: list[Name]
    backbone: list[Backbone]
    method: list[Name]
    seed: list[Annotated[int, Field(ge=0, lt=2**31)]]
    target: list[Name]
    protocol: list[Name]


class Dynamics(Closed):
    """Every how many epochs pretraining measures what its backbone has become, and on how many labelled pictures."""

    every: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=50)]


def _several(grid: Any) -> list[Any]:
    return grid if isinstance(grid, list) else [grid]


class Params(Closed):
    """The whole of `params.yaml`.

    `grid` is one in that file; several, whose cells are joined, in the file that the Snakefile writes for suites (DVC
    unfolds one product alone).
    """

    grid: Annotated[list[Grid], Field(min_length=1), BeforeValidator(_several)]
    threads: Annotated[int, Field(ge=1, le=256)]
    precision: Literal["float32", "bfloat16"]
    dynamics: Dynamics
    datasets: dict[Name, Dataset]
    methods: dict[Name, Method]
    protocols: dict[Name, Protocol]

    @model_validator(mode="after")
    def _names_are_known(self) -> "Params":
        sections: dict[str, dict[str, Any]] = {
            "data": self.datasets,
            "dataset": self.datasets,
            "target": self.datasets,
            "method": self.methods,
            "protocol": self.protocols,
        }
        for grid in self.grid:
            for axis in Grid.model_fields:
                values = getattr(grid, axis)
                if not values:
                    raise ValueError(f"grid.{axis}: the list is empty; give at least one")
                if len(set(values)) < len(values):
                    raise ValueError(f"grid.{axis}: a value stands twice")
                for name in values if axis in sections else ():
                    lookup(sections[axis], name, f"grid.{axis}")
            missing = sorted({*grid.dataset, *grid.target} - set(grid.data))
            if missing:
                raise ValueError(
                    f"grid.data: add {', '.join(missing)}; it lists every data set that is fetched and converted"
                )
        return self


def lookup(section: dict[str, Any], name: str, where: str) -> Any:
    """Return `section[name]`; raise ValueError that names `where` and the nearest known word."""
    if name not in section:
        raise ValueError(f"{where}: unknown '{name}'; {nearest(name, section)}")
    return section[name]
