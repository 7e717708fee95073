"""Parse the class names in the metadata of a Parquet file: a JSON list under the `class_names` key."""

import json
from collections.abc import Mapping


def parse_class_names(metadata: Mapping[bytes, bytes] | None) -> list[str]:
    """Return the class names in a Parquet file's schema metadata; the list is empty if the dataset has no labels.

    Raises:
        ValueError: if the metadata does not contain a list of class names.
    """
    try:
        class_names = json.loads((metadata or {})[b"class_names"])
    except (KeyError, ValueError, RecursionError):
        class_names = None
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise ValueError("its metadata has no valid class_names, a JSON list of strings")
    return class_names
