"""The `views` section: training images and their augmented views."""

from rr.report.grouping import group_by
from rr.report.inputs.collect import GridResults, PretrainResult
from rr.report.plots.image import ByteBudget, ImagePanel, image_panel

_MAX_BYTES = 200_000


def build_view_examples(results: GridResults) -> list[ImagePanel]:
    """Return the images of one run per method and dataset, starting with the runs with the most views.

    With other seeds and backbones, the views differ only in their random parameters.
    """
    groups = group_by(results.pretrainings, lambda run: (run.paths.method, run.paths.dataset))
    budget = ByteBudget(_MAX_BYTES)
    first_runs = sorted((runs[0] for runs in groups.values()), key=lambda run: -(run.settings.get("views") or 0))
    max_scale = 3 if len(first_runs) == 1 else 2
    return [_view_panel(run, budget, max_scale) for run in first_runs]


def _view_panel(run: PretrainResult, budget: ByteBudget, max_scale: int) -> ImagePanel:
    views = run.settings.get("views")
    if views is None:
        caption = "This method does not train anything and uses no views. The images are unaltered training images."
    elif views == 1:
        caption = "The first column shows the originals. The second column shows their only view in the first epoch."
    else:
        caption = (
            "The first column shows the originals. The other columns show views from the first epoch, in which the "
            f"network sees {views} views of each image."
        )
    title = f"{run.paths.method} on {run.paths.dataset}, seed {run.paths.seed}"
    return image_panel(title, caption, run.views_png, run.paths.views, budget, max_scale)
