"""The `rr` command line: one command a stage, the same that DVC and Snakemake run.

Nothing but Typer is imported here, so that `rr --help` answers at once.
"""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from rr import paths
from rr.errors import SaidElsewhere, UserError, explain_os_error
from rr.runtime import signals

app = typer.Typer(
    help="Self-supervised relational reasoning, stage by stage: fetch, convert, pretrain, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

suite = typer.Typer(help="Suites: the experiments of workflow/suites.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(suite, name="suite")

ParamsFile = Annotated[Path, typer.Option("--params", envvar="RR_PARAMS", help="The parameters to use.")]
Device = Annotated[str, typer.Option("--device", envvar="RR_DEVICE", help="auto, cpu, cuda or cuda:<number>.")]
Dataset = Annotated[str, typer.Option("--dataset", help="A name in the section datasets.")]
Backbone = Annotated[str, typer.Option("--backbone", help="A backbone's name, such as conv4.")]
Method = Annotated[str, typer.Option("--method", help="A name in the section methods.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Decides initial weights, order and views.")]
Target = Annotated[str, typer.Option("--target", help="The data set to score on.")]
Protocol = Annotated[str, typer.Option("--protocol", help="A name in the section protocols.")]
Local = Annotated[Path | None, typer.Option("--from", help="A copy on this machine to read instead.")]
Engine = Annotated[Literal["dvc", "snakemake"], typer.Option("--from", help="The engine that ran last.")]
Format = Annotated[
    Literal["safetensors", "state-dict", "torchscript", "torch-export", "onnx"],
    typer.Option("--format", help="What to write: weights, or a program of torch's or ONNX."),
]
Suite = Annotated[str, typer.Argument(help="A file of workflow/suites, without .yaml.")]
Weights = Annotated[Path, typer.Option("--weights", help="A backbone.safetensors of a run, or a file of rr import.")]
Prepared = Annotated[
    str | None,
    typer.Option("--dataset", help="A name in the section datasets: its side, mean and std, and not the weights' own."),
]
Unreadable = Annotated[
    Literal["stop", "skip"], typer.Option("--unreadable", help="What to do at a picture that cannot be read.")
]


@app.command()
def fetch(dataset: Dataset, local: Local = None, params: ParamsFile = paths.PARAMS) -> None:
    """Bring a data set's pictures into data/raw: generated, downloaded and checked, or one's own."""
    from rr import stages

    print(stages.fetch(dataset, local, params))


@app.command()
def convert(dataset: Dataset, params: ParamsFile = paths.PARAMS) -> None:
    """Write a data set's betons (FFCV), one per split, and its index into data/beton."""
    from rr import stages

    print(stages.convert(dataset, params))


@app.command()
def pretrain(
    dataset: Dataset,
    backbone: Backbone,
    method: Method,
    seed: Seed,
    device: Device = "auto",
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Train a backbone. After an interruption the same command continues where it was.

    In several processes: torchrun --nproc-per-node N -m rr pretrain …
    """
    from rr import stages

    if said := stages.pretrain(dataset, backbone, method, seed, device, params):
        print(said)


@app.command()
def evaluate(
    dataset: Dataset,
    backbone: Backbone,
    method: Method,
    seed: Seed,
    target: Target,
    protocol: Protocol,
    device: Device = "auto",
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Score a pretrained backbone on a target's test split."""
    from rr import stages

    print(stages.evaluate(dataset, backbone, method, seed, target, protocol, device, params))


@app.command()
def report(params: ParamsFile = paths.PARAMS) -> None:
    """Write the page that shows what the grid's runs found."""
    from rr import stages

    print(stages.report(params))


@suite.command("list")
def suite_list() -> None:
    """Name every suite, and what it is for."""
    from rr.workflow import suites

    print(suites.listed())


@suite.command("show")
def suite_show(name: Suite) -> None:
    """Print a suite's file."""
    from rr.workflow import suites

    print(suites.show(name))


@suite.command("use")
def suite_use(name: Suite, params: ParamsFile = paths.PARAMS) -> None:
    """Write an experiment's grid into params.yaml, for both engines to run."""
    from rr.workflow import suites

    print(suites.use(name, params))


@app.command()
def plan(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SUITE]...", help="Suites; params.yaml's own grid without.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option("--views-per-second", help="Views a second of every run, 1 to 1e12, instead of measuring."),
    ] = None,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, max=10**6, help="GPUs that work side by side, a run on each.")
    ] = 1,
    device: Device = "auto",
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Say what a grid would run, how many views that is, and how long it would take on this machine."""
    from rr import stages

    # Not Typer's min and max, which let nan through.
    if speed is not None and not 1 <= speed <= 1e12:
        raise UserError(f"--views-per-second {speed}: give a number from 1 to 1e12")
    print(stages.plan(names or [], speed, gpus, device, params))


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show what runs in this folder, how far it is, and what failed or was interrupted."""
    from rr.runtime.status import shown

    print(shown(as_json))


