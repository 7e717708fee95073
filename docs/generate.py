"""Write the reference pages, and the tables and images of the method pages. `make docs` runs this before it builds."""

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel

from rr import backbones, methods
from rr.data.image_grid import make_image_grid
from rr.data.shapes import generate_shapes
from rr.methods.rotation import rotate_four_ways
from rr.params.base import StrictModel
from rr.params.loading import load_params
from rr.params.methods import TrainableConfig
from rr.params.schema import Params
from rr.report.paper.published import LIGHTLY, PublishedResult, load_published, name_in_paper
from rr.views import make_views

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
# The pages of the methods, named like their entries in params.yaml.
METHOD_PAGES = sorted(path for path in (DOCS / "methods").glob("*.md") if path.stem != "index")
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS, IMAGE_SIZE = 8, 64  # of the images of views
NOTE = "<!-- Written by docs/generate.py (make docs). Do not edit. -->\n"
BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
NO_LIMIT = 1_000_000  # bounds from here on only exclude typing errors
# The keys whose entries may also be a user's own class, and where this is described.
OWN_CLASSES = {
    "methods": "../guides/add-a-method.md",
    "protocols": "../guides/evaluation.md#add-a-protocol",
    "source": "../guides/datasets.md#read-another-file-format",
}


def parameters_page() -> str:
    """Return a page with a table for each section of params.yaml, made from the models that check the file."""
    schema = Params.model_json_schema()
    lines = [
        NOTE,
        "# params.yaml\n",
        "All keys of `params.yaml`. A key without a default must be given, and an unknown key is an error. The file "
        "itself contains an example of each entry, with comments.\n",
    ]
    # Extensions and tests define other subclasses.
    classes = {model.__name__: model for model in _subclasses(StrictModel) if model.__module__.startswith("rr.params")}
    queue = ["Params"]
    for name in queue:  # grows in the loop
        model = classes.get(name)  # None for a dataclass
        section = schema["$defs"].get(name) or classes[name].model_json_schema()
        properties, required = section["properties"], section.get("required", ())
        text, meanings = _parse_docstring(model.__doc__ if model else section["description"])
        parents = [base for base in model.__mro__[1:] if base in classes.values()] if model else []
        lines += [f"## {'params.yaml' if name == 'Params' else name}\n", text, ""]
        if parents:
            parent = parents[0].__name__
            lines.append(f"In addition to the keys of [{parent}](#{parent.lower()}):\n")
            properties = {key: value for key, value in properties.items() if key in vars(model)["__annotations__"]}
            for base in parents:
                meanings = _parse_docstring(base.__doc__)[1] | meanings
        lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        for key, value in sorted(properties.items(), key=lambda item: item[0] != "kind"):
            default = "" if key in required else _format_default(value)
            lines.append(f"| `{key}` | {_describe_key(key, value, schema)} | {default} | {meanings.get(key, '')} |")
        lines.append("")
        names = [parents[0].__name__] if parents else []
        names += [name for name in _references(properties) if "properties" in schema["$defs"][name]]
        queue += [name for name in dict.fromkeys(names) if name not in queue]
    return "\n".join(lines)


def command_line_page() -> str:
    """Return a page with the help of each command, made by Typer."""
    command = [sys.executable, "-m", "typer", "rr.cli", "utils", "docs", "--name", "rr", "--title", "Command line"]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    page = re.sub(r"^\* `--help`: .*\n", "", page, flags=re.MULTILINE)
    return NOTE + re.sub(r"\*\*Options\*\*:\n+(?=\*\*|#|$)", "", page)


def method_page(name: str, text: str) -> str:
    """Return the page of a method with up-to-date tables, in place of those between `<!-- generated: … -->` lines."""
    tables = {"settings": settings_table, "cost": cost_table, "published": published_table}
    return GENERATED.sub(lambda match: f"{match[1]}\n{tables[match[2]](name)}\n\n{match[3]}", text)


