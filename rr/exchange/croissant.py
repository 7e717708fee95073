"""`rr croissant`: describe the images of a fetched dataset as Croissant metadata (JSON-LD).

The format is Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html). Search engines and data
hubs read it, and the mlcroissant package uses it to load the images.
"""

import datetime
import json
import re
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from rr import paths
from rr.data.raw import SPLITS, RawFile
from rr.errors import UserError
from rr.params.base import NAME
from rr.runtime.atomic import write_text
from rr.runtime.formatting import format_count
from rr.runtime.lock import exclusive_lock
from rr.workflow.records import load_record

# The specification's context, which maps the short keys to their full names.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        name: f"cr:{name}"
        for name in (
            "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
            "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
            "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField",
            "transform",
        )
    },
}  # fmt: skip
_CIFAR = {"url": "https://www.cs.toronto.edu/~kriz/cifar.html", "creator": "Alex Krizhevsky", "date": "2009"}
_STL10 = {"url": "https://cs.stanford.edu/~acoates/stl10", "creator": "Adam Coates", "date": "2011"}
# Web pages, creators and publication years of the paper's datasets, by source kind.
_KNOWN = {
    **dict.fromkeys(("cifar10", "cifar100", "cifar100_20"), _CIFAR),
    **dict.fromkeys(("stl10", "stl10_unlabeled"), _STL10),
    "tiny_imagenet": {
        "url": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "creator": "Stanford CS231n",
        "date": "2015",
    },
    "slimagenet64": {
        "url": "https://zenodo.org/record/3672132",
        "creator": "Antreas Antoniou",
        "date": "2020",
    },
}
_UNKNOWN = "unknown"
_FILE_NAME = "croissant.json"


def write_croissant(
    dataset: str,
    *,
    license: str | None = None,
    url: str | None = None,
    creator: str | None = None,
    date: str | None = None,
) -> str:
    """Write `croissant.json` next to the images of a dataset fetched with `rr fetch`, and return a message.

    Args:
        dataset: name of the dataset.
        license: URL of the license, or an SPDX identifier or expression.
        url: URL of the dataset's web page.
        creator: person or organization that made the dataset. The format requires one of these two types, but a name
            does not reveal which one applies, so it is always stored as an organization.
        date: when the dataset was published: a date (ISO 8601), or only the year, or the year and the month.

    Raises:
        UserError: if `url`, `license` or `date` is invalid, or if the images or their record are missing or damaged.
    """
    if url and not _is_url(url):
        raise UserError(f"--url {url} is not a URL: use the full address of a web page, such as https://example.org")
    if date and not _is_date(date):
        raise UserError(f"--date {date} is not a date: use YYYY-MM-DD, YYYY-MM or YYYY, such as 2009-04-08")
    if license and not _is_url(license):
        try:
            license = canonicalize_license_expression(license)
        except InvalidLicenseExpression as error:
            raise UserError(
                f"--license {license} is neither a URL nor an SPDX identifier: use an identifier from "
                "https://spdx.org/licenses, such as CC-BY-4.0, or the URL of the license"
            ) from error
    if not re.fullmatch(NAME, dataset):
        raise UserError(f"{dataset} is not the name of a dataset: use a name under `datasets` in params.yaml")
    folder = paths.DatasetPaths(dataset).raw_dir
    load_record(folder)  # raises an error before the lock creates a folder for a dataset that was not fetched
    values = {"license": license, "url": url, "creator": creator, "date": date}
    with exclusive_lock(folder):  # otherwise, rr fetch might replace the images while they are being described
        return _write_croissant(dataset, values)


