"""Run the commands of `rr`: look up the parameters, check the inputs, do the work and write the record.

The functions that do the work take values and paths, and do not read `params.yaml`. They are imported inside the
functions here, because torch and FFCV take seconds to load.

Every `run_` function returns a message for the user (`run_plan` also returns problems), and raises UserError if a name
is unknown or an input is missing, damaged or outdated.
"""

import random
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rr import paths
from rr.compute.distributed import process_group, require_single_process, translate_comm_errors
from rr.errors import UserError, format_alternatives
from rr.params import BackboneName, DatasetConfig, Params, load_params
from rr.params.methods import TrainableConfig
from rr.runtime.gpu_lock import acquire_device
from rr.runtime.hashing import json_sha256
from rr.runtime.local_copy import ensure_local_copy
from rr.runtime.machine import describe_machine, package_versions
from rr.runtime.malloc import keep_freed_memory
from rr.workflow import grid
from rr.workflow.checks import (
    find_grid_problems,
    find_machine_problems,
    find_memory_problem,
    find_pretraining_problem,
    runs_on_cluster,
)
from rr.workflow.records import load_record, record_run
from rr.workflow.sync import register_run, sync_engines, was_started_by_user
from rr.workflow.verify import describe_grid_changed_files, describe_grid_mismatches

if TYPE_CHECKING:
    from rr.pretrain import Job


def run_fetch(dataset: str, local_copy: Path | None, params_file: Path) -> str:
    """Fetch the images of a dataset into `data/raw`. `local_copy`, if given, is read instead of the source."""
    require_single_process("fetch")
    params = load_params(params_file)
    config = _lookup(params, "datasets", dataset)
    files = paths.DatasetPaths(dataset)
    run = grid.make_fetch_run(params, dataset)
    if local_copy and config.source.kind == "shapes":
        raise UserError(f"--from {local_copy}: the images of {dataset} are generated, not read; omit --from")
    if not local_copy and (former := _former_local_copy(run)):
        record_file = paths.record_file(run.folder)
        if former.exists():
            local_copy = former
            print(f"fetch: reading the local copy {former} again, because {record_file} names it", file=sys.stderr)
        else:
            print(
                f"fetch: using the source in {params_file}, because the local copy {former}, which {record_file} "
                "names, no longer exists",
                file=sys.stderr,
            )
    with record_run(run) as recorder:
        from rr.fetch import describe, fetch

        facts = recorder.facts = fetch(config.source, files.images, files.download_dir, local_copy)
        if local_copy:
            facts["local_copy"] = str(local_copy.expanduser().absolute())
    _register_with_engines(run, params_file)
    return f"{files.images}: {describe(facts)}"


def run_convert(dataset: str, params_file: Path) -> str:
    """Write the betons and the index of a dataset."""
    require_single_process("convert")
    params = load_params(params_file)
    config = _lookup(params, "datasets", dataset)
    files = paths.DatasetPaths(dataset)
    if dataset in grid.dataset_names(params):
        _check_grid(find_grid_problems(params), params_file)
    run = grid.make_convert_run(params, dataset)
    with record_run(run) as recorder:
        from rr.convert import convert

        recorder.facts = convert(files.images, config.image_size, files.betons, files.index)
    _register_with_engines(run, params_file)
    return f"{files.beton_dir}: {_format_counts(recorder.facts)}, {config.image_size} x {config.image_size} pixels"


def run_pretrain(dataset: str, backbone: str, method: str, seed: int, device: str, params_file: Path) -> str:
    """Pretrain a backbone, or continue an interrupted pretraining, in one process or in all processes of torchrun.

    The message is empty in all processes but the main one.
    """
    with process_group() as group:
        params = load_params(params_file)
        _lookup(params, "methods", method)
        _lookup(params, "datasets", dataset)
        run, files = _pretrain_paths(dataset, backbone, method, seed), paths.DatasetPaths(dataset)
        device = group.local_device(acquire_device(device))
        _check_pretraining(params, run, device, group.world_size, params_file)
        stage_run = grid.make_pretrain_run(params, run)
        with record_run(stage_run, is_main=group.is_main) as recorder, translate_comm_errors():
            from rr.compute import device as devices
            from rr.data.index import read_class_names
            from rr.pretrain import pretrain
            from rr.pretrain.checkpoint import delete_checkpoints

            devices.configure_backends(params.threads)
            keep_freed_memory()
            group.check_identical(
                {
                    "parameters": json_sha256([recorder.params, dataset, backbone, method, seed]),
                    "data": json_sha256(recorder.inputs),
                    "code": json_sha256(recorder.code),
                    "versions": json_sha256(package_versions()),
                    "device": device.partition(":")[0],
                }
            )
            num_classes = len(read_class_names(files.index))
            job = _make_job(params, run, num_classes, recorder.fingerprint(backbone=backbone, seed=seed))
            beton = files.betons["train"]
            beton = ensure_local_copy(beton, recorder.inputs[str(beton)])
            facts = pretrain(job, beton, run, device=device, threads=params.threads, group=group)
            recorder.facts = {"device": devices.device_name(device), "processes": group.world_size, **facts}
        if not group.is_main:
            return ""
        # The checkpoints are needed until all outputs and their record have been written.
        delete_checkpoints(run.checkpoint)
    _register_with_engines(stage_run, params_file)
    summary = f"{facts['views']:,} views, {facts['views_per_second']:,} per second" if facts["views"] else "no training"
    return f"{run.weights}: {summary}"


