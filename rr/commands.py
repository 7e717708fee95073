"""Run the `rr` commands: look up the parameters, check the inputs, do the work and write the record.

The functions that do the work take values and paths, and do not read `params.yaml`. They are imported inside the
functions of this module, because torch and FFCV take several seconds to load.

Most `run_` functions return a message for the user. All of them raise UserError if a name is unknown or an input is
missing, damaged or outdated.
"""

import os
import random
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rr import paths
from rr.compute.process_group import process_group, require_single_process, translate_comm_errors
from rr.errors import UserError
from rr.evaluate.protocol_checks import DatasetLabels
from rr.methods.requirements import depends_on_num_epochs
from rr.params import (
    NUMPY_PROTOCOLS,
    KnnConfig,
    LinearConfig,
    MethodConfig,
    OwnImagesSource,
    Params,
    ParquetSource,
    load_params,
    lookup,
    parse_params,
    read_utf8,
)
from rr.params.backbones import check_backbone_name
from rr.params.methods import TrainableConfig
from rr.project import check_can_create_project, create_project, describe_outdated_files, read_template
from rr.runtime.atomic import write_text
from rr.runtime.formatting import format_count, format_names, utc_now
from rr.runtime.gpu_lock import acquire_device
from rr.runtime.hashing import file_sha256, json_sha256
from rr.runtime.local_copy import ensure_local_copy
from rr.runtime.lock import exclusive_lock
from rr.runtime.machine import describe_machine, package_versions
from rr.runtime.malloc import keep_freed_memory
from rr.runtime.signals import run_command
from rr.runtime.status import forget_run
from rr.workflow import grid, stage_runs
from rr.workflow.dataset_labels import find_dataset_labels
from rr.workflow.grid_checks import find_grid_problems, find_pretraining_problem
from rr.workflow.machine_checks import find_machine_problems, find_memory_problem, runs_on_cluster
from rr.workflow.params_file import require_single_grid, write_params
from rr.workflow.records import RunRecorder, find_current_record, find_local_copy, find_record, load_record, record_run
from rr.workflow.sync import (
    register_run,
    require_engines,
    sync_dvc,
    was_started_by_dvc,
    was_started_by_engine,
    was_started_by_user,
)
from rr.workflow.verify import (
    check_unchanged_during_run,
    describe_grid_changed_files,
    find_grid_mismatches,
    find_mismatches,
)

if TYPE_CHECKING:
    from rr.data.preprocessing import Preprocessing
    from rr.data.skipped_files import UnreadablePolicy
    from rr.evaluate.target_dataset import TargetDataset
    from rr.pretrain import Job
    from rr.workflow.plan import Plan


def run_init() -> str:
    """Create a project in the current folder."""
    require_single_process("init")
    check_can_create_project(Path.cwd())
    with exclusive_lock(paths.PARAMS_FILE, wait=True):
        is_new, added = create_project(Path.cwd())
    outdated = describe_outdated_files(Path.cwd())
    note = f"\n{outdated}" if outdated else ""
    if not is_new:
        restored = f"; added the missing files {format_names(added)}" if added else ""
        return f"{Path.cwd()} is already a project{restored}{note}"
    return f"{Path.cwd()} is now a project: run the example with dvc repro or snakemake --cores 8{note}"


