"""Section `views`: training images and their augmented views."""

from rr.report.grouping import group_by
from rr.report.inputs.collect import GridResults, PretrainResult
from rr.report.plots.image import ImagePanel, image_panel


def build_views(results: GridResults) -> list[ImagePanel]:
    """Return an image for each method and dataset; other seeds and backbones differ only in random parameters."""
    groups = group_by(results.pretrainings, lambda run: (run.paths.method, run.paths.dataset))
    return [_view_panel(runs[0]) for runs in groups.values()]


def _view_panel(run: PretrainResult) -> ImagePanel:
    views = run.settings.get("views")
    if views is None:
        caption = "This method trains nothing and uses no views: these are unaltered training images."
    elif views == 1:
        caption = "Left: the original. Right: its only view, as the network sees it in the first epoch."
    else:
        caption = (
            f"First column: the originals. Other columns: their views as the network sees them, {views} at a time."
        )
    title = f"{run.paths.method} on {run.paths.dataset}, seed {run.paths.seed}"
    return image_panel(title, caption, run.views_png, run.paths.views)
