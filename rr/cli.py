"""The `rr` command line. Each stage has a command, which DVC and Snakemake also run.

This module imports only Typer and small `rr` modules, so that `rr --help` is fast. The commands import the rest.
"""

import gc
import io
import json
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from rr import __version__, paths
from rr.errors import ReportedByAnotherProcess, UserError, explain_error
from rr.runtime import signals
from rr.runtime.progress import Progress, is_main_process

if TYPE_CHECKING:
    from rr.data.preprocessing import Preprocessing


class _Command(typer.core.TyperCommand):
    """A command whose line in the command list is not truncated."""

    def get_short_help_str(self, limit: int = 0) -> str:
        return super().get_short_help_str(limit=1000)


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
suite = typer.Typer(
    help="List, show or use a suite: a file that defines a set of runs.",
    short_help="List, show or use a suite (a file that defines a set of runs).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(suite, name="suite")


def _check_project(params: Path) -> Path:
    """Return `params`, or raise UserError if the file belongs to a project in a different folder.

    All other paths are relative to the current folder, so the results would be outside the project. DVC passes
    RR_PARAMS on to its stages, but tracks only params.yaml.
    """
    from rr.workflow.sync import was_started_by_dvc

    variable = os.environ.get("RR_PARAMS", paths.PARAMS_FILE)
    if was_started_by_dvc() and params.resolve() == Path(variable).resolve() != paths.PARAMS_FILE.resolve():
        raise UserError(
            f"DVC reads only {paths.PARAMS_FILE}, but the environment variable RR_PARAMS is {variable}: unset it"
        )
    if (params.parent / "dvc.yaml").is_file() and not Path("dvc.yaml").is_file():
        raise UserError(f"{params} belongs to the project in {params.parent.resolve()}: run rr in that folder")
    return params


FetchedDatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Name of a dataset fetched with rr fetch.")
]
ImageFolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images, searched recursively.")]
ParamsOption = Annotated[
    Path, typer.Option("--params", envvar="RR_PARAMS", help="Parameter file.", callback=_check_project)
]
# Option for the commands that read only a dataset's preprocessing from the file.
AnyParamsOption = Annotated[Path, typer.Option("--params", envvar="RR_PARAMS", help="Parameter file.")]
DeviceOption = Annotated[
    str,
    typer.Option("--device", envvar="RR_DEVICE", help="Device: auto (GPU if available), cpu, cuda or cuda:<number>."),
]
DatasetOption = Annotated[
    str, typer.Option("--dataset", help="Name of the dataset (a key under `datasets:` in params.yaml).")
]
BackboneOption = Annotated[str, typer.Option("--backbone", help="Backbone architecture, such as conv4 or resnet32.")]
MethodOption = Annotated[
    str, typer.Option("--method", help="Name of the method (a key under `methods:` in params.yaml).")
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, max=2**31 - 1, help="Seed for the initial weights, the image order and the views."),
]
RunSeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Seed of the pretraining run.")]
TargetOption = Annotated[
    str, typer.Option("--target", help="Name of the dataset to evaluate on (a key under `datasets:` in params.yaml).")
]
ProtocolOption = Annotated[
    str, typer.Option("--protocol", help="Name of the protocol (a key under `protocols:` in params.yaml).")
]
LocalCopyOption = Annotated[
    Path | None, typer.Option("--from", help="Local copy of the dataset to read instead of downloading it.")
]
FormatOption = Annotated[
    Literal["safetensors", "state-dict", "torchscript", "torch-export", "onnx"],
    typer.Option(
        "--format",
        help="Output format: a copy of the file (safetensors), the backbone's weights (state-dict), or the backbone as "
        "a complete model (torchscript, torch-export, onnx).",
    ),
]
SuiteArgument = Annotated[
    str, typer.Argument(metavar="SUITE", help="Name of the suite: a file in workflow/suites, without .yaml.")
]
_WEIGHTS_HELP = (
    "backbone.safetensors from a run, a file written by rr import, the name of released weights, or "
    "hf-hub:OWNER/NAME (Hugging Face Hub)."
)
WeightsOption = Annotated[Path, typer.Option("--weights", help=_WEIGHTS_HELP)]
PreprocessingOption = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Dataset in params.yaml whose image_size, mean and std replace those stored with the weights.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
RecordOption = Annotated[bool, typer.Option("--json", help="Print the record of the run (run.json) instead of text.")]
MetricsOption = Annotated[bool, typer.Option("--json", help="Print the metrics (metrics.json) instead of text.")]
OnUnreadableOption = Annotated[
    Literal["raise", "skip"],
    typer.Option("--on-unreadable", help="What to do if an image cannot be read: raise an error, or skip the image."),
]


