"""`rr plan`: count the runs and views of a grid, and estimate how long it takes on this machine."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rr import paths
from rr.evaluate.protocol_checks import DatasetLabels
from rr.methods.requirements import images_per_epoch
from rr.params import Params
from rr.params.methods import TrainableConfig
from rr.runtime.formatting import format_bytes, format_count, format_duration, format_table
from rr.workflow import grid, stage_runs
from rr.workflow.claims import describe_required_seeds
from rr.workflow.dataset_labels import find_dataset_labels
from rr.workflow.estimates import (
    IoEstimate,
    MakespanBounds,
    estimate_features_bytes,
    estimate_io,
    estimate_makespan,
)
from rr.workflow.grid_checks import find_pretraining_problem
from rr.workflow.records import code_hashes, extension_hashes, find_record

# Returns the views per second of each run.
ThroughputFunction = Callable[[Params, Sequence[paths.PretrainPaths]], dict[paths.PretrainPaths, float]]


@dataclass(frozen=True)
class PlanRow:
    """The pretraining runs with the same dataset, backbone and method, which differ only in their seeds.

    `done` is the number of runs with a record of the current parameters, code and images. `remaining` is the number of
    the other runs. `views` is the number of views in one run: 0 if there is nothing to train, and None if the images
    are not known yet or the runs cannot succeed. In these cases, `views_per_second` and `seconds` are None. `seconds`
    is the total time of the remaining runs.
    """

    dataset: str
    backbone: str
    method: str
    remaining: int
    done: int
    views: int | None
    views_per_second: float | None
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """The runs that a grid needs, with estimates of the time and disk space that they take.

    Attributes:
        rows: the pretraining runs.
        required_seeds: one line per claim in the grid, with the number of seeds that the claim needs.
        views: number of views in all pretraining runs that are not done.
        seconds: how long all pretraining runs that are not done take, one after the other.
        extractions: number of feature extractions that are not done.
        evaluations: number of evaluations that are not done.
        beton_bytes: disk space for the betons of datasets whose conversion is not done.
        feature_bytes: disk space for the features of extractions that are not done.
        longest_run: name of the longest run, or None if no run remains.
        longest_seconds: how long this run takes.
        gpus: number of GPUs.
        makespan: how long the remaining runs take on these GPUs, or None if no run remains.
        read_bytes: bytes of pixels that the pretraining runs read.
        written_bytes: bytes of checkpoints that the pretraining runs write.
        stored_bytes: maximum total size of the checkpoints of these runs that exist at the same time.
        unknown_datasets: datasets whose images are not known until `rr fetch` has run.
    """

    rows: list[PlanRow]
    required_seeds: list[str]
    views: int
    seconds: float
    extractions: int
    evaluations: int
    beton_bytes: float
    feature_bytes: float
    longest_run: str | None
    longest_seconds: float
    gpus: int
    makespan: MakespanBounds | None
    read_bytes: float
    written_bytes: float
    stored_bytes: float
    unknown_datasets: list[str]


def make_plan(params: Params, throughput: ThroughputFunction, gpus: int = 1) -> Plan:
    """Count the pretraining runs in the grid, and estimate how long the unfinished ones will take.

    A run is done if its record has the current parameters, code and inputs. The times cover only the training loop, not
    feature extraction, evaluations, DeepCluster's clustering, or reading and writing files. Each of the `gpus` GPUs
    trains one run at a time.
    """
    datasets = {name: find_dataset_labels(params, name) for name in grid.dataset_names(params)}
    groups: dict[tuple[str, str, str], list[paths.PretrainPaths]] = defaultdict(list)
    for run in grid.pretrainings(params):
        groups[run.dataset, run.backbone, run.method].append(run)
    unfinished = _find_unfinished(params)
    remaining = {key: [run for run in runs if run.folder in unfinished] for key, runs in groups.items()}
    first_runs = [runs[0] for runs in remaining.values() if runs]
    rates = throughput(params, [run for run in first_runs if _can_be_timed(params, run, datasets[run.dataset])])
    rows: list[PlanRow] = []
    seconds: dict[paths.PretrainPaths, float] = {}
    io_estimates: list[IoEstimate] = []
    for key, runs in groups.items():
        todo, labels = remaining[key], datasets[key[0]]
        row = _make_row(params, runs, todo, labels, rates)
        rows.append(row)
        if labels and row.views and row.views_per_second:
            run_seconds = row.views / row.views_per_second
            seconds |= dict.fromkeys(todo, run_seconds)
            estimate = estimate_io(params, todo[0], len(labels.train_labels), len(labels.class_names), run_seconds)
            io_estimates += [estimate] * len(todo)
    extractions = [run for run in grid.extractions(params) if run.folder in unfinished]
    evaluations = [run for run in grid.evaluations(params) if run.folder in unfinished]
    num_images = {name: labels.num_images if labels else 0 for name, labels in datasets.items()}
    feature_bytes = sum(estimate_features_bytes(params, run, num_images[run.target]) for run in extractions)
    longest = max(seconds, key=lambda run: seconds[run]) if seconds else None
    return Plan(
        rows=rows,
        required_seeds=list(describe_required_seeds(params)),
        views=sum(row.remaining * (row.views or 0) for row in rows),
        seconds=sum(seconds.values()),
        extractions=len(extractions),
        evaluations=len(evaluations),
        beton_bytes=sum(
            count * params.datasets[name].estimated_image_bytes
            for name, count in num_images.items()
            if paths.DatasetPaths(name).beton_dir in unfinished
        ),
        feature_bytes=feature_bytes,
        longest_run=f"{longest.method} on {longest.dataset} with {longest.backbone}" if longest else None,
        longest_seconds=seconds[longest] if longest else 0.0,
        gpus=gpus,
        makespan=estimate_makespan(list(seconds.values()), gpus) if seconds else None,
        read_bytes=sum(estimate.read_bytes for estimate in io_estimates),
        written_bytes=sum(estimate.write_bytes for estimate in io_estimates),
        # An unfinished run keeps its newest checkpoint and the one before it.
        stored_bytes=sum(estimate.kept_bytes for estimate in io_estimates)
        + 2 * sum(sorted((estimate.checkpoint_bytes for estimate in io_estimates), reverse=True)[:gpus]),
        unknown_datasets=sorted(
            {row.dataset for row in rows if row.views is None and not datasets[row.dataset]}
            | {run.target for run in extractions if not datasets[run.target]}
        ),
    )


def _can_be_timed(params: Params, run: paths.PretrainPaths, labels: DatasetLabels | None) -> bool:
    """Return whether a run trains a network on a dataset whose images are known, and has no known problem."""
    is_trained = isinstance(params.methods[run.method], TrainableConfig)
    return is_trained and labels is not None and not find_pretraining_problem(params, run, labels)


def _find_unfinished(params: Params) -> set[Path]:
    """Return the folders of the runs that are not done.

    The files themselves are not compared: the inputs in a run's record are compared with the records of the stages that
    wrote them. An input without a record counts as unchanged, because datasets are often deleted after use.
    """
    hash_code = cache(code_hashes)  # takes half a second per stage, and is needed only if there are records
    find_output_record = cache(lambda path: find_record(paths.find_record_folder(path)))

    def has_changed(path: Path, sha256: str | None) -> bool:
        record = find_output_record(path)
        return record is not None and record["outputs"].get(str(path)) != sha256

    unfinished: set[Path] = set()
    outdated_files: set[Path] = set()
    for run in stage_runs.iter_stage_runs(params):
        if run.stage == "report":
            continue
        record = find_record(run.folder)
        if record is None:
            has_new_inputs = False
        elif (
            record["params"] != run.params
            or not outdated_files.isdisjoint(run.inputs)
            or any(has_changed(path, record["inputs"].get(str(path))) for path in run.inputs)
        ):
            has_new_inputs = True
        elif record["code"] != hash_code(run.stage) | extension_hashes(run):
            has_new_inputs = False
        else:
            continue
        unfinished.add(run.folder)
        # New code rarely changes a dataset, and a dataset that is missing has not changed.
        if has_new_inputs or run.stage not in ("fetch", "convert"):
            outdated_files.update(run.outputs)
    return unfinished


def _make_row(
    params: Params,
    runs: Sequence[paths.PretrainPaths],
    remaining: Sequence[paths.PretrainPaths],
    labels: DatasetLabels | None,
    rates: dict[paths.PretrainPaths, float],
) -> PlanRow:
    """Return the row for `runs`, which differ only in their seeds, and of which `remaining` are not done."""
    config = params.methods[runs[0].method]
    views: int | None = None
    rate: float | None = None
    seconds: float | None = None
    if not remaining or not isinstance(config, TrainableConfig):
        views = 0
    elif labels is not None and remaining[0] in rates:
        views = images_per_epoch(config, len(labels.train_labels)) * config.views * config.epochs
        rate = rates[remaining[0]]
        seconds = len(remaining) * views / rate
    return PlanRow(
        dataset=runs[0].dataset, backbone=runs[0].backbone, method=runs[0].method, remaining=len(remaining),
        done=len(runs) - len(remaining), views=views, views_per_second=rate, seconds=seconds,
    )  # fmt: skip


def format_plan(plan: Plan) -> str:
    """Return a table of the grid's pretraining runs, followed by estimates for those that are not done yet."""
    header = ("dataset", "backbone", "method", "remaining", "done", "views per run", "views/s", "time")
    lines = [
        format_table(header, map(_format_row, plan.rows), text_columns=3),
        *plan.required_seeds,
        f"{format_count(sum(row.remaining for row in plan.rows), 'pretraining runs')}, "
        f"{format_count(plan.views, 'views')}, {_format_time(plan.seconds)} if run one after the other",
        f"not included in the time: {format_count(plan.extractions, 'feature extractions')} and "
        f"{format_count(plan.evaluations, 'evaluations')}",
        f"disk space: about {format_bytes(plan.beton_bytes)} for betons and {format_bytes(plan.feature_bytes)} for "
        "features, plus the size of the original files for data/raw",
    ]
    if plan.makespan:
        lines.append(f"longest run: {plan.longest_run}, {_format_time(plan.longest_seconds)}")
        if plan.gpus > 1:
            lines.append(
                f"on {plan.gpus:,} GPUs: {_format_time(plan.makespan.longest_first)} if the longest runs start first; "
                f"{_format_time(plan.makespan.lower_bound)} to {_format_time(plan.makespan.upper_bound)} in any order"
            )
        lines.append(
            f"pretraining reads {format_bytes(plan.read_bytes)} of pixels and writes "
            f"{format_bytes(plan.written_bytes)} of checkpoints, of which at most {format_bytes(plan.stored_bytes)} "
            "exist at any time"
        )
    if plan.unknown_datasets:
        names = ", ".join(plan.unknown_datasets)
        lines.append(f"not included, because the images are not known until rr fetch has run: {names}")
    return "\n".join(lines)


def _format_row(row: PlanRow) -> tuple[str, ...]:
    if row.views is None:
        work = ("?", "?", "?")
    elif row.views_per_second is None or row.seconds is None:
        work = ("0", "–", "–")
    else:
        rate = row.views_per_second
        work = (f"{row.views:,}", f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}", _format_time(row.seconds))
    return (row.dataset, row.backbone, row.method, f"{row.remaining}", f"{row.done}", *work)


def _format_time(seconds: float) -> str:
    return format_duration(max(seconds, 1)) if seconds else "0 s"
