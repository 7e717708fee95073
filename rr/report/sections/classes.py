"""Section `classes`: worst and best class, confusions and calibration, which a mean accuracy hides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rr.evaluate.class_metrics import NUM_BINS, confidence_bins
from rr.report.formatting import format_mean_std, format_percent, seed_note
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.inputs.predictions import Predictions
from rr.report.plots.confusion import MAX_NUMBERED_CLASSES, plot_confusion, plot_reliability
from rr.report.plots.svg import Panel
from rr.report.statistics import MeanStd, mean_std
from rr.report.tables import ResultTable, accuracy_tables
from rr.report.text_table import TextCell, TextColumn, TextTable, number_columns, text_table

_MAX_MATRIX_CLASSES = 20  # with more classes a confusion matrix is unreadable
_NUM_CONFUSIONS = 10


@dataclass(frozen=True)
class ClassExtremes:
    """The worst and the best class of one method under one protocol.

    Attributes:
        method: the method by its name in params.yaml.
        protocol: the protocol by its name in params.yaml.
        class_names: the name of each class.
        accuracies: accuracy of each class, mean over seeds; NaN for a class without test images.
        worst: index of the class with the lowest accuracy.
        best: index of the class with the highest accuracy.
        calibration: calibration error over seeds.
        mistakes: file with misclassified images of the first seed.
    """

    method: str
    protocol: str
    class_names: list[str]
    accuracies: list[float]
    worst: int
    best: int
    calibration: MeanStd
    mistakes: Path

    @property
    def gap(self) -> float:
        """The accuracy of the best class minus that of the worst."""
        return self.accuracies[self.best] - self.accuracies[self.worst]


@dataclass(frozen=True)
class ClassAnalysis:
    """The classes of one table of accuracies.

    Attributes:
        table: the table of accuracies.
        sentence: how far the classes of the best method lie apart.
        extremes: worst and best class of every method and protocol.
        by_class: accuracy of every class under the first protocol.
        confusions: plots of the confusion matrices under the first protocol; empty if there are too many classes.
        has_numbers: whether the cells of the confusion matrices contain numbers.
        top_confusions: the most frequent confusions of each method, printed if there are no plots.
        reliability: plots of accuracy against confidence under the first protocol.
        num_bins: number of confidence bins of those plots.
    """

    table: ResultTable
    sentence: str
    extremes: TextTable
    by_class: TextTable
    confusions: list[Panel]
    has_numbers: bool
    top_confusions: TextTable
    reliability: list[Panel]
    num_bins: int


def build_classes(results: GridResults) -> list[ClassAnalysis]:
    """Return the analysis of each table of accuracies."""
    return [_analyze_classes(table) for table in accuracy_tables(results)]


def pool_seeds(evaluations: Sequence[EvaluationResult]) -> Predictions:
    """Return the predictions of all seeds together.

    Every seed uses the same test images, so a fraction of the pooled predictions is the mean over seeds.
    """
    seeds = [run.per_image for run in evaluations if isinstance(run.per_image, Predictions)]
    return Predictions(
        seeds[0].class_names,
        np.concatenate([seed.labels for seed in seeds]),
        np.concatenate([seed.predictions for seed in seeds]),
        np.concatenate([seed.confidence for seed in seeds]),
    )


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Return the fraction of each true class (row) that got each prediction (column), float64 (C, C).

    The row of a class without images is NaN.
    """
    num_classes = len(predictions.class_names)
    pairs = predictions.labels * num_classes + predictions.predictions
    counts = np.bincount(pairs, minlength=num_classes * num_classes).reshape(num_classes, num_classes)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)


def reliability_curve(predictions: Predictions) -> list[tuple[float, float]]:
    """Return mean confidence and accuracy of each confidence bin that has predictions."""
    bins = confidence_bins(predictions.confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)
    filled = counts > 0
    is_correct = predictions.labels == predictions.predictions
    confidence = np.bincount(bins, predictions.confidence, NUM_BINS)[filled] / counts[filled]
    accuracy = np.bincount(bins, is_correct, NUM_BINS)[filled] / counts[filled]
    return list(zip(confidence.tolist(), accuracy.tolist(), strict=True))