def run_evaluate(
    dataset: str, backbone: str, method: str, seed: int, target: str, protocol: str, device: str, params_file: Path
) -> str:
    """Evaluate a pretrained backbone on the dataset `target` with a protocol."""
    require_single_process("evaluate")
    params = load_params(params_file)
    protocol_config = _lookup(params, "protocols", protocol)
    dataset_config = _lookup(params, "datasets", target, "--target")
    run = paths.EvaluationPaths(_pretrain_paths(dataset, backbone, method, seed), target, protocol)
    files = paths.DatasetPaths(target)
    device = acquire_device(device)
    stage_run = grid.make_evaluate_run(params, run)
    with record_run(stage_run) as recorder:
        from rr.compute import device as devices
        from rr.data.index import read_class_names
        from rr.evaluate.stage import Target, evaluate

        devices.configure_backends(params.threads)
        keep_freed_memory()
        betons = {split: ensure_local_copy(path, recorder.inputs[str(path)]) for split, path in files.betons.items()}
        target_data = Target(dataset_config, betons, read_class_names(files.index))
        metrics = evaluate(protocol_config, target_data, run, seed=seed, device=device, threads=params.threads)
        recorder.facts = {"device": devices.device_name(device)}
    _register_with_engines(stage_run, params_file)
    name, value = next(iter(metrics.items()))
    return f"{run.metrics}: {name.replace('_', ' ')} {value:.4f}"


def run_report(params_file: Path) -> str:
    """Write the report.

    Raises:
        UserError: if a file on which the report depends has changed since its run.
    """
    require_single_process("report")
    params = load_params(params_file)
    messages = describe_grid_changed_files(params)
    if messages:
        messages.append("no report was written: update these files with `dvc repro` or `snakemake --cores 8`")
        raise UserError("\n".join(messages))
    run = grid.make_report_run(params)
    with record_run(run):
        from rr.report.stage import write_report

        write_report(params)
    _register_with_engines(run, params_file)
    return f"report: {paths.REPORT_FILES[0].resolve()}"


def run_plan(
    suite_names: list[str], views_per_second: float | None, gpus: int, device: str, params_file: Path
) -> tuple[str, list[str]]:
    """Count the runs and views of a grid, estimate the time that it takes, and check it.

    Args:
        suite_names: suites to plan; if empty, the grid of `params_file`.
        views_per_second: throughput to assume for every run. If None, it is measured on this machine.
        gpus: number of GPUs; each trains one run at a time.
        device: device for the measurement.
        params_file: parameter file.

    Returns:
        The plan, and a line for each problem of the grid. The memory and the disk of this machine are checked only if
        the throughput is measured on it.
    """
    from rr.workflow import suites
    from rr.workflow.plan import format_plan
    from rr.workflow.throughput import measure_throughput

    if suite_names:
        params_file = suites.merge_suites({name: suites.load_suite(name) for name in suite_names}, params_file)
    params = load_params(params_file)
    problems = find_grid_problems(params)
    if views_per_second is not None:
        return format_plan(params, lambda _, runs: dict.fromkeys(runs, views_per_second), gpus), problems
    device = acquire_device(device)
    problems += find_machine_problems(params, device)
    return format_plan(params, partial(measure_throughput, device=device), gpus), problems


def run_verify(recompute: bool, device: str, params_file: Path) -> str:
    """Compare every artifact of the grid with its record.

    Args:
        recompute: whether to also repeat the last epoch of a random pretraining run.
        device: device for the repeated epoch.
        params_file: parameter file.

    Raises:
        UserError: if any artifact does not match. The message lists all mismatches.
    """
    params = load_params(params_file)
    messages = describe_grid_mismatches(params)
    if messages:
        messages.append(f"mismatches: {len(messages)}; update these files with `dvc repro` or `snakemake --cores 8`")
        raise UserError("\n".join(messages))
    message = "verify: every artifact matches its record"
    return f"{message}\n{_recompute_random_run(params, acquire_device(device))}" if recompute else message


