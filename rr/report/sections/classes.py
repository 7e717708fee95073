"""The `classes` section: worst and best class, confusions and calibration, which a mean accuracy hides."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from rr.evaluate.classification_metrics import NUM_BINS, confidence_bin_indices
from rr.report.formatting import format_mean_std, format_percent, seed_note
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.inputs.predictions import Predictions
from rr.report.plots.confusion import MAX_NUMBERED_CLASSES, plot_calibration, plot_confusion
from rr.report.plots.svg import Panel
from rr.report.result_tables import ResultTable, accuracy_tables
from rr.report.statistics import mean_std
from rr.report.table import Cell, Column, Table, make_table, numeric_columns

_MAX_MATRIX_CLASSES = 20  # with more classes, a confusion matrix is unreadable
_MAX_TABLES_WITH_ALL_MATRICES = 4
_NUM_CONFUSIONS = 10
_MEAN, _TOP_5 = "Class mean", "Top 5"
_CLASS_METRIC_COLUMNS: list[Column | str] = [
    "Method",
    Column("Protocol", "nowrap"),
    Column(_MEAN, "number"),
    Column(_TOP_5, "number"),
    Column("Worst class", "name"),
    Column("Accuracy", "number"),
    Column("Best class", "name"),
    *numeric_columns(["Accuracy", "Gap", "Calibration error"]),
    "Mistakes",
]


@dataclass(frozen=True)
class ClassAnalysis:
    """The analysis of the classes in one accuracy table.

    Attributes:
        table: the accuracy table.
        sentence: the best and the worst class of the best method, and the gap between their accuracies.
        extremes: worst and best class for every method and protocol; the mean class accuracy if it differs from the
            accuracy; and, with more than 10 classes, the top-5 accuracy.
        by_class: accuracy of every class under the first protocol.
        confusions: plots of the confusion matrices under the first protocol; empty if there are too many classes.
        has_all_matrices: whether each method has a confusion matrix.
        has_numbers: whether the cells of the confusion matrices contain numbers.
        top_confusions: the most frequent confusions of each method, printed unless every method has a matrix.
        calibration: a plot of accuracy against confidence under the first protocol.
        num_bins: number of confidence bins in the calibration plot.
    """

    table: ResultTable
    sentence: str
    extremes: Table
    by_class: Table
    confusions: list[Panel]
    has_all_matrices: bool
    has_numbers: bool
    top_confusions: Table
    calibration: list[Panel]
    num_bins: int = NUM_BINS


def build_classes(results: GridResults) -> list[ClassAnalysis]:
    """Return the analysis of each accuracy table.

    If there are many tables, only the best self-supervised method of each (`ResultTable.main_row`) has a confusion
    matrix, because the page would otherwise be too large.
    """
    tables = accuracy_tables(results)
    return [_analyze_classes(table, len(tables) > _MAX_TABLES_WITH_ALL_MATRICES) for table in tables]


def pool_predictions(evaluations: Sequence[EvaluationResult]) -> Predictions:
    """Return the predictions of all seeds together.

    All seeds use the same test images, so a fraction computed from the pooled predictions equals its mean over seeds.
    """
    seeds = [run.per_image for run in evaluations if isinstance(run.per_image, Predictions)]
    return Predictions(
        seeds[0].class_names,
        np.concatenate([seed.labels for seed in seeds]),
        np.concatenate([seed.predictions for seed in seeds]),
        np.concatenate([seed.confidence for seed in seeds]),
        np.concatenate([seed.index for seed in seeds]),
    )


def confusion_fractions(predictions: Predictions) -> np.ndarray:
    """Return the confusion matrix normalized over the true classes, float64 (C, C).

    An entry is the fraction of a true class (row) that received a prediction (column). The row of a class without
    images is NaN.
    """
    num_classes = len(predictions.class_names)
    pairs = predictions.labels * num_classes + predictions.predictions
    counts = np.bincount(pairs, minlength=num_classes * num_classes).reshape(num_classes, num_classes)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)


def class_accuracies(predictions: Predictions) -> np.ndarray:
    """Return the accuracy of each class, float64 (C,); NaN for a class without images."""
    labels, num_classes = predictions.labels, len(predictions.class_names)
    correct = np.bincount(labels[labels == predictions.predictions], minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return correct / np.bincount(labels, minlength=num_classes)


def calibration_curve(predictions: Predictions) -> list[tuple[float, float]]:
    """Return the mean confidence and the accuracy of each confidence bin that contains predictions."""
    bins = confidence_bin_indices(predictions.confidence)
    counts = np.bincount(bins, minlength=NUM_BINS)
    filled = counts > 0
    is_correct = predictions.labels == predictions.predictions
    confidence = np.bincount(bins, predictions.confidence, NUM_BINS)[filled] / counts[filled]
    accuracy = np.bincount(bins, is_correct, NUM_BINS)[filled] / counts[filled]
    return list(zip(confidence.tolist(), accuracy.tolist(), strict=True))


def top_confusions(predictions: Predictions) -> list[str]:
    """Return the ten most frequent confusions as "true class as prediction: percent of the true class"."""
    names = predictions.class_names
    pairs = predictions.labels * len(names) + predictions.predictions
    is_wrong = predictions.labels != predictions.predictions
    # A matrix of all pairs of classes would be too large for thousands of classes.
    confused, counts = np.unique(pairs[is_wrong], return_counts=True)
    fractions = counts / np.bincount(predictions.labels)[confused // len(names)]
    order = np.argsort(-fractions, kind="stable")[:_NUM_CONFUSIONS]
    return [
        f"{names[pair // len(names)]} as {names[pair % len(names)]}: {format_percent(fraction)}"
        for pair, fraction in zip(confused[order].tolist(), fractions[order].tolist(), strict=True)
    ]


def _analyze_classes(table: ResultTable, only_main_row: bool) -> ClassAnalysis:
    """Analyze one accuracy table. With `only_main_row`, only its `main_row` gets a confusion matrix."""
    extremes: list[list[Cell | str]] = []
    first_predictions: dict[str, Predictions] = {}  # the predictions of all seeds under the first protocol, by method
    for row in table.rows:
        for protocol, cell in row.cells.items():
            predictions = pool_predictions(cell.evaluations)
            cells = _class_summary_cells(predictions.class_names, class_accuracies(predictions), cell.evaluations)
            extremes.append([Cell(row.method, color=row.color), protocol, *cells])
            if protocol == table.first_protocol:
                first_predictions[row.method] = predictions
    class_names = next(iter(first_predictions.values())).class_names
    accuracies = {method: class_accuracies(predictions) for method, predictions in first_predictions.items()}
    colors = {row.method: row.color for row in table.rows}
    main_row = table.main_row(table.first_protocol)
    confusions = [
        plot_confusion(f"confusion-{table.name}-{method}", method, class_names, confusion_fractions(predictions))
        for method, predictions in first_predictions.items()
        if len(class_names) <= _MAX_MATRIX_CLASSES
        and (not only_main_row or (main_row is not None and main_row.method == method))
    ]
    top: list[list[Cell | str]] = [
        [Cell(method, color=colors[method]), "; ".join(top_confusions(predictions)) or "none"]
        for method, predictions in first_predictions.items()
    ]
    curves = {method: calibration_curve(predictions) for method, predictions in first_predictions.items()}
    by_class = [
        [name, *(format_percent(values[index]) for values in accuracies.values())]
        for index, name in enumerate(class_names)
    ]
    return ClassAnalysis(
        table,
        _summarize_class_gap(table, class_names, accuracies),
        make_table(_CLASS_METRIC_COLUMNS, extremes, _redundant_columns(table)),
        make_table(["Class", *(Column(name, "number", colors[name]) for name in accuracies)], by_class),
        confusions,
        len(confusions) == len(curves),
        len(class_names) <= MAX_NUMBERED_CLASSES,
        make_table(["Method", "Confusions"], top),
        [plot_calibration(f"calibration-{table.name}", table.first_protocol, curves, colors)],
    )


def _class_summary_cells(
    class_names: list[str], accuracies: np.ndarray, evaluations: Sequence[EvaluationResult]
) -> list[Cell | str]:
    """Return the cells of one method under one protocol, without the first two cells, which contain their names."""
    worst, best = int(np.nanargmin(accuracies)), int(np.nanargmax(accuracies))
    calibration_error = mean_std([run.metrics["calibration_error"] for run in evaluations])
    balanced, top_5 = (_mean_of_metric(evaluations, name) for name in ("balanced_accuracy", "top_5_accuracy"))
    return [
        balanced,
        top_5,
        class_names[worst],
        format_percent(accuracies[worst]),
        class_names[best],
        format_percent(accuracies[best]),
        format_percent(accuracies[best] - accuracies[worst]),
        format_mean_std(calibration_error, format_percent),
        Cell("images", link=evaluations[0].paths.examples),
    ]


def _mean_of_metric(evaluations: Sequence[EvaluationResult], name: str) -> str:
    """Return the mean of a metric over seeds in percent, or a dash if a seed does not have it."""
    return format_percent(fmean(run.metrics.get(name, math.nan) for run in evaluations))


def _redundant_columns(table: ResultTable) -> list[str]:
    """Return the titles of the columns that would be empty or would repeat the accuracy."""
    runs = [run for row in table.rows for cell in row.cells.values() for run in cell.evaluations]
    has_equal_classes = all(
        format_percent(run.metrics.get("balanced_accuracy", run.metrics["accuracy"]))
        == format_percent(run.metrics["accuracy"])
        for run in runs
    )
    has_top_5 = any("top_5_accuracy" in run.metrics for run in runs)
    return [*([_MEAN] if has_equal_classes else []), *([] if has_top_5 else [_TOP_5])]


def _summarize_class_gap(table: ResultTable, class_names: list[str], accuracies: dict[str, np.ndarray]) -> str:
    """Return a sentence on the best and the worst class of the best method under the first protocol."""
    best = table.main_row(table.first_protocol) or next(row for row in table.rows if table.first_protocol in row.cells)
    accuracy, by_class = best.cells[table.first_protocol].value, accuracies[best.method]
    highest, lowest = int(np.nanargmax(by_class)), int(np.nanargmin(by_class))
    if format_percent(by_class[highest]) == format_percent(by_class[lowest]):
        return (
            f"{best.method} ({table.first_protocol}) classifies {format_percent(by_class[lowest])}% of the test "
            f"images of every class of {table.target} correctly. {seed_note([accuracy.count])}"
        )
    return (
        f"A high mean does not guarantee unbiased predictions: {best.method} ({table.first_protocol}) classifies "
        f"{format_percent(accuracy.mean)}% of the test images of {table.target} correctly, but "
        f"{format_percent(by_class[highest])}% of {class_names[highest]} and {format_percent(by_class[lowest])}% of "
        f"{class_names[lowest]}, a gap of {format_percent(by_class[highest] - by_class[lowest])} percentage points. "
        f"{seed_note([accuracy.count])}"
    )
