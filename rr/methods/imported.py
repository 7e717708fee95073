"""A backbone from elsewhere in the place of a trained one."""

from pathlib import Path

from torch import nn

from rr.backbones.weights import load_backbone
from rr.errors import UserError
from rr.methods.base import Method
from rr.params import Imported
from rr.runtime.hashing import sha256


def imported(settings: Imported, backbone: nn.Module) -> Method:
    """Fill `backbone` with the weights of `settings.path`, which `rr import` wrote; there is nothing to train.

    Raises UserError where the file is missing, has another SHA-256 than `settings.sha256`, is no backbone of this
    project, or is another backbone than the run's.
    """
    weights = Path(settings.path)
    if not weights.is_file():
        raise UserError(f"{weights}: no such file; write it with rr import, or correct path in params.yaml")
    found = sha256(weights)
    if found != settings.sha256:
        raise UserError(
            f"{weights}: its SHA-256 is {found}, not {settings.sha256}; restore the file, or correct sha256 in "
            "params.yaml"
        )
    loaded = load_backbone(weights)
    if loaded.name != backbone.name:
        raise UserError(f"{weights} holds a {loaded.name}, and the run is of {backbone.name}: change grid.backbone")
    backbone.load_state_dict(loaded.state_dict())
    return Method(backbone)
