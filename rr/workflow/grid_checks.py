"""Check before any training whether a grid can be completed: sources, labels and numbers of images.

`rr plan` and `rr doctor` report all problems in the grid. `rr convert` and `rr pretrain` stop if there are any, so that
no training starts for a grid that cannot be completed.
"""

from contextlib import suppress

from rr import paths
from rr.data.printable_names import printable
from rr.errors import UserError
from rr.evaluate.protocol_checks import DatasetLabels, find_protocol_problem
from rr.methods.requirements import find_backbone_problem, find_training_problem, find_weights_problem
from rr.params import ImportedConfig, OwnImagesSource, Params
from rr.params.backbones import BUILTIN_BACKBONES
from rr.params.methods import TrainableConfig
from rr.workflow import grid, stage_runs
from rr.workflow.dataset_labels import find_dataset_labels, must_fetch
from rr.workflow.records import find_current_record, find_local_copy
from rr.workflow.verify import find_changed_source_file


def find_grid_problems(params: Params) -> list[str]:
    """Return one line per reason why runs in the grid cannot succeed: what is wrong, where, and how to fix it.

    If the images of a dataset are not known yet, its labels are not checked. This function does not load torch.
    """
    datasets = {name: find_dataset_labels(params, name) for name in grid.dataset_names(params)}
    problems = [find_changed_source_file(stage_runs.make_fetch_run(params, name)) for name in datasets]
    problems += [_find_source_problem(params, name) for name in datasets]
    evaluations = list(grid.evaluations(params))
    problems += [_find_test_copies_problem(params, name) for name in {run.target: None for run in evaluations}]
    # The problems do not depend on the seed.
    one_run_per_setting = {(run.dataset, run.backbone, run.method): run for run in grid.pretrainings(params)}.values()
    problems += [find_pretraining_problem(params, run, datasets[run.dataset]) for run in one_run_per_setting]
    problems += [_find_image_size_problem(params, evaluation) for evaluation in evaluations]
    for name, protocol in dict.fromkeys((evaluation.target, evaluation.protocol) for evaluation in evaluations):
        if target := datasets[name]:
            problems.append(find_protocol_problem(protocol, params.protocols[protocol], name, target))
    return list(dict.fromkeys(filter(None, problems)))


def _find_source_problem(params: Params, name: str) -> str | None:
    """Return a problem if a user's own images must be fetched, but their path does not exist."""
    source = params.datasets[name].source
    if not isinstance(source, OwnImagesSource) or not must_fetch(params, name):
        return None
    local_copy = find_local_copy(stage_runs.make_fetch_run(params, name))
    with suppress(UserError):  # there is no such user
        if (local_copy and local_copy.exists()) or paths.expand_user(source.path).exists():
            return None
    hint = ": write a path, without variables and URLs" if "$" in source.path or "://" in source.path else ""
    return (
        f"{name} cannot be fetched, because {printable(source.path)} does not exist: fix "
        f"datasets.{name}.source.path in params.yaml{hint}"
    )


def _find_test_copies_problem(params: Params, name: str) -> str | None:
    """Return a problem if most test images of a dataset are also training images, which makes results meaningless."""
    record = find_current_record(stage_runs.make_fetch_run(params, name))
    if not record or record.get("test_copies", 0) <= record["images"]["test"] / 2:
        return None
    return (
        f"{name} cannot be a target, because {record['test_copies']:,} of its {record['images']['test']:,} test images "
        f"have a copy in the training split: fix the splits, or remove {name} from grid.target in params.yaml"
    )


def find_pretraining_problem(params: Params, run: paths.PretrainPaths, dataset: DatasetLabels | None) -> str | None:
    """Return why a pretraining run would fail and how to fix it, or None. This function does not load torch."""
    config = params.methods[run.method]
    image_size = params.datasets[run.dataset].image_size
    if isinstance(config, ImportedConfig):
        problem = find_weights_problem(config, run.backbone, image_size)
        return f"methods.{run.method}: {problem}" if problem else None
    initial = config.initial_weights if isinstance(config, TrainableConfig) else None
    if initial and (problem := find_weights_problem(initial, run.backbone, image_size)):
        return f"methods.{run.method}.initial_weights: {problem}"
    problem = find_backbone_problem(config, run.backbone)
    if dataset and not problem:
        problem = find_training_problem(config, dataset.train_labels, len(dataset.class_names))
    return f"{run.method} cannot be trained on {run.dataset}, because {problem}" if problem else None


def _find_image_size_problem(params: Params, run: paths.EvaluationPaths) -> str | None:
    """Return why a backbone cannot be evaluated on images of the target's size, or None if it can."""
    sizes = [params.datasets[name].image_size for name in (run.pretraining.dataset, run.target)]
    if run.pretraining.backbone in BUILTIN_BACKBONES or sizes[0] == sizes[1]:
        return None
    return (
        f"{run.pretraining.backbone} trained on {run.pretraining.dataset} cannot be evaluated on {run.target}: the "
        f"backbone is built for images of {sizes[0]} x {sizes[0]} pixels, but the image_size of {run.target} is "
        f"{sizes[1]}: set the same image_size for both datasets in params.yaml"
    )
