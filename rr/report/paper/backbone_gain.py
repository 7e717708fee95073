"""The paper's Figure 2a with our results: how much a deeper backbone improves each method."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from matplotlib.axes import Axes

from rr.report.formatting import format_difference, join_words
from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import GridResults
from rr.report.paper.match import Match, find_match
from rr.report.paper.published import PublishedResult, load_published, name_in_paper
from rr.report.paper.views_and_labels import Study
from rr.report.plots.svg import INK, RULE, SERIES, Panel, format_csv, render_svg

_SHALLOW: Literal["conv4"] = "conv4"
_CAPTION = (
    "Figure 2a: accuracy in linear evaluation with ResNet-32 minus the accuracy with Conv-4, in percentage points "
    "(means over seeds). Circles show our results. Crosses show the paper’s results, which are differences between "
    "values in its Table 2."
)


def build_backbone_gain(results: GridResults) -> Study | None:
    """Return the study, or None if no combination of method and dataset in the grid has results for both backbones."""
    study = Study("Gain from a deeper backbone", _CAPTION, [], [])
    by_dataset = group_by((r for r in load_published() if r.table == "Figure 2a"), lambda result: result.dataset)
    for dataset, published in by_dataset.items():
        gains = {
            result: matches for result in published if (matches := _find_matches_with_both_backbones(results, result))
        }
        if gains:
            study.panels.append(_plot_gains(dataset, published, gains))
            deviating = unique(
                f"{match.method} ({', '.join(match.deviations)})"
                for matches in gains.values()
                for match in matches
                if match.deviations
            )
            if deviating:
                study.notes.append(f"Deviations on {name_in_paper(dataset)}: {join_words(deviating)}.")
    return study if study.panels else None


def _find_matches_with_both_backbones(results: GridResults, published: PublishedResult) -> tuple[Match, Match] | None:
    """Return our results with the deeper backbone and with Conv-4 that correspond to a difference in the paper."""
    deep, shallow = find_match(results, published), find_match(results, replace(published, backbone=_SHALLOW))
    return (deep, shallow) if deep and shallow else None


def _plot_gains(
    dataset: str, published: Sequence[PublishedResult], gains: dict[PublishedResult, tuple[Match, Match]]
) -> Panel:
    """Plot the differences for one dataset, with one row per method."""
    ours = {result: deep.value.mean - shallow.value.mean for result, (deep, shallow) in gains.items()}
    names = [name_in_paper(result.method) for result in published]

    def plot(axes: Axes) -> None:
        for y, result in enumerate(published):
            if result in ours:
                axes.plot(ours[result], y, "o", color=SERIES[gains[result][0].color - 1], ms=6)
            if result.mean is not None:
                axes.plot(result.mean, y, "x", color=INK, ms=6, mew=1.8)
        axes.axvline(0, color=RULE, lw=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("points above Conv-4")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")

    texts = [
        f"{name_in_paper(result.method)} {format_difference(gain)} (paper {format_difference(result.mean or 0)})"
        for result, gain in ours.items()
    ]
    title = f"{name_in_paper(dataset)}, points"
    alt_text = f"Accuracy with ResNet-32 minus the accuracy with Conv-4 on {title}: {', '.join(texts)}."
    name = f"backbone-gain-{dataset}"
    csv = format_csv(
        ("method", "ours", "the paper"),
        (
            (name_in_paper(result.method), ours.get(result, ""), "" if result.mean is None else result.mean)
            for result in published
        ),
    )
    return Panel(title, render_svg(name, 1.6, alt_text, plot), name, csv)
