"""Expand the grid in `params.yaml` into pretraining runs, feature extractions and evaluations."""

from collections.abc import Iterator
from itertools import product

from rr import paths
from rr.params import GridConfig, Params
from rr.runtime.formatting import format_count


def dataset_names(params: Params) -> list[str]:
    """Return the names of all datasets that the grid fetches and converts."""
    return list(dict.fromkeys(name for grid in params.grid for name in grid.data))


def describe_replaced(before: Params, after: Params) -> str:
    """Return lines about the datasets that a new grid replaces and the claims that it removes, or ""."""
    old, new = (dict.fromkeys(name for grid in params.grid for name in grid.dataset) for params in (before, after))
    text = f"\nthe previous grid, which trained on {', '.join(old)}, was replaced" if old and old != new else ""
    num_claims = sum(len(grid.claims) for grid in before.grid)
    if num_claims and not any(grid.claims for grid in after.grid):
        text += f"\nremoved from the grid: {format_count(num_claims, 'claims')}"
    return text


def pretrainings(params: Params) -> Iterator[paths.PretrainPaths]:
    """Yield the pretraining runs in the grid, without duplicates."""
    yield from dict.fromkeys(run for grid in params.grid for run in _pretrainings_of(grid))


def extractions(params: Params) -> Iterator[paths.FeaturePaths]:
    """Yield the feature extractions in the grid, without duplicates."""
    yield from dict.fromkeys(evaluation.extraction for evaluation in evaluations(params))


def evaluations(params: Params) -> Iterator[paths.EvaluationPaths]:
    """Yield the evaluations in the grid, without duplicates."""
    yield from dict.fromkeys(
        paths.EvaluationPaths(run, target, protocol)
        for grid in params.grid
        for run in _pretrainings_of(grid)
        for target, protocol in product(grid.target, grid.protocol)
    )


def _pretrainings_of(grid: GridConfig) -> Iterator[paths.PretrainPaths]:
    for names in product(grid.dataset, grid.backbone, grid.method, grid.seed):
        yield paths.PretrainPaths(*names)
