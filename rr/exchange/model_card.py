"""Write a model card next to exported weights: what they are, how they were trained, and how they were evaluated.

The format is the one that the Hugging Face Hub uses: Markdown with a YAML header.
"""

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from rr import __version__, paths
from rr.backbones.base import Backbone
from rr.backbones.weights import read_metadata
from rr.data.preprocessing import parse_preprocessing
from rr.params.extensions import is_extension_kind
from rr.report.method_roles import Role, find_role
from rr.report.statistics import accuracy_confidence_interval
from rr.runtime.atomic import write_text
from rr.runtime.formatting import format_duration
from rr.runtime.hashing import file_sha256
from rr.workflow.records import find_record, load_record

# The metrics that a card lists, if the protocol has them. An evaluation's metrics.json contains more.
_METRICS = ("accuracy", "balanced_accuracy", "top_5_accuracy", "mean_average_precision", "silhouette")
_ACCURACIES = ("accuracy", "top_5_accuracy")  # proportions of the test images
_INTERVAL = (
    "The Wilson interval accounts only for the random sampling of the test images. Pretraining with other seeds "
    "gives different values.\n"
)
_NO_INTERVAL = "–"
_TAG = ", self-supervised-learning"
_HEADER = """---
tags: [image-feature-extraction{tag}]
pipeline_tag: image-feature-extraction
---
"""
_USE = """## Use

```python
import rr

extractor = rr.load_backbone("{file}")
features = extractor("image.png")  # float32 (1, {num_features})
```
"""
_LIMITS = (
    "## Limits\n\nThe features reflect the training images. Evaluate them on your own images before you rely on them. "
    "The terms of use of the training images may apply to the weights.\n"
)


def write_model_card(backbone: Backbone, weights: Path, output: Path, format: str, image_size: int) -> Path:
    """Write a card for the file `output`, to which the backbone in `weights` was exported; return the card's path.

    If the record of the run that trained the weights is next to them, the card includes its information and the results
    of all evaluations of these weights. Otherwise, if a card of the weights is next to them, as with released weights,
    its sections about training and evaluation are copied. `image_size` is the size of the images that the exported
    model accepts; it has no effect on the formats that contain only weights.

    Raises:
        UserError: if the record is damaged.
    """
    metadata = read_metadata(weights)
    sha256 = file_sha256(weights)
    record = load_record(weights.parent) if paths.record_file(weights.parent).is_file() else None
    if record and sha256 not in record["outputs"].values():
        record = None
    source_card = "" if record else _read_card(card_path(weights), sha256)
    num_parameters = sum(parameter.numel() for parameter in backbone.parameters())
    facts = {
        "architecture": f"{backbone.name}, {num_parameters:,} parameters",
        "input": _describe_input(metadata, format, image_size),
        "output": f"{backbone.num_features} features",
        "file": f"{output.name} ({format}), SHA-256 {file_sha256(output)}",
        "source": f"{weights.name}, SHA-256 {sha256}",
    }
    sections = [_format_introduction(backbone, record, source_card), _format_table(facts)]
    if format == "safetensors" and parse_preprocessing(metadata):
        sections.append(_USE.format(file=output.name, num_features=backbone.num_features))
    sections.append(_training_sections(source_card) or f"## Training\n\n{_describe_training(record)}")
    if record and (rows := list(_evaluation_rows(weights.parent, sha256))):
        sections.append(_format_evaluations(rows))
    path = card_path(output)
    write_text(path, "\n".join([*sections, _LIMITS]), concurrent=True)
    return path


def card_path(weights: Path) -> Path:
    """Return the path of a file's model card."""
    return weights.with_name(f"{weights.name}.md")


def _read_card(card: Path, weights_sha256: str) -> str:
    """Return the text of a model card, or an empty string if it is missing or describes other weights."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return text if weights_sha256 in text else ""


def _training_sections(card: str) -> str:
    """Return the sections of a card about training and evaluation, or an empty string if it has none."""
    first, last = card.find("## Training\n"), card.find("## Limits\n")
    return card[first:last].rstrip("\n") + "\n" if 0 < first < last else ""


def _format_introduction(backbone: Backbone, record: dict[str, Any] | None, source_card: str) -> str:
    """Return the start of a card. The tag and the title are those of `source_card`, unless there is a record."""
    is_self_supervised = _is_self_supervised(_method_settings(record)) if record else _TAG in source_card
    title = re.search(r"^# (.+)$", source_card, re.MULTILINE)
    return (
        f"{_HEADER.format(tag=_TAG if is_self_supervised else '')}\n"
        f"# {title[1] if title else _title(backbone, record)}\n\n"
        "A network that maps images to feature vectors. It was exported with "
        f"[relational-reasoning](https://arxiv.org/abs/2006.05849) {__version__}.\n"
    )


def _title(backbone: Backbone, record: dict[str, Any] | None) -> str:
    if record is None:
        return backbone.name
    dataset, _, method, seed = _dataset_backbone_method_seed(record)
    if find_role(_method_settings(record)) in (Role.LOWER_BOUND, Role.IMPORTED):
        return f"{backbone.name}, {method} (seed {seed})"
    return f"{backbone.name}, trained on {dataset} with {method} (seed {seed})"


def _dataset_backbone_method_seed(record: dict[str, Any]) -> list[str]:
    """Return a run's dataset, backbone, method and seed."""
    file = next(name for name in record["outputs"] if name.endswith("/backbone.safetensors"))
    return list(Path(file).parts[-5:-1])


