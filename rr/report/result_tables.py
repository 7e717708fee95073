"""Result tables: one row per method, one column per protocol metric, with mean and standard deviation over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rr.params import CLASSIFICATION_PROTOCOLS
from rr.report.formatting import format_mean_std, format_percent, format_seed_counts
from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import TRAINED_CLASSIFIER, EvaluationResult, GridResults
from rr.report.method_roles import Role, explain_roles
from rr.report.plots.image import ImagePanel
from rr.report.statistics import MeanStd, mean_std
from rr.report.table import Cell, Table, make_table, numeric_columns
from rr.runtime.hashing import json_sha256

TRAINED_CLASSIFIER_TITLE = "trained classifier"  # no protocol has this name, because protocol names contain no spaces
_BOUNDS = (Role.LOWER_BOUND, Role.UPPER_BOUND)


@dataclass(frozen=True)
class MetricColumn:
    """A column of a result table: one metric of one protocol.

    Attributes:
        title: the heading.
        protocol: the protocol's name in params.yaml.
        metric: the metric's name in metrics.json.
        format_value: function that formats a value as text.
        marks_best: whether to mark the highest value among the self-supervised methods.
    """

    title: str
    protocol: str
    metric: str
    format_value: Callable[[float], str] = format_percent
    marks_best: bool = True


@dataclass(frozen=True)
class ResultCell:
    """The result of one method in one column.

    Attributes:
        value: mean and standard deviation over seeds.
        text: the value as text.
        is_best: whether the displayed value is the highest among the self-supervised methods.
        evaluations: the evaluations behind the value, one per seed.
    """

    value: MeanStd
    text: str
    is_best: bool
    evaluations: list[EvaluationResult]


@dataclass(frozen=True)
class ResultRow:
    """The results of one method.

    Attributes:
        method: the method's name in params.yaml.
        role: the method's role.
        color: the method's color number, from 1.
        cells: the results by column title. Columns that were not run for the method are absent.
    """

    method: str
    role: Role
    color: int
    cells: dict[str, ResultCell]


@dataclass(frozen=True)
class ResultTable:
    """Results on one target, for backbones with the same architecture and pretraining dataset."""

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
    def backbone_text(self) -> str:
        """The backbone as text for a caption, with the dataset if any backbone in the table was pretrained on it."""
        roles = {row.role for row in self.rows}
        if roles <= {Role.LOWER_BOUND, Role.IMPORTED}:
            return self.backbone
        exception = " (except imported weights)" if Role.IMPORTED in roles else ""
        return f"{self.backbone} pretrained on {self.dataset}{exception}"

    @property
    def roles(self) -> dict[str, str]:
        """The meaning of each role that the table shows."""
        return explain_roles({row.role for row in self.rows})

    @property
    def roles_text(self) -> str:
        """The meanings of the roles as sentences."""
        return " ".join(f"{role.capitalize()}: {meaning}." for role, meaning in self.roles.items())

    @property
    def marks_best(self) -> bool:
        """Whether any value is in bold."""
        return any(cell.is_best for row in self.rows for cell in row.cells.values())

    @property
    def titles(self) -> list[str]:
        """The titles of the columns."""
        return [column.title for column in self.columns]

    @property
    def first_protocol(self) -> str:
        """The protocol of the first column."""
        return self.columns[0].protocol

    @property
    def seed_counts(self) -> list[int]:
        """The number of seeds behind each cell."""
        return [cell.value.count for row in self.rows for cell in row.cells.values()]

    @property
    def seeds_text(self) -> str:
        """The number of seeds as text; a range if the number differs between cells."""
        return format_seed_counts(self.seed_counts)

    @property
    def size_text(self) -> str:
        """The numbers of test images and classes as text; empty if they are unknown or differ between evaluations."""
        evaluations = [run for row in self.rows for cell in row.cells.values() for run in cell.evaluations]
        sizes = {(run.metrics.get("test_images"), run.metrics.get("classes")) for run in evaluations}
        images, classes = sizes.pop() if len(sizes) == 1 else (None, None)
        if not images or not classes:
            return ""
        copies = max(run.record.test_copies for run in evaluations)
        note = f", {copies:,} of them with a copy in the training split" if copies else ""
        return f"{images:,.0f} test images{note}, {classes:,.0f} classes"

    @property
    def as_table(self) -> Table:
        """The table as text, with the best self-supervised method of each column in bold."""
        rows = []
        for row in self.rows:
            cells = [row.cells.get(title) for title in self.titles]
            texts = [Cell(cell.text, is_bold=cell.is_best) if cell else Cell("–") for cell in cells]
            rows.append([Cell(row.method, note=row.role, color=row.color), *texts])
        return make_table(["Method", *numeric_columns(self.titles)], rows)

    def best_row(self, column: str) -> ResultRow | None:
        """Return the row of the best self-supervised method in a column, or the first such row in case of a tie."""
        return next((row for row in self.rows if column in row.cells and row.cells[column].is_best), None)

    def main_row(self, column: str) -> ResultRow | None:
        """Return the row of the best self-supervised method in a column, or else of the best other method.

        A bound is never returned.
        """
        others = [row for row in self.rows if column in row.cells and row.role not in _BOUNDS]
        best_other = max(others, key=lambda row: row.cells[column].value.mean, default=None)
        return self.best_row(column) or best_other

    def bound_row(self, role: Role, column: str) -> ResultRow | None:
        """Return the first row with this role that has a result in a column."""
        return next((row for row in self.rows if row.role == role and column in row.cells), None)


def split_by_target(evaluations: Sequence[EvaluationResult]) -> list[list[EvaluationResult]]:
    """Return one group of evaluations per pretraining dataset, backbone and target."""
    groups = group_by(
        evaluations, lambda run: (run.paths.pretraining.dataset, run.paths.pretraining.backbone, run.paths.target)
    )
    return list(groups.values())


def split_by_target_and_protocol(evaluations: Sequence[EvaluationResult]) -> list[list[EvaluationResult]]:
    """Return one group of evaluations per pretraining dataset, backbone, target and protocol."""
    return [
        runs
        for group in split_by_target(evaluations)
        for runs in group_by(group, lambda run: run.paths.protocol).values()
    ]


def group_by_method(evaluations: Sequence[EvaluationResult]) -> dict[str, list[EvaluationResult]]:
    """Group the evaluations by the name of the pretraining method."""
    return group_by(evaluations, lambda run: run.paths.pretraining.method)


def group_by_other_settings(runs: Sequence[EvaluationResult], setting: str) -> list[list[EvaluationResult]]:
    """Group runs of the same protocol that differ only in one setting of the method and in the seed."""
    groups = group_by(runs, lambda run: json_sha256([run.pretraining.settings | {setting: None}, run.paths.protocol]))
    return list(groups.values())


def make_example_panels(
    runs: Sequence[EvaluationResult], make_panel: Callable[[EvaluationResult], ImagePanel]
) -> list[ImagePanel]:
    """Return the panel of each run, in the order of `runs`.

    The panels are made in the order in which their images get space on the page: self-supervised methods come before
    the others, and relational methods come first within both groups.
    """
    by_priority = sorted(
        runs, key=lambda run: (bool(run.pretraining.role), run.pretraining.settings["kind"] != "relational")
    )
    panels = {run.paths: make_panel(run) for run in by_priority}
    return [panels[run.paths] for run in runs]


def result_table(evaluations: Sequence[EvaluationResult], columns: list[MetricColumn]) -> ResultTable:
    """Return a table with one row per method. All evaluations must share the dataset, backbone and target."""
    rows = [
        ResultRow(method, runs[0].pretraining.role, runs[0].pretraining.color, {})
        for method, runs in group_by_method(evaluations).items()
    ]
    for column in columns:
        cells = _column_cells(evaluations, column)
        for row in rows:
            if row.method in cells:
                row.cells[column.title] = cells[row.method]
    first = evaluations[0].paths
    seeds = unique(run.paths.pretraining.seed for run in evaluations)
    return ResultTable(first.pretraining.dataset, first.pretraining.backbone, first.target, columns, seeds, rows)


def _column_cells(evaluations: Sequence[EvaluationResult], column: MetricColumn) -> dict[str, ResultCell]:
    """Return the results in one column, by method."""
    by_method = group_by_method(
        [run for run in evaluations if run.paths.protocol == column.protocol and column.metric in run.metrics]
    )
    values = {method: mean_std([run.metrics[column.metric] for run in runs]) for method, runs in by_method.items()}
    # Values are compared as printed: if the best two look the same, both are set in bold.
    printed = {
        method: column.format_value(values[method].mean)
        for method, runs in by_method.items()
        if column.marks_best and not runs[0].pretraining.role
    }
    best = max(printed.values(), key=float, default=None)
    return {
        method: ResultCell(
            values[method],
            format_mean_std(values[method], column.format_value),
            method in printed and printed[method] == best,
            runs,
        )
        for method, runs in by_method.items()
    }


def accuracy_tables(results: GridResults, *, with_trained_classifiers: bool = False) -> list[ResultTable]:
    """Return one accuracy table per dataset, backbone and target, with one column per classification protocol.

    `with_trained_classifiers` adds a column for the classifiers of supervised networks, if there are any.
    """
    tables = []
    for runs in split_by_target(results.evaluations_of_kind(*CLASSIFICATION_PROTOCOLS)):
        columns = [MetricColumn(name, name, "accuracy") for name in unique(run.paths.protocol for run in runs)]
        # The accuracy of a trained classifier is the same under every protocol that reports it.
        reporting = [run.paths.protocol for run in runs if TRAINED_CLASSIFIER in run.metrics]
        if with_trained_classifiers and reporting:
            title = TRAINED_CLASSIFIER_TITLE
            columns.append(MetricColumn(title, reporting[0], TRAINED_CLASSIFIER, marks_best=False))
        tables.append(result_table(runs, columns))
    return tables
