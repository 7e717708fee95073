"""The grid of `params.yaml` unfolded, and which parameters each of its cells depends on.

The Snakefile, the records, the report and `rr verify` read it here. `dvc.yaml` must repeat it in YAML; a test holds
the two together.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rr import paths
from rr.params import Params, lookup

# Dotted paths into params.yaml; {…} are the names on the stage's command line.
PARAMETERS = {
    "fetch": ("datasets.{dataset}.source",),
    "convert": ("datasets.{dataset}.side",),
    "pretrain": (
        "threads",
        "precision",
        "datasets.{dataset}.mean",
        "datasets.{dataset}.std",
        "methods.{method}",
        "augmentations",
    ),
    "evaluate": ("threads", "datasets.{target}.mean", "datasets.{target}.std", "protocols.{protocol}"),
    "report": ("grid",),
}


class Cell(NamedTuple):
    """One stage run: its stage, its folder, and the parameters that determine it."""

    stage: str
    folder: Path
    params: dict[str, Any]


def parameters(params: Params, stage: str, **names: str) -> dict[str, Any]:
    """The values that `stage` depends on, by dotted path, as JSON values. Raises ValueError for an unknown name."""
    values = {}
    for template in PARAMETERS[stage]:
        here: Any = params
        keys = [part.format(**names) for part in template.split(".")]
        for depth, key in enumerate(keys):
            here = getattr(here, key) if isinstance(here, BaseModel) else lookup(here, key, ".".join(keys[:depth]))
        values[".".join(keys)] = to_jsonable_python(here)
    return values


def pretrainings(params: Params) -> Iterator[paths.Pretraining]:
    """Every pretraining of the grid."""
    grid = params.grid
    for dataset, backbone, method, seed in product(grid.dataset, grid.backbone, grid.method, grid.seed):
        yield paths.Pretraining(dataset, backbone, method, seed)


def evaluations(params: Params) -> Iterator[paths.Evaluation]:
    """Every evaluation of the grid."""
    for pretraining in pretrainings(params):
        for target, protocol in product(params.grid.target, params.grid.protocol):
            yield paths.Evaluation(pretraining, target, protocol)


def cells(params: Params) -> Iterator[Cell]:
    """Every stage run of the grid but the report, in an order in which each can run."""
    for name in params.grid.data:
        place = paths.Dataset(name)
        yield Cell("fetch", place.raw, parameters(params, "fetch", dataset=name))
        yield Cell("convert", place.converted, parameters(params, "convert", dataset=name))
    for run in pretrainings(params):
        yield Cell("pretrain", run.folder, parameters(params, "pretrain", dataset=run.dataset, method=run.method))
    for score in evaluations(params):
        yield Cell(
            "evaluate", score.folder, parameters(params, "evaluate", target=score.target, protocol=score.protocol)
        )
