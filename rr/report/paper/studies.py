"""The paper's two studies as curves, ours beside the paper's: the number of views (K), and the share of labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes

from rr.report.inputs.collect import Collected, Run, Score
from rr.report.paper.match import departures, measures
from rr.report.paper.published import Figure, figures, word
from rr.report.plots.curves import Line, line_panel
from rr.report.plots.svg import Panel
from rr.report.tables import unique
from rr.runtime.hashing import digest

_VIEWS = (
    "Linear evaluation, Conv-4 on CIFAR-10: accuracy in percentage points above that with K = 2 of the same seed. The "
    "paper’s points are read off its figure, to about 0.05."
)
_LABELS = (
    "Linear evaluation with all labels, ResNet-32: accuracy in percent, by the percent of labels that supply positive "
    "pairs. The paper’s points above 0 % are read off its figure, to about 0.25; how it used the labels is not known."
)
_FIRST = 2  # the K that all others are compared with


@dataclass(frozen=True)
class Study:
    """One study: its panels, and in what ours differ from the paper's or why a curve is absent, a sentence each."""

    title: str
    caption: str
    panels: list[Panel]
    notes: list[str]


def studies(grid: Collected) -> list[Study]:
    """The studies of which the grid holds at least two values for one method and data set."""
    views = Study("Number of views", _VIEWS, [], [])
    labels = Study("Share of labels in pretraining", _LABELS, [], [])
    for experiment in ("K1", "K2", "K3"):
        _add_views(views, grid, [one for one in figures() if one.experiment == experiment])
    for data in ("cifar10", "cifar100"):
        of_labels = [one for one in figures() if one.labelled is not None and one.dataset == data]
        _add_labels(labels, grid, [one for one in of_labels if one.status != "unconfirmed"])
    return [study for study in (views, labels) if study.panels or study.notes]


def _add_views(study: Study, grid: Collected, printed: Sequence[Figure]) -> None:
    ours = _largest(grid, printed[0], "views")
    ours = {k: ours[k] for k in sorted(ours) if k >= _FIRST}
    if len(ours) < 2:
        return
    method = word(printed[0].method)
    if _FIRST not in ours:
        study.notes.append(f"{method}: this grid has no K = {_FIRST} to compare with.")
        return
    first = {run.cell.seed: score.metrics["accuracy"] for run, score in ours[_FIRST]}
    seeds: dict[int, dict[float, tuple[float, float]]] = {seed: {} for seed in first}
    for k, made in ours.items():
        for run, score in made:
            if run.cell.seed in first:
                gain = 100 * (score.metrics["accuracy"] - first[run.cell.seed])
                seeds[run.cell.seed][k] = (k, gain)
    theirs = {float(one.views): (float(one.views), one.mean) for one in printed if one.views and one.mean is not None}
    lines = [Line("here", 1, list(seeds.values())), Line("the paper (digitised)", 2, [theirs])]
    spoken = f"Accuracy of {method} above K = 2, in points, against K"
    study.panels.append(
        line_panel(f"views-{printed[0].method}", method, spoken, lines, _views_axis(sorted({*ours, *theirs})))
    )
    _add_note(study, method, printed[0], ours)


def _add_labels(study: Study, grid: Collected, printed: Sequence[Figure]) -> None:
    ours = _largest(grid, printed[0], "labelled")
    if len(ours) < 2:
        return
    theirs = {one.labelled: one.mean for one in printed if one.labelled is not None and one.mean is not None}
    shares = sorted({*ours, *theirs})
    seeds: dict[int, dict[float, tuple[float, float]]] = {}
    for share, made in sorted(ours.items()):
        for run, score in made:
            seeds.setdefault(run.cell.seed, {})[share] = (shares.index(share), 100 * score.metrics["accuracy"])
    lines = [
        Line("here", 1, list(seeds.values())),
        Line("the paper (digitised)", 2, [{share: (shares.index(share), mean) for share, mean in theirs.items()}]),
    ]
    data = word(printed[0].dataset)
    spoken = f"Accuracy on {data} in percent against the share of labels"
    study.panels.append(line_panel(f"labels-{printed[0].dataset}", f"{data}, %", spoken, lines, _shares_axis(shares)))
    _add_note(study, data, printed[0], ours)


def _largest(grid: Collected, figure: Figure, setting: str) -> dict[float, list[tuple[Run, Score]]]:
    """Our runs by the value of `setting`, of those that differ in nothing else; of several such sets the largest."""
    runs = {run.cell: run for run in grid.runs}
    sets: dict[str, dict[float, list[tuple[Run, Score]]]] = {}
    for score in grid.scores:
        run = runs[score.cell.pretraining]
        place = (run.cell.dataset, run.cell.backbone, score.cell.target)
        if place != (figure.dataset, figure.backbone, figure.target) or setting not in run.settings:
            continue
        value = run.settings[setting]
        if measures(replace(figure, **{setting: value}), run.settings, score.settings):
            others = digest([run.settings | {setting: None}, score.cell.protocol])
            sets.setdefault(others, {}).setdefault(value, []).append((run, score))
    return max(sets.values(), key=len, default={})


def _add_note(study: Study, name: str, figure: Figure, ours: dict[float, list[tuple[Run, Score]]]) -> None:
    made = [pair for several in ours.values() for pair in several]
    own = [replace(figure, views=run.settings["views"]) if figure.views else figure for run, _ in made]
    words = unique(", ".join(departures(one, run, score)) for one, (run, score) in zip(own, made, strict=True))
    if any(words):
        study.notes.append(f"{name}, here: {'; '.join(filter(None, words))}.")


def _views_axis(ks: Sequence[float]) -> Callable[[Axes], None]:
    def frame(axes: Axes) -> None:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [f"{k:g}" for k in ks])
        axes.minorticks_off()
        axes.set_xlabel("views of a picture, K")
        axes.set_ylabel("points above K = 2")
        axes.grid(axis="y")

    return frame


def _shares_axis(shares: Sequence[float]) -> Callable[[Axes], None]:
    """Equal steps: on a true scale the three smallest shares would be one."""

    def frame(axes: Axes) -> None:
        axes.set_xticks(range(len(shares)), [f"{100 * share:g}" for share in shares])
        axes.set_xlabel("labels, %")
        axes.grid(axis="y")

    return frame