def run_init_images(
    path: Path,
    name: str | None,
    params_file: Path,
    *,
    labels: str = "auto",
    skip_unreadable: bool = False,
    accept_earlier: bool = False,
) -> str:
    """Fetch a user's own images, and add them to the parameter file as a dataset, with a grid that trains on them.

    The parameter file is changed only after all images have been read. If it already defines a dataset with the same
    name and path, that definition is not changed. If `params.yaml` is missing, a project is created in the current
    folder after the images have been read; if they cannot be read, the folder is left unchanged. If an earlier call has
    already added the images, UserError is raised or, with `accept_earlier`, the images are fetched again.
    """
    from rr.workflow import init

    require_single_process("init")
    init.check_folder(path)
    init.check_utf8(Path(labels))
    if not params_file.is_file() and params_file == paths.PARAMS_FILE:
        check_can_create_project(Path.cwd())
    params, text = _load_or_make_params(params_file)
    require_single_grid(text, params_file)
    source = init.make_source_config(path, name, params, params_file, labels=labels, skip_unreadable=skip_unreadable)
    if accept_earlier and (known := init.find_in_grid(path, name, source, params)):
        # Images may have been added or removed.
        return f"{run_fetch(known, None, params_file)}\nthe grid in {params_file} already trains on {known}"
    name = init.choose_name(path, name, params, params_file)
    is_new = name not in params.datasets
    params = _define_dataset(name, source, params, text, params_file)
    files = paths.DatasetPaths(name)
    run = stage_runs.make_fetch_run(params, name)
    with _delete_outputs_on_failure(run, params_file, is_new=is_new):
        try:
            with record_run(run) as recorder:
                from rr.fetch import fetch, format_fetch_facts

                facts = recorder.facts = fetch(params.datasets[name].source, files.images, files.download_dir)
        except UserError as error:
            if not is_new:
                raise
            state = f"{params_file} is unchanged" if params_file.is_file() else "no project was created"
            raise UserError(
                f"{error}\n{state}. rr init --no-labels treats all images as unlabeled, --labels reads the labels from "
                "a CSV file, and --skip-unreadable leaves out images that cannot be read. To set other keys of the "
                f"source, {init.explain_entry('this entry with those keys', params_file)}:\n"
                f"{init.format_dataset_entry(name, source)}"
            ) from error
        with exclusive_lock(paths.PARAMS_FILE, wait=True):
            message = _add_images(name, source, facts, params_file, is_new=is_new)
    _warn_of_outdated_croissant(name)
    _finish_run(run, params_file)
    return f"{files.images}: {format_fetch_facts(facts)}{message}"


def _define_dataset(name: str, source: dict[str, str], params: Params, text: str, params_file: Path) -> Params:
    """Return the parameters with a dataset `name`, which is added if they do not define it. No file is changed.

    Raises:
        UserError: if the method that `rr init` copies is missing, or if the dataset is defined with other options.
    """
    from rr.workflow import init

    init.check_base_method(params, params_file)
    if name not in params.datasets:
        return parse_params(init.add_dataset(text, name, source, init.IMAGE_SIZES[0]), params_file)
    defined = params.datasets[name].source.model_dump()
    if any(defined.get(key) != value for key, value in source.items() if key in ("labels", "on_unreadable")):
        raise UserError(
            f"--labels, --no-labels and --skip-unreadable apply only to new datasets, but {params_file} already "
            f"defines {name}: set `labels` or `on_unreadable` in its source there, or choose another name with --name"
        )
    return params


def _add_images(name: str, source: dict[str, str], facts: dict[str, Any], params_file: Path, *, is_new: bool) -> str:
    """Add a fetched dataset, and a grid that trains on it, to the parameter file; return a message.

    `is_new` is false if the file already defined the dataset before it was fetched. Its definition is then not changed.
    """
    from rr.data.raw import RawFile
    from rr.workflow import init

    raw_file = RawFile(paths.DatasetPaths(name).images)
    former, text = _load_or_make_params(params_file)  # reading the images may have taken hours
    if (name not in former.datasets) != is_new:
        change = "added to" if is_new else "removed from"
        raise UserError(
            f"the dataset {name} was {change} {params_file} while the images were being read: run the same command "
            "again"
        )
    init.check_base_method(former, params_file)
    median_side, num_images = facts["sizes"]["median_shorter_side"], len(raw_file.labels)
    is_test = raw_file.splits == "test"
    image_size, stored_size = init.choose_image_size(median_side), init.choose_stored_size(median_side, num_images)
    hint = ""
    if is_new:
        text = init.add_dataset(text, name, source, image_size, stored_size)
    elif (former.datasets[name].image_size, former.datasets[name].stored_size) != (image_size, stored_size):
        sizes = f"image_size: {image_size}" + (f" and stored_size: {stored_size}" if stored_size else "")
        hint = f"\nthe sizes that {params_file} defines are kept; for a new dataset, rr init would write {sizes}"
    labels = DatasetLabels(raw_file.class_names, raw_file.labels[~is_test], raw_file.labels[is_test])
    text = init.set_grid_for_dataset(text, name, labels)
    new_params = parse_params(text, params_file)
    if not params_file.is_file():
        create_project(Path.cwd())
    write_params(params_file, text)
    replaced = grid.describe_replaced(former, new_params)
    description = init.describe_new_dataset(new_params, params_file, name, labels.test_labels)
    return f"{replaced}\n{description}{hint}"


def _load_or_make_params(params_file: Path) -> tuple[Params, str]:
    """Return the contents and the text of a parameter file or, if `params.yaml` is missing, of a new project's file."""
    if params_file.is_file() or params_file != paths.PARAMS_FILE:
        return load_params(params_file), read_utf8(params_file)
    text = read_template(params_file)
    return parse_params(text, params_file), text


