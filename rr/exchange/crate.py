"""Write a Workflow Run RO-Crate: a zip file with the report and the records of its runs, described in JSON-LD.

Zenodo and WorkflowHub read this format, which is specified at https://w3id.org/ro/wfrun/workflow/0.5.
"""

import base64
import hashlib
import json
import zipfile
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rr import __version__, paths
from rr.params import load_params
from rr.project import PROJECT_FILES
from rr.runtime.atomic import atomic_write
from rr.runtime.hashing import file_sha256
from rr.workflow.records import load_record
from rr.workflow.stage_runs import iter_stage_runs

_CONTEXT = ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
_PROFILES = [
    "https://w3id.org/ro/wfrun/process/0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
]
_SNAKEMAKE = "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
_BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_PAPER = "https://arxiv.org/abs/2006.05849"
_MEDIA_TYPES = {
    "": "text/plain", ".csv": "text/csv", ".html": "text/html", ".json": "application/json", ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet", ".png": "image/png", ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}  # fmt: skip

_README = """# Runs of self-supervised relational reasoning

`report/index.html` is the report, and `report/report.md` is its Markdown version. `params.yaml`, `Snakefile` and
`dvc.yaml` define the workflow. `ro-crate-metadata.json` describes all files and all runs, with the command of each run
and the SHA-256 of its inputs and outputs. Datasets, features and weights are described there, but not included.
"""

_Entity = dict[str, Any]


def write_crate(params_file: Path, output: Path) -> str:
    """Write a crate with all runs in the grid to the zip file `output`, and return a summary.

    The crate contains the report, the records (`run.json`), the metrics, the histories, the example images, the
    parameters and the pipeline files. All other inputs and outputs of the runs, such as betons and weights, are
    represented by their SHA-256. An existing file is replaced.

    Raises:
        UserError: if a record is missing or damaged.
    """
    params = load_params(params_file)
    crate = _Crate()
    crate.add_file("params.yaml", file_sha256(params_file), params_file)
    for name in ("dvc.yaml", "Snakefile"):
        file = Path(name) if Path(name).is_file() else PROJECT_FILES / name
        crate.add_file(name, file_sha256(file), file)
    runs = list(iter_stage_runs(params))
    records = [load_record(run.folder) for run in runs]
    for run, record in zip(runs, records, strict=True):
        crate.add_run(run.stage, run.folder, record)
    crate.describe_workflow(records, [str(path) for path in runs[-1].outputs])
    with (
        atomic_write(output, concurrent=True) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr("ro-crate-metadata.json", crate.to_json())
        archive.writestr("README.md", _README)
        for name, file in crate.included.items():
            archive.write(file, name)
    return f"{output}: {len(runs)} runs, {len(crate.included) + 1} files"


class _Crate:
    """A crate's entities, by identifier, and the files that it contains, by name."""

    def __init__(self) -> None:
        self.entities: dict[str, _Entity] = {}
        self.names: defaultdict[str, dict[str, None]] = defaultdict(dict)  # of each file, by identifier
        self.included: dict[str, Path] = {}

    def add(self, identifier: str, type_: str | list[str], /, **properties: Any) -> _Entity:
        """Add an entity and return a reference to it. RO-Crate prefers a plain value to a list with a single value."""
        values = {key: v[0] if isinstance(v, list) and len(v) == 1 else v for key, v in properties.items()}
        self.entities[identifier] = {"@id": identifier, "@type": type_, **values}
        return {"@id": identifier}

    def add_file(self, name: str, sha256: str, file: Path | None = None) -> _Entity:
        """Add a file and return a reference to it. The crate contains it if `file`, its current path, is given.

        The identifier of a file that the crate does not contain is its hash (RFC 6920). Files with the same contents
        share one entity, which has the name of the first file.
        """
        if file:
            self.included[name] = file
        digest = base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")
        identifier = name if file else f"ni:///sha-256;{digest}"
        self.names[identifier][name] = None
        first, *others = self.names[identifier]
        media_type = _MEDIA_TYPES.get(Path(first).suffix, "application/octet-stream")
        alternate = {"alternateName": others} if others else {}
        return self.add(identifier, "File", name=first, **alternate, sha256=sha256, encodingFormat=media_type)

    def add_run(self, stage: str, folder: Path, record: dict[str, Any]) -> None:
        """Add one run of a stage, together with its command, inputs, outputs and record."""
        version = record["machine"]["versions"]["relational-reasoning"]
        command = self.add(
            f"#rr-{stage}-{version}", "SoftwareApplication", name=f"rr {stage}", softwareVersion=version, url=_PAPER
        )
        record_file = paths.record_file(folder)
        outputs = {**record["outputs"], str(record_file): file_sha256(record_file)}
        self.add(
            f"#{folder}",
            "CreateAction",
            name=f"{stage}: {folder}",
            description=f"`{record['command']}`, in the software environment that {record_file} describes",
            instrument=command,
            agent=self._agent(),
            object=self._add_files(record["inputs"]),
            result=self._add_files(outputs),
            startTime=_start_time(record).isoformat(),
            endTime=_end_time(record).isoformat(),
            actionStatus="http://schema.org/CompletedActionStatus",
        )

    def describe_workflow(self, records: list[dict[str, Any]], report_files: list[str]) -> None:
        """Add the workflow and its run, which consists of the runs of all stages."""
        self.add(
            _SNAKEMAKE, "ComputerLanguage", name="Snakemake", alternateName="Snakemake",
            identifier={"@id": "https://snakemake.readthedocs.io"}, url={"@id": "https://snakemake.readthedocs.io"},
            version=records[-1]["machine"]["versions"]["snakemake"],
        )  # fmt: skip
        workflow = self.entities["Snakefile"]
        workflow |= {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow"],
            "name": "Self-supervised relational reasoning",
            "version": __version__,
            "programmingLanguage": {"@id": _SNAKEMAKE},
            "license": self._license(),
            "url": _PAPER,
            "conformsTo": {"@id": _BIOSCHEMAS},
            "input": self.add("#input-parameters", "FormalParameter", name="params.yaml", additionalType="File"),
            "output": self.add("#output-report", "FormalParameter", name="report/index.html", additionalType="File"),
        }
        self.add(
            "README.md", "File", name="README.md", about={"@id": "./"}, encodingFormat=_MEDIA_TYPES[".md"],
            sha256=hashlib.sha256(_README.encode()).hexdigest(),
        )  # fmt: skip
        self.entities["params.yaml"]["exampleOfWork"] = {"@id": "#input-parameters"}
        self.entities[report_files[0]]["exampleOfWork"] = {"@id": "#output-report"}
        self.add(
            "#workflow-run",
            "CreateAction",
            name="Run of the workflow",
            description="All stages of the grid in params.yaml, from the images to the report",
            instrument={"@id": "Snakefile"},
            agent=self._agent(),
            object=[{"@id": "params.yaml"}],
            result=[{"@id": name} for name in report_files],
            startTime=min(map(_start_time, records)).isoformat(),
            endTime=max(map(_end_time, records)).isoformat(),
            actionStatus="http://schema.org/CompletedActionStatus",
        )

    def to_json(self) -> str:
        """Return the contents of `ro-crate-metadata.json`."""
        root = {
            "@id": "./",
            "@type": "Dataset",
            "name": "Runs of self-supervised relational reasoning",
            "description": "The report of a reproducible workflow, and the records of the runs on which it is based",
            "datePublished": max(
                entity["endTime"] for entity in self.entities.values() if entity["@type"] == "CreateAction"
            ),
            "license": "The license of the images and of the results is not stated. The code is under the MIT License.",
            "author": self._agent(),
            "conformsTo": [
                self.add(profile, "CreativeWork", name=profile, version=profile.rpartition("/")[2])
                for profile in _PROFILES
            ],
            "hasPart": [{"@id": name} for name, entity in self.entities.items() if "File" in entity["@type"]],
            "mainEntity": {"@id": "Snakefile"},
            "mentions": [{"@id": name} for name, entity in self.entities.items() if entity["@type"] == "CreateAction"],
        }  # fmt: skip
        metadata_file = {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "conformsTo": [{"@id": "https://w3id.org/ro/crate/1.1"}, {"@id": _PROFILES[-1]}],
            "about": {"@id": "./"},
        }
        return json.dumps({"@context": _CONTEXT, "@graph": [metadata_file, root, *self.entities.values()]}, indent=1)

    def _license(self) -> _Entity:
        return self.add("https://spdx.org/licenses/MIT", "CreativeWork", name="MIT License")

    def _agent(self) -> _Entity:
        return self.add("#agent", "Person", name="The person who ran the workflow")

    def _add_files(self, hashes: dict[str, str]) -> list[_Entity]:
        return [
            self.add_file(name, sha256, Path(name) if _is_included(Path(name), sha256) else None)
            for name, sha256 in hashes.items()
        ]


def _is_included(path: Path, sha256: str) -> bool:
    if path.suffix == ".png":  # the report works without its images, so they may be missing or changed
        return path.is_file() and file_sha256(path) == sha256
    is_in_folder = path.is_relative_to(paths.REPORT_DIR) or path.is_relative_to(paths.HISTORY_DIR)
    return is_in_folder or path.name in (paths.RECORD_NAME, "metrics.json")


def _start_time(record: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(record["started"])


def _end_time(record: dict[str, Any]) -> datetime:
    if "ended" in record:
        return datetime.fromisoformat(record["ended"])
    return _start_time(record) + timedelta(seconds=round(record["seconds"]))  # for records from earlier versions
