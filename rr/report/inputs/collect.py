"""Collect the results of all runs in the grid as typed values. Only the `inputs` package reads the runs' files."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rr.errors import UserError
from rr.params import CLASSIFICATION_PROTOCOLS, ClaimConfig, MethodConfig, Params
from rr.paths import DatasetPaths, EvaluationPaths, FeaturePaths, PretrainPaths, record_file
from rr.report.grouping import unique
from rr.report.inputs.files import RunRecord, read_history, read_image_names, read_metrics, read_png, read_run_record
from rr.report.inputs.predictions import EmbeddingMap, Predictions, read_embedding_map, read_predictions
from rr.report.method_roles import Role, find_role
from rr.workflow.claims import grid_claims
from rr.workflow.grid import evaluations, extractions, pretrainings

NUM_COLORS = 20  # number of colors in templates/colors.css
TRAINED_CLASSIFIER = "trained_classifier_accuracy"  # metric that linear evaluation adds for supervised networks
RETRIEVAL_METRICS = ("precision", "recall", "hit_rate")  # reported at every cutoff k
_UNIT_RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class PretrainResult:
    """The outputs of one pretraining run.

    Attributes:
        paths: the run's files.
        record: its record (run.json).
        history: the columns of the history, one value per epoch; empty if nothing was trained.
        views_png: a PNG file that shows training images and their views, as bytes.
        color: number of the method's color in all plots and tables, from 1.
        role: the method's role.
    """

    paths: PretrainPaths
    record: RunRecord
    history: dict[str, list[float]]
    views_png: bytes
    color: int = 1
    role: Role = Role.SELF_SUPERVISED

    @property
    def settings(self) -> dict[str, Any]:
        """The method's settings, as recorded by the run."""
        return self.record.params[f"methods.{self.paths.method}"]

    @property
    def precision(self) -> str:
        """The floating-point precision used in training."""
        return self.record.params.get("precision", "float32")


@dataclass(frozen=True)
class ExtractionResult:
    """The record of one feature extraction."""

    paths: FeaturePaths
    record: RunRecord


@dataclass(frozen=True)
class EvaluationResult:
    """The outputs of one evaluation run.

    Attributes:
        paths: the run's files.
        pretraining: the run that trained the backbone.
        record: the evaluation's record (run.json).
        metrics: the metrics by name.
        per_image: the predictions of a classification protocol, the map of an embedding protocol, or None.
        examples_png: a PNG file with examples, such as misclassified images, as bytes.
    """

    paths: EvaluationPaths
    pretraining: PretrainResult
    record: RunRecord
    metrics: dict[str, float]
    per_image: Predictions | EmbeddingMap | None
    examples_png: bytes

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol's settings, as recorded by the run."""
        return self.record.params[f"protocols.{self.paths.protocol}"]

    @property
    def kind(self) -> str:
        """The kind of the protocol, e.g. "linear"."""
        return self.settings["kind"]


StageResult = PretrainResult | ExtractionResult | EvaluationResult


@dataclass(frozen=True)
class GridResults:
    """The results of all runs, in grid order, and the claims that the grid makes.

    `image_names` contains the image names of each target that has an embedding. A target without a raw file has an
    empty list.
    """

    pretrainings: list[PretrainResult]
    extractions: list[ExtractionResult]
    evaluations: list[EvaluationResult]
    claims: list[ClaimConfig] = field(default_factory=list)
    image_names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def records(self) -> list[RunRecord]:
        """The records of all runs."""
        return [run.record for runs in self.runs_by_stage.values() for run in runs]

    @property
    def runs_by_stage(self) -> dict[str, Sequence[StageResult]]:
        """The runs by stage title."""
        return {
            "Pretraining": self.pretrainings,
            "Feature extraction": self.extractions,
            "Evaluation": self.evaluations,
        }

    def evaluations_of_kind(self, *kinds: str) -> list[EvaluationResult]:
        """Return the evaluations whose protocol is of one of these kinds."""
        return [evaluation for evaluation in self.evaluations if evaluation.kind in kinds]