def _method_settings(record: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = record["params"][f"methods.{_dataset_backbone_method_seed(record)[2]}"]
    return settings


def _is_self_supervised(settings: dict[str, Any]) -> bool:
    """Return whether a method is known to use no labels, or only some.

    The settings of a user-defined method do not show whether it uses labels.
    """
    role = find_role(settings)
    return role in (Role.SELF_SUPERVISED, Role.SEMI_SUPERVISED) and not is_extension_kind(settings["kind"])


def _describe_input(metadata: dict[str, Any], format: str, image_size: int) -> str:
    """Return which images the exported model accepts. `metadata` is that of the original backbone file."""
    size = metadata.get("side") if format in ("safetensors", "state-dict") else image_size
    images = f"RGB images of {size} × {size} pixels" if size else "RGB images"
    if parse_preprocessing(metadata):
        images += f", values in [0, 1], normalized with mean {metadata['mean']} and std {metadata['std']}"
    return images


def _describe_training(record: dict[str, Any] | None) -> str:
    if record is None:
        return "There is no record of how these weights were trained.\n"
    dataset, _, method, seed = _dataset_backbone_method_seed(record)
    versions, commit = record["machine"]["versions"], record["commit"]
    # In records written by earlier versions, `seconds` covers only the last process.
    seconds = max(record["seconds"], sum(record.get("epoch_seconds", [])), 1)
    facts = {
        "dataset": dataset,
        "method": method,
        "seed": seed,
        "precision": record["params"]["precision"],
        "training": f"{record['views']:,} views, {format_duration(seconds)}, {record['device']}",
        "date": record["started"],
        "commit": f"{commit['id']}{', with uncommitted changes' if commit['changed'] else ''}" if commit else "unknown",
        "versions": ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "ffcv")),
    }
    buffer = io.StringIO()
    YAML(typ="safe", pure=True).dump({method: _method_settings(record)}, buffer)
    return f"{_format_table(facts)}\nMethod parameters:\n\n```yaml\n{buffer.getvalue()}```\n"


def _evaluation_rows(folder: Path, weights_sha256: str) -> Iterator[tuple[str, ...]]:
    """Yield the cells of a table row for each metric of each evaluation of the weights in a run's folder.

    Evaluations without an intact record are omitted.
    """
    folder = Path(os.path.abspath(folder))  # does not follow links, so a linked folder keeps its place in `runs`
    if len(folder.parents) < 5:
        return  # a copy of a run outside of `runs`
    run, evaluations = folder.parts[-4:], folder.parents[4] / "evaluate"
    for file in sorted(evaluations.joinpath(*run).glob("*/*/metrics.json")):
        record = find_record(file.parent)  # DVC may have fetched the metrics without the record
        if not record or weights_sha256 not in record["inputs"].values():
            continue
        metrics = json.loads(file.read_text(encoding="utf-8"))
        target, protocol = file.parts[-3:-1]
        for name in _METRICS:
            if name in metrics:
                is_proportion = name in _ACCURACIES and 0 <= metrics[name] <= 1  # a user-defined protocol may differ
                interval = _format_interval(metrics[name], metrics["test_images"]) if is_proportion else _NO_INTERVAL
                yield target, protocol, name.replace("_", " "), f"{metrics[name]:.4f}", interval


def _format_evaluations(rows: list[tuple[str, ...]]) -> str:
    """Return the section with the rows from `_evaluation_rows`."""
    header = "| target | protocol | metric | value | 95% interval |\n| --- | --- | --- | ---: | ---: |\n"
    note = f"\n{_INTERVAL}" if any(row[-1] != _NO_INTERVAL for row in rows) else ""
    return "## Evaluation\n\n" + header + "".join(f"| {' | '.join(row)} |\n" for row in rows) + note


def _format_interval(accuracy: float, num_images: int) -> str:
    low, high = accuracy_confidence_interval(accuracy, num_images)
    return f"{low:.4f} to {high:.4f}"


def _format_table(facts: dict[str, str]) -> str:
    return "| | |\n| --- | --- |\n" + "".join(f"| {name} | {value} |\n" for name, value in facts.items())