def _print_version(requested: bool) -> None:
    if requested:
        print(f"rr {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run self-supervised relational reasoning, stage by stage: fetch, convert, pretrain, extract, evaluate, report."""


@app.command()
def init(
    images: Annotated[
        Path | None,
        typer.Argument(metavar="[IMAGES]", help="Folder of images, a Parquet file, or a folder of Parquet files."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the dataset. Defaults to the name of the folder or file.")
    ] = None,
    no_labels: Annotated[
        bool,
        typer.Option(
            "--no-labels",
            help="Treat all images as unlabeled. By default, labels are taken from folder names or from a column of a "
            "Parquet file, where possible.",
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="CSV file with a column of image names and a column of labels, for a folder.",
        ),
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read. By default, rr init stops.")
    ] = False,
    run: Annotated[bool, typer.Option("--run", help="Also train on the images and write the report.")] = False,
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Create a project in this folder, or add IMAGES to the project, with a grid that trains on them."""
    from rr import commands
    from rr.params.datasets import LABEL_FILE_SUFFIXES

    if images is None:
        if name or run or no_labels or labels or skip_unreadable:
            raise UserError(
                "--name, --no-labels, --labels, --skip-unreadable and --run require images: specify a folder of images "
                "or a Parquet file, as in rr init IMAGES"
            )
        print(commands.run_init())
        return
    if labels and no_labels:
        raise UserError("--labels and --no-labels exclude each other: use one of them")
    if labels and labels.suffix.lower() not in LABEL_FILE_SUFFIXES:
        raise UserError("--labels must be the path of a CSV file (.csv or .tsv)")
    if run:
        commands.check_can_run(params)
    with Progress("init"):
        message = commands.run_init_images(
            images,
            name,
            params,
            labels="none" if no_labels else str(labels or "auto"),
            skip_unreadable=skip_unreadable,
            accept_earlier=run,
        )
        print(message)
    if run:
        print(commands.run_pipeline())


@app.command()
def fetch(
    dataset: DatasetOption,
    local: LocalCopyOption = None,
    as_json: RecordOption = False,
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Generate, download or copy the images of a dataset into data/raw, and check them."""
    with Progress("fetch"):
        from rr import commands

        message = commands.run_fetch(dataset, local, params)
    _print_result(message, paths.record_file(paths.DatasetPaths(dataset).raw_dir), as_json)


@app.command()
def check(
    dataset: FetchedDatasetArgument,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help=f"{_WEIGHTS_HELP} If given, also compare the images by their features."),
    ] = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Find duplicates, test images in the training split, blank images, unusual sizes and small classes."""
    with Progress("check"):
        from rr import commands

        message, facts = commands.run_check(dataset, weights, device, params)
    print(json.dumps(facts, indent=1) if as_json else message)


@app.command()
def convert(dataset: DatasetOption, as_json: RecordOption = False, params: ParamsOption = paths.PARAMS_FILE) -> None:
    """Convert a dataset to FFCV files (betons), one per split, and write them and an index to data/beton."""
    with Progress("convert"):
        from rr import commands

        message = commands.run_convert(dataset, params)
    _print_result(message, paths.record_file(paths.DatasetPaths(dataset).beton_dir), as_json)


@app.command()
def pretrain(
    dataset: DatasetOption,
    backbone: BackboneOption,
    method: MethodOption,
    seed: SeedOption,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            "--tensorboard",
            metavar="DIR",
            envvar="RR_TENSORBOARD",
            help="Folder for TensorBoard logs of each epoch's loss and other measurements.",
        ),
    ] = None,
    as_json: RecordOption = False,
    device: DeviceOption = "auto",
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Pretrain a backbone. After an interruption, or to train for more epochs, run the same command again to continue.

    To use N processes: torchrun --nproc-per-node N -m rr pretrain …
    """
    # With torchrun, only the main process shows its progress.
    with Progress("pretrain") if is_main_process() else nullcontext():
        from rr import commands

        run = paths.PretrainPaths(dataset, backbone, method, seed)
        message = commands.run_pretrain(run, device, params, tensorboard)
    if message:
        _print_result(message, paths.record_file(run.folder), as_json)


@app.command()
def extract(
    dataset: DatasetOption,
    backbone: BackboneOption,
    method: MethodOption,
    seed: RunSeedOption,
    target: TargetOption,
    as_json: RecordOption = False,
    device: DeviceOption = "auto",
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Compute the features of a target dataset with a pretrained backbone, for all protocols."""
    with Progress("extract"):
        from rr import commands

        run = paths.FeaturePaths(paths.PretrainPaths(dataset, backbone, method, seed), target)
        message = commands.run_extract(run, device, params)
    _print_result(message, paths.record_file(run.folder), as_json)


@app.command()
def evaluate(
    dataset: DatasetOption,
    backbone: BackboneOption,
    method: MethodOption,
    seed: RunSeedOption,
    target: TargetOption,
    protocol: ProtocolOption,
    as_json: MetricsOption = False,
    device: DeviceOption = "auto",
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Evaluate a pretrained backbone on the test split of a target dataset; run rr extract first."""
    with Progress("evaluate"):
        from rr import commands

        run = paths.EvaluationPaths(paths.PretrainPaths(dataset, backbone, method, seed), target, protocol)
        message = commands.run_evaluate(run, device, params)
    _print_result(message, run.metrics, as_json)


@app.command()
def report(
    params: ParamsOption = paths.PARAMS_FILE,
    crate: Annotated[
        Path | None,
        typer.Option("--crate", help="Also write the report and all records to this zip file, as an RO-Crate."),
    ] = None,
) -> None:
    """Write a report page with the grid's results."""
    with Progress("report"):
        from rr import commands
        from rr.exchange.crate import write_crate
        from rr.runtime.output_path import check_output_path

        if crate:
            check_output_path("--crate", crate, [".zip"])
        print(commands.run_report(params))
        if crate:
            print(write_crate(params_file=params, output=crate))


@suite.command("list")
def suite_list(as_json: JsonOption = False) -> None:
    """List the suites with a short description of each."""
    from rr.workflow import suites

    sentences = suites.describe_suites()
    lines = [f"{name:<20} {sentence}" for name, sentence in sentences.items()]
    print(json.dumps(sentences, indent=1) if as_json else "\n".join(lines))


@suite.command("show")
def suite_show(name: SuiteArgument) -> None:
    """Print the contents of a suite file."""
    from rr.workflow import suites

    print(suites.suite_text(name))


@suite.command("use")
def suite_use(name: SuiteArgument, params: ParamsOption = paths.PARAMS_FILE) -> None:
    """Write a suite's grid and methods into params.yaml, so that both engines run the suite."""
    from rr.workflow import suites

    print(suites.use_suite(name, params))


@app.command()
def plan(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="SUITE", help="Suites to plan. Defaults to the grid in params.yaml."),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(
            "--views-per-second", help="Throughput to assume for every run (1 to 1e12), instead of measuring it."
        ),
    ] = None,
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, max=10**6, help="Number of GPUs to assume. Each trains one model at a time.")
    ] = 1,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Count the runs and views of a grid, estimate its duration on this machine, and check whether it can succeed."""
    # Typer's min and max would accept nan.
    if speed is not None and not 1 <= speed <= 1e12:
        raise UserError(f"--views-per-second {speed}: must be a number from 1 to 1e12")
    with Progress("plan", use_bar=False):  # drawing a bar would disturb the measurement
        from rr import commands

        result, problems = commands.run_plan(names or [], speed, gpus, device, params)
    if as_json:
        print(json.dumps({**asdict(result), "problems": problems}, indent=1))
    else:
        from rr.workflow.plan import format_plan

        print(format_plan(result))
    if problems:
        raise UserError("\n".join(["this grid cannot be completed:", *problems]))


@app.command()
def status(as_json: JsonOption = False) -> None:
    """Show the state and progress of the unfinished runs in this folder.

    The state is running, stopped (the process no longer exists), interrupted (by a signal), failed, or elsewhere
    (started on another host).
    """
    from rr.runtime.status import render_status

    print(render_status(as_json))


@app.command()
def verify(
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute",
            help="Also rerun the last epoch of a randomly chosen pretraining run and compare the results.",
        ),
    ] = False,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Ignore missing files, such as images or features that were not copied."),
    ] = False,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Compare the outputs, inputs, code and parameters of every run in the grid with its record."""
    with Progress("verify"):
        from rr import commands
        from rr.workflow.verify import count_comparable_files

        runs, rerun_epoch = commands.run_verify(recompute, allow_missing, device, params)
        is_same, recomputed = rerun_epoch or (True, None)
        compared, others = count_comparable_files([run for run, _ in runs])
    if as_json:
        entries = [{"stage": run.stage, "folder": str(run.folder), "mismatches": found} for run, found in runs]
        files = {"compared": compared, "not_compared": others}
        print(json.dumps({"runs": entries, "files": files, "recomputed": recomputed}, indent=1))
    if messages := [message for _, found in runs for message in found]:
        how = " with `dvc repro` or `snakemake --cores 8`" if params.resolve() == paths.PARAMS_FILE.resolve() else ""
        messages.append(f"mismatches: {len(messages)}; update these files{how}")
        raise UserError("\n".join(messages))
    if not compared:
        raise UserError(
            "no run in the grid has a record, so nothing was compared: run `dvc repro` or `snakemake --cores 8`"
        )
    if not is_same:
        raise UserError(str(recomputed))
    if not as_json:
        if others:
            print(f"verify: {compared:,} files match their records; {others:,} are missing or have no record")
        else:
            print("verify: every artifact matches its record")
        if recomputed:
            print(recomputed)