def retrieval_cutoffs(settings: dict[str, Any]) -> list[int]:
    """Return the ranks k at which a retrieval protocol with these settings reports its metrics."""
    values = settings.get("cutoffs")
    return values if isinstance(values, list) else []


def collect_results(params: Params) -> GridResults:
    """Read the outputs of every run in the grid.

    Raises:
        UserError: if a file is missing or damaged, if runs recorded different values of the same setting, or if
            evaluations on the same target have different classes.
    """
    methods = unique(run.method for run in pretrainings(params))
    runs = {
        run: _collect_pretraining(run, params.methods[run.method], methods.index(run.method) % NUM_COLORS + 1)
        for run in pretrainings(params)
    }
    results = GridResults(
        list(runs.values()),
        [ExtractionResult(run, read_run_record(run.folder)) for run in extractions(params)],
        [_collect_evaluation(run, runs[run.pretraining]) for run in evaluations(params)],
        grid_claims(params),
    )
    for target in unique(run.paths.target for run in results.evaluations_of_kind("embedding")):
        results.image_names[target] = read_image_names(DatasetPaths(target).images)
    _check_equal(
        (f"the setting {name}", value, record_file(run.paths.folder))
        for stage_runs in results.runs_by_stage.values()
        for run in stage_runs
        for name, value in run.record.params.items()
    )
    _check_equal(
        (f"the list of classes of {run.paths.target}", run.per_image.class_names, run.paths.predictions)
        for run in results.evaluations
        if run.per_image
    )
    return results


def _collect_pretraining(run: PretrainPaths, config: MethodConfig, color: int) -> PretrainResult:
    section = f"methods.{run.method}"
    record = read_run_record(run.folder, section)
    # The code of a user-defined method defines the fraction of labels, so the record does not contain it.
    role = find_role(record.params[section], getattr(config, "label_fraction", 0.0))
    return PretrainResult(run, record, read_history(run.history), read_png(run.views), color, role)


def _collect_evaluation(run: EvaluationPaths, pretraining: PretrainResult) -> EvaluationResult:
    section = f"protocols.{run.protocol}"
    record = read_run_record(run.folder, section)
    settings = record.params[section]
    metrics = read_metrics(run.metrics, _metric_ranges(settings))
    per_image: Predictions | EmbeddingMap | None = None
    if settings["kind"] in CLASSIFICATION_PROTOCOLS:
        per_image = read_predictions(run.predictions)
    elif settings["kind"] == "embedding":
        per_image = read_embedding_map(run.predictions)
    return EvaluationResult(run, pretraining, record, metrics, per_image, read_png(run.examples))


def _metric_ranges(settings: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the valid minimum and maximum of each metric that the report needs from a protocol."""
    match settings["kind"]:
        case "retrieval":
            at_k = [f"{name}_at_{k}" for name in RETRIEVAL_METRICS for k in retrieval_cutoffs(settings)]
            return dict.fromkeys(["mean_average_precision", *at_k], _UNIT_RANGE)
        case "embedding":
            return {
                "rankme": (1, math.inf), "alignment": (0, 4), "uniformity": (-8, 0), "effective_rank": (1, math.inf),
            }  # fmt: skip
        case kind if kind in CLASSIFICATION_PROTOCOLS:
            return dict.fromkeys(["accuracy", "calibration_error"], _UNIT_RANGE)
        case _:
            return {}


def _check_equal(entries: Iterable[tuple[str, Any, Path]]) -> None:
    """Raise UserError if a value differs between files, because such results cannot be averaged or compared.

    Each entry consists of a description, the value, and the file that contains the value.
    """
    first_values: dict[str, tuple[Any, Path]] = {}
    for description, value, path in entries:
        first_value, first_path = first_values.setdefault(description, (value, path))
        if value != first_value:
            raise UserError(
                f"{path}: {description} is not the same as in {first_path}, so the results cannot be compared. Run "
                "dvc repro or snakemake to bring the runs up to date, then run rr report again"
            )
