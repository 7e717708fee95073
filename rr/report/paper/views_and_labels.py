"""Plots of the paper's two studies with our results: the number of views (K) and the fraction of labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.axes import Axes

from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import EvaluationResult, GridResults
from rr.report.paper.match import (
    comparable_accuracy,
    find_run_deviations,
    has_same_data_and_backbone,
    is_comparable,
)
from rr.report.paper.published import PublishedResult, load_published, name_in_paper
from rr.report.plots.curves import Curve, Point, format_view_counts_axis, plot_curves
from rr.report.plots.svg import Panel
from rr.report.result_tables import group_by_other_settings

_VIEWS_CAPTION = (
    "Linear evaluation, Conv-4 on CIFAR-10: accuracy minus the accuracy with K = 2 and the same seed, in percentage "
    "points. The paper’s points were read from its figure with a precision of about 0.05."
)
_LABELS_CAPTION = (
    "Linear evaluation with all labels, ResNet-32: accuracy in percent against the percentage of labels that supply "
    "positive pairs in pretraining. The paper’s points above 0% were read from its figure with a precision of about "
    "0.25. How the paper used the labels is unknown."
)
_BASE_VIEWS = 2  # the value of K that all other values are compared with


@dataclass(frozen=True)
class Study:
    """One study: its plots, and notes about missing curves and deviations from the paper's settings."""

    title: str
    caption: str
    panels: list[Panel]
    notes: list[str]


def build_studies(results: GridResults) -> list[Study]:
    """Return the studies for which the grid has at least two values of K, or two label fractions, on one curve."""
    views = Study("Number of views", _VIEWS_CAPTION, [], [])
    labels = Study("Fraction of labels in pretraining", _LABELS_CAPTION, [], [])
    by_experiment = group_by(load_published(), lambda result: result.experiment)
    for experiment in ("K1", "K2", "K3"):
        _add_views_plot(views, results, by_experiment[experiment])
    points = [r for r in load_published() if r.label_fraction is not None and r.status != "unconfirmed"]
    for by_dataset in group_by(points, lambda result: result.dataset).values():
        _add_labels_plot(labels, results, by_dataset)
    return [study for study in (views, labels) if study.panels or study.notes]


def _add_views_plot(study: Study, results: GridResults, published: Sequence[PublishedResult]) -> None:
    """Add the plot of one method to the study of views."""
    ours = _largest_series(results, published[0], "views")
    ours = {views: ours[views] for views in sorted(ours) if views >= _BASE_VIEWS}
    if len(ours) < 2:
        return
    method = name_in_paper(published[0].method)
    if _BASE_VIEWS not in ours:
        study.notes.append(f"{method}: this grid has no run with K = {_BASE_VIEWS} to compare with.")
        return
    base = {run.paths.pretraining.seed: comparable_accuracy(published[0], run) for run in ours[_BASE_VIEWS]}
    seeds: dict[int, dict[float, Point]] = {seed: {} for seed in base}
    for views, runs in ours.items():
        for run in runs:
            seed = run.paths.pretraining.seed
            if seed in base:
                seeds[seed][views] = (views, 100 * (comparable_accuracy(published[0], run) - base[seed]))
    theirs = {float(r.views): (float(r.views), r.mean) for r in published if r.views and r.mean is not None}
    name, alt_text = (
        f"views-{published[0].method}",
        f"Accuracy of {method} minus its accuracy with K = 2, in points, against K",
    )
    format_axes = partial(_format_views_axis, ticks=sorted({*ours, *theirs}))
    study.panels.append(plot_curves(name, method, alt_text, _make_curves(seeds, theirs), format_axes, key_name="views"))
    _add_deviations(study, method, published[0], ours)


def _add_labels_plot(study: Study, results: GridResults, published: Sequence[PublishedResult]) -> None:
    """Add the plot of one dataset to the study of labels."""
    ours = _largest_series(results, published[0], "label_fraction")
    if len(ours) < 2:
        return
    means = {r.label_fraction: r.mean for r in published if r.label_fraction is not None and r.mean is not None}
    fractions = sorted({*ours, *means})
    seeds: dict[int, dict[float, Point]] = {}
    for fraction, runs in sorted(ours.items()):
        for run in runs:
            point = (fractions.index(fraction), 100 * run.metrics["accuracy"])
            seeds.setdefault(run.paths.pretraining.seed, {})[fraction] = point
    theirs: dict[float, Point] = {fraction: (fractions.index(fraction), mean) for fraction, mean in means.items()}
    dataset = name_in_paper(published[0].dataset)
    name, alt_text = f"labels-{published[0].dataset}", f"Accuracy in percent on {dataset} by fraction of labels"
    curves, format_axes = _make_curves(seeds, theirs), partial(_format_labels_axis, fractions=fractions)
    panel = plot_curves(name, f"{dataset}, %", alt_text, curves, format_axes, key_name="label fraction")
    study.panels.append(panel)
    _add_deviations(study, dataset, published[0], ours)


def _make_curves(seeds: dict[int, dict[float, Point]], theirs: dict[float, Point]) -> list[Curve]:
    return [Curve("ours", 1, list(seeds.values()), seeds=list(seeds)), Curve("the paper (digitized)", 2, [theirs])]


def _largest_series(
    results: GridResults, published: PublishedResult, setting: str
) -> dict[float, list[EvaluationResult]]:
    """Return our largest series of runs that differ only in `setting` and seed, grouped by the value of `setting`.

    All runs in the series correspond to the paper's study that contains the point `published`.
    """
    runs = [
        run
        for run in results.evaluations
        if has_same_data_and_backbone(published, run)
        and (value := run.pretraining.settings.get(setting)) is not None
        and is_comparable(replace(published, **{setting: value}), run.pretraining.settings, run.settings)
    ]
    series = group_by_other_settings(runs, setting)
    by_value = [group_by(runs, lambda run: run.pretraining.settings[setting]) for runs in series]
    return max(by_value, key=len, default={})


def _add_deviations(
    study: Study, name: str, published: PublishedResult, ours: dict[float, list[EvaluationResult]]
) -> None:
    """Add a note on how our runs deviate from the paper's settings, if they do."""
    texts = []
    for run in (run for runs in ours.values() for run in runs):
        own = replace(published, views=run.pretraining.settings["views"]) if published.views else published
        texts.append(", ".join(deviation.text for deviation in find_run_deviations(own, run)))
    distinct = [text for text in unique(texts) if text]
    if distinct:
        study.notes.append(f"{name}, our runs: {'; '.join(distinct)}.")


def _format_views_axis(axes: Axes, ticks: Sequence[float]) -> None:
    format_view_counts_axis(axes, ticks)
    axes.set_ylabel("points above K = 2")


def _format_labels_axis(axes: Axes, fractions: Sequence[float]) -> None:
    """Space the fractions evenly, because the three smallest ones would coincide on a linear scale."""
    axes.set_xticks(range(len(fractions)), [f"{100 * fraction:g}" for fraction in fractions])
    axes.set_xlabel("labels, %")
    axes.grid(axis="y")