@app.command()
def sync(params: ParamsOption = paths.PARAMS_FILE) -> None:
    """Register with DVC all runs that match their records, so that DVC does not rerun them.

    Use this command after Snakemake has run stages, or after you have edited comments, docstrings or formatting in the
    code. Snakemake does not need this command.
    """
    with Progress("sync"):
        from rr import commands

        message = commands.run_sync(params)
    print(message)


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File to convert: a checkpoint from the paper's authors or from any other PyTorch program, a state "
            "dict, or a safetensors file.",
        ),
    ],
    backbone: BackboneOption,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write. Defaults to a new file in the same folder as FILE."),
    ] = None,
    params: AnyParamsOption = paths.PARAMS_FILE,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Key of the weights, such as encoder_q, if FILE contains several backbones."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=8,
            max=1024,
            help="Height and width of the images, if the network requires a fixed size, or together with --mean.",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="R,G,B",
            help="Mean of each channel with which the network was trained, for pixel values in [0, 1]. With --mean, "
            "--std and --image-size, the new file can be used without a dataset in params.yaml.",
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", metavar="R,G,B", help="Standard deviation of each channel; see --mean.")
    ] = None,
) -> None:
    """Convert a checkpoint to a backbone file that a method with `kind: imported` can use."""
    with Progress("import"):
        from rr.exchange.import_weights import import_backbone

        message = import_backbone(
            file, backbone, output, key, image_size=image_size, mean=mean, std=std, params_file=params
        )
    print(message)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=_WEIGHTS_HELP)],
    format: FormatOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=8,
            max=1024,
            help="Height and width of the model's input in pixels, for torchscript, torch-export and onnx. Defaults to "
            "the size of the pretraining images or, if it is unknown, to 32.",
        ),
    ] = None,
) -> None:
    """Export a backbone to a different format, check that its features are unchanged, and write a model card."""
    with Progress("export"):
        from rr.exchange.export_weights import export_backbone

        message = export_backbone(file, format, output, image_size)
    print(message)


