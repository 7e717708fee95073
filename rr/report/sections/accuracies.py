"""Section `accuracies`: one table per dataset, backbone and target, and a plot of every seed."""

from matplotlib.axes import Axes

from rr.report.inputs.collect import CLASSIFICATION, Collected
from rr.report.plots.svg import INK, SERIES, Panel, draw
from rr.report.tables import Column, Table, percent, places, table, unique


def accuracy_tables(grid: Collected) -> list[Table]:
    """One table per dataset × backbone → target, a column per classification protocol; the order is the grid's."""
    return [
        table(grid, place, scores, [Column(name, name, "accuracy") for name in unique(s.cell.protocol for s in scores)])
        for place, scores in places(grid.of_kind(*CLASSIFICATION)).items()
    ]


def accuracy_panels(table: Table) -> list[Panel]:
    """Every seed's accuracy as a dot and the mean as a bar, one panel per protocol."""
    return [_accuracy_panel(table, protocol) for protocol in table.titles]


def _accuracy_panel(table: Table, protocol: str) -> Panel:
    rows = [row for row in table.rows if protocol in row.cells]

    def content(axes: Axes) -> None:
        for place, row in enumerate(rows):
            colour = INK if row.role else SERIES[0]
            seeds = [100 * score.metrics["accuracy"] for score in row.cells[protocol].scores]
            mean = 100 * row.cells[protocol].value.mean
            axes.plot(seeds, [place] * len(seeds), "o", color=colour, ms=4.5, alpha=0.45, mew=0)
            axes.plot([mean, mean], [place - 0.28, place + 0.28], color=colour, lw=2, solid_capstyle="butt")
        axes.set_yticks(range(len(rows)), [row.method for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    spoken = ", ".join(f"{row.method} {percent(row.cells[protocol].value.mean)}" for row in rows)
    name = f"accuracy-{table.name}-{protocol}"
    svg = draw(name, 0.75 + 0.3 * len(rows), f"Accuracy in percent under {protocol}: {spoken}.", content)
    return Panel(f"{protocol}, %", svg)
