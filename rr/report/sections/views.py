"""Section `views`: training images and their augmented views."""

from rr.report.grouping import group_by
from rr.report.inputs.collect import GridResults, PretrainResult
from rr.report.plots.image import ImagePanel, image_panel


def build_view_examples(results: GridResults) -> list[ImagePanel]:
    """Return the images of one run per method and dataset.

    With other seeds and backbones, the views differ only in their random parameters.
    """
    groups = group_by(results.pretrainings, lambda run: (run.paths.method, run.paths.dataset))
    return [_view_panel(runs[0]) for runs in groups.values()]


def _view_panel(run: PretrainResult) -> ImagePanel:
    views = run.settings.get("views")
    if views is None:
        caption = "This method trains nothing and uses no views. The images are unaltered training images."
    elif views == 1:
        caption = "The first column shows the originals. The second column shows their only view in the first epoch."
    else:
        caption = (
            "The first column shows the originals. The other columns show views of the first epoch, in which the "
            f"network sees {views} views of each image."
        )
    title = f"{run.paths.method} on {run.paths.dataset}, seed {run.paths.seed}"
    return image_panel(title, caption, run.views_png, run.paths.views)