@contextmanager
def _delete_outputs_on_failure(run: stage_runs.StageRun, params_file: Path, *, is_new: bool) -> Iterator[None]:
    """Delete what a run has written if the body fails, unless the dataset is defined already (`is_new` is false).

    If no project has been created, the run's lock and status files are deleted too.
    """
    is_first = not run.folder.exists()
    try:
        yield
    except BaseException:
        if is_first and (is_new or not params_file.is_file()):
            # Delete nothing if another process is writing there. Only the holder of a lock may delete its file.
            with suppress(UserError, OSError), exclusive_lock(run.folder), exclusive_lock(paths.PARAMS_FILE):
                shutil.rmtree(run.folder, ignore_errors=True)
                if not params_file.is_file():
                    locks = [paths.lock_file(path) for path in (run.folder, paths.PARAMS_FILE)]
                    files = [*locks, paths.status_file(run.stage, run.folder.parts[2:])]
                    for file in files:
                        file.unlink(missing_ok=True)
                    for parent in [parent for path in [run.folder, *files] for parent in path.parents]:
                        with suppress(OSError):
                            parent.rmdir()
        raise


def check_can_run(params_file: Path) -> None:
    """Raise UserError if DVC cannot run the stages in this folder with the parameters in `params_file`."""
    if params_file.resolve() != paths.PARAMS_FILE.resolve():
        raise UserError(
            f"--run: DVC reads only {paths.PARAMS_FILE}, not {params_file}: omit --params, or unset RR_PARAMS"
        )
    require_engines("--run")
    if params_file.exists() and not Path("dvc.yaml").exists():
        raise UserError("--run: dvc.yaml not found: run rr init in the root folder of a project, or in an empty folder")


def run_pipeline() -> str:
    """Run all stages in the grid with DVC, which prints their progress, and return a message with the report's path."""
    programs = Path(sys.executable).parent  # DVC starts `rr` by name
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}
    if code := run_command([sys.executable, "-m", "dvc", "repro"], environment):
        raise UserError(
            f"dvc repro failed with exit code {code}: fix the error that it printed above, then run dvc repro again"
        )
    return f"report: {paths.REPORT_FILES[0].resolve()}"


def run_fetch(dataset: str, local_copy: Path | None, params_file: Path) -> str:
    """Fetch a dataset's images into `data/raw`, from `local_copy` or, if it is None, from the source."""
    require_single_process("fetch")
    params = load_params(params_file)
    config = lookup(params.datasets, dataset, "--dataset")
    files = paths.DatasetPaths(dataset)
    run = stage_runs.make_fetch_run(params, dataset)
    if local_copy and not hasattr(config.source, "path"):
        raise UserError(f"--from {local_copy}: the source of {dataset} does not support a local copy: omit --from")
    if isinstance(config.source, OwnImagesSource):
        paths.check_image_folder(local_copy or config.source.path)
    if reason := _find_reason_to_skip(run):
        return reason
    if not local_copy and (former := find_local_copy(run)):
        record_file = paths.record_file(run.folder)
        if former.exists():
            local_copy = former
            print(f"fetch: reading the local copy {former} again, because {record_file} names it", file=sys.stderr)
        else:
            print(
                f"fetch: using the source in {params_file}, because the local copy {former}, named in {record_file}, "
                "no longer exists",
                file=sys.stderr,
            )
    with record_run(run) as recorder:
        from rr.fetch import fetch, format_fetch_facts

        facts = recorder.facts = fetch(config.source, files.images, files.download_dir, local_copy)
        if local_copy:
            facts["local_copy"] = str(paths.expand_user(local_copy).absolute())
    _warn_of_outdated_croissant(dataset)
    _finish_run(run, params_file)
    return f"{files.images}: {format_fetch_facts(facts)}"


def _warn_of_outdated_croissant(dataset: str) -> None:
    from rr.exchange.croissant import describe_outdated_croissant

    if warning := describe_outdated_croissant(dataset):
        print(f"fetch: {warning}", file=sys.stderr)


