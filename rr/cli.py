"""The `rr` command: one command a stage, the same that DVC and Snakemake run.

Only this module reads `params.yaml` and the command line; the stages take values and paths. Imports that take time
stand inside the commands, so that `rr --help` answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from rr import grid, paths
from rr.errors import UserError, explain_os_error, nearest
from rr.params import Backbone, Params, load
from rr.provenance import recording

app = typer.Typer(
    help="Self-supervised relational reasoning, stage by stage: fetch, convert, pretrain, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130  # Typer's code, and the shell's, for Ctrl-C

ParamsFile = Annotated[Path, typer.Option("--params", envvar="RR_PARAMS", help="The parameters to use.")]
Device = Annotated[str, typer.Option(envvar="RR_DEVICE", help="auto, cpu, cuda or cuda:<number>.")]
DatasetName = Annotated[str, typer.Option("--dataset", help="A name in the section datasets.")]
BackboneName = Annotated[str, typer.Option("--backbone", help="A backbone's name.")]
MethodName = Annotated[str, typer.Option("--method", help="A name in the section methods.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides initial weights, order and views.")]
Local = Annotated[Path | None, typer.Option("--from", help="A copy on this machine to read instead.")]


@app.command()
def fetch(dataset: DatasetName, local: Local = None, params: ParamsFile = paths.PARAMS) -> None:
    """Bring a data set's pictures into data/raw: generated, downloaded and checked, or one's own."""
    everything = load(params)
    settings = _named(everything, "datasets", dataset)
    place = paths.Dataset(dataset)
    spec = grid.parameters(everything, "fetch", dataset=dataset)
    with recording("fetch", place.raw, params=spec, inputs=[], outputs=[place.images]) as record:
        from rr.fetch import fetch as stage

        record.facts = stage(settings.source, place.images, place.download, local)
    skipped = f", {record.facts['skipped']} skipped" if record.facts["skipped"] else ""
    _say(f"{place.images}: {_counts(record.facts['images'])}, {record.facts['classes']} classes{skipped}")


@app.command()
def convert(dataset: DatasetName, params: ParamsFile = paths.PARAMS) -> None:
    """Write a data set's betons (FFCV), one per split, and its index into data/beton."""
    everything = load(params)
    settings = _named(everything, "datasets", dataset)
    place = paths.Dataset(dataset)
    spec = grid.parameters(everything, "convert", dataset=dataset)
    outputs = [*place.betons.values(), place.index]
    with recording("convert", place.converted, params=spec, inputs=[place.images], outputs=outputs) as record:
        from rr.convert import convert as stage

        record.facts = stage(place.images, settings.side, place.betons, place.index)
    _say(f"{place.converted}: {_counts(record.facts['images'])}, side {settings.side}")