def settings_table(name: str) -> str:
    """Return the keys of a method, with their values in the params.yaml of this project and their valid values."""
    config = load_params(DOCS.parent / "params.yaml").methods[name]
    schema = Params.model_json_schema()
    lines = ["| key | value in `params.yaml` | valid values |", "| --- | --- | --- |"]
    for key, value in schema["$defs"][type(config).__name__]["properties"].items():
        if key == "kind":
            continue
        setting = getattr(config, key)
        valid = _describe(value, schema).replace("](#", "](../reference/parameters.md#")
        default = " (default)" if key not in config.model_fields_set else ""
        lines.append(f"| `{key}` | {_format_setting(setting)}{default} | {valid} |")
    return "\n".join(lines)


def cost_table(name: str) -> str:
    """Return the size of a training step with the settings in params.yaml, and the number of weights."""
    config = load_params(DOCS.parent / "params.yaml").methods[name]
    assert isinstance(config, TrainableConfig)
    method = methods.build(config, backbones.build("conv4"), num_classes=10)
    weights = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
    kept = sum(parameter.numel() for parameter in method.backbone.parameters())
    pairs = method.count_pairs(config.batch_size)
    cells = (config.batch_size, config.views * config.batch_size, pairs, kept, weights - kept)
    return (
        "| images per step | views per step | pairs per step | weights of Conv-4 | other trained weights |\n"
        "| --: | --: | --: | --: | --: |\n| " + " | ".join(f"{cell:,}" if cell else "–" for cell in cells) + " |"
    )


def published_table(name: str) -> str:
    """Return the published accuracies of a method on the dataset of its training, one row per dataset and backbone."""
    results: dict[tuple[str, str, str], PublishedResult] = {}
    for result in load_published():
        is_main = result.unit == "percent" and result.status == "confirmed" and result.views is None
        is_same_data = result.target == result.dataset.removesuffix("-unlabeled")
        if result.method == name and is_main and is_same_data:
            key = (name_in_paper(result.dataset), result.backbone, result.protocol)
            results.setdefault(key, result)  # the paper prints some results in two tables
    lines = ["| dataset | backbone | protocol | accuracy, % | source |", "| --- | --- | --- | --: | --- |"]
    for (dataset, backbone, protocol), result in sorted(results.items()):
        if result.table == LIGHTLY:
            lines.append(f"| {dataset} | `{backbone}` | `{protocol}` | {result.mean} | lightly |")
        else:
            accuracy = f"{result.mean:.2f} ± {result.std:.2f}"
            lines.append(f"| {dataset} | `{backbone}` | `{protocol}` | {accuracy} | paper, {result.table} |")
    return "\n".join(lines)