def run_check(dataset: str, weights: Path | None, device: str, params_file: Path) -> tuple[str, dict[str, Any]]:
    """Check a dataset's fetched images and, if `weights` is a backbone file, also compare their features.

    Returns:
        A message, and its main numbers and paths as JSON values.
    """
    require_single_process("check")
    config = lookup(load_params(params_file).datasets, dataset, "DATASET")
    files = paths.DatasetPaths(dataset)
    record = load_record(files.raw_dir)
    from rr.check import EXCLUDED_KINDS, CheckOutputPaths, check
    from rr.data.skipped_files import format_skipped

    extractor = None
    if weights:
        from rr.gallery.feature_extractor import load_feature_extractor

        extractor = load_feature_extractor(weights, None, device, "use the backbone.safetensors from a run")
    source = config.source
    exclude_list = source.exclude if isinstance(source, OwnImagesSource) else None
    folder = files.dataset_check_dir
    output = CheckOutputPaths(folder / "findings.parquet", folder / "findings.png", folder / "exclude.txt")
    with exclusive_lock(folder):
        summary, facts = check(
            files.images,
            output,
            paths.expand_user(exclude_list) if exclude_list else None,
            extractor,
            is_parquet=isinstance(source, ParquetSource),
        )
    lines = [summary, *format_skipped(record["skipped"])]
    can_exclude = bool(facts["findings"].keys() & set(EXCLUDED_KINDS))
    if can_exclude and exclude_list:
        is_same_file = paths.expand_user(exclude_list).resolve() == output.exclude.resolve()
        copy = "" if is_same_file else f"copy the list to {exclude_list}, then "
        lines.append(f"to leave these images out: {copy}run `rr fetch --dataset {dataset}`, then dvc repro")
    elif can_exclude and isinstance(source, OwnImagesSource):
        lines.append(
            f"to leave these images out: add `exclude: {output.exclude}` to the source of {dataset} in {params_file}, "
            "then run dvc repro"
        )
    return "\n".join(lines), facts


def run_convert(dataset: str, params_file: Path) -> str:
    """Write a dataset's betons and its index."""
    require_single_process("convert")
    params = load_params(params_file)
    config = lookup(params.datasets, dataset, "--dataset")
    files = paths.DatasetPaths(dataset)
    if dataset in grid.dataset_names(params):
        _check_grid(find_grid_problems(params), params_file)
    run = stage_runs.make_convert_run(params, dataset)
    with record_run(run) as recorder:
        import PIL

        from rr.convert import convert
        from rr.data.conversion_checkpoint import ConvertedParts

        parts = ConvertedParts(files.unfinished_conversion_dir, recorder.fingerprint(pillow=PIL.__version__))
        recorder.clean_up = parts.delete
        recorder.facts = convert(files.images, config, files.betons, files.index, parts, threads=params.threads)
    _finish_run(run, params_file)
    size = f"{config.image_size} x {config.image_size} pixels"
    if config.stored_size:
        size = f"shorter side of at most {config.stored_size} pixels"
    return f"{files.beton_dir}: {_format_counts(recorder.facts)}, {size}"


