"""Pictures of stages that the page holds itself: views, and the nearest of a query."""

from collections.abc import Sequence

from rr.report.inputs.collect import Run
from rr.report.plots.picture import Sheet, sheet


def views(every: Sequence[Run]) -> list[Sheet]:
    """One sheet per method and data set: the other seeds and backbones differ in the draw alone."""
    first: dict[tuple[str, str], Run] = {}
    for run in every:
        first.setdefault((run.cell.method, run.cell.dataset), run)
    return [_views(run) for run in first.values()]


def _views(run: Run) -> Sheet:
    count = run.settings.get("views")
    if count is None:
        caption = "Nothing is trained, so no view is drawn: these are pictures of the training split as they are."
    elif count == 1:
        caption = "Left the original, right the one view of it that the network sees in the first epoch."
    else:
        caption = f"First column: the originals. Beside each: its views as the network sees them, {count} at a time."
    title = f"{run.cell.method} on {run.cell.dataset}, seed {run.cell.seed}"
    return sheet(title, caption, run.views, run.cell.views)
