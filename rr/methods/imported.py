"""The method `imported`: a backbone that was pretrained elsewhere."""

from pathlib import Path

from rr.backbones.base import Backbone
from rr.backbones.weights import load_backbone
from rr.errors import UserError
from rr.methods.base import Method
from rr.params import ImportedConfig
from rr.runtime.hashing import file_sha256


def load_imported_method(config: ImportedConfig, backbone: Backbone) -> Method:
    """Load the weights from a file of `rr import` into `backbone`, and return a method that is not trained.

    Args:
        config: the path of the file and its SHA-256.
        backbone: a backbone of the architecture that the file contains.

    Raises:
        UserError: if the file is missing or not a backbone of this project, if its SHA-256 is not `config.sha256`, or
            if it contains a backbone of another architecture.
    """
    path = Path(config.path)
    if not path.is_file():
        raise UserError(f"{path}: no such file: create it with rr import, or correct the method's path in params.yaml")
    sha256 = file_sha256(path)
    if sha256 != config.sha256:
        raise UserError(
            f"{path}: the SHA-256 of the file is {sha256}, but the method's sha256 in params.yaml is {config.sha256}: "
            "restore the file, or set the method's sha256 to that of the file"
        )
    loaded = load_backbone(path)
    if loaded.name != backbone.name:
        raise UserError(
            f"{path} contains weights of {loaded.name}, but the backbone of this run is {backbone.name}: run the "
            f"method with backbone {loaded.name}"
        )
    backbone.load_state_dict(loaded.state_dict())
    return Method(backbone)