def top_confusions(predictions: Predictions) -> list[str]:
    """Return the ten most frequent confusions as "true class as prediction: percent of the true class"."""
    matrix = np.nan_to_num(confusion_matrix(predictions))
    np.fill_diagonal(matrix, 0)
    names = predictions.class_names
    order = np.argsort(-matrix, axis=None, kind="stable")[:_NUM_CONFUSIONS]
    confusions = [(matrix.flat[i], names[i // len(names)], names[i % len(names)]) for i in order.tolist()]
    return [f"{label} as {prediction}: {format_percent(value)}" for value, label, prediction in confusions if value > 0]


def _analyze_classes(table: ResultTable) -> ClassAnalysis:
    extremes, confusions, top, reliability = [], [], [], []
    for row in table.rows:
        for protocol, cell in row.cells.items():
            predictions = pool_seeds(cell.evaluations)
            extremes.append(_find_extremes(row.method, protocol, predictions, cell.evaluations))
            if protocol != table.protocol:
                continue
            names, name = predictions.class_names, f"{table.name}-{row.method}"
            top.append([row.method, "; ".join(top_confusions(predictions)) or "none"])
            if len(names) <= _MAX_MATRIX_CLASSES:
                matrix = confusion_matrix(predictions)
                confusions.append(plot_confusion(f"confusion-{name}", row.method, names, matrix))
            points = reliability_curve(predictions)
            reliability.append(plot_reliability(f"reliability-{name}", row.method, points))
    return ClassAnalysis(
        table,
        _summarize_gap(table, extremes),
        _extremes_table(extremes),
        _class_table([row for row in extremes if row.protocol == table.protocol]),
        confusions,
        len(extremes[0].class_names) <= MAX_NUMBERED_CLASSES,
        text_table(["Method", "Confusions"], top),
        reliability,
        NUM_BINS,
    )


def _find_extremes(
    method: str, protocol: str, predictions: Predictions, evaluations: Sequence[EvaluationResult]
) -> ClassExtremes:
    accuracies = np.diagonal(confusion_matrix(predictions))
    return ClassExtremes(
        method,
        protocol,
        predictions.class_names,
        accuracies.tolist(),
        int(np.nanargmin(accuracies)),
        int(np.nanargmax(accuracies)),
        mean_std([run.metrics["calibration_error"] for run in evaluations]),
        evaluations[0].paths.examples,
    )


def _extremes_table(extremes: Sequence[ClassExtremes]) -> TextTable:
    columns: list[TextColumn | str] = [
        "Method",
        TextColumn("Protocol", "nowrap"),
        TextColumn("Worst class", "name"),
        TextColumn("Accuracy", "number"),
        TextColumn("Best class", "name"),
        *number_columns(["Accuracy", "Gap", "Calibration error"]),
        "Mistakes",
    ]
    rows: list[list[TextCell | str]] = []
    for row in extremes:
        worst, best = ((row.class_names[i], format_percent(row.accuracies[i])) for i in (row.worst, row.best))
        calibration, mistakes = format_mean_std(row.calibration, format_percent), TextCell("images", link=row.mistakes)
        rows.append([row.method, row.protocol, *worst, *best, format_percent(row.gap), calibration, mistakes])
    return text_table(columns, rows)


def _class_table(extremes: Sequence[ClassExtremes]) -> TextTable:
    """Return the accuracy of every class, with a column per method."""
    rows = [
        [name, *(format_percent(row.accuracies[index]) for row in extremes)]
        for index, name in enumerate(extremes[0].class_names)
    ]
    return text_table(["Class", *number_columns(row.method for row in extremes)], rows)


def _summarize_gap(table: ResultTable, extremes: Sequence[ClassExtremes]) -> str:
    """Return a sentence on the best and the worst class of the best method."""
    best = table.best_row(table.protocol) or next(row for row in table.rows if table.protocol in row.cells)
    own = next(row for row in extremes if (row.method, row.protocol) == (best.method, table.protocol))
    accuracy = best.cells[table.protocol].value
    highest, lowest = (f"{format_percent(own.accuracies[i])} % of {own.class_names[i]}" for i in (own.best, own.worst))
    return (
        f"A high mean does not guarantee unbiased predictions: {own.method} ({own.protocol}) classifies "
        f"{format_percent(accuracy.mean)} % of the test images of {table.target} correctly, but {highest} and "
        f"{lowest}, a gap of {format_percent(own.gap)} percentage points. {seed_note([accuracy.count])}"
    )
