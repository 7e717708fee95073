"""Where every artefact lives, relative to the project's root. Nobody else builds a path."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PARAMS = Path("params.yaml")
REPORT = Path("report")
REPORT_FILES = [REPORT / name for name in ("index.html", "report.md", "results.parquet", "tables.tex")]
RUN_RECORD = "run.json"
HISTORIES = Path("runs/history")
STATUS = Path(".rr/status")


@dataclass(frozen=True)
class Dataset:
    """The files of one data set: raw pictures, and the betons made from them."""

    name: str

    @property
    def raw(self) -> Path:
        return Path("data/raw", self.name)

    @property
    def images(self) -> Path:
        """Every picture in its original encoding, with label and split (see `rr.data.raw`)."""
        return self.raw / "images.parquet"

    @property
    def download(self) -> Path:
        """Where archives are kept between tries; no stage declares it."""
        return Path("data/download", self.name)

    @property
    def converted(self) -> Path:
        return Path("data/beton", self.name)

    @property
    def betons(self) -> dict[str, Path]:
        return {split: self.converted / f"{split}.beton" for split in ("train", "test")}

    @property
    def index(self) -> Path:
        return self.converted / "index.parquet"


@dataclass(frozen=True)
class Pretraining:
    """The files of one pretraining, a cell of dataset × backbone × method × seed."""

    dataset: str
    backbone: str
    method: str
    seed: int

    @property
    def _cell(self) -> Path:
        return Path(self.dataset, self.backbone, self.method, str(self.seed))

    @property
    def folder(self) -> Path:
        return "runs/pretrain" / self._cell

    @property
    def weights(self) -> Path:
        return self.folder / "backbone.safetensors"

    @property
    def history(self) -> Path:
        """A row per epoch. The histories share one tree, because `dvc plots` draws all that lies in a folder."""
        return HISTORIES / self._cell.with_name(f"{self.seed}.csv")

    @property
    def views(self) -> Path:
        return self.folder / "views.png"

    @property
    def resume(self) -> Path:
        """State in flight. Both engines delete a declared output around a failed try, so this is none."""
        return "runs/resume" / self._cell / "resume.pt"


@dataclass(frozen=True)
class Evaluation:
    """The files of one evaluation, a pretraining × target × protocol."""

    pretraining: Pretraining
    target: str
    protocol: str

    @property
    def folder(self) -> Path:
        return "runs/evaluate" / self.pretraining._cell / self.target / self.protocol

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def predictions(self) -> Path:
        """What was found for each test picture (for `embedding`, each of a sample)."""
        return self.folder / "predictions.parquet"

    @property
    def confusion(self) -> Path:
        """Class names, true and found, a row per test picture: what `dvc plots` draws a confusion matrix from."""
        return self.folder / "confusion.csv"

    @property
    def examples(self) -> Path:
        """Pictures to look at: mistakes, queries with their nearest, or the map of the space."""
        return self.folder / "examples.png"


def previous(resume: Path) -> Path:
    """The state before the one in `resume`, kept for the case that the newest is damaged."""
    return resume.with_name(f"{resume.stem}.previous{resume.suffix}")


def run_record(folder: Path) -> Path:
    """The provenance record beside a stage's outputs."""
    return folder / RUN_RECORD


def recorded_in(path: Path) -> Path:
    """The folder whose `run.json` describes `path`."""
    if path.is_relative_to(HISTORIES):
        return "runs/pretrain" / path.relative_to(HISTORIES).with_suffix("")
    return path.parent


def gallery(key: str) -> Path:
    """The index of a gallery of pictures, which `rr retrieve` makes; `key` names all that determines it."""
    return Path(".rr/gallery", f"{key}.parquet")


def suites(names: str) -> Path:
    """The parameters of the suites that Snakemake was given."""
    return Path(".rr/suites", f"{names}.yaml")


def lock(folder: Path) -> Path:
    """The file whose lock says that a process is making `folder`'s outputs."""
    return ".rr/lock" / folder / "lock"


def status(stage: str, names: Sequence[str]) -> Path:
    """Where a stage run says how far it is; `names` are those of its folder, of which the report has none."""
    return STATUS.joinpath(stage, *names[:-1], f"{names[-1] if names else stage}.json")