def run_pretrain(run: paths.PretrainPaths, device: str, params_file: Path, tensorboard: Path | None = None) -> str:
    """Pretrain a backbone in one process or, with torchrun, in several; continue an interrupted or shorter run.

    Return a message for the user, which is empty in all processes except the main one. `tensorboard` is a folder for
    event files, or None.
    """
    with process_group() as group:
        params = load_params(params_file)
        lookup(params.methods, run.method, "--method")
        lookup(params.datasets, run.dataset, "--dataset")
        check_backbone_name(run.backbone, params.backbones, "--backbone: ")
        files = paths.DatasetPaths(run.dataset)
        stage_run = stage_runs.make_pretrain_run(params, run)
        reason = _find_reason_to_skip(stage_run)
        group.check_identical({"finished run": str(bool(reason))})
        if reason:
            return reason if group.is_main else ""
        device = group.local_device(acquire_device(device))
        _check_pretraining(params, run, device, group.world_size, params_file)
        event_writer = None
        if tensorboard and group.is_main:
            from rr.runtime.tensorboard import EventWriter

            event_writer = EventWriter(tensorboard.joinpath(run.dataset, run.backbone, run.method, str(run.seed)))
        # The error is translated here, too, for the status file.
        with record_run(stage_run, is_main=group.is_main) as recorder, translate_comm_errors():
            from rr.compute.device import device_name
            from rr.compute.torch_threads import configure_torch
            from rr.data.dataset_index import read_class_names, read_preprocessing
            from rr.pretrain import pretrain
            from rr.pretrain.checkpoint import finish_checkpoints
            from rr.pretrain.loop import format_history
            from rr.workflow.claims import grid_claim_hashes

            def write_history(history: list[dict[str, float]]) -> None:
                write_text(paths.unfinished_history(run.checkpoint), format_history(history))
                if event_writer:
                    event_writer.write(history)

            configure_torch(params.threads)
            keep_freed_memory()
            group.check_identical(
                {
                    "parameters": json_sha256([recorder.params, *vars(run).values()]),
                    "data": json_sha256(recorder.inputs),
                    "code": json_sha256(recorder.code),
                    "versions": json_sha256(package_versions()),
                    "device": device.partition(":")[0],
                }
            )
            num_classes = len(read_class_names(files.index))
            preprocessing = read_preprocessing(files.index)
            fingerprints = _make_fingerprints(recorder, run, params.methods[run.method])
            recorder.clean_up = partial(finish_checkpoints, run.checkpoint, *fingerprints)
            job = _make_job(params, run, preprocessing, num_classes, *fingerprints)
            beton = files.betons["train"]
            beton = ensure_local_copy(beton, recorder.inputs[str(beton)])
            about_this_process = {"device": device_name(device), "processes": group.world_size}
            session = {
                "started": utc_now(),
                **about_this_process,
                "machine": describe_machine(),
                "claims": grid_claim_hashes(params),
            }
            facts = pretrain(
                job, beton, run, device=device, threads=params.threads, group=group, on_epoch=write_history,
                session=session,
            )  # fmt: skip
            sessions = facts.pop("sessions")
            recorder.earlier_sessions = sessions[:-1]
            recorder.facts = {
                **about_this_process,
                "claims": sessions[0].get("claims", []),  # as in params.yaml when training started
                "preprocessing": {f"datasets.{run.dataset}": asdict(preprocessing)},
                **facts,
            }
        if not group.is_main:
            return ""
    _finish_run(stage_run, params_file)
    speed = f"{facts['views']:,} views, {facts['views_per_second']:,} per second"
    return f"{run.weights}: {speed if facts['views'] else 'nothing was trained'}"


def run_extract(run: paths.FeaturePaths, device: str, params_file: Path) -> str:
    """Compute the features of the target dataset with a pretrained backbone."""
    require_single_process("extract")
    params = load_params(params_file)
    lookup(params.datasets, run.target, "--target")
    check_backbone_name(run.pretraining.backbone, params.backbones, "--backbone: ")
    stage_run = stage_runs.make_extract_run(params, run)
    if reason := _find_reason_to_skip(stage_run):
        return reason
    device = acquire_device(device)
    with record_run(stage_run) as recorder:
        from rr.compute.device import device_name
        from rr.compute.torch_threads import configure_torch
        from rr.extract import extract

        configure_torch(params.threads)
        keep_freed_memory()
        target_data = _open_target(run.target, recorder)
        facts = extract(run.pretraining.weights, target_data, run.features, device=device, threads=params.threads)
        recorder.facts = {
            "device": device_name(device),
            "preprocessing": {f"datasets.{run.target}": asdict(target_data.preprocessing)},
            **facts,
        }
    _finish_run(stage_run, params_file)
    return f"{run.features}: {facts['features']} features per image; images: {_format_counts(facts)}"


def run_evaluate(run: paths.EvaluationPaths, device: str, params_file: Path) -> str:
    """Evaluate a pretrained backbone on the target dataset with a protocol."""
    require_single_process("evaluate")
    params = load_params(params_file)
    protocol_config = lookup(params.protocols, run.protocol, "--protocol")
    lookup(params.datasets, run.target, "--target")
    check_backbone_name(run.pretraining.backbone, params.backbones, "--backbone: ")
    uses_torch = protocol_config.kind not in NUMPY_PROTOCOLS
    stage_run = stage_runs.make_evaluate_run(params, run)
    if reason := _find_reason_to_skip(stage_run):
        return reason
    device = acquire_device(device) if uses_torch else "cpu"
    with record_run(stage_run) as recorder:
        from rr.compute.device import device_name
        from rr.compute.torch_threads import configure_torch
        from rr.evaluate.stage import evaluate

        if uses_torch:
            configure_torch(params.threads)
        keep_freed_memory()
        target_data = _open_target(run.target, recorder)
        metrics = evaluate(
            protocol_config, target_data, run, seed=run.pretraining.seed, device=device, threads=params.threads
        )
        recorder.facts = {
            "device": device_name(device),
            "preprocessing": {f"datasets.{run.target}": asdict(target_data.preprocessing)},
        }
        fetched = find_current_record(stage_runs.make_fetch_run(params, run.target)) or {}
        # The copies are counted among all test images, but unlabeled ones may not have been evaluated.
        if "test_copies" in fetched and fetched["images"]["test"] == metrics.get("test_images"):
            recorder.facts["test_copies"] = fetched["test_copies"]
    _finish_run(stage_run, params_file)
    name, value = next(iter(metrics.items()))
    return f"{run.metrics}: {name.replace('_', ' ')} {value:.4f}"