def _write_croissant(dataset: str, required: dict[str, str | None]) -> str:
    """Write `croissant.json` with the values that the format requires (None if unknown), and return a message."""
    files = paths.DatasetPaths(dataset)
    record = load_record(files.raw_dir)
    raw_file = RawFile(files.images)
    source = record["params"][f"datasets.{dataset}.source"]
    kind, fraction = source["kind"], source.get("validation_fraction")
    held_out = f", with {fraction:g} of its training images as the test split" if fraction else ""
    version = record["machine"]["versions"]["relational-reasoning"]
    values = {key: value or _KNOWN.get(kind, {}).get(key, _UNKNOWN) for key, value in required.items()}
    is_organization = required["creator"] is not None or kind == "tiny_imagenet"  # the other known creators are people
    counts = {split: int((raw_file.splits == split).sum()) for split in SPLITS}
    metadata = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": dataset,
        "description": (
            f"{format_count(counts['train'], 'training images')} and {format_count(counts['test'], 'test images')} of "
            f"{format_count(len(raw_file.class_names), 'classes', 'class')} (source: {kind}{held_out}), fetched on "
            f"{record['started'][:10]} with relational-reasoning {version}. The label -1 marks unlabeled images."
        ),
        "license": values["license"],
        "url": values["url"],
        "creator": {"@type": "sc:Organization" if is_organization else "sc:Person", "name": values["creator"]},
        **({} if values["date"] == _UNKNOWN else {"datePublished": values["date"]}),
        "version": "1.0.0",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": files.images.name,
                "name": files.images.name,
                "contentUrl": files.images.name,
                "encodingFormat": "application/x-parquet",
                "contentSize": f"{files.images.stat().st_size} B",
                "sha256": record["outputs"][str(files.images)],
            }
        ],
        "recordSet": [
            *_class_records(raw_file.class_names),
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "description": "One record for each image; the training images come first.",
                "field": [
                    _make_field("image", "sc:ImageObject", files.images.name, {"jsonPath": "bytes"}),
                    _make_field("label", "sc:Integer", files.images.name),
                    _make_field("split", "sc:Text", files.images.name),
                ],
            },
        ],
    }
    target = files.raw_dir / _FILE_NAME
    write_text(target, json.dumps(metadata, indent=1, ensure_ascii=False) + "\n")
    missing = [f"--{key}" for key, value in values.items() if value == _UNKNOWN]
    hint = f"; add {', '.join(missing)}, which the format requires" if missing else ""
    return f"{target}: {format_count(sum(counts.values()), 'images')}{hint}"


def describe_outdated_croissant(dataset: str) -> str:
    """Return a warning if a fetched dataset has a `croissant.json` that does not describe its images, otherwise ""."""
    files = paths.DatasetPaths(dataset)
    file = files.raw_dir / _FILE_NAME
    if not file.is_file() or load_record(files.raw_dir)["outputs"][str(files.images)].encode() in file.read_bytes():
        return ""
    return (
        f"{file} describes the previous images: run `rr croissant {dataset}` with the same options as before, which "
        "replaces this file and any edits in it"
    )


def _is_url(text: str) -> bool:
    return re.fullmatch(r"https?://[^\s/?#]\S*", text, re.IGNORECASE) is not None


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}(-\d\d){0,2}", text, re.ASCII):
        return False
    try:
        datetime.date.fromisoformat(f"{text}-01-01"[:10])
    except ValueError:
        return False
    return True


def _make_field(column: str, data_type: str, file: str, transform: dict[str, str] | None = None) -> dict[str, Any]:
    source: dict[str, Any] = {"fileObject": {"@id": file}, "extract": {"column": column}}
    if transform:
        source["transform"] = transform
    return {
        "@type": "cr:Field", "@id": f"images/{column}", "name": column, "dataType": data_type, "source": source
    }  # fmt: skip


def _class_records(class_names: list[str]) -> list[dict[str, Any]]:
    """Return the records that map each label to its class name, if the dataset has classes."""
    if not class_names:
        return []
    types = {"label": "sc:Integer", "name": "sc:Text"}
    return [
        {
            "@type": "cr:RecordSet",
            "@id": "classes",
            "name": "classes",
            "description": "The class name of each label.",
            "key": {"@id": "classes/label"},
            "field": [
                {"@type": "cr:Field", "@id": f"classes/{name}", "name": name, "dataType": data_type}
                for name, data_type in types.items()
            ],
            "data": [{"classes/label": label, "classes/name": name} for label, name in enumerate(class_names)],
        }
    ]
