"""Each stage from its names to its record: parameters looked up, inputs checked, the work done, `run.json` written.

Only this module and the Snakefile read `params.yaml`; the functions that do the work take values and paths. Their
imports stand inside the functions, because torch and FFCV take seconds to load.
"""

from pathlib import Path
from typing import Any, get_args

from rr import paths
from rr.compute.distributed import alone, explained, joined
from rr.errors import UserError, nearest
from rr.params import Backbone, Dataset, Params, load
from rr.runtime.hashing import digest
from rr.runtime.local_copy import nearby
from rr.runtime.machine import versions
from rr.workflow import grid
from rr.workflow.records import recording
from rr.workflow.sync import sync as sync_engines
from rr.workflow.verify import grid_changed_files, grid_mismatches


def fetch(dataset: str, local: Path | None, params: Path) -> str:
    """Bring a data set's pictures into data/raw. Returns what to say."""
    alone("fetch")
    everything = load(params)
    settings = _named(everything, "datasets", dataset)
    place = paths.Dataset(dataset)
    with recording(grid.fetch(everything, dataset)) as record:
        from rr.fetch import fetch as stage

        record.facts = stage(settings.source, place.images, place.download, local)
    skipped = f", {record.facts['skipped']} skipped" if record.facts["skipped"] else ""
    return f"{place.images}: {_counts(record.facts)}, {record.facts['classes']} classes{skipped}"


def convert(dataset: str, params: Path) -> str:
    """Write a data set's betons and index. Returns what to say."""
    alone("convert")
    everything = load(params)
    settings = _named(everything, "datasets", dataset)
    place = paths.Dataset(dataset)
    with recording(grid.convert(everything, dataset)) as record:
        from rr.convert import convert as stage

        record.facts = stage(place.images, settings.side, place.betons, place.index)
    return f"{place.converted}: {_counts(record.facts)}, side {settings.side}"


def pretrain(dataset: str, backbone: str, method: str, seed: int, device: str, params: Path) -> str:
    """Train a backbone, or go on training it, in one process or in those that torchrun has started.

    Returns what to say; of several processes, the first has something to say.
    """
    with joined() as group:
        everything = load(params)
        settings, data = _named(everything, "methods", method), _named(everything, "datasets", dataset)
        run, source = _pretraining(dataset, backbone, method, seed), paths.Dataset(dataset)
        chosen = group.device(_device(device))
        with recording(grid.pretrain(everything, run), first=group.first) as record, explained():
            from rr.compute import device as devices
            from rr.data.index import class_names
            from rr.pretrain import Job
            from rr.pretrain import pretrain as stage
            from rr.pretrain.checkpoint import forget

            devices.settle(everything.threads)
            group.alike(
                {
                    "parameters": digest([record.params, dataset, backbone, method, seed]),
                    "data": digest(record.inputs),
                    "code": digest(record.code),
                    "versions": digest(versions()),
                    "device": chosen.partition(":")[0],
                }
            )
            job = Job(
                dataset=data,
                backbone=backbone,
                method=settings,
                classes=len(class_names(source.index)),
                seed=seed,
                precision=everything.precision,
                dynamics=everything.dynamics,
                fingerprint=record.fingerprint(backbone=backbone, seed=seed),
            )
            train = source.betons["train"]
            train = nearby(train, record.inputs[str(train)])
            facts = stage(job, train, run, device=chosen, threads=everything.threads, group=group)
            record.facts = {"device": devices.describe(chosen), "processes": group.size, **facts}
        if not group.first:
            return ""
        # Only now, with every output and its record in place, may the state in flight go.
        forget(run.resume)
    speed = (
        f"{facts['views']:,} views, {facts['views_per_second']:,} a second" if facts["views"] else "nothing to train"
    )
    return f"{run.weights}: {speed}"


def evaluate(
    dataset: str, backbone: str, method: str, seed: int, target: str, protocol: str, device: str, params: Path
) -> str:
    """Score a backbone on a target. Returns what to say."""
    alone("evaluate")
    everything = load(params)
    settings, data = _named(everything, "protocols", protocol), _named(everything, "datasets", target)
    run = paths.Evaluation(_pretraining(dataset, backbone, method, seed), target, protocol)
    source = paths.Dataset(target)
    chosen = _device(device)
    with recording(grid.evaluate(everything, run)) as record:
        from rr.compute import device as devices
        from rr.data.index import class_names
        from rr.evaluate.stage import Target
        from rr.evaluate.stage import evaluate as stage

        devices.settle(everything.threads)
        betons = {split: nearby(path, record.inputs[str(path)]) for split, path in source.betons.items()}
        goal = Target(data, betons, class_names(source.index))
        metrics = stage(settings, goal, run, seed=seed, device=chosen, threads=everything.threads)
        record.facts = {"device": devices.describe(chosen)}
    name, value = next(iter(metrics.items()))
    return f"{run.metrics}: {name.replace('_', ' ')} {value:.4f}"


def report(params: Path) -> str:
    """Write the page. Returns what to say; raises UserError where a file on the way from the data has changed."""
    alone("report")
    everything = load(params)
    found = grid_changed_files(everything)
    if found:
        raise UserError("\n".join([*found, "no report of that: dvc repro (or snakemake) makes anew what changed"]))
    with recording(grid.report(everything)):
        from rr.report import report as stage

        stage(everything)
    return f"report: {paths.REPORT_FILES[0].resolve()}"


def plan(names: list[str], speed: float | None, gpus: int, device: str, params: Path) -> str:
    """What the grid of `params`, or of the suites `names`, would run. Returns what to say."""
    from rr.workflow import suites
    from rr.workflow.plan import measured
    from rr.workflow.plan import plan as stage

    place = suites.overlay({name: suites.read(name) for name in names}, params) if names else params
    return stage(load(place), measured(_device(device)) if speed is None else lambda *_: speed, gpus)


def verify(params: Path) -> str:
    """Compare every artefact with its record. Returns what to say; raises UserError that lists the broken links."""
    found = grid_mismatches(load(params))
    if found:
        raise UserError("\n".join([*found, f"{len(found)} broken links: dvc repro (or snakemake) mends them"]))
    return "verify: every artefact is what its record says"


def sync(source: str, params: Path) -> str:
    """Tell the other engine what `source` has done. Returns what to say."""
    sync_engines(source, load(params))
    return f"sync: both engines know what {source} has done"


def dataset(name: str, params: Path) -> Dataset:
    """The section of `params` that describes data set `name`. Raises UserError for a name it does not have."""
    return _named(load(params), "datasets", name)


def _device(name: str) -> str:
    from rr.runtime.gpu_lock import device

    return device(name)


def _named(params: Params, section: str, name: str) -> Any:
    known = getattr(params, section)
    if name not in known:
        raise UserError(f"--{section[:-1]} {name}: unknown in params.yaml; {nearest(name, known)}")
    return known[name]


def _pretraining(dataset: str, backbone: str, method: str, seed: int) -> paths.Pretraining:
    if backbone not in get_args(Backbone):
        raise UserError(f"--backbone {backbone}: unknown; {nearest(backbone, get_args(Backbone))}")
    return paths.Pretraining(dataset, backbone, method, seed)


def _counts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in facts["images"].items())