def run_classify(
    folder: Path,
    output: Path,
    run: paths.EvaluationPaths,
    on_unreadable: "UnreadablePolicy",
    device: str,
    params_file: Path,
) -> str:
    """Predict the classes of the images in `folder` with the classifier that `rr evaluate` tests."""
    require_single_process("classify")
    params = load_params(params_file)
    config = lookup(params.protocols, run.protocol, "--protocol")
    lookup(params.datasets, run.target, "--target")
    if not isinstance(config, KnnConfig | LinearConfig):
        raise UserError(
            f"--protocol {run.protocol}: its kind is {config.kind}: use a protocol of the kind linear or knn"
        )
    check_backbone_name(run.pretraining.backbone, params.backbones, "--backbone: ")
    from rr.compute.torch_threads import configure_torch
    from rr.evaluate.stage import load_inputs
    from rr.evaluate.target_dataset import read_target_dataset
    from rr.gallery.classify import check_csv_path, classify

    check_csv_path("--output", output)
    _require_extraction(params, run.extraction)
    files = paths.DatasetPaths(run.target)
    target_data = read_target_dataset(run.target, files.betons, files.index)
    device = acquire_device(device)
    configure_torch(params.threads)
    seed = run.pretraining.seed
    inputs = load_inputs(config, target_data, run, seed=seed, device=device, threads=params.threads)
    return classify(folder, inputs, config, output, on_unreadable=on_unreadable)


def _require_extraction(params: Params, run: paths.FeaturePaths) -> None:
    """Raise UserError unless the record of the features matches the current parameters and the files on disk.

    The betons are not compared: they are large, and only their features are used.
    """
    stage_run = stage_runs.make_extract_run(params, run)
    record = find_current_record(stage_run)
    if record is None:
        raise UserError(
            f"{run.folder} is missing, or was computed with other parameters: run rr extract, or `dvc repro`"
        )
    hashes = record["inputs"] | record["outputs"]
    messages = [
        f"{path} has changed since {run.folder} was computed" if path.is_file() else f"{path} is missing"
        for path in (run.pretraining.weights, paths.DatasetPaths(run.target).index, run.features)
        if not path.is_file() or file_sha256(path) != hashes.get(str(path))
    ]
    if messages:
        raise UserError("\n".join([*messages, "run rr extract again, or `dvc repro`"]))


def _open_target(name: str, recorder: RunRecorder) -> "TargetDataset":
    """Return the target of an extraction or evaluation. Its betons are local copies if RR_SCRATCH is set."""
    from rr.evaluate.target_dataset import read_target_dataset

    files = paths.DatasetPaths(name)
    betons = {split: ensure_local_copy(path, recorder.inputs[str(path)]) for split, path in files.betons.items()}
    return read_target_dataset(name, betons, files.index)


def run_report(params_file: Path) -> str:
    """Write the report.

    Raises:
        UserError: if a file on which the report depends differs from its record.
    """
    require_single_process("report")
    params = load_params(params_file)
    messages = describe_grid_changed_files(params)
    if messages:
        messages.append("no report was written: update these files with `dvc repro` or `snakemake --cores 8`")
        raise UserError("\n".join(messages))
    outdated = [
        run.folder
        for run in stage_runs.iter_stage_runs(params)
        if run.stage != "report" and (record := find_record(run.folder)) and record["params"] != run.params
    ]
    if outdated:
        print(
            f"report: the parameters of {format_count(len(outdated), 'runs')} differ from {params_file} "
            f"({format_names([str(folder) for folder in outdated])}): run dvc repro to rerun them",
            file=sys.stderr,
        )
    run = stage_runs.make_report_run(params)
    with record_run(run):
        from rr.report.stage import write_report

        write_report(params)
    _finish_run(run, params_file)
    return f"report: {paths.REPORT_FILES[0].resolve()}"