@app.command()
def croissant(
    dataset: FetchedDatasetArgument,
    license: Annotated[
        str | None,
        typer.Option("--license", help="License of the images, as a URL or an SPDX identifier, such as CC-BY-4.0."),
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Web page of the dataset (http or https).")] = None,
    creator: Annotated[
        str | None,
        typer.Option("--creator", help="Person or organization that created the dataset (stored as an organization)."),
    ] = None,
    date: Annotated[
        str | None,
        typer.Option("--date", help="Publication date of the dataset (YYYY-MM-DD, YYYY-MM or YYYY)."),
    ] = None,
) -> None:
    """Describe a fetched dataset in a Croissant file (JSON-LD), stored next to the images."""
    from rr.exchange.croissant import write_croissant

    print(write_croissant(dataset, license=license, url=url, creator=creator, date=date))


@app.command()
def embed(
    folder: ImageFolderArgument,
    weights: WeightsOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")],
    map_page: Annotated[
        Path | None, typer.Option("--map", metavar="FILE", help="Also write an HTML page with a map of the images.")
    ] = None,
    dataset: PreprocessingOption = None,
    on_unreadable: OnUnreadableOption = "raise",
    device: DeviceOption = "auto",
    params: AnyParamsOption = paths.PARAMS_FILE,
) -> None:
    """Write a Parquet file with the path and the feature vector of every image in a folder."""
    with Progress("embed"):
        from rr.gallery.embed import embed as run_embed

        preprocessing = _lookup_preprocessing(dataset, params)
        message = run_embed(
            folder,
            weights,
            output,
            map_path=map_page,
            preprocessing=preprocessing,
            on_unreadable=on_unreadable,
            device=device,
        )
    print(message)


@app.command()
def classify(
    folder: ImageFolderArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file to write.")],
    dataset: DatasetOption,
    backbone: BackboneOption,
    method: MethodOption,
    seed: RunSeedOption,
    target: Annotated[
        str,
        typer.Option("--target", help="Name of the dataset with the classes (a key under `datasets:` in params.yaml)."),
    ],
    protocol: ProtocolOption = "linear",
    on_unreadable: OnUnreadableOption = "raise",
    device: DeviceOption = "auto",
    params: ParamsOption = paths.PARAMS_FILE,
) -> None:
    """Predict the class of each image in a folder with the linear or kNN classifier that rr evaluate tests.

    The network must have been pretrained (rr pretrain), and the features of the target dataset must have been computed
    (rr extract).
    """
    with Progress("classify"):
        from rr import commands

        run = paths.EvaluationPaths(paths.PretrainPaths(dataset, backbone, method, seed), target, protocol)
        message = commands.run_classify(folder, output, run, on_unreadable, device, params)
    print(message)


@app.command()
def retrieve(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Query images.")],
    gallery: Annotated[
        Path, typer.Option("--gallery", metavar="DIR", help="Folder of images to search, including its subfolders.")
    ],
    weights: WeightsOption,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of results for each query.")] = 10,
    rerank: Annotated[
        int,
        typer.Option(
            "--rerank",
            min=0,
            help="Number of nearest images to reorder with the relation head, e.g. 100 (0 for none).",
        ),
    ] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML page to write.")] = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="File that caches the features. Defaults to a file in .rr/gallery.")
    ] = None,
    as_json: JsonOption = False,
    dataset: PreprocessingOption = None,
    on_unreadable: OnUnreadableOption = "raise",
    device: DeviceOption = "auto",
    params: AnyParamsOption = paths.PARAMS_FILE,
) -> None:
    """Find the images in a folder that are most similar to each query IMAGE, by cosine similarity of their features."""
    with Progress("retrieve"):
        from rr.gallery.retrieve import retrieve as run_retrieve

        preprocessing = _lookup_preprocessing(dataset, params)
        message = run_retrieve(
            images, gallery, weights, top=top, num_reranked=rerank, page_path=output, index_path=index,
            preprocessing=preprocessing, on_unreadable=on_unreadable, device=device, as_json=as_json,
        )  # fmt: skip
    print(message)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="IMAGE", help="First image.")],
    second: Annotated[Path, typer.Argument(metavar="IMAGE", help="Second image.")],
    weights: WeightsOption,
    as_json: JsonOption = False,
    dataset: PreprocessingOption = None,
    device: DeviceOption = "auto",
    params: AnyParamsOption = paths.PARAMS_FILE,
) -> None:
    """Print the probability that two images are views of the same image, according to a relation head."""
    with Progress("compare"):
        from rr.gallery.compare import compare as run_compare

        preprocessing = _lookup_preprocessing(dataset, params)
        message = run_compare(first, second, weights, preprocessing=preprocessing, device=device, as_json=as_json)
    print(message)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check the installation (libraries, FFCV, GPU, threads, disk) and, in a project, its repository and its grid."""
    from rr.doctor import run_checks

    raise typer.Exit(run_checks(as_json))


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PART",
            help="Parts to time. Defaults to all of them: views, head, backbone, loader, training, busy, evaluation, "
            "startup, machine, scaling, gpu.",
        ),
    ] = None,
    as_json: JsonOption = False,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Number of timed repeats of each case.")] = 20,
    threads: Annotated[
        str, typer.Option("--threads", help="Thread counts to use, such as 1,2. By default, each part chooses its own.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            envvar="RR_BENCH_DATA",
            help="Path of a converted dataset to use, such as data/beton/cifar10. By default, images are generated.",
        ),
    ] = None,
) -> None:
    """Time this project against a reference implementation of the paper, in alternating runs, and print the ratios."""
    from rr import bench as benchmark

    counts = threads.split(",") if threads else []
    if not all(count.strip().isdecimal() and int(count) > 0 for count in counts):
        raise UserError(f"--threads {threads}: must be positive integers separated by commas, such as 1,2")
    print(
        benchmark.run_benchmark(
            parts or (), as_json=as_json, steps=steps, threads=[int(c) for c in counts] or None, data=data
        )
    )


for _group in (app, suite):
    for _command in _group.registered_commands:
        _command.cls = _Command


def main() -> None:
    """Run the command line, and end the process without unloading libraries: unloading torch takes half a second."""
    _replace_closed_streams()
    gc.set_threshold(100_000)  # fewer garbage collections make imports 10% faster
    try:
        run()
    except BrokenPipeError:  # while a message was printed to standard error
        code = signals.CLOSED_PIPE_CODE
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        is_pipe_closed = isinstance(error.__context__, BrokenPipeError)  # Typer then exits with 1
        code = signals.CLOSED_PIPE_CODE if is_pipe_closed else error.code
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = signals.CLOSED_PIPE_CODE
    os._exit(code)


def _replace_closed_streams() -> None:
    """Open os.devnull for closed standard streams (as after `>&-`), so that no other file gets descriptor 0, 1 or 2."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            file = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115  # stays open
            os.set_inheritable(file.fileno(), True)
            setattr(sys, name, file)


