"""List the stage runs of the grid, with the parameters and files that each run depends on.

The Snakefile, the records and `rr verify` use this module. `dvc.yaml` has to repeat this list in YAML, and a test
checks that the two agree.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rr import paths
from rr.params import Params, lookup
from rr.params.extensions import extension_module_files, is_extension_kind
from rr.workflow.grid import dataset_names, evaluations, extractions, pretrainings

# Dotted paths into params.yaml. A name in braces stands for the value of that option on the stage's command line. The
# `backbones` section has entries only for user-defined networks.
STAGE_PARAMETERS = {
    "fetch": ("datasets.{dataset}.source",),
    "convert": ("datasets.{dataset}",),
    "pretrain": ("threads", "precision", "dynamics", "methods.{method}", "backbones.{backbone}"),
    "extract": ("threads",),
    "evaluate": ("threads", "protocols.{protocol}"),
    "report": ("grid",),
}


class StageRun(NamedTuple):
    """A run of one stage: its folder, the parameters and inputs that determine its result, and its output files.

    `extension_module_files` are the files with the user-defined classes, if the run uses any. `names` are the
    names in the dotted paths of the parameters, such as {"dataset": "cifar10"}.
    """

    stage: str
    folder: Path
    params: dict[str, Any]
    inputs: list[Path]
    outputs: list[Path]
    extension_module_files: tuple[Path, ...] = ()
    names: Mapping[str, str] = MappingProxyType({})


def stage_params(params: Params, stage: str, **names: str) -> dict[str, Any]:
    """Return the parameters that `stage` depends on, as JSON values by dotted path.

    `names` are the values of the options on the stage's command line, such as dataset="cifar10".

    Raises:
        UserError: if a name is unknown.
    """
    values = {}
    for template in STAGE_PARAMETERS[stage]:
        value: Any = params
        keys = [part.format(**names) for part in template.split(".")]
        if keys[0] == "backbones" and keys[1] not in params.backbones:
            continue
        for depth, key in enumerate(keys):
            value = getattr(value, key) if isinstance(value, BaseModel) else lookup(value, key, ".".join(keys[:depth]))
        values[".".join(keys)] = to_jsonable_python(value)
    return values


def stage_extension_module_files(params: Params, stage: str, **names: str) -> list[Path]:
    """Return the files with the user-defined classes that a run uses, as paths relative to the project.

    Args:
        params: all parameters.
        stage: name of the stage.
        **names: the values of the options on the stage's command line, such as dataset="cifar10".

    Raises:
        ValueError: if a name is unknown, or if a module is missing.
    """
    entries: list[Any] = []
    if stage == "fetch":
        entries.append(lookup(params.datasets, names["dataset"], "datasets").source)
    if stage == "pretrain":
        entries.append(lookup(params.methods, names["method"], "methods"))
    if stage == "evaluate":
        entries.append(lookup(params.protocols, names["protocol"], "protocols"))
    if stage in ("pretrain", "extract", "evaluate"):
        entries.append(params.backbones.get(names["backbone"]))
    return [
        file
        for entry in entries
        if entry and is_extension_kind(entry.kind)
        for file in extension_module_files(entry.kind)
    ]


def _make_run(
    params: Params, stage: str, folder: Path, inputs: list[Path], outputs: list[Path], **names: str
) -> StageRun:
    values, files = stage_params(params, stage, **names), stage_extension_module_files(params, stage, **names)
    return StageRun(stage, folder, values, inputs, outputs, tuple(dict.fromkeys(files)), names)


def make_fetch_run(params: Params, dataset: str) -> StageRun:
    """Return the `fetch` run for a dataset."""
    files = paths.DatasetPaths(dataset)
    return _make_run(params, "fetch", files.raw_dir, [], [files.images], dataset=dataset)


def make_convert_run(params: Params, dataset: str) -> StageRun:
    """Return the `convert` run for a dataset."""
    files = paths.DatasetPaths(dataset)
    outputs = [*files.betons.values(), files.index]
    return _make_run(params, "convert", files.beton_dir, [files.images], outputs, dataset=dataset)


def make_pretrain_run(params: Params, run: paths.PretrainPaths) -> StageRun:
    """Return the `pretrain` run that writes the files of `run`."""
    dataset = paths.DatasetPaths(run.dataset)
    inputs = [dataset.betons["train"], dataset.index]
    outputs = [run.weights, run.last_epoch, run.history, run.views]
    names = {"method": run.method, "backbone": run.backbone}
    return _make_run(params, "pretrain", run.folder, inputs, outputs, **names)


def make_extract_run(params: Params, run: paths.FeaturePaths) -> StageRun:
    """Return the `extract` run that writes the files of `run`."""
    target = paths.DatasetPaths(run.target)
    inputs = [run.pretraining.weights, *target.betons.values(), target.index]
    return _make_run(params, "extract", run.folder, inputs, [run.features], backbone=run.pretraining.backbone)


def make_evaluate_run(params: Params, run: paths.EvaluationPaths) -> StageRun:
    """Return the `evaluate` run that writes the files of `run`.

    Its inputs include everything that any protocol needs, because all stages in a DVC matrix have the same
    dependencies.
    """
    target = paths.DatasetPaths(run.target)
    inputs = [run.extraction.features, run.pretraining.weights, *target.betons.values(), target.index]
    outputs = [run.metrics, run.predictions, run.confusion, run.examples]
    names = {"backbone": run.pretraining.backbone, "protocol": run.protocol}
    return _make_run(params, "evaluate", run.folder, inputs, outputs, **names)


def make_report_run(params: Params) -> StageRun:
    """Return the `report` run, whose inputs are files from all pretraining runs, extractions and evaluations."""
    inputs: list[Path] = []
    for run in pretrainings(params):
        inputs += [run.history, run.views, paths.record_file(run.folder)]
    inputs += [paths.record_file(extraction.folder) for extraction in extractions(params)]
    for evaluation in evaluations(params):
        inputs += [evaluation.metrics, evaluation.predictions, evaluation.examples]
        inputs.append(paths.record_file(evaluation.folder))
    return StageRun("report", paths.REPORT_DIR, stage_params(params, "report"), inputs, paths.REPORT_FILES)


def iter_stage_runs(params: Params) -> Iterator[StageRun]:
    """Yield all stage runs in the grid, each one after the runs that it depends on."""
    for name in dataset_names(params):
        yield make_fetch_run(params, name)
        yield make_convert_run(params, name)
    for run in pretrainings(params):
        yield make_pretrain_run(params, run)
    for extraction in extractions(params):
        yield make_extract_run(params, extraction)
    for evaluation in evaluations(params):
        yield make_evaluate_run(params, evaluation)
    yield make_report_run(params)
