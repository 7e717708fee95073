"""The names of classes in a Parquet file's metadata: a JSON list under `class_names`, empty when unlabelled."""

import json
from collections.abc import Mapping


def parse(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """The names. Raises ValueError where there is no such list."""
    try:
        names = json.loads((metadata or {})[b"class_names"])
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"no class_names in its metadata: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is no list of names")
    return names
