"""Define the paths of all stage inputs and outputs, relative to the project root."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rr.data.printable_names import display_name
from rr.errors import UserError

PARAMS_FILE = Path("params.yaml")
REPORT_DIR = Path("report")
REPORT_FILES = [REPORT_DIR / name for name in ("index.html", "report.md", "results.parquet", "tables.tex")]
RECORD_NAME = "run.json"
HISTORY_DIR = Path("runs/history")
EXTENSIONS_DIR = Path("workflow/extensions")  # user-defined methods, backbones, sources and protocols
STATUS_DIR = Path(".rr/status")
OUTPUT_DIRS = [Path(name) for name in ("data/raw", "data/download", "data/beton", "data/unfinished", "data/check")]
OUTPUT_DIRS += [Path("runs"), REPORT_DIR, Path(".rr")]


def expand_user(path: str | os.PathLike[str]) -> Path:
    """Return the path with a leading `~` or `~user` replaced by the user's home folder.

    Raises:
        UserError: if the home folder cannot be found, for example because the user does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: the home folder {Path(path).parts[0]} cannot be found: fix the user name, or write the full path"
        ) from error


def check_image_folder(path: str | Path) -> None:
    """Check that a folder of images neither contains a folder that `rr` writes to nor is in one.

    Otherwise, images that `rr` writes would become part of the dataset, or deleting the results would delete images.

    Raises:
        UserError: if the folder contains the current folder or overlaps with an output folder.
    """
    try:
        folder = expand_user(path).resolve()
    except ValueError:  # a null byte; there is no such folder
        return
    remedy = "run rr in a different folder, such as a new one (mkdir project, cd project)"
    if Path.cwd().is_relative_to(folder):
        raise UserError(f"{display_name(path)} contains the current folder, to which rr writes its results: {remedy}")
    for output in OUTPUT_DIRS:
        target = output.resolve()
        contains_target = target.is_relative_to(folder)
        if folder.is_dir() and (contains_target or folder.is_relative_to(target)):
            overlap = "is" if folder == target else "contains" if contains_target else "is in"
            raise UserError(
                f"{display_name(path)} {overlap} the folder {output}, to which rr writes its results: move the images "
                f"to another folder, or {remedy}"
            )


@dataclass(frozen=True)
class DatasetPaths:
    """Paths of a dataset's files: original images and betons."""

    name: str

    @property
    def raw_dir(self) -> Path:
        """Folder with the original images."""
        return Path("data/raw", self.name)

    @property
    def images(self) -> Path:
        """File with all images in their original encoding, and their labels and splits (see `rr.data.raw`)."""
        return self.raw_dir / "images.parquet"

    @property
    def download_dir(self) -> Path:
        """Cache of downloaded archives. No stage declares it as an output, so it survives a failed stage."""
        return Path("data/download", self.name)

    @property
    def beton_dir(self) -> Path:
        """Folder with the betons and the index."""
        return Path("data/beton", self.name)

    @property
    def betons(self) -> dict[str, Path]:
        """The beton of each split."""
        return {split: self.beton_dir / f"{split}.beton" for split in ("train", "test")}

    @property
    def unfinished_conversion_dir(self) -> Path:
        """Folder with the images that an unfinished conversion has already converted. They are not stage outputs."""
        return Path("data/unfinished", self.name)

    @property
    def dataset_check_dir(self) -> Path:
        """Folder with the files that `rr check` writes. They are not stage outputs."""
        return Path("data/check", self.name)

    @property
    def index(self) -> Path:
        """Table with the split, label and SHA-256 of each image in the betons, and with the class names."""
        return self.beton_dir / "index.parquet"


@dataclass(frozen=True)
class PretrainPaths:
    """Paths of a pretraining run's files. The dataset, backbone, method and seed identify the run."""

    dataset: str
    backbone: str
    method: str
    seed: int

    @property
    def _run_path(self) -> Path:
        return Path(self.dataset, self.backbone, self.method, str(self.seed))

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return "runs/pretrain" / self._run_path

    @property
    def weights(self) -> Path:
        """Weights of the pretrained backbone."""
        return self.folder / "backbone.safetensors"

    @property
    def history(self) -> Path:
        """Training history with one row per epoch. All histories are in one folder, because `dvc plots` requires it."""
        return HISTORY_DIR / self._run_path.with_name(f"{self.seed}.csv")

    @property
    def views(self) -> Path:
        """Example images and their views."""
        return self.folder / "views.png"

    @property
    def last_epoch(self) -> Path:
        """Training state before the last epoch, from which `rr verify --recompute` reruns this epoch."""
        return self.folder / "last_epoch.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Training state of an unfinished run, which is not a stage output."""
        return "runs/resume" / self._run_path / "resume.pt"


@dataclass(frozen=True)
class PretrainFolder(PretrainPaths):
    """Paths of a pretraining run's files outside a project. All of them are in `directory`."""

    directory: Path

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.directory

    @property
    def history(self) -> Path:
        """Training history with one row per epoch."""
        return self.directory / "history.csv"

    @property
    def checkpoint(self) -> Path:
        """Training state of an unfinished run."""
        return self.directory / "resume.pt"


