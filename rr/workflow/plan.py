"""`rr plan`: count the runs and views of a grid, and estimate how long it takes on this machine."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rr import paths
from rr.errors import UserError
from rr.params import Params
from rr.runtime.formatting import format_count, format_duration
from rr.runtime.table import format_table
from rr.workflow import grid
from rr.workflow.checks import count_images, estimate_beton_bytes, find_known_dataset, find_pretraining_problem
from rr.workflow.claims import describe_required_seeds
from rr.workflow.estimates import (
    IoEstimate,
    MakespanBounds,
    estimate_features_bytes,
    estimate_io,
    estimate_makespan,
)
from rr.workflow.records import load_record

# Returns the views per second of each of several runs.
ThroughputFunction = Callable[[Params, Sequence[paths.PretrainPaths]], dict[paths.PretrainPaths, float]]


@dataclass(frozen=True)
class PlanRow:
    """The runs of one dataset, backbone and method; only their seeds differ.

    `views` is the number of views of one run, 0 if there is nothing to train, and None if the images are not known yet.
    `seconds` is the time of all runs. Without views, it and `views_per_second` are None.
    """

    dataset: str
    backbone: str
    method: str
    runs: int
    done: int
    views: int | None
    views_per_second: float | None
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a grid has to run, and estimates of the time and the disk space that this takes.

    Attributes:
        rows: the pretraining runs, without (`runs`) and with (`done`) a record with the current parameters.
        required_seeds: a line for each claim of the grid that states how many seeds it needs.
        views: number of views of all runs that are not done.
        seconds: time of these runs if they are run one after the other.
        extractions: number of feature extractions, done or not.
        evaluations: number of evaluations, done or not.
        beton_bytes: disk space of the betons.
        feature_bytes: disk space of the features.
        longest_run: name of the longest run, or None if no run remains.
        longest_seconds: its time.
        gpus: number of GPUs.
        makespan: the time on these GPUs, or None if no run remains.
        read_bytes: pixels that the pretraining runs read.
        written_bytes: checkpoints that they write.
        stored_bytes: largest size of the checkpoints that exist at the same time.
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
    """Count the pretraining runs of the grid, and estimate the time of those that are not done yet.

    A run is done if its record has the current parameters. The times include only the training loop. They do not
    include feature extraction, evaluations, the clustering of DeepCluster, or reading and writing files.

    Args:
        params: parameters with the grid.
        throughput: function that returns the views per second of each of several runs.
        gpus: number of GPUs; each trains one run at a time.
    """
    datasets = {name: find_known_dataset(params, name) for name in grid.dataset_names(params)}
    groups: dict[tuple[str, str, str], list[paths.PretrainPaths]] = defaultdict(list)
    for run in grid.pretrainings(params):
        groups[run.dataset, run.backbone, run.method].append(run)
    remaining = {key: [run for run in runs if not _is_done(params, run)] for key, runs in groups.items()}
    # Get the speed of one run per group if its method trains, its dataset is known and the run can succeed.
    rates = throughput(
        params,
        [
            runs[0]
            for (dataset, _, method), runs in remaining.items()
            if runs and _trains(params, method) and datasets[dataset] and not find_pretraining_problem(params, runs[0])
        ],
    )
    rows: list[PlanRow] = []
    total_views = 0
    seconds: dict[paths.PretrainPaths, float] = {}
    io: list[IoEstimate] = []
    unknown: set[str] = set()
    for key, runs in groups.items():
        (dataset, _, method), todo = key, remaining[key]
        known = datasets[dataset]
        views, rate, time = None, None, None
        if not todo or not _trains(params, method):
            views = 0
        elif todo[0] in rates and known:
            config: Any = params.methods[method]
            rate, num_images, num_classes = rates[todo[0]], len(known.train_labels), len(known.class_names)
            views = num_images * config.views * config.epochs
            total_views += len(todo) * views
            seconds |= dict.fromkeys(todo, views / rate)
            io += [estimate_io(params, todo[0], num_images, num_classes, views / rate)] * len(todo)
            time = len(todo) * views / rate
        else:
            unknown |= set() if known else {dataset}
        rows.append(PlanRow(*key, len(todo), len(runs) - len(todo), views, rate, time))
    extractions = list(grid.extractions(params))
    images = {name: count_images(params, name) for name in datasets}
    feature_bytes = sum(
        estimate_features_bytes(
            params, run.pretraining.backbone, params.datasets[run.target].image_size, images[run.target]
        )
        for run in extractions
    )
    longest = max(seconds, key=lambda run: seconds[run]) if seconds else None
    return Plan(
        rows=rows,
        required_seeds=list(describe_required_seeds(params)),
        views=total_views,
        seconds=sum(seconds.values()),
        extractions=len(extractions),
        evaluations=len(list(grid.evaluations(params))),
        beton_bytes=sum(estimate_beton_bytes(params, name) for name in datasets),
        feature_bytes=feature_bytes,
        longest_run=f"{longest.method} on {longest.dataset} with {longest.backbone}" if longest else None,
        longest_seconds=seconds[longest] if longest else 0.0,
        gpus=gpus,
        makespan=estimate_makespan(list(seconds.values()), gpus) if seconds else None,
        read_bytes=sum(run.read_bytes for run in io),
        written_bytes=sum(run.write_bytes for run in io),
        # An unfinished run keeps its newest checkpoint and the one before it.
        stored_bytes=2 * sum(sorted((run.checkpoint_bytes for run in io), reverse=True)[:gpus]),
        unknown_datasets=sorted(unknown),
    )


def format_plan(plan: Plan) -> str:
    """Return a table of the grid's pretraining runs, followed by the estimates for those that are not done yet."""
    header = ("dataset", "backbone", "method", "runs", "done", "views per run", "views/s", "time")
    lines = [
        format_table(header, map(_format_row, plan.rows), text_columns=3),
        *plan.required_seeds,
        f"{format_count(sum(row.runs for row in plan.rows), 'pretraining runs')}, {format_count(plan.views, 'views')}, "
        f"{_format_time(plan.seconds)} if run one after the other",
        f"not included in the time: {format_count(plan.extractions, 'feature extractions')} and "
        f"{format_count(plan.evaluations, 'evaluations')}",
        f"disk space: about {plan.beton_bytes / 1e9:,.2f} GB for betons, about as much again for data/raw, and "
        f"{plan.feature_bytes / 1e9:,.2f} GB for features",
    ]
    if plan.makespan:
        lines.append(f"longest run: {plan.longest_run}, {_format_time(plan.longest_seconds)}")
        if plan.gpus > 1:
            lines.append(
                f"on {plan.gpus} GPUs: {_format_time(plan.makespan.longest_first)} if the longest runs start first; "
                f"{_format_time(plan.makespan.lower_bound)} to {_format_time(plan.makespan.upper_bound)} in any order"
            )
        lines.append(
            f"pretraining reads {plan.read_bytes / 1e9:,.2f} GB of pixels and writes {plan.written_bytes / 1e9:,.2f} "
            f"GB of checkpoints, of which at most {plan.stored_bytes / 1e9:,.3f} GB exist at any time"
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
        work = (f"{row.views:,}", _format_rate(row.views_per_second), _format_time(row.seconds))
    return (row.dataset, row.backbone, row.method, f"{row.runs}", f"{row.done}", *work)


def _trains(params: Params, method: str) -> bool:
    return hasattr(params.methods[method], "epochs")


def _format_rate(views_per_second: float) -> str:
    return f"{views_per_second:,.0f}" if views_per_second >= 10 else f"{views_per_second:.2g}"


def _format_time(seconds: float) -> str:
    return format_duration(max(seconds, 1)) if seconds else "0 s"


def _is_done(params: Params, run: paths.PretrainPaths) -> bool:
    if not paths.record_file(run.folder).is_file():
        return False
    try:
        return bool(load_record(run.folder)["params"] == grid.make_pretrain_run(params, run).params)
    except UserError:
        return False  # the record is damaged
