"""The method `imported`: a backbone that was pretrained elsewhere."""

from rr.backbones.base import Backbone
from rr.backbones.weights import load_backbone
from rr.errors import UserError
from rr.methods.base import Method
from rr.methods.requirements import find_imported_problem
from rr.params import ImportedConfig
from rr.paths import expand_user


def load_imported_method(config: ImportedConfig, backbone: Backbone) -> Method:
    """Load weights that `rr import` wrote into `backbone`, and return a method that does no training.

    Args:
        config: the path of the file and its SHA-256.
        backbone: a backbone with the architecture that the file contains.

    Raises:
        UserError: if the file is missing or not a backbone file of this project, if its SHA-256 is not `config.sha256`,
            or if it contains a backbone with a different architecture.
    """
    if problem := find_imported_problem(config, backbone.name, backbone.image_size):
        raise UserError(problem)
    backbone.load_state_dict(load_backbone(expand_user(config.path)).state_dict())
    return Method(backbone)