def run() -> None:
    """Run the command line and raise SystemExit.

    After a user error, only a message is printed, and the exit code is 2. After a bug, the traceback is printed, and
    the exit code is 1.
    """
    _ensure_utf8_file_names()
    # The OpenMP library reads this variable when it is loaded. Without it, OpenMP threads would busy-wait and slow down
    # numba's threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signals.install_handlers()
    # Show progress in log files without delay, and do not fail on text that a terminal cannot show.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        _check_environment()
        sys.argv[1:] = _prepare_arguments(sys.argv[1:])
        app()
    except ReportedByAnotherProcess as error:
        sys.exit(error.code)
    except Exception as error:
        explained = error if isinstance(error, UserError) else explain_error(error)
        if explained is None:
            raise
        _exit_with_message(str(explained))
    except SystemExit as error:
        if error.code in signals.EXIT_MESSAGES:
            message = f"{signals.EXIT_MESSAGES[error.code]}: run the same command again to continue"
            _exit_with_message(message, error.code)
        raise


def _ensure_utf8_file_names() -> None:
    """Restart Python in UTF-8 mode if the locale uses a different encoding.

    Without this mode, class names and paths with characters that the locale's encoding cannot represent could not be
    read or written. In the POSIX locale, the mode is the default, unless PYTHONUTF8=0 is set.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _check_environment() -> None:
    """Check what would make torch or numba fail when it is imported.

    Raises:
        UserError: if the current folder was deleted, or if NUMBA_NUM_THREADS is not a positive integer.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError(
            'the current folder no longer exists: change to another folder (if it was created again, run cd "$PWD")'
        ) from error
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not (threads.isdecimal() and int(threads) > 0):
        raise UserError(f"NUMBA_NUM_THREADS={threads}: must be a positive integer: change or unset this variable")


