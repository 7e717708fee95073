"""Load a backbone file that params.yaml names: the weights of an `imported` method, or a method's initial weights."""

from rr.backbones.base import Backbone
from rr.backbones.weights import load_backbone
from rr.errors import UserError
from rr.methods.requirements import find_weights_problem
from rr.params.methods import WeightsFile
from rr.runtime.released_weights import find_weights


def load_weights(config: WeightsFile, backbone: Backbone) -> None:
    """Load the weights in a backbone file into `backbone`, which must have the architecture that the file contains.

    Raises:
        UserError: if the file is missing or not a backbone file of this project, if its SHA-256 is not `config.sha256`,
            or if it contains a backbone with a different architecture.
    """
    if problem := find_weights_problem(config, backbone.name, backbone.image_size):
        raise UserError(problem)
    backbone.load_state_dict(load_backbone(find_weights(config.path)).state_dict())
