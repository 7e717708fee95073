"""Write the reference pages for params.yaml and the command line. `make docs` runs this before it builds the site."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rr.params.root import Params

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py (make docs). Do not edit. -->\n"
BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def parameters_page() -> str:
    """Return a page with a table for each section of params.yaml, made from the models that check the file."""
    schema = Params.model_json_schema()
    lines = [
        NOTE,
        "# params.yaml\n",
        "All keys of `params.yaml`. A key without a default must be given, and an unknown key is an error. The file "
        "itself contains an example of each entry, with comments.\n",
    ]
    queue = [("params.yaml", schema)]
    done = set()
    for title, model in queue:
        lines += [f"## {title}\n", _to_markdown(model.get("description", "")), ""]
        if "properties" in model:
            lines += ["| key | value | default |", "| --- | --- | --- |"]
            required = model.get("required", [])
            for key, value in model["properties"].items():
                default = "" if key in required else f"`{_format_default(value)}`"
                lines.append(f"| `{key}` | {_describe(value, schema)} | {default} |")
            lines.append("")
        for name in _references(model):
            if name not in done and "properties" in schema["$defs"][name]:
                done.add(name)
                queue.append((name, schema["$defs"][name]))
    return "\n".join(lines)


def command_line_page() -> str:
    """Return a page with the help of each command, made by Typer."""
    command = [sys.executable, "-m", "typer", "rr.cli", "utils", "docs", "--name", "rr", "--title", "Command line"]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return NOTE + re.sub(r"^\* `--help`: .*\n", "", page, flags=re.MULTILINE)


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
    bounds = [text.format(value[key]) for key, text in BOUNDS.items() if key in value]
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false"}
    return " ".join([names.get(value.get("type", ""), "value"), ", ".join(bounds)]).strip()


def _format_default(value: dict[str, Any]) -> str:
    default = value.get("default")
    return "–" if default is None else re.sub(r"\d\.\d{5,}", lambda number: f"{float(number[0]):.4f}", str(default))


def _to_markdown(text: str) -> str:
    """Join the lines of each paragraph of a docstring, and make a list of its attributes."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.partition("\nRaises:")[0].strip()):
        heading, _, attributes = paragraph.partition("Attributes:\n")
        lines.append(" ".join(heading.split()))
        for attribute in re.split(r"\n {4}(?! )", attributes):
            name, _, description = " ".join(attribute.split()).partition(": ")
            lines += [f"- `{name}`: {description}"] if description else []
    return "\n\n".join(filter(None, lines)).replace("\n\n- `", "\n- `")


def main() -> None:
    """Write both pages."""
    (REFERENCE / "parameters.md").write_text(parameters_page(), encoding="utf-8")
    (REFERENCE / "command-line.md").write_text(command_line_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
