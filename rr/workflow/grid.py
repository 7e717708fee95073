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
from rr.params import Grid, Params, lookup

# Dotted paths into params.yaml; {…} are the names on the stage's command line.
PARAMETERS = {
    "fetch": ("datasets.{dataset}.source",),
    "convert": ("datasets.{dataset}.side",),
    "pretrain": (
        "threads",
        "precision",
        "dynamics",
        "datasets.{dataset}.mean",
        "datasets.{dataset}.std",
        "methods.{method}",
    ),
    "evaluate": ("threads", "datasets.{target}.mean", "datasets.{target}.std", "protocols.{protocol}"),
    "report": ("grid",),
}


class Cell(NamedTuple):
    """One stage run: its stage, its folder, the parameters and files that determine it, and the files it makes."""

    stage: str
    folder: Path
    params: dict[str, Any]
    inputs: list[Path]
    outputs: list[Path]


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


def data(params: Params) -> list[str]:
    """Every data set that is fetched and converted."""
    return list(dict.fromkeys(name for grid in params.grid for name in grid.data))


def pretrainings(params: Params) -> Iterator[paths.Pretraining]:
    """Every pretraining of the grid, once."""
    yield from dict.fromkeys(run for grid in params.grid for run in _pretrainings(grid))


def evaluations(params: Params) -> Iterator[paths.Evaluation]:
    """Every evaluation of the grid, once."""
    yield from dict.fromkeys(
        paths.Evaluation(run, target, protocol)
        for grid in params.grid
        for run in _pretrainings(grid)
        for target, protocol in product(grid.target, grid.protocol)
    )


def _pretrainings(grid: Grid) -> Iterator[paths.Pretraining]:
    for names in product(grid.dataset, grid.backbone, grid.method, grid.seed):
        yield paths.Pretraining(*names)


def fetch(params: Params, dataset: str) -> Cell:
    """The run of `fetch` for a data set."""
    place = paths.Dataset(dataset)
    return Cell("fetch", place.raw, parameters(params, "fetch", dataset=dataset), [], [place.images])


def convert(params: Params, dataset: str) -> Cell:
    """The run of `convert` for a data set."""
    place = paths.Dataset(dataset)
    outputs = [*place.betons.values(), place.index]
    return Cell("convert", place.converted, parameters(params, "convert", dataset=dataset), [place.images], outputs)


def pretrain(params: Params, run: paths.Pretraining) -> Cell:
    """The run of `pretrain` for a pretraining."""
    source = paths.Dataset(run.dataset)
    spec = parameters(params, "pretrain", dataset=run.dataset, method=run.method)
    inputs = [source.betons["train"], source.index]
    return Cell("pretrain", run.folder, spec, inputs, [run.weights, run.history, run.views])


def evaluate(params: Params, run: paths.Evaluation) -> Cell:
    """The run of `evaluate` for an evaluation."""
    source = paths.Dataset(run.target)
    spec = parameters(params, "evaluate", target=run.target, protocol=run.protocol)
    inputs = [run.pretraining.weights, *source.betons.values(), source.index]
    return Cell("evaluate", run.folder, spec, inputs, [run.metrics, run.predictions, run.confusion, run.examples])


def report(params: Params) -> Cell:
    """The run of `report`, which reads what every pretraining and evaluation of the grid has left."""
    inputs: list[Path] = []
    for run in pretrainings(params):
        inputs += [run.history, run.views, paths.run_record(run.folder)]
    for score in evaluations(params):
        inputs += [score.metrics, score.predictions, score.examples, paths.run_record(score.folder)]
    return Cell("report", paths.REPORT, parameters(params, "report"), inputs, paths.REPORT_FILES)


def cells(params: Params) -> Iterator[Cell]:
    """Every stage run of the grid, in an order in which each can run."""
    for name in data(params):
        yield fetch(params, name)
        yield convert(params, name)
    for run in pretrainings(params):
        yield pretrain(params, run)
    for score in evaluations(params):
        yield evaluate(params, score)
    yield report(params)
