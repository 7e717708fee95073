"""Released weights: backbone files that are part of this package.

Each NAME has a backbone file from a published run, `NAME.safetensors`, and a model card, `NAME.safetensors.md`. If the
run trained a relation head, `NAME.json` holds the metrics, including the head's calibration, and the dataset (`target`)
on which the calibration was measured.
"""

import os
from pathlib import Path

from rr.errors import UserError
from rr.paths import expand_user

FOLDER = Path(__file__).parent


def find_weights(weights: str | os.PathLike[str]) -> Path:
    """Return the path of a weights file.

    Args:
        weights: a path, or the name of released weights. A file in the current folder takes precedence over a name.

    Raises:
        UserError: if it is a folder, or if it looks like a name but no released weights have this name.
    """
    path = expand_user(weights)
    if path.is_dir():
        raise UserError(f"{path} is a folder: use the backbone.safetensors of a run, or another file")
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return path
    released = FOLDER / f"{path}.safetensors"
    if not released.is_file():
        names = sorted(file.stem for file in FOLDER.glob("*.safetensors"))
        raise UserError(
            f"{path} does not exist and is not the name of released weights ({', '.join(names)}): use the "
            "backbone.safetensors of a run, a file written by rr import, or one of these names"
        )
    return released
