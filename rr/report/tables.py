"""Tables of results: a row per method, a column per metric of a protocol, mean and standard deviation over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rr.report.formatting import format_mean_std, format_percent, format_seeds
from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import CLASSIFICATION, EvaluationResult, GridResults
from rr.report.statistics import MeanStd, mean_std
from rr.report.text_table import TextCell, TextTable, number_columns, text_table

LOWER_BOUND, UPPER_BOUND = "lower bound", "upper bound"
_ROLES = {"random": LOWER_BOUND, "supervised": UPPER_BOUND}
Target = tuple[str, str, str]  # dataset, backbone, target


@dataclass(frozen=True)
class MetricColumn:
    """A column of a result table: one metric of one protocol.

    Attributes:
        title: the heading.
        protocol: the protocol by its name in params.yaml.
        metric: the metric by its name in metrics.json.
        format_value: how to write a value.
        marks_best: whether to mark the highest value of the self-supervised methods.
    """

    title: str
    protocol: str
    metric: str
    format_value: Callable[[float], str] = format_percent
    marks_best: bool = True


@dataclass(frozen=True)
class ResultCell:
    """The value of one method, and whether it is the best of the self-supervised methods as printed."""

    value: MeanStd
    is_best: bool
    evaluations: list[EvaluationResult]
    format_value: Callable[[float], str]

    @property
    def text(self) -> str:
        """Mean and standard deviation as text."""
        return format_mean_std(self.value, self.format_value)

    def for_seed(self, seed: int) -> EvaluationResult | None:
        """Return the evaluation of a seed, or None if the seed was not run."""
        return next((run for run in self.evaluations if run.paths.pretraining.seed == seed), None)


@dataclass(frozen=True)
class ResultRow:
    """The results of one method.

    Attributes:
        method: the method by its name in params.yaml.
        role: "lower bound", "upper bound", or empty for a self-supervised method.
        cells: the results by column title. A column that was not run for the method is absent.
    """

    method: str
    role: str
    cells: dict[str, ResultCell]


@dataclass(frozen=True)
class ResultTable:
    """Results of the backbones pretrained on one dataset, evaluated on one target."""

    dataset: str
    backbone: str
    target: str
    columns: list[MetricColumn]
    seeds: list[int]
    rows: list[ResultRow]

    @property
    def name(self) -> str:
        """An identifier for links."""
        return f"{self.dataset}-{self.backbone}-{self.target}"

    @property
    def title(self) -> str:
        """Dataset, backbone and target."""
        return f"{self.dataset}, {self.backbone} → {self.target}"

    @property
    def titles(self) -> list[str]:
        """The titles of the columns."""
        return [column.title for column in self.columns]

    @property
    def protocol(self) -> str:
        """The protocol of the first column."""
        return self.columns[0].protocol

    @property
    def seed_counts(self) -> list[int]:
        """The number of seeds of every cell."""
        return [cell.value.count for row in self.rows for cell in row.cells.values()]

    @property
    def seeds_text(self) -> str:
        """The number of seeds as text, as a range if it differs between cells."""
        return format_seeds(self.seed_counts)

    @property
    def size_text(self) -> str:
        """The numbers of test images and classes as text; empty if the evaluations do not agree on them."""
        metrics = [run.metrics for row in self.rows for cell in row.cells.values() for run in cell.evaluations]
        sizes = {(values.get("test_images"), values.get("classes")) for values in metrics}
        images, classes = sizes.pop() if len(sizes) == 1 else (None, None)
        return f"{images:,.0f} test images, {classes:,.0f} classes" if images and classes else ""

    @property
    def text(self) -> TextTable:
        """The table as text, with the best self-supervised method of a column in bold."""
        rows = []
        for row in self.rows:
            cells = [row.cells.get(title) for title in self.titles]
            texts = [TextCell(cell.text, is_bold=cell.is_best) if cell else TextCell("–") for cell in cells]
            rows.append([TextCell(row.method, note=row.role), *texts])
        return text_table(["Method", *number_columns(self.titles)], rows)

    def best_row(self, title: str) -> ResultRow | None:
        """Return the best self-supervised method of a column; the first one if several are equal."""
        return next((row for row in self.rows if title in row.cells and row.cells[title].is_best), None)

    def bound(self, role: str, title: str) -> ResultRow | None:
        """Return the first method with a role in a column."""
        return next((row for row in self.rows if row.role == role and title in row.cells), None)


def by_target(evaluations: Sequence[EvaluationResult]) -> dict[Target, list[EvaluationResult]]:
    """Return the evaluations by dataset, backbone and target."""
    return group_by(
        evaluations, lambda run: (run.paths.pretraining.dataset, run.paths.pretraining.backbone, run.paths.target)
    )


def by_protocol(evaluations: Sequence[EvaluationResult]) -> list[tuple[Target, str, list[EvaluationResult]]]:
    """Return the evaluations of each target and protocol."""
    return [
        (target, protocol, runs)
        for target, all_runs in by_target(evaluations).items()
        for protocol, runs in group_by(all_runs, lambda run: run.paths.protocol).items()
    ]


def first_seeds(evaluations: Sequence[EvaluationResult]) -> list[EvaluationResult]:
    """Return the evaluation of each method's first seed."""
    return [runs[0] for runs in group_by(evaluations, _method).values()]


def result_table(
    results: GridResults, target: Target, evaluations: Sequence[EvaluationResult], columns: list[MetricColumn]
) -> ResultTable:
    """Return a table of the evaluations on a target, one row per method."""
    kinds = results.method_kinds
    rows = [ResultRow(method, _ROLES.get(kinds[method], ""), {}) for method in unique(map(_method, evaluations))]
    for column in columns:
        runs = group_by((run for run in evaluations if run.paths.protocol == column.protocol), _method)
        values = {method: mean_std([run.metrics[column.metric] for run in own]) for method, own in runs.items()}
        # Values are compared as printed: if two values look equal, both are set in bold.
        candidates = [row.method for row in rows if column.marks_best and not row.role and row.method in runs]
        printed = {method: column.format_value(values[method].mean) for method in candidates}
        best = max(printed.values(), key=float, default=None)
        for row in rows:
            if row.method in runs:
                is_best = row.method in printed and printed[row.method] == best
                cell = ResultCell(values[row.method], is_best, runs[row.method], column.format_value)
                row.cells[column.title] = cell
    return ResultTable(*target, columns, unique(run.paths.pretraining.seed for run in evaluations), rows)


def accuracy_tables(results: GridResults) -> list[ResultTable]:
    """Return one table of accuracies per dataset, backbone and target, with a column per classification protocol."""
    tables = []
    for target, runs in by_target(results.evaluations_of_kind(*CLASSIFICATION)).items():
        protocols = unique(run.paths.protocol for run in runs)
        columns = [MetricColumn(protocol, protocol, "accuracy") for protocol in protocols]
        tables.append(result_table(results, target, runs, columns))
    return tables


def _method(evaluation: EvaluationResult) -> str:
    return evaluation.paths.pretraining.method
