"""Load a backbone file named in params.yaml: the weights of an `imported` method, or a method's initial weights."""

from rr.backbones.base import Backbone
from rr.backbones.weights import load_backbone
from rr.errors import UserError
from rr.methods.requirements import find_weights_problem
from rr.params.methods import WeightsFile
from rr.runtime.weights_lookup import find_weights


def load_initial_weights(config: WeightsFile, backbone: Backbone) -> None:
    """Load the weights from a backbone file into `backbone`, which must have the architecture of the saved backbone.

    Raises:
        UserError: if the file is missing or not a backbone file of this project, if its SHA-256 is not `config.sha256`,
            or if it contains a backbone with a different architecture, for images of a different size or, for a
            user-defined backbone, with settings that lead to different names or shapes of the weights.
    """
    if problem := find_weights_problem(config, backbone.name, backbone.image_size):
        raise UserError(problem)
    path = find_weights(config.path)
    loaded = load_backbone(path)
    try:
        backbone.load_state_dict(loaded.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"{path} contains weights of {backbone.name} with the settings {loaded.config}, but params.yaml specifies "
            f"the settings {backbone.config}, with which the weights have different names or shapes: change the "
            "settings under backbones in params.yaml, or use a different file"
        ) from error
