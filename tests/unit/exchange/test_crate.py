"""`rr report --crate`: the zip file states the hash of every file, and every reference in it leads to an entity."""

import base64
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, RunRr, evaluate_command, extract_command, pretrain_command, write_params

from rr import paths
from rr.exchange import crate
from rr.workflow.records import load_record


def use_random_weights(params: dict) -> None:
    params["grid"].update(method=["random"], protocol=["knn"])


@pytest.fixture
def finished_project(project_copy: Path, rr: RunRr) -> Path:
    """Change to a project in which only the report is missing, and return it."""
    write_params(Path(), use_random_weights)
    for command in (pretrain_command("random"), extract_command("random"), evaluate_command("knn", "random")):
        assert rr(*command).code == 0
    return Path.cwd()


def encode_base64url(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256), b"-_").decode().replace("=", "")


def find_references(value: Any) -> Iterator[str]:
    """Yield the identifiers to which the properties of an entity refer."""
    if isinstance(value, dict):
        if value.keys() == {"@id"}:
            yield value["@id"]
        for child in value.values():
            yield from find_references(child)
    elif isinstance(value, list):
        for child in value:
            yield from find_references(child)


def test_crate_describes_every_file_and_run(finished_project: Path, rr: RunRr) -> None:
    Path("Snakefile").write_text("# edited\n")
    outcome = rr("report", "--crate", "results.zip")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1] == "results.zip: 6 runs, 18 files"
    with zipfile.ZipFile("results.zip") as archive:
        assert archive.testzip() is None
        contents = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(contents.pop("ro-crate-metadata.json"))
    graph = metadata["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    assert len(entities) == len(graph)

    references = {identifier for entity in graph for identifier in find_references(entity)}
    assert {name for name in references - entities.keys() if not name.startswith("https://")} == set()

    parts = [part["@id"] for part in entities["./"]["hasPart"]]
    assert {name for name in parts if not name.startswith("ni:")} == contents.keys()
    for name, content in contents.items():
        assert entities[name]["sha256"] == hashlib.sha256(content).hexdigest(), name
        if name == "README.md":
            continue
        source = ROOT if name == "dvc.yaml" else finished_project
        assert (source / name).read_bytes() == content
    run = paths.PretrainPaths("shapes", "conv4", "random", 1)
    assert contents.keys() >= {"params.yaml", "dvc.yaml", "Snakefile", str(run.views), *map(str, paths.REPORT_FILES)}

    actions = {name: entity for name, entity in entities.items() if entity["@type"] == "CreateAction"}
    assert len(actions) == 6 + 1  # the six stages and the run of the workflow
    records = [json.loads(content) for name, content in contents.items() if name.endswith("/run.json")]
    assert len(records) == 6
    start, end = (actions["#workflow-run"][key].replace("+00:00", "Z") for key in ("startTime", "endTime"))
    assert start == min(record["started"] for record in records) < max(record["started"] for record in records)
    assert end == max(record["ended"] for record in records)
    record = load_record(run.folder)
    # The crate describes the weights but does not contain them. Their identifier is the hash, encoded as in RFC 6920.
    weights = f"ni:///sha-256;{encode_base64url(record['outputs'][str(run.weights)])}"
    assert entities[weights]["name"] == str(run.weights)
    assert {"@id": weights} in actions[f"#{run.folder}"]["result"]
    assert {"@id": weights} in actions[f"#{paths.FeaturePaths(run, 'shapes').folder}"]["object"]
    assert record["command"] in actions[f"#{run.folder}"]["description"]
    assert entities["./"]["mainEntity"] == {"@id": "Snakefile"}
    assert entities["Snakefile"]["license"] == {"@id": "https://spdx.org/licenses/MIT"}
    assert entities["./"]["license"].startswith("The license of the images and of the results is not stated.")
    assert entities["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    # Properties that the profiles recommend.
    assert entities["README.md"]["about"] == {"@id": "./"}
    assert entities["README.md"]["encodingFormat"] == "text/markdown"
    assert entities["./"]["author"] == {"@id": "#agent"}
    assert entities["Snakefile"]["conformsTo"]["@id"].startswith(
        "https://bioschemas.org/profiles/ComputationalWorkflow/"
    )


def test_hash_is_encoded_as_in_rfc_6920() -> None:
    sha256 = hashlib.sha256(b"Hello World!").hexdigest()
    reference = crate._Crate().add_file("hello.txt", sha256)
    assert reference["@id"] == "ni:///sha-256;f4OxZX_x_FO5LcGBSKHWXfwtSx-j1ncoSt3SABJtkGk"  # the example in section 8.1


def test_files_with_the_same_contents_keep_their_names() -> None:
    files = crate._Crate()
    for name in ("a/features.safetensors", "b/copy.bin", "a/features.safetensors", "c"):
        reference = files.add_file(name, "ab" * 32)
    entity = files.entities[reference["@id"]]
    assert (entity["name"], entity["alternateName"]) == ("a/features.safetensors", ["b/copy.bin", "c"])
    assert "alternateName" not in files.entities[files.add_file("d", "cd" * 32)["@id"]]


def test_version_is_that_of_the_record(finished_project: Path, rr: RunRr) -> None:
    run = paths.PretrainPaths("shapes", "conv4", "random", 1)
    record = load_record(run.folder)
    crate_of_run = crate._Crate()
    for version in ("0.1.0", "0.2.0"):
        record["machine"]["versions"]["relational-reasoning"] = version
        crate_of_run.add_run("pretrain", run.folder, record)
        command = crate_of_run.entities[f"#{run.folder}"]["instrument"]["@id"]
        assert crate_of_run.entities[command]["softwareVersion"] == version


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("results.tar", "does not end in .zip: use a name that does"),
        ("results", "does not end in .zip: use a name that does"),
        ("folder.zip", "is a folder: use the path of a file"),
        ("params.yaml/results.zip", "which is not a folder: use a different path"),
    ],
)
def test_other_path_is_refused_before_the_report_is_written(project: Path, rr: RunRr, name: str, problem: str) -> None:
    Path("folder.zip").mkdir()
    outcome = rr("report", "--crate", name)
    assert outcome.code == 2
    assert outcome.err.startswith(f"rr: --crate {name} ")
    assert problem in outcome.err
    assert not paths.REPORT_DIR.exists()


def test_former_crate_is_replaced_only_by_a_complete_one(
    finished_project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("results.zip").write_text("former")
    with monkeypatch.context() as patch:
        patch.setattr(crate._Crate, "to_json", lambda self: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert rr("report", "--crate", "results.zip").code == 2
    assert Path("results.zip").read_text() == "former"
    assert rr("report", "--crate", "results.zip").code == 0
    first = Path("results.zip").read_bytes()
    assert zipfile.is_zipfile("results.zip")
    assert [path.name for path in finished_project.glob("*.zip*")] == ["results.zip"]
    paths.record_file(paths.PretrainPaths("shapes", "conv4", "random", 1).folder).unlink()
    outcome = rr("report", "--crate", "results.zip")
    assert outcome.code == 2
    assert "run.json is missing" in outcome.err
    assert Path("results.zip").read_bytes() == first
