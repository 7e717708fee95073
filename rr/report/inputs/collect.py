"""Everything that the grid's runs left, as typed values: the only module of the report that asks for files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rr import paths
from rr.errors import UserError
from rr.params import Params
from rr.report.inputs import files
from rr.report.inputs.files import Record
from rr.report.inputs.predictions import Guesses, Plane, guesses, plane
from rr.workflow.grid import evaluations, pretrainings

CLASSIFICATION = ("linear", "finetune", "knn")
_SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Run:
    """One pretraining: `history` maps each column to its values, one per epoch, and is empty where nothing trained."""

    cell: paths.Pretraining
    record: Record
    history: dict[str, list[float]]
    views: bytes

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.params[f"methods.{self.cell.method}"]


@dataclass(frozen=True)
class Score:
    """One evaluation; `found` is what a classification or an embedding found, `examples` a PNG."""

    cell: paths.Evaluation
    record: Record
    metrics: dict[str, float]
    found: Guesses | Plane | None
    examples: bytes

    @property
    def settings(self) -> dict[str, Any]:
        return self.record.params[f"protocols.{self.cell.protocol}"]

    @property
    def kind(self) -> str:
        return self.settings["kind"]


@dataclass(frozen=True)
class Collected:
    """All that the grid's runs left, in the grid's order."""

    runs: list[Run]
    scores: list[Score]

    @property
    def records(self) -> list[Record]:
        return [run.record for run in self.runs] + [score.record for score in self.scores]

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each method."""
        return {run.cell.method: run.settings["kind"] for run in self.runs}

    def of_kind(self, *kinds: str) -> list[Score]:
        """The evaluations under protocols of these kinds."""
        return [score for score in self.scores if score.kind in kinds]


def depths(settings: dict[str, Any]) -> list[int]:
    """The k of precision, recall and hit rate at k of a retrieval."""
    found = settings.get("depths")
    return found if isinstance(found, list) else []


def collect(params: Params) -> Collected:
    """Read every run of the grid. Raises UserError that names a missing or damaged file, or runs that do not match."""
    runs = [
        Run(
            cell,
            files.record(cell.folder, f"methods.{cell.method}"),
            files.history(cell.history),
            files.picture(cell.views),
        )
        for cell in pretrainings(params)
    ]
    scores = [_score(cell) for cell in evaluations(params)]
    _check_equal_settings([*runs, *scores])
    _check_equal_classes(scores)
    return Collected(runs, scores)


def _score(cell: paths.Evaluation) -> Score:
    section = f"protocols.{cell.protocol}"
    record = files.record(cell.folder, section)
    settings = record.params[section]
    metrics = files.metrics(cell.metrics, _bounds(settings))
    found: Guesses | Plane | None = None
    if settings["kind"] in CLASSIFICATION:
        found = guesses(cell.predictions)
    elif settings["kind"] == "embedding":
        found = plane(cell.predictions)
    return Score(cell, record, metrics, found, files.picture(cell.examples))


def _bounds(settings: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """The metrics that the page needs of a protocol, each with its least and its greatest value."""
    match settings["kind"]:
        case "retrieval":
            at = [f"{name}_at_{k}" for name in ("precision", "recall", "hit_rate") for k in depths(settings)]
            return dict.fromkeys(["mean_average_precision", *at], _SHARE)
        case "embedding":
            return {
                "silhouette": (-1, 1), "alignment": (0, 4), "uniformity": (-8, 0), "effective_rank": (1, math.inf),
            }  # fmt: skip
        case kind if kind in CLASSIFICATION:
            return dict.fromkeys(["accuracy", "calibration_error"], _SHARE)
        case _:
            return {}


def _check_equal_settings(made: Sequence[Run | Score]) -> None:
    """Refuse a mean over runs of different settings: it would be a mean of nothing."""
    seen: dict[str, tuple[Any, Path]] = {}
    for one in made:
        for key, value in one.record.params.items():
            known, where = seen.setdefault(key, (value, one.cell.folder))
            if value != known:
                raise UserError(
                    f"{paths.run_record(one.cell.folder)}: its {key} differs from that of {paths.run_record(where)}: "
                    "bring the runs up to date (dvc repro or snakemake), then report again"
                )


def _check_equal_classes(scores: Sequence[Score]) -> None:
    """Refuse evaluations of one target whose classes differ, as their labels would not mean the same."""
    seen: dict[str, tuple[list[str], Path]] = {}
    for score in scores:
        if score.found:
            cell, names = score.cell, score.found.class_names
            known, where = seen.setdefault(cell.target, (names, cell.predictions))
            if names != known:
                raise UserError(
                    f"{cell.predictions}: its classes differ from those of {where}: bring the runs up to date "
                    "(dvc repro or snakemake), then report again"
                )