def run_plan(
    suite_names: list[str], views_per_second: float | None, gpus: int, device: str, params_file: Path
) -> tuple["Plan", list[str]]:
    """Count the runs and views in a grid, estimate how long it takes, and check it.

    The grid comes from the suites or, if `suite_names` is empty, from `params_file`. If `views_per_second` is None, the
    throughput of each run is measured on `device`. Each of the `gpus` GPUs trains one model at a time.

    Returns:
        The plan, and one line per problem with the grid. This machine's memory and disk are checked only if the
        throughput is measured on it.
    """
    from rr.workflow import suites
    from rr.workflow.plan import make_plan
    from rr.workflow.training_speed import measure_views_per_second

    if suite_names:
        params_file = suites.merge_suites({name: suites.load_suite(name) for name in suite_names}, params_file)
    params = load_params(params_file)
    problems = find_grid_problems(params)
    if views_per_second is not None:
        return make_plan(params, lambda _, runs: dict.fromkeys(runs, views_per_second), gpus), problems
    device = acquire_device(device)
    problems += find_machine_problems(params, device)
    return make_plan(params, partial(measure_views_per_second, device=device), gpus), problems


def run_verify(
    recompute: bool, allow_missing: bool, device: str, params_file: Path
) -> tuple[list[tuple[stage_runs.StageRun, list[str]]], tuple[bool, str] | None]:
    """Compare every artifact of the grid with its record.

    If `recompute` is true, the last epoch of a random pretraining run is also rerun, on `device`. With `allow_missing`,
    a missing record, input or output is not a mismatch.

    Returns:
        Each run with one message per mismatch; and whether the rerun epoch gives the same results, with a message. The
        second value is None if no epoch is rerun, which is also the case if any artifact does not match.
    """
    params = load_params(params_file)
    checked_runs = find_grid_mismatches(params, allow_missing=allow_missing)
    if not recompute or any(messages for _, messages in checked_runs):
        return checked_runs, None
    return checked_runs, _recompute_random_run(params, acquire_device(device))


def _recompute_random_run(params: Params, device: str) -> tuple[bool, str]:
    """Rerun the last epoch of a random pretraining run in the grid.

    Returns:
        Whether the results are the same as the run's original results, and a message.

    Raises:
        UserError: if no method in the grid is trained, or if files that are needed are missing.
    """
    runs = [run for run in grid.pretrainings(params) if isinstance(params.methods[run.method], TrainableConfig)]
    if not runs:
        raise UserError(
            "--recompute: no method in the grid is trained, so there is no epoch to rerun: add a trained method to "
            "grid.method, or omit --recompute"
        )
    stages = {run: stage_runs.make_pretrain_run(params, run) for run in runs}
    files_of = {run: [paths.record_file(run.folder), *stage.inputs, *stage.outputs] for run, stage in stages.items()}
    complete = [run for run, files in files_of.items() if all(map(Path.is_file, files))]
    if not complete:
        raise UserError(
            "--recompute: for each training run in the grid, an output or the images are missing (the state at the "
            "start of the last epoch, last_epoch.safetensors, is needed too): run `dvc checkout`, or copy these files"
        )
    run = random.choice(complete)
    from rr.compute.torch_threads import configure_torch
    from rr.data.dataset_index import read_class_names, read_preprocessing
    from rr.workflow.recompute import compare_with_record, recompute_last_epoch

    configure_torch(params.threads)
    record, files = load_record(run.folder), paths.DatasetPaths(run.dataset)
    job = _make_job(params, run, read_preprocessing(files.index), len(read_class_names(files.index)))
    epoch = recompute_last_epoch(job, files.betons["train"], run, device=device, threads=params.threads)
    return compare_with_record(epoch, record, run.folder, device)


def run_sync(params_file: Path) -> str:
    """Register with DVC all runs that match their records."""
    if params_file.resolve() != paths.PARAMS_FILE.resolve():
        raise UserError(f"DVC reads only {paths.PARAMS_FILE}, not {params_file}: omit --params, or unset RR_PARAMS")
    registered, not_run, total = sync_dvc(load_params(params_file))
    missing = f"; {not_run:,} {'has' if not_run == 1 else 'have'} not run yet" if not_run else ""
    left_out = "" if registered + not_run == total else "; `rr verify` shows why the others were not"
    return f"sync: registered {registered} of {format_count(total, 'runs')}{missing}{left_out}"


