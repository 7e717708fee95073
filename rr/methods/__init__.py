"""Pretraining methods: one file each, one contract (`rr.methods.base.Method`)."""

from torch import nn

from rr.methods.base import Method
from rr.params import Method as Settings


def build(settings: Settings, backbone: nn.Module, classes: int, images: int) -> Method:
    """Create the method that `settings` names around `backbone`, for `images` pictures of `classes` classes.

    Raises UserError where the data do not suit the method.
    """
    match settings.kind:
        case "relational":
            from rr.methods.relational import RelationalReasoning

            return RelationalReasoning(settings, backbone)
        case "supervised":
            from rr.methods.supervised import Supervised

            return Supervised(settings, backbone, classes)
        case "simclr":
            from rr.methods.simclr import SimCLR

            return SimCLR(settings, backbone)
        case "rotation":
            from rr.methods.rotation import RotationNet

            return RotationNet(settings, backbone)
        case "infomax":
            from rr.methods.infomax import InfoMax

            return InfoMax(settings, backbone)
        case "deepcluster":
            from rr.methods.deepcluster import DeepCluster

            return DeepCluster(settings, backbone, classes, images)
        case "byol":
            from rr.methods.byol import BYOL

            return BYOL(settings, backbone)
        case "vicreg":
            from rr.methods.vicreg import VICReg

            return VICReg(settings, backbone)
        case "barlow":
            from rr.methods.barlow import BarlowTwins

            return BarlowTwins(settings, backbone)
        case "random":
            return Method(backbone)
        case "imported":
            from rr.methods.imported import imported

            return imported(settings, backbone)
