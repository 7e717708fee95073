"""The `accuracies` section: a table for each dataset, backbone and target, and a plot of every seed."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from rr.params import CLASSIFICATION_PROTOCOLS
from rr.report.formatting import format_percent, format_seed_counts, shorten_middle
from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.method_roles import explain_roles
from rr.report.plots.svg import SERIES, Panel, format_csv, render_svg
from rr.report.result_tables import TRAINED_CLASSIFIER_TITLE, ResultTable, accuracy_tables
from rr.report.sections.summary import summarize_table
from rr.report.statistics import accuracy_confidence_interval
from rr.report.table import Cell, Table, make_table, numeric_columns
from rr.runtime.formatting import format_count

_MAX_LABEL_LENGTH = 25  # characters of a method's name next to a plot
_PROTOCOLS = {
    "linear": "a linear layer is trained on the frozen features",
    "finetune": "the backbone and a linear layer are trained together",
    "knn": "the nearest training images in feature space vote; nothing is trained",
}
_TRAINED_CLASSIFIER = "the linear layer that was trained together with the backbone is tested"


@dataclass(frozen=True)
class AccuracyTable:
    """One table of accuracies: a summary, a confidence interval, a plot per protocol and the accuracy of each seed."""

    table: ResultTable
    summary: str
    interval_text: str
    panels: list[Panel]
    by_seed: Table


@dataclass(frozen=True)
class Accuracies:
    """The tables, the number of seeds as text, and descriptions of the roles and protocols."""

    tables: list[AccuracyTable]
    seeds_text: str
    roles: dict[str, str]
    protocols: dict[str, str]

    @property
    def has_std(self) -> bool:
        """Whether any value has a standard deviation."""
        return any(count > 1 for entry in self.tables for count in entry.table.seed_counts)

    @property
    def marks_best(self) -> bool:
        """Whether any value is in bold."""
        return any(entry.table.marks_best for entry in self.tables)


def build_accuracies(results: GridResults) -> Accuracies | None:
    """Return the section, or None if the grid has no classification protocol."""
    tables = accuracy_tables(results, with_trained_classifiers=True)
    if not tables:
        return None
    by_protocol = group_by(results.evaluations_of_kind(*CLASSIFICATION_PROTOCOLS), lambda run: run.paths.protocol)
    protocols = {name: _describe_protocol(runs) for name, runs in by_protocol.items()}
    if any(TRAINED_CLASSIFIER_TITLE in table.titles for table in tables):
        protocols[TRAINED_CLASSIFIER_TITLE] = _TRAINED_CLASSIFIER
    entries = []
    for table in tables:
        panels = [_plot_accuracies(table, protocol) for protocol in table.titles if protocol in by_protocol]
        entries.append(
            AccuracyTable(
                table, summarize_table(table), _describe_interval(table), panels, _accuracies_by_seed_table(table)
            )
        )
    seeds = format_seed_counts(count for table in tables for count in table.seed_counts)
    roles = explain_roles({row.role for table in tables for row in table.rows})
    return Accuracies(entries, seeds, roles, protocols)


def _describe_protocol(evaluations: Sequence[EvaluationResult]) -> str:
    settings = evaluations[0].settings
    fraction, count = settings.get("label_fraction") or 1, settings.get("images_per_class")
    suffix = f", with {100 * fraction:g}% of the labels of each class" if fraction < 1 else ""
    suffix = f", with {format_count(count, 'labels')} per class" if count else suffix
    if isinstance(rates := settings.get("learning_rate"), list):
        listed = ", ".join(f"{rate:g}" for rate in rates)
        suffix += f"; the learning rate is chosen from {listed} on {_describe_validation_images(evaluations)}"
    return f"{_PROTOCOLS[settings['kind']]}{suffix}"


def _describe_validation_images(evaluations: Sequence[EvaluationResult]) -> str:
    """Return how many labeled images are used to choose the learning rate; the number may differ between targets."""
    counts = [(run.metrics.get("validation_images"), run.metrics.get("train_images")) for run in evaluations]
    texts = [f"{chosen:,.0f} of the {total:,.0f}" for chosen, total in unique(counts) if chosen and total]
    return f"{' or '.join(texts) or 'some of the'} labeled images"


def _describe_interval(table: ResultTable) -> str:
    """Return the confidence interval of the highest accuracy, or an empty string if the number of images is unknown."""
    best = max((cell for row in table.rows for cell in row.cells.values()), key=lambda cell: cell.value.mean)
    num_images = int(best.evaluations[0].metrics.get("test_images", 0))
    if not num_images:
        return ""
    low, high = map(format_percent, accuracy_confidence_interval(best.value.mean, num_images))
    return (
        f"The 95% confidence interval (Wilson) of the highest accuracy, {format_percent(best.value.mean)}, is {low} to "
        f"{high}. It accounts only for the choice of the {format_count(num_images, 'test images')}."
    )


def _accuracies_by_seed_table(table: ResultTable) -> Table:
    """Return the accuracy of each seed with a link to its file, and the learning rate if it was chosen."""
    rows = []
    for row in table.rows:
        for column in (column for column in table.columns if column.title in row.cells):
            links = {
                run.paths.pretraining.seed: Cell(format_percent(run.metrics[column.metric]), link=run.paths.metrics)
                for run in row.cells[column.title].evaluations
            }
            texts = [links.get(seed, Cell("–")) for seed in table.seeds]
            rows.append([Cell(row.method, color=row.color), Cell(column.title), *texts])
            rates = {
                run.paths.pretraining.seed: Cell(f"{run.metrics['learning_rate']:g}")
                for run in row.cells[column.title].evaluations
                if column.metric == "accuracy" and "learning_rate" in run.metrics
            }
            if rates:
                texts = [rates.get(seed, Cell("–")) for seed in table.seeds]
                rows.append([Cell(row.method, color=row.color), Cell(f"{column.title}, chosen learning rate"), *texts])
    return make_table(["Method", "Protocol", *numeric_columns(f"seed {seed}" for seed in table.seeds)], rows)


def _plot_accuracies(table: ResultTable, protocol: str) -> Panel:
    """Plot the accuracy of every seed as a dot and the mean as a bar."""
    rows = [row for row in table.rows if protocol in row.cells]

    def plot(axes: Axes) -> None:
        for y, row in enumerate(rows):
            color = SERIES[row.color - 1]
            accuracies = [100 * run.metrics["accuracy"] for run in row.cells[protocol].evaluations]
            mean = 100 * row.cells[protocol].value.mean
            axes.plot(accuracies, [y] * len(accuracies), "o", color=color, ms=4.5, alpha=0.45, mew=0)
            axes.plot([mean, mean], [y - 0.28, y + 0.28], color=color, lw=2, solid_capstyle="butt")
        axes.set_yticks(range(len(rows)), [shorten_middle(row.method, _MAX_LABEL_LENGTH) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    means = ", ".join(f"{row.method} {format_percent(row.cells[protocol].value.mean)}" for row in rows)
    name = f"accuracy-{table.name}-{protocol}"
    alt_text = f"Accuracy in percent under {protocol}: {means}."
    values = [
        (row.method, str(run.paths.pretraining.seed), 100 * run.metrics["accuracy"])
        for row in rows
        for run in row.cells[protocol].evaluations
    ]
    svg = render_svg(name, 0.75 + 0.3 * len(rows), alt_text, plot)
    return Panel(f"{protocol}, %", svg, name, format_csv(("method", "seed", "accuracy (%)"), values))