def lookup_preprocessing(dataset: str, params_file: Path) -> "Preprocessing":
    """Return the preprocessing of a dataset in the parameter file.

    Raises:
        UserError: if `dataset` is unknown, or if mean and std are not in the file and have not been computed yet.
    """
    from rr.data.dataset_index import read_preprocessing
    from rr.data.preprocessing import Preprocessing

    config = lookup(load_params(params_file).datasets, dataset, "--dataset")
    if config.mean and config.std:
        return Preprocessing(config.image_size, config.mean, config.std, config.stored_size)
    return read_preprocessing(paths.DatasetPaths(dataset).index)


def _make_fingerprints(recorder: RunRecorder, run: paths.PretrainPaths, config: MethodConfig) -> tuple[str, str]:
    """Return the values for `Job.fingerprint` and `Job.fingerprint_without_epochs`."""
    names = {"backbone": run.backbone, "seed": run.seed}
    fingerprint = recorder.fingerprint(**names)
    if depends_on_num_epochs(config):
        return fingerprint, ""
    others = dict(recorder.params)
    method = others.pop(f"methods.{run.method}")
    without_epochs = {**others, "method": {name: value for name, value in method.items() if name != "epochs"}}
    return fingerprint, replace(recorder, params=without_epochs).fingerprint(**names)


def _make_job(
    params: Params,
    run: paths.PretrainPaths,
    preprocessing: "Preprocessing",
    num_classes: int,
    fingerprint: str = "",
    fingerprint_without_epochs: str = "",
) -> "Job":
    """Return the description of a pretraining run."""
    from rr.pretrain import Job

    return Job(
        preprocessing=preprocessing,
        backbone=run.backbone,
        method=params.methods[run.method],
        num_classes=num_classes,
        seed=run.seed,
        precision=params.precision,
        dynamics=params.dynamics,
        fingerprint=fingerprint,
        fingerprint_without_epochs=fingerprint_without_epochs,
        backbone_config=params.backbones.get(run.backbone),
    )


def _find_reason_to_skip(run: stage_runs.StageRun) -> str | None:
    """Return a message if a run matches its record and does not need to be rerun; an earlier failure is then forgotten.

    Pretraining may take days, so a pretraining run that matches its record is never rerun. Other stages are rerun,
    unless DVC starts them and there are extensions. To DVC, every run depends on the whole extensions folder, but a
    change in that folder does not necessarily affect the run.
    """
    can_skip = run.stage == "pretrain" or (was_started_by_dvc() and any(paths.EXTENSIONS_DIR.rglob("*.py")))
    # The record is compared first, because comparing the files takes longer.
    if not can_skip or not find_current_record(run) or find_mismatches(run):
        return None
    forget_run(run.stage, run.folder)  # it may have failed with other parameters
    return f"{run.outputs[0]} matches its record, so the stage was not rerun (to rerun it, delete {run.folder})"


def _check_pretraining(
    params: Params, run: paths.PretrainPaths, device: str, num_processes: int, params_file: Path
) -> None:
    """Raise UserError if a pretraining run or, if it belongs to the grid, any run in the grid cannot succeed.

    On a cluster or with several processes, other runs may have more memory, so only the memory for this run is checked.
    """
    if run not in grid.pretrainings(params):
        training_problem = find_pretraining_problem(params, run, find_dataset_labels(params, run.dataset))
        problems = [training_problem, find_memory_problem(params, run, device, num_processes)]
        if any(problems):
            raise UserError("\n".join(filter(None, problems)))
    elif runs_on_cluster() or num_processes > 1:
        memory_problem = find_memory_problem(params, run, device, num_processes)
        _check_grid([*find_grid_problems(params), memory_problem], params_file)
    else:
        _check_grid([*find_grid_problems(params), *find_machine_problems(params, device)], params_file)


def _check_grid(problems: Iterable[str | None], params_file: Path) -> None:
    """Raise UserError if there are problems with the grid."""
    if lines := list(filter(None, problems)):
        raise UserError(
            "\n".join([f"the grid in {params_file} cannot be completed, so this stage was not started:", *lines])
        )


def _finish_run(run: stage_runs.StageRun, params_file: Path) -> None:
    """Register a finished run with DVC if a user started it; if an engine did, check that nothing has changed since.

    DVC reads only `params.yaml`, so runs with other parameter files are not registered.

    Raises:
        UserError: if an engine started the run, and its parameters, code or inputs have changed in the meantime.
    """
    if was_started_by_engine():
        check_unchanged_during_run(run, params_file)
    elif was_started_by_user() and params_file.resolve() == paths.PARAMS_FILE.resolve():
        register_run(run, params_file)


def _format_counts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in facts["images"].items())