def _recompute_random_run(params: Params, device: str) -> str:
    """Repeat the last epoch of a random pretraining run of the grid, and return a message with the result.

    Raises:
        UserError: if the grid has no run that was trained, or if the results differ from those of the run.
    """
    runs = [run for run in grid.pretrainings(params) if isinstance(params.methods[run.method], TrainableConfig)]
    if not runs:
        raise UserError("--recompute: no method of the grid is trained, so there is no epoch to repeat")
    run = random.choice(runs)
    from rr.compute.device import configure_backends, device_name
    from rr.data.index import read_class_names
    from rr.workflow.recompute import find_difference, recompute_last_epoch

    configure_backends(params.threads)
    record = load_record(run.folder)
    files = paths.DatasetPaths(run.dataset)
    job = _make_job(params, run, len(read_class_names(files.index)))
    epoch = recompute_last_epoch(job, files.betons["train"], run, device=device, threads=params.threads)
    machine = describe_machine()
    same_device = (record["device"], record["processes"]) == (device_name(device), 1)
    same_machine = all(record["machine"][key] == machine[key] for key in ("processor", "versions"))
    title = f"epoch {epoch.recorded['epoch']} of {run.folder}"
    if problem := find_difference(epoch, exact=same_device and same_machine):
        raise UserError(f"{title} gives another result when it is repeated: {problem}")
    if epoch.is_identical:
        return f"verify: {title} was repeated and gives the same loss, accuracy and weights, bit for bit"
    return (
        f"verify: {title} was repeated and gives the same loss and accuracy within the tolerance for another machine "
        "or other package versions"
    )


def run_sync(engine: str | None, params_file: Path) -> str:
    """Register the runs that match their records with both engines, or those of `engine` with the other one."""
    registered, total = sync_engines(engine, load_params(params_file))
    left_out = "" if registered == total else "; `rr verify` lists why the others were not"
    return f"sync: {registered} of {total} runs were registered{left_out}"


def lookup_dataset(name: str, params_file: Path) -> DatasetConfig:
    """Return the section of a dataset in the parameter file.

    Raises:
        UserError: if `name` is unknown.
    """
    return _lookup(load_params(params_file), "datasets", name)


def _lookup(params: Params, section: str, name: str, option: str | None = None) -> Any:
    configs = getattr(params, section)
    if name not in configs:
        raise UserError(
            f"{option or f'--{section[:-1]}'} {name}: not in params.yaml; {format_alternatives(name, configs)}"
        )
    return configs[name]


def _make_job(params: Params, run: paths.PretrainPaths, num_classes: int, fingerprint: str = "") -> "Job":
    """Return the description of a pretraining run."""
    from rr.pretrain import Job

    return Job(
        dataset=params.datasets[run.dataset],
        backbone=run.backbone,
        method=params.methods[run.method],
        num_classes=num_classes,
        seed=run.seed,
        precision=params.precision,
        dynamics=params.dynamics,
        fingerprint=fingerprint,
    )


def _check_pretraining(
    params: Params, run: paths.PretrainPaths, device: str, num_processes: int, params_file: Path
) -> None:
    """Raise UserError if a pretraining run cannot succeed or, if it belongs to the grid, if any run of the grid cannot.

    On a cluster or with several processes, other runs may have more memory, so only the memory for this run is checked.
    """
    if run not in grid.pretrainings(params):
        problems = [find_pretraining_problem(params, run), find_memory_problem(params, run, device, num_processes)]
        if any(problems):
            raise UserError("\n".join(filter(None, problems)))
    elif runs_on_cluster() or num_processes > 1:
        own_problem = find_memory_problem(params, run, device, num_processes)
        _check_grid([*find_grid_problems(params), *([own_problem] if own_problem else [])], params_file)
    else:
        _check_grid([*find_grid_problems(params), *find_machine_problems(params, device)], params_file)


def _check_grid(problems: list[str], params_file: Path) -> None:
    """Raise UserError if the grid has problems."""
    if problems:
        raise UserError(
            "\n".join([f"the grid of {params_file} cannot be completed, so nothing was started:", *problems])
        )


def _former_local_copy(run: grid.StageRun) -> Path | None:
    """Return the path of the local copy from which the current images were fetched, or None.

    An engine that repeats the stage runs it without `--from`. A local copy replaces the kind and the path of a source,
    so only a change of one of these means that the local copy is not to be used any more.
    """
    try:
        record = load_record(run.folder)
    except UserError:  # missing or damaged
        return None
    path = record.get("local_copy")
    return Path(path) if path and _kind_and_path(record["params"]) == _kind_and_path(run.params) else None


def _kind_and_path(fetch_params: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(source["kind"], source.get("path")) for source in fetch_params.values()]


def _register_with_engines(run: grid.StageRun, params_file: Path) -> None:
    """Register a finished run with DVC and Snakemake if a user started it. Both read only `params.yaml`."""
    if was_started_by_user() and params_file.resolve() == paths.PARAMS_FILE.resolve():
        register_run(run, load_params(params_file))


def _pretrain_paths(dataset: str, backbone: str, method: str, seed: int) -> paths.PretrainPaths:
    if backbone not in get_args(BackboneName):
        raise UserError(
            f"--backbone {backbone}: unknown backbone; {format_alternatives(backbone, get_args(BackboneName))}"
        )
    return paths.PretrainPaths(dataset, backbone, method, seed)


def _format_counts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in facts["images"].items())
