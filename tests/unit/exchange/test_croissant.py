"""Test the Croissant file of a dataset: the fields that the specification requires, and their values."""

import json
from pathlib import Path

import mlcroissant
import pytest
from helpers import RunRr, add_dataset
from own_images import save_tree
from report_files import change_record

from rr.runtime.hashing import file_sha256
from rr.runtime.lock import exclusive_lock
from rr.workflow.records import load_record

FOLDER = Path("data/raw/shapes")
# https://docs.mlcommons.org/croissant/docs/croissant-spec.html, section "Dataset-level information"
REQUIRED = ("@context", "@type", "name", "conformsTo", "description", "license", "url", "creator", "datePublished")


@pytest.fixture
def fetched(project: Path, rr: RunRr) -> Path:
    assert rr("fetch", "--dataset", "shapes").code == 0
    return project


def test_file_has_the_required_fields(fetched: Path, rr: RunRr) -> None:
    options = ("--license", "CC0-1.0", "--url", "https://example.org", "--creator", "Ann", "--date", "2020-02-29")
    outcome = rr("croissant", "shapes", *options)
    assert outcome.out == "data/raw/shapes/croissant.json: 250 images\n"
    metadata = json.loads((FOLDER / "croissant.json").read_text())
    assert [key for key in REQUIRED if not metadata.get(key)] == []
    assert metadata["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert metadata["@context"]["recordSet"] == "cr:recordSet"
    assert (metadata["name"], metadata["license"]) == ("shapes", "CC0-1.0")
    assert metadata["creator"] == {"@type": "sc:Organization", "name": "Ann"}
    assert metadata["datePublished"] == "2020-02-29"
    assert "200 training images and 50 test images of 10 classes" in metadata["description"]
    record = load_record(FOLDER)
    version = record["machine"]["versions"]["relational-reasoning"]
    assert f"fetched on {record['started'][:10]} with relational-reasoning {version}." in metadata["description"]
    (file,) = metadata["distribution"]
    assert file["sha256"] == file_sha256(FOLDER / file["contentUrl"])
    assert file["contentSize"] == f"{(FOLDER / 'images.parquet').stat().st_size} B"
    classes, images = metadata["recordSet"]
    assert classes["data"][3] == {"classes/label": 3, "classes/name": "square"}
    assert [field["source"]["extract"]["column"] for field in images["field"]] == ["image", "label", "split"]
    assert all(field["source"]["fileObject"]["@id"] == file["@id"] for field in images["field"])
    identifiers = [entity["@id"] for record_set in (classes, images) for entity in (record_set, *record_set["field"])]
    assert len(set(identifiers)) == len(identifiers) == 7


def test_images_that_are_being_fetched_are_not_described(fetched: Path, rr: RunRr) -> None:
    with exclusive_lock(FOLDER):
        outcome = rr("croissant", "shapes")
    assert (outcome.code, "is writing to data/raw/shapes: wait until it has finished" in outcome.err) == (2, True)
    assert not (FOLDER / "croissant.json").exists()


def test_fetch_of_other_images_reports_an_outdated_file(project: Path, rr: RunRr) -> None:
    root = save_tree(project / "images", {"a": 10, "b": 10})
    add_dataset(project, {"kind": "imagefolder", "path": "images"})
    rr("fetch", "--dataset", "mine")
    assert rr("croissant", "mine").code == 0
    file = Path("data/raw/mine/croissant.json")
    text = file.read_text()
    assert "croissant.json" not in rr("fetch", "--dataset", "mine").err
    (root / "a/0.png").unlink()
    for command in (("fetch", "--dataset", "mine", "--json"), ("init", "images", "--name", "mine")):
        outcome = rr(*command)
        assert outcome.code == 0, outcome.err
        assert (
            "fetch: data/raw/mine/croissant.json describes the previous images: run `rr croissant mine` with the same "
            "options as before, which replaces this file and any edits in it\n" in outcome.err
        )
    assert file.read_text() == text
    assert rr("croissant", "mine").code == 0
    assert "croissant.json" not in rr("fetch", "--dataset", "mine").err


def test_missing_values_are_named(fetched: Path, rr: RunRr) -> None:
    assert rr("croissant", "shapes", "--license", "MIT").out.endswith(
        "; add --url, --creator, --date, which the format requires\n"
    )
    metadata = json.loads((FOLDER / "croissant.json").read_text())
    assert metadata["url"] == "unknown"
    assert "datePublished" not in metadata  # the images were fetched today, not published


def test_known_dataset_has_all_values_but_the_license(fetched: Path, rr: RunRr) -> None:
    change_record(FOLDER, params={"datasets.shapes.source": {"kind": "stl10"}})
    assert rr("croissant", "shapes").out.endswith("; add --license, which the format requires\n")
    metadata = json.loads((FOLDER / "croissant.json").read_text())
    assert metadata["datePublished"] == "2011"
    assert metadata["creator"] == {"@type": "sc:Person", "name": "Adam Coates"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        *(
            ("--url", value, "is not a URL: use the full address of a web page")
            for value in ("not a url", "example.org", "ftp://example.org", "https://", "http://a b")
        ),
        *(
            ("--license", value, "is neither a URL nor an SPDX identifier: use an identifier from https://spdx.org")
            for value in ("xx", "all rights reserved", "MIT OR", "http://")
        ),
        *(
            ("--date", value, "is not a date: use YYYY-MM-DD, YYYY-MM or YYYY, such as 2009-04-08")
            for value in ("8 April 2009", "2009-13", "2009-02-30", "20090408", "2009-W15-3", "2009-04-08T10:00", "0000")
        ),
    ],
)
def test_invalid_values_raise(fetched: Path, rr: RunRr, option: str, value: str, message: str) -> None:
    outcome = rr("croissant", "shapes", option, value)
    assert outcome.code == 2
    assert outcome.err.startswith(f"rr: {option} {value} {message}")
    assert not (FOLDER / "croissant.json").exists()


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("cc-by-4.0", "CC-BY-4.0"),
        ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("LicenseRef-mine", "LicenseRef-mine"),
        ("https://example.org/terms#2", "https://example.org/terms#2"),
    ],
)
def test_license_is_an_spdx_identifier_or_a_url(fetched: Path, rr: RunRr, value: str, stored: str) -> None:
    assert rr("croissant", "shapes", "--license", value).code == 0
    assert json.loads((FOLDER / "croissant.json").read_text())["license"] == stored