def _prepare_arguments(arguments: list[str]) -> list[str]:
    """Return the command-line arguments, with `~` expanded even if the shell has not done so, as in `--output=~/x`.

    The path of the images for `rr init` is not expanded, because it is written to params.yaml unchanged.

    Raises:
        UserError: if an argument is empty. As a path, an empty string would mean the current folder.
    """
    prepared = []
    for position, argument in enumerate(arguments):
        before = arguments[position - 1] if position else ""
        option, value = _split_option(argument, may_be_option="--" not in arguments[:position])
        if value == "":
            where = argument or (f"the argument after {before}" if before else "the first argument")
            raise UserError(f"{where} is empty: check that your shell variables are set")
        is_kept = arguments[0] == "init" and not option.endswith("=") and before != "--params"
        if value is not None and (value == "~" or value.startswith("~/")) and not is_kept:
            value = str(paths.expand_user(value))
        prepared.append(f"{option}{value or ''}")
    return prepared


def _split_option(argument: str, *, may_be_option: bool) -> tuple[str, str | None]:
    """Split `--output=~/x` into `--output=` and `~/x`, and `-o~/x` into `-o` and `~/x`.

    The value of an option such as `--json` is None. Any other argument is returned as the value, without an option.
    """
    if may_be_option and argument.startswith("--"):
        option, separator, value = argument.partition("=")
        return option + separator, value if separator else None
    return ("-o", argument[2:]) if argument.startswith("-o~") else ("", argument)


def _lookup_preprocessing(dataset: str | None, params: Path) -> "Preprocessing | None":
    """Return the preprocessing of a dataset, or None if `dataset` is None."""
    if dataset is None:
        return None  # do not import rr.params, so that rr retrieve starts quickly
    from rr import commands

    return commands.lookup_preprocessing(dataset, params)


def _print_result(message: str, file: Path, as_json: bool) -> None:
    """Print a stage's message, or the JSON file that the stage wrote."""
    print(file.read_text(encoding="utf-8").rstrip() if as_json else message)


def _exit_with_message(message: str, code: int = 2) -> NoReturn:
    print(f"rr: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
