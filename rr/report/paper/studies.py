"""The paper's two studies as plots with our results: the number of views (K) and the fraction of labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes

from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import EvaluationResult, GridResults, PretrainResult
from rr.report.paper.match import is_comparable, is_same_data
from rr.report.paper.published import PublishedResult, display_name, load_published
from rr.report.paper.settings import find_deviations
from rr.report.plots.curves import Curve, Point, plot_curves
from rr.report.plots.svg import Panel
from rr.runtime.hashing import json_sha256

_VIEWS_CAPTION = (
    "Linear evaluation, Conv-4 on CIFAR-10: accuracy minus the accuracy with K = 2 of the same seed, in percentage "
    "points. The paper’s points are read from its figure, to about 0.05."
)
_LABELS_CAPTION = (
    "Linear evaluation with all labels, ResNet-32: accuracy in percent by the percentage of labels that supply "
    "positive pairs in pretraining. The paper’s points above 0 % are read from its figure, to about 0.25. How the "
    "paper used the labels is unknown."
)
_BASE_VIEWS = 2  # the K that all others are compared with
Run = tuple[PretrainResult, EvaluationResult]


@dataclass(frozen=True)
class Study:
    """One study: its plots, and notes on missing curves and on deviations from the paper's settings."""

    title: str
    caption: str
    panels: list[Panel]
    notes: list[str]


def build_studies(results: GridResults) -> list[Study]:
    """Return the studies for which the grid has at least two values of one method and data set."""
    published = load_published()
    by_views = [_plot_views(results, [r for r in published if r.experiment == name]) for name in ("K1", "K2", "K3")]
    by_labels = [
        _plot_labels(
            results,
            [
                result
                for result in published
                if result.label_fraction is not None and result.dataset == dataset and result.status != "unconfirmed"
            ],
        )
        for dataset in ("cifar10", "cifar100")
    ]
    studies = [
        _make_study("Number of views", _VIEWS_CAPTION, by_views),
        _make_study("Fraction of labels in pretraining", _LABELS_CAPTION, by_labels),
    ]
    return [study for study in studies if study.panels or study.notes]


def _make_study(title: str, caption: str, plots: Sequence[tuple[Panel | None, str]]) -> Study:
    return Study(title, caption, [panel for panel, _ in plots if panel], [note for _, note in plots if note])


def _plot_views(results: GridResults, published: Sequence[PublishedResult]) -> tuple[Panel | None, str]:
    """Return the plot of one method of the study of views, and a note."""
    ours = _largest_series(results, published[0], "views")
    ours = {views: ours[views] for views in sorted(ours) if views >= _BASE_VIEWS}
    if len(ours) < 2:
        return None, ""
    method = display_name(published[0].method)
    if _BASE_VIEWS not in ours:
        return None, f"{method}: this grid has no run with K = {_BASE_VIEWS} to compare with."
    base = {pretraining.paths.seed: run.metrics["accuracy"] for pretraining, run in ours[_BASE_VIEWS]}
    seeds: dict[int, dict[float, Point]] = {seed: {} for seed in base}
    for views, runs in ours.items():
        for pretraining, run in runs:
            seed = pretraining.paths.seed
            if seed in base:
                seeds[seed][views] = (views, 100 * (run.metrics["accuracy"] - base[seed]))
    theirs = {float(r.views): (float(r.views), r.mean) for r in published if r.views and r.mean is not None}
    panel = plot_curves(
        f"views-{published[0].method}",
        method,
        f"Accuracy of {method} above that with K = 2, in points, against K",
        [Curve("here", 1, list(seeds.values())), Curve("the paper (digitized)", 2, [theirs])],
        _views_format(sorted({*ours, *theirs})),
    )
    return panel, _deviation_note(method, published[0], ours)


def _plot_labels(results: GridResults, published: Sequence[PublishedResult]) -> tuple[Panel | None, str]:
    """Return the plot of one data set of the study of labels, and a note."""
    ours = _largest_series(results, published[0], "label_fraction")
    if len(ours) < 2:
        return None, ""
    theirs = {r.label_fraction: r.mean for r in published if r.label_fraction is not None and r.mean is not None}
    fractions = sorted({*ours, *theirs})
    seeds: dict[int, dict[float, Point]] = {}
    for fraction, runs in sorted(ours.items()):
        for pretraining, run in runs:
            point = (fractions.index(fraction), 100 * run.metrics["accuracy"])
            seeds.setdefault(pretraining.paths.seed, {})[fraction] = point
    their_points: dict[float, Point] = {
        fraction: (fractions.index(fraction), mean) for fraction, mean in theirs.items()
    }
    dataset = display_name(published[0].dataset)
    panel = plot_curves(
        f"labels-{published[0].dataset}",
        f"{dataset}, %",
        f"Accuracy on {dataset} in percent against the fraction of labels",
        [Curve("here", 1, list(seeds.values())), Curve("the paper (digitized)", 2, [their_points])],
        _labels_format(fractions),
    )
    return panel, _deviation_note(dataset, published[0], ours)


def _largest_series(results: GridResults, published: PublishedResult, setting: str) -> dict[float, list[Run]]:
    """Return our runs by the value of `setting`. All other settings are equal; the largest such series is returned."""
    pretrainings = {run.paths: run for run in results.pretrainings}
    runs = [(pretrainings[run.paths.pretraining], run) for run in results.evaluations if is_same_data(published, run)]
    comparable = [
        (pretraining, run)
        for pretraining, run in runs
        if setting in pretraining.settings
        and is_comparable(
            replace(published, **{setting: pretraining.settings[setting]}), pretraining.settings, run.settings
        )
    ]
    series = group_by(
        comparable, lambda pair: json_sha256([pair[0].settings | {setting: None}, pair[1].paths.protocol])
    )
    by_value = [group_by(pairs, lambda pair: pair[0].settings[setting]) for pairs in series.values()]
    return max(by_value, key=len, default={})


def _deviation_note(name: str, published: PublishedResult, ours: dict[float, list[Run]]) -> str:
    """Return a sentence on the deviations of our runs from the paper's settings; empty if there are none."""
    texts = []
    for pretraining, run in (pair for pairs in ours.values() for pair in pairs):
        own = replace(published, views=pretraining.settings["views"]) if published.views else published
        deviations = find_deviations(own, pretraining.settings, run.settings, pretraining.precision)
        texts.append(", ".join(deviation.text for deviation in deviations))
    distinct = [text for text in unique(texts) if text]
    return f"{name}, our runs: {'; '.join(distinct)}." if distinct else ""


def _views_format(ticks: Sequence[float]) -> Callable[[Axes], None]:
    def format_axes(axes: Axes) -> None:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("views of an image, K")
        axes.set_ylabel("points above K = 2")
        axes.grid(axis="y")

    return format_axes


def _labels_format(fractions: Sequence[float]) -> Callable[[Axes], None]:
    """Return a format with equal steps, because the three smallest fractions would coincide on a linear scale."""

    def format_axes(axes: Axes) -> None:
        axes.set_xticks(range(len(fractions)), [f"{100 * fraction:g}" for fraction in fractions])
        axes.set_xlabel("labels, %")
        axes.grid(axis="y")

    return format_axes