@app.command()
def pretrain(
    dataset: DatasetName,
    backbone: BackboneName,
    method: MethodName,
    seed: Seed,
    device: Device = "auto",
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Train a backbone. After an interruption the same command continues where it was."""
    everything = load(params)
    settings, data = _named(everything, "methods", method), _named(everything, "datasets", dataset)
    run, source = _pretraining(dataset, backbone, method, seed), paths.Dataset(dataset)
    spec = grid.parameters(everything, "pretrain", dataset=dataset, method=method)
    inputs = [source.betons["train"], source.index]
    outputs = [run.weights, run.history, run.views]
    with recording("pretrain", run.folder, params=spec, inputs=inputs, outputs=outputs) as record:
        from rr import device as devices
        from rr.convert import class_names
        from rr.pretrain import Job
        from rr.pretrain import pretrain as stage

        chosen = devices.choose(device)
        devices.settle(everything.threads)
        augmentation = everything.augmentations[settings.augmentation] if settings.kind != "random" else None
        job = Job(data, backbone, settings, augmentation, len(class_names(source.index)), seed)
        fingerprint = record.fingerprint(backbone=backbone, seed=seed)
        facts = stage(
            job, fingerprint, source.betons["train"], weights=run.weights, history=run.history, views=run.views,
            resume=run.resume, device=chosen, threads=everything.threads,
        )  # fmt: skip
        record.facts = {"device": devices.describe(chosen), **facts}
    speed = f"{facts['views']:,} views, {facts['views_per_second']:,} a second" if facts["views"] else "nothing to train"
    _say(f"{run.weights}: {speed}")


@app.command()
def evaluate(
    dataset: DatasetName,
    backbone: BackboneName,
    method: MethodName,
    seed: Seed,
    target: Annotated[str, typer.Option("--target", help="The data set to score on.")],
    protocol: Annotated[str, typer.Option("--protocol", help="A name in the section protocols.")],
    device: Device = "auto",
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Score a pretrained backbone on a target's test split."""
    everything = load(params)
    settings, data = _named(everything, "protocols", protocol), _named(everything, "datasets", target)
    run, source = paths.Evaluation(_pretraining(dataset, backbone, method, seed), target, protocol), paths.Dataset(target)
    spec = grid.parameters(everything, "evaluate", target=target, protocol=protocol)
    inputs = [run.pretraining.weights, *source.betons.values(), source.index]
    outputs = [run.metrics, run.predictions]
    with recording("evaluate", run.folder, params=spec, inputs=inputs, outputs=outputs) as record:
        from rr import device as devices
        from rr.convert import class_names
        from rr.evaluate import evaluate as stage

        chosen = devices.choose(device)
        devices.settle(everything.threads)
        facts = stage(
            settings, run.pretraining.weights, data, source.betons, class_names(source.index), metrics=run.metrics,
            predictions=run.predictions, seed=seed, device=chosen, threads=everything.threads,
        )  # fmt: skip
        record.facts = {"device": devices.describe(chosen), **facts}
    _say(f"{run.metrics}: accuracy {100 * facts['accuracy']:.2f} %")


@app.command()
def report(params: ParamsFile = paths.PARAMS) -> None:
    """Write the page that shows what the grid's runs found."""
    everything = load(params)
    from rr.report import inputs, outputs
    from rr.report import report as stage

    spec = grid.parameters(everything, "report")
    with recording("report", paths.REPORT, params=spec, inputs=inputs(everything), outputs=outputs()):
        stage(everything)
    _say(f"report: {outputs()[0].resolve()}")


@app.command()
def verify(params: ParamsFile = paths.PARAMS) -> None:
    """Compare every artefact of the grid with its record: outputs, inputs, code and parameters."""
    from rr.engines import faults

    found = faults(load(params))
    if found:
        raise UserError("\n".join([*found, f"{len(found)} broken links: run dvc repro (or snakemake) to mend them"]))
    _say("verify: every artefact is what its record says")


@app.command()
def sync(
    source: Annotated[Literal["dvc", "snakemake"], typer.Option("--from", help="The engine that ran last.")],
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Tell the other engine what one engine has done, so that it does not do it again."""
    from rr.engines import sync as stage

    stage(source, load(params))
    _say(f"sync: both engines know what {source} has done")


@app.command()
def doctor() -> None:
    """Check the machine: libraries, FFCV, GPU, threads, disk; each line ok, or what to do."""
    from rr.doctor import examine

    raise typer.Exit(examine())


def _named(params: Params, section: str, name: str):  # type: ignore[no-untyped-def]  # each section has its own type
    known = getattr(params, section)
    if name not in known:
        raise UserError(f"--{section[:-1]} {name}: unknown in params.yaml; {nearest(name, known)}")
    return known[name]


def _pretraining(dataset: str, backbone: str, method: str, seed: int) -> paths.Pretraining:
    if backbone not in Backbone.__args__:  # type: ignore[attr-defined]
        raise UserError(f"--backbone {backbone}: unknown; {nearest(backbone, Backbone.__args__)}")  # type: ignore[attr-defined]
    return paths.Pretraining(dataset, backbone, method, seed)


def _counts(images: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in images.items())


def _say(text: str) -> None:
    print(text, flush=True)


def _stop(text: str, code: int = 2) -> NoReturn:
    print(f"rr: {text}", file=sys.stderr, flush=True)
    sys.exit(code)


def main() -> None:
    """Run the command line; a user's mistake ends with one message and code 2, a bug with its traceback and code 1."""
    try:
        app()
    except UserError as error:
        _stop(str(error))
    except OSError as error:
        explained = explain_os_error(error)
        if explained is None:
            raise
        _stop(str(explained))
    except (MemoryError, RuntimeError) as error:
        # torch reports both memories by RuntimeErrors whose text alone tells them apart.
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            _stop("out of memory: lower batch_size or views of the method in params.yaml, or use a larger machine")
        raise
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _stop("interrupted: run the same command again to continue", INTERRUPTED)
        raise
