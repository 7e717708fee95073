"""`rr plan`: count the runs and views of a grid, and estimate how long it takes on this machine."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from rr import paths
from rr.errors import UserError
from rr.params import Params
from rr.runtime.formatting import format_count, format_duration
from rr.runtime.table import format_table
from rr.workflow import grid
from rr.workflow.checks import count_images, estimate_beton_bytes, find_known_dataset, find_pretraining_problem
from rr.workflow.claims import describe_required_seeds
from rr.workflow.estimates import IoEstimate, estimate_features_bytes, estimate_io, estimate_makespan
from rr.workflow.records import load_record

# Returns the views per second of each of several runs.
ThroughputFunction = Callable[[Params, Sequence[paths.PretrainPaths]], dict[paths.PretrainPaths, float]]


def format_plan(params: Params, throughput: ThroughputFunction, gpus: int = 1) -> str:
    """Return a table of the grid's pretraining runs, followed by estimates for those that are not done yet.

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
    rows: list[tuple[str, ...]] = []
    total_views = 0
    seconds: dict[paths.PretrainPaths, float] = {}
    io: list[IoEstimate] = []
    unknown: set[str] = set()
    for key, runs in groups.items():
        (dataset, _, method), todo = key, remaining[key]
        known = datasets[dataset]
        if not todo or not _trains(params, method):
            work = ("0", "–", "–")
        elif todo[0] in rates and known:
            config: Any = params.methods[method]
            rate, num_images, num_classes = rates[todo[0]], len(known.train_labels), len(known.class_names)
            views = num_images * config.views * config.epochs
            total_views += len(todo) * views
            seconds |= dict.fromkeys(todo, views / rate)
            io += [estimate_io(params, todo[0], num_images, num_classes, views / rate)] * len(todo)
            work = (f"{views:,}", _format_rate(rate), _format_time(len(todo) * views / rate))
        else:
            work = ("?", "?", "?")
            unknown |= set() if known else {dataset}
        rows.append((*key, f"{len(todo)}", f"{len(runs) - len(todo)}", *work))
    header = ("dataset", "backbone", "method", "runs", "done", "views per run", "views/s", "time")
    beton_gigabytes = sum(estimate_beton_bytes(params, name) for name in datasets) / 1e9
    extractions = list(grid.extractions(params))
    images = {name: count_images(params, name) for name in datasets}
    features_gigabytes = (
        sum(
            estimate_features_bytes(
                run.pretraining.backbone, params.datasets[run.target].image_size, images[run.target]
            )
            for run in extractions
        )
        / 1e9
    )
    lines = [
        format_table(header, rows, text_columns=3),
        *describe_required_seeds(params),
        f"{format_count(sum(map(len, remaining.values())), 'pretraining runs')}, {format_count(total_views, 'views')}, "
        f"{_format_time(sum(seconds.values()))} if run one after the other",
        f"not included in the time: {format_count(len(extractions), 'feature extractions')} and "
        f"{format_count(len(list(grid.evaluations(params))), 'evaluations')}",
        f"disk space: about {beton_gigabytes:,.2f} GB for betons, about as much again for data/raw, and "
        f"{features_gigabytes:,.2f} GB for features",
    ]
    if seconds:
        lines += [*_makespan_lines(seconds, gpus), _io_line(io, gpus)]
    if unknown:
        lines.append(
            f"not included, because the images are not known until rr fetch has run: {', '.join(sorted(unknown))}"
        )
    return "\n".join(lines)


def _trains(params: Params, method: str) -> bool:
    return hasattr(params.methods[method], "epochs")


def _format_rate(views_per_second: float) -> str:
    return f"{views_per_second:,.0f}" if views_per_second >= 10 else f"{views_per_second:.2g}"


def _format_time(seconds: float) -> str:
    return format_duration(max(seconds, 1)) if seconds else "0 s"


def _makespan_lines(seconds: dict[paths.PretrainPaths, float], gpus: int) -> list[str]:
    """Describe the longest run, which more GPUs do not shorten, and how long all runs take on several GPUs."""
    longest = max(seconds, key=lambda run: seconds[run])
    name = f"{longest.method} on {longest.dataset} with {longest.backbone}"
    lines = [f"longest run: {name}, {_format_time(seconds[longest])}"]
    if gpus > 1:
        makespan = estimate_makespan(list(seconds.values()), gpus)
        lines.append(
            f"on {gpus} GPUs: {_format_time(makespan.longest_first)} if the longest runs start first; "
            f"{_format_time(makespan.lower_bound)} to {_format_time(makespan.upper_bound)} in any order"
        )
    return lines


def _io_line(io: Sequence[IoEstimate], gpus: int) -> str:
    read = sum(run.read_bytes for run in io) / 1e9
    written = sum(run.write_bytes for run in io) / 1e9
    # An unfinished run keeps its newest checkpoint and the one before it.
    stored = 2 * sum(sorted((run.checkpoint_bytes for run in io), reverse=True)[:gpus]) / 1e9
    return (
        f"pretraining reads {read:,.2f} GB of pixels and writes {written:,.2f} GB of checkpoints, of which at most "
        f"{stored:,.3f} GB exist at any time"
    )


def _is_done(params: Params, run: paths.PretrainPaths) -> bool:
    if not paths.record_file(run.folder).is_file():
        return False
    try:
        return bool(load_record(run.folder)["params"] == grid.make_pretrain_run(params, run).params)
    except UserError:
        return False  # the record is damaged