def views_image(name: str) -> Image.Image:
    """Return an image with three rows: a generated image, then its first views in the training of a method."""
    config = load_params(DOCS.parent / "params.yaml").methods[name]
    assert isinstance(config, TrainableConfig)
    # Several methods have the same augmentation. With the same seed, their pages would show the same views.
    seed = [path.stem for path in METHOD_PAGES].index(name) + 1
    images, _ = generate_shapes(10, seed, "train", IMAGE_SIZE)
    images = images[:3]
    columns = [images]
    epoch = 0
    while len(columns) <= COLUMNS:
        views = make_views(
            images, np.arange(len(images)), augmentation=config.augmentations, seed=seed, epoch=epoch,
            num_views=config.views, mean=(0.0,) * 3, std=(1.0,) * 3, device="cpu",
        )  # fmt: skip
        if config.kind == "rotation":
            views = rotate_four_ways(views)
        pixels = (views.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        columns += np.split(pixels, len(pixels) // len(images))
        epoch += 1
    rows = np.stack(columns[: COLUMNS + 1], axis=1).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3)
    return Image.fromarray(make_image_grid(rows, COLUMNS + 1))


def _format_setting(value: Any) -> str:
    """Return a value of params.yaml as Markdown; of a group of keys, only those that are not at their defaults."""
    if value is None:
        return "–"
    if dataclasses.is_dataclass(value):
        default = type(value)()
        names = [field.name for field in dataclasses.fields(value)]
        changed = [name for name in names if getattr(value, name) != getattr(default, name)]
        return ", ".join(f"`{name}: {_format_number(getattr(value, name))}`" for name in changed)
    if isinstance(value, BaseModel):
        return ", ".join(f"`{key}: {_format_number(item)}`" for key, item in value.model_dump().items())
    return f"`{_format_number(value)}`"


def _format_number(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_format_number, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _subclasses(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [found for child in model.__subclasses__() for found in (child, *_subclasses(child))]


def _describe_key(key: str, value: dict[str, Any], schema: dict[str, Any]) -> str:
    if key == "grid":
        return f"{_describe(value['items'], schema)}, or a list of them"
    text = _describe(value, schema)
    if key in OWN_CLASSES and _references(value):
        text = text.replace(" or ", ", ") + f" or [your own]({OWN_CLASSES[key]}) (`kind: module:Class`)"
    return text


def _references(value: Any) -> list[str]:
    """Return the names of the models that a schema refers to, in order."""
    if isinstance(value, dict):
        own = [value["$ref"].rpartition("/")[2]] if "$ref" in value else []
        return own + [name for key, item in value.items() if key != "$defs" for name in _references(item)]
    return [name for item in value for name in _references(item)] if isinstance(value, list) else []


def _describe(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the valid values of a key as Markdown."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        model = schema["$defs"][name]
        return f"[{name}](#{name.lower()})" if "properties" in model else _describe(model, schema)
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{item}`" for item in value["enum"])
    if options := value.get("oneOf") or value.get("anyOf"):
        return " or ".join(_describe(option, schema) for option in options if option.get("type") != "null")
    if "prefixItems" in value:
        return f"{len(value['prefixItems'])} values: {_describe(value['prefixItems'][0], schema)}"
    if value.get("type") == "array":
        return f"list of {_describe(value['items'], schema)}"
    if "patternProperties" in value:
        (entry,) = value["patternProperties"].values()
        return f"names, each with {_describe(entry, schema)}"
    bounds = [text.format(value[key]) for key, text in BOUNDS.items() if key in value and value[key] < NO_LIMIT]
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
    return " ".join([names.get(value.get("type", ""), "value"), ", ".join(bounds)]).strip()


def _format_default(value: dict[str, Any]) -> str:
    """Return the default of a key as YAML, or a dash if the key is not set by default."""
    default = value.get("default", [] if value.get("type") == "array" else {})
    return "–" if default is None else f"`{_format_yaml(default)}`"


def _format_yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_format_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_format_yaml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4f}" if isinstance(value, float) and value != round(value, 4) else str(value)


def _parse_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Return the paragraphs of a docstring, one per line, and the meaning of each attribute."""
    text, _, attributes = inspect.cleandoc(docstring or "").partition("\nRaises:")[0].partition("Attributes:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip())]
    meanings = {}
    for attribute in re.split(r"\n {4}(?! )", "\n" + attributes.rstrip()):
        name, _, meaning = " ".join(attribute.split()).partition(": ")
        meanings[name] = meaning if ". " in meaning else meaning.removesuffix(".")
    return "\n\n".join(paragraphs), meanings


def main() -> None:
    """Write all of them."""
    (REFERENCE / "parameters.md").write_text(parameters_page(), encoding="utf-8")
    (REFERENCE / "command-line.md").write_text(command_line_page(), encoding="utf-8")
    for path in METHOD_PAGES:
        text = path.read_text(encoding="utf-8")
        path.write_text(method_page(path.stem, text), encoding="utf-8")
        if f"{path.stem}.webp" in text:
            views_image(path.stem).save(path.with_suffix(".webp"), quality=80)


if __name__ == "__main__":
    main()