@pytest.mark.parametrize("value", ["2009", "2009-04", "2009-04-08"])
def test_date_may_lack_the_day_and_the_month(fetched: Path, rr: RunRr, value: str) -> None:
    assert rr("croissant", "shapes", "--date", value).code == 0
    assert json.loads((FOLDER / "croissant.json").read_text())["datePublished"] == value


def test_unlabeled_dataset_has_no_classes(project: Path, rr: RunRr) -> None:
    save_tree(project / "images", {"": 12})
    add_dataset(project, {"kind": "imagefolder", "path": "images"})
    assert rr("fetch", "--dataset", "mine").code == 0
    assert rr("croissant", "mine").code == 0
    (images,) = json.loads(Path("data/raw/mine/croissant.json").read_text())["recordSet"]
    assert images["@id"] == "images"


def test_dataset_that_was_not_fetched_raises(project: Path, rr: RunRr) -> None:
    outcome = rr("croissant", "shapes")
    assert (outcome.code, outcome.err) == (2, "rr: data/raw/shapes/run.json is missing: run rr fetch first\n")


@pytest.mark.parametrize("name", ["shapes/", "./shapes", "../raw/shapes"])
def test_path_instead_of_a_name_raises(fetched: Path, rr: RunRr, name: str) -> None:
    outcome = rr("croissant", name)
    assert outcome.code == 2
    assert outcome.err.startswith(f"rr: {name} is not the name of a dataset")


@pytest.mark.filterwarnings("ignore::Warning")
def test_mlcroissant_reads_the_images(fetched: Path, rr: RunRr) -> None:
    rr("croissant", "shapes")
    records = list(mlcroissant.Dataset(str(FOLDER / "croissant.json")).records("images"))
    assert len(records) == 250
    assert records[0]["images/image"].size == (32, 32)