@dataclass(frozen=True)
class FeaturePaths:
    """Paths of the features that a pretrained backbone computes for a target's images."""

    pretraining: PretrainPaths
    target: str

    @property
    def folder(self) -> Path:
        """Folder with the features."""
        return "runs/features" / self.pretraining._run_path / self.target

    @property
    def features(self) -> Path:
        """Features, labels and indices of both splits (see `rr.data.feature_file`)."""
        return self.folder / "features.safetensors"


@dataclass(frozen=True)
class EvaluationPaths:
    """Paths of an evaluation's files. The pretraining run, target and protocol identify the evaluation."""

    pretraining: PretrainPaths
    target: str
    protocol: str

    @property
    def folder(self) -> Path:
        """The evaluation's folder."""
        return "runs/evaluate" / self.pretraining._run_path / self.target / self.protocol

    @property
    def extraction(self) -> FeaturePaths:
        """Paths of the features that the protocol uses. All protocols on the same target share them."""
        return FeaturePaths(self.pretraining, self.target)

    @property
    def metrics(self) -> Path:
        """Metrics as JSON."""
        return self.folder / "metrics.json"

    @property
    def predictions(self) -> Path:
        """Results for each test image or, with the `embedding` protocol, for each image in a random sample of them."""
        return self.folder / "predictions.parquet"

    @property
    def confusion(self) -> Path:
        """True and predicted class of each labeled test image, for the confusion matrix of `dvc plots`."""
        return self.folder / "confusion.csv"

    @property
    def examples(self) -> Path:
        """PNG with images whose true class is least probable, queries with their neighbors, or clusters and a map."""
        return self.folder / "examples.png"


def previous_checkpoint(checkpoint: Path) -> Path:
    """Return the path of the previous checkpoint, which is used if the newest one, `checkpoint`, is damaged."""
    return checkpoint.with_name(f"{checkpoint.stem}.previous{checkpoint.suffix}")


def kept_checkpoint(checkpoint: Path, fingerprint: str) -> Path:
    """Return the path to which a run's checkpoint is moved while the run is trained with other settings."""
    return checkpoint.with_name(f"{checkpoint.stem}.{fingerprint[:16]}{checkpoint.suffix}")


def finished_checkpoint(checkpoint: Path, fingerprint_without_epochs: str) -> Path:
    """Return the path of the last checkpoint of a finished run, from which a run with more epochs can continue."""
    return checkpoint.with_name(f"finished.{fingerprint_without_epochs[:16]}{checkpoint.suffix}")


def find_finished_checkpoints(checkpoint: Path, fingerprint_without_epochs: str) -> list[Path]:
    """Return the existing paths that `finished_checkpoint` returns for this run, and for the same run of any method."""
    finished = finished_checkpoint(checkpoint, fingerprint_without_epochs)
    method_folder = checkpoint.parent.parent
    return sorted(method_folder.parent.glob(f"*/{finished.relative_to(method_folder)}"))


def last_epoch_start(checkpoint: Path, fingerprint: str) -> Path:
    """Return the path where an unfinished run keeps the file that becomes `PretrainPaths.last_epoch`.

    The name depends on the run's fingerprint, so that runs with other settings do not replace the file.
    """
    return checkpoint.with_name(f"last_epoch.{fingerprint[:16]}.safetensors")


def unfinished_history(checkpoint: Path) -> Path:
    """Return the path of an unfinished run's history so far, which `rr status` reads. It is not a stage output."""
    return checkpoint.with_name("history.csv")


def record_file(folder: Path) -> Path:
    """Return the path of the provenance record for the stage outputs in `folder`."""
    return folder / RECORD_NAME


def find_record_folder(path: Path) -> Path:
    """Return the folder whose `run.json` describes the stage output `path`."""
    if path.is_relative_to(HISTORY_DIR):
        return "runs/pretrain" / path.relative_to(HISTORY_DIR).with_suffix("")
    return path.parent


def producing_command(path: Path) -> str:
    """Return the command that writes the stage output `path`, without its options."""
    stages = {"raw": "fetch", "beton": "convert", "history": "pretrain", "features": "extract"}
    stages |= {stage: stage for stage in ("pretrain", "evaluate")}
    # The path may be absolute.
    found = [stages[name] for root, name in pairwise(path.parts) if root in ("data", "runs") and name in stages]
    return f"rr {found[-1] if found else 'report'}"


def list_metrics() -> list[Path]:
    """Return the paths of all metrics in the current folder. Evaluations on the pretraining dataset come first."""
    files = Path("runs/evaluate").glob("*/*/*/*/*/*/metrics.json")
    return sorted(files, key=lambda file: (file.parts[2] != file.parts[6], file))


def gallery_index(key: str) -> Path:
    """Return the path of the file where `rr retrieve` caches features; `key` identifies the folder and the backbone."""
    return Path(".rr/gallery", f"{key}.parquet")


def suite_params_file(names: str) -> Path:
    """Return the path of the parameter file that the Snakefile writes for `names`, the suite names joined with +."""
    return Path(".rr/suites", f"{names}.yaml")


def lock_file(folder: Path) -> Path:
    """Return the path of the file that a process locks while it writes the outputs in `folder`."""
    return ".rr/lock" / folder / "lock"


def status_file(stage: str, names: Sequence[str]) -> Path:
    """Return the path of a stage run's status file. `names` identifies the run; it is empty for the report."""
    return STATUS_DIR.joinpath(stage, *names[:-1], f"{names[-1] if names else stage}.json")
