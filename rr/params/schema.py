"""The root model of `params.yaml`: the grid, and the sections that define the names in it."""

from collections import Counter
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rr.errors import format_alternatives
from rr.params.backbones import BackboneConfig, check_backbone_name, is_known_backbone
from rr.params.base import Name, StrictModel, UnknownNameError
from rr.params.claims import ClaimConfig
from rr.params.datasets import DatasetConfig
from rr.params.methods import MethodConfig
from rr.params.protocols import CLASSIFICATION_PROTOCOLS, ProtocolConfig

_OPTIONAL_AXES = ("target", "protocol", "claims")


class GridConfig(StrictModel):
    """The runs to carry out.

    There is one pretraining run for each combination of dataset, backbone, method and seed, and one evaluation for each
    combination of pretraining run, target and protocol.

    Attributes:
        data: datasets to fetch and convert; the list must include every dataset in `dataset` and `target`.
        dataset: datasets to pretrain on.
        backbone: architectures.
        method: names of entries in `methods`.
        seed: seeds of the pretraining runs.
        target: datasets to evaluate on; `[]` for no evaluations.
        protocol: names of entries in `protocols`; `[]` for no evaluations.
        claims: claims about accuracies that the report tests. They do not add runs.
    """

    data: list[Name]
    dataset: list[Name]
    backbone: list[str]
    method: list[Name]
    seed: list[Annotated[int, Field(ge=0, lt=2**31)]]
    target: list[Name]
    protocol: list[Name]
    claims: list[ClaimConfig] = Field(default_factory=list)


class DynamicsConfig(StrictModel):
    """How often pretraining evaluates the backbone. This does not affect the weights.

    Attributes:
        every_n_epochs: number of epochs from one evaluation to the next, or 0 for no evaluations.
        images: maximum number of training images used; memory use grows with the square of this number.
    """

    every_n_epochs: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=50, le=10_000)]


def _as_list(grid: Any) -> list[Any]:
    return grid if isinstance(grid, list) else [grid]


class Params(StrictModel):
    """The sections of the file.

    In `params.yaml`, `grid` is a mapping, because DVC supports only one grid. If you pass several suites to Snakemake,
    it writes a file in which `grid` is a list of such mappings; their runs are merged.

    Attributes:
        grid: the runs to carry out.
        threads: number of CPU threads per stage. It affects the least significant bits of the results.
        precision: floating-point precision of pretraining. `bfloat16` means mixed precision.
        dynamics: measurements between pretraining epochs.
        datasets: the datasets, by name.
        backbones: user-defined networks, by name. Other networks have no settings.
        methods: the pretraining methods, by name.
        protocols: the evaluation protocols, by name.
    """

    grid: Annotated[list[GridConfig], Field(min_length=1), BeforeValidator(_as_list)]
    threads: Annotated[int, Field(ge=1, le=256)]
    precision: Literal["float32", "bfloat16"]
    dynamics: DynamicsConfig
    datasets: dict[Name, DatasetConfig]
    backbones: dict[Name, BackboneConfig] = Field(default_factory=dict)
    methods: dict[Name, MethodConfig]
    protocols: dict[Name, ProtocolConfig]

    @model_validator(mode="after")
    def _check_grid(self) -> "Params":
        sections: dict[str, dict[str, Any]] = {
            "data": self.datasets,
            "dataset": self.datasets,
            "target": self.datasets,
            "method": self.methods,
            "protocol": self.protocols,
        }
        if name := next(filter(is_known_backbone, self.backbones), None):
            raise ValueError(f"backbones.{name}: this is the name of another backbone; choose a new name")
        for grid in self.grid:
            for axis in GridConfig.model_fields:
                values = getattr(grid, axis)
                if not values and axis not in _OPTIONAL_AXES:
                    raise ValueError(
                        f"grid.{axis}: the list is empty; add at least one value (only grid.target and grid.protocol "
                        "may be empty, for pretraining without evaluations)"
                    )
                counts = Counter(map(repr, values))  # claims contain lists, so they cannot be hashed
                if duplicate := next((value for value, count in counts.items() if count > 1), None):
                    raise ValueError(f"grid.{axis}: duplicate value {duplicate}; remove one")
                for name in values if axis in sections else ():
                    lookup(sections[axis], name, f"grid.{axis}")
            for name in grid.backbone:
                check_backbone_name(name, self.backbones, "grid.backbone: ")
            for axis in ("dataset", "target"):
                missing = [name for name in getattr(grid, axis) if name not in grid.data]
                if missing:
                    raise ValueError(
                        f"grid.{axis}: grid.data, which lists the datasets to fetch, does not contain "
                        f"{', '.join(missing)}; set data: [{', '.join([*grid.data, *missing])}]"
                    )
            for number, claim in enumerate(grid.claims):
                where = f"grid.claims.{number}"
                for axis in ("method", "dataset", "target", "protocol"):
                    lookup(sections[axis], getattr(claim, axis), f"{where}.{axis}")
                check_backbone_name(claim.backbone, self.backbones, f"{where}.backbone: ")
                lookup(self.methods, claim.above, f"{where}.above")
                if self.protocols[claim.protocol].kind not in CLASSIFICATION_PROTOCOLS:
                    raise ValueError(
                        f"{where}.protocol: '{claim.protocol}' does not measure accuracy; use a protocol of the "
                        f"kind {', '.join(CLASSIFICATION_PROTOCOLS)}"
                    )
        self._check_joined_names()
        return self

    def _check_joined_names(self) -> None:
        """Raise ValueError if two runs have the same name in DVC, which joins the values of the axes with hyphens."""
        if len(self.grid) > 1:
            return  # only Snakemake runs several grids
        for number in (4, 5, 6):  # pretraining, extraction, evaluation
            axes = ("dataset", "backbone", "method", "seed", "target", "protocol")[:number]
            names: dict[str, tuple[str, ...]] = {}
            for values in product(*(map(str, getattr(self.grid[0], axis)) for axis in axes)):
                other = names.setdefault("-".join(values), values)
                if other != values:
                    raise ValueError(
                        f"grid: DVC would give the runs ({', '.join(other)}) and ({', '.join(values)}) the same name, "
                        f"{'-'.join(values)}: rename a dataset, backbone, method or protocol"
                    )


def lookup(section: dict[str, Any], name: str, where: str) -> Any:
    """Return `section[name]`.

    Raises:
        UnknownNameError: if `name` is not in the section. The message starts with `where` and suggests a similar name.
    """
    if name not in section:
        raise UnknownNameError(f"{where}: unknown '{name}'; {format_alternatives(name, section)}")
    return section[name]