@app.command()
def verify(params: ParamsFile = paths.PARAMS) -> None:
    """Compare every artefact of the grid with its record: outputs, inputs, code and parameters."""
    from rr import stages

    print(stages.verify(params))


@app.command()
def sync(source: Engine, params: ParamsFile = paths.PARAMS) -> None:
    """Tell the other engine what one engine has done, so that it does not do it again."""
    from rr import stages

    print(stages.sync(source, params))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the authors' code, a state dict, or safetensors.")],
    backbone: Backbone,
    output: Annotated[Path | None, typer.Option("--output", help="Beside FILE when not given.")] = None,
) -> None:
    """Turn a checkpoint from elsewhere into a backbone file that a method of kind imported can name."""
    from rr.exchange.importing import import_backbone

    print(import_backbone(file, backbone, output))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A backbone.safetensors of a run, or a file of rr import.")],
    kind: Format,
    output: Annotated[Path, typer.Option("--output", help="The file to write.")],
    side: Annotated[int, typer.Option("--side", min=8, max=1024, help="Side of the pictures it is to take.")] = 32,
) -> None:
    """Write a backbone in a format that other programs read, and check that it gives the same features."""
    from rr.exchange.exporting import export as write

    print(write(file, kind, output, side))


@app.command()
def embed(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of pictures, with all below it.")],
    weights: Weights,
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
    dataset: Prepared = None,
    unreadable: Unreadable = "stop",
    device: Device = "auto",
    params: ParamsFile = paths.PARAMS,
) -> None:
    """Write the features of every picture in a folder: path and vector, a row each."""
    from rr.gallery.embed import embed as write

    print(write(folder, weights, output, dataset=dataset, unreadable=unreadable, device=device, params=params))


@app.command()
def retrieve(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="The pictures to compare with.")],
    gallery: Annotated[Path, typer.Option("--gallery", metavar="DIR", help="A folder of pictures, with all below it.")],
    weights: Weights,
    top: Annotated[int, typer.Option("--top", min=1, help="How many to list.")] = 10,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="An HTML page to write.")] = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="Where features are kept; in .rr/gallery when not given.")
    ] = None,
    dataset: Prepared = None,
    unreadable: Unreadable = "stop",
    device: Device = "auto",
    params: ParamsFile = paths.PARAMS,
) -> None:
    """List the pictures of a folder that are nearest to each IMAGE, by cosine similarity."""
    from rr.gallery.retrieve import retrieve as search

    print(
        search(
            images, gallery, weights, top=top, page=output, place=index, dataset=dataset, unreadable=unreadable,
            device=device, params=params,
        )
    )  # fmt: skip


@app.command()
def doctor() -> None:
    """Check the machine: libraries, FFCV, GPU, threads, disk; each line ok, or what to do."""
    from rr.doctor import examine

    raise typer.Exit(examine())


@app.command()
def bench(
    parts: Annotated[
        list[str] | None, typer.Argument(help="views, head, backbone, loader, … ; all when none is named.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Timed repeats of each case.")] = 20,
    threads: Annotated[
        str, typer.Option("--threads", help="Thread counts, such as 1,2; each part's own when empty.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="RR_BENCH_DATA", help="A folder of data/beton; generated pictures without."),
    ] = None,
) -> None:
    """Time this project beside the paper's way of doing the same, in turns, and print the ratios."""
    from rr import bench as benchmark

    counts = threads.split(",") if threads else []
    if not all(count.strip().isdigit() and int(count) > 0 for count in counts):
        raise UserError(f"--threads {threads}: give numbers with commas between, such as 1,2")
    print(benchmark.run(parts or (), as_json=as_json, steps=steps, threads=[int(c) for c in counts] or None, data=data))


def main() -> None:
    """Run the command line; a user's mistake ends with one message and code 2, a bug with its traceback and code 1."""
    # Read when the OpenMP library loads. Threads that spin while they wait take the cores from numba's.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signals.unwind()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log says at once where a training goes on
    try:
        app()
    except UserError as error:
        _stop(str(error))
    except SaidElsewhere as error:
        sys.exit(error.code)
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
        if end.code in signals.ENDED:
            _stop(f"{signals.ENDED[end.code]}: run the same command again to continue", end.code)
        raise


def _stop(text: str, code: int = 2) -> NoReturn:
    print(f"rr: {text}", file=sys.stderr, flush=True)
    sys.exit(code)
