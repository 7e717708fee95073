"""Pretraining methods, one per module. All of them implement `rr.methods.base.Method`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that rr.methods.requirements can be imported without loading torch
    from rr.backbones.base import Backbone
    from rr.methods.base import Method
    from rr.params import MethodConfig


def build(config: MethodConfig, backbone: Backbone, num_classes: int, num_images: int = 0) -> Method:
    """Create the method described by `config`, which trains `backbone`.

    Args:
        config: an entry under `methods` in params.yaml.
        backbone: the network to train.
        num_classes: number of classes in the dataset, or 0 if it has none.
        num_images: number of training images, which only user-defined methods need.

    Raises:
        UserError: if an imported backbone cannot be loaded.
    """
    match config.kind:
        case "relational":
            from rr.methods.relational import RelationalReasoning

            return RelationalReasoning(config, backbone)
        case "supervised":
            from rr.methods.supervised import Supervised

            return Supervised(config, backbone, num_classes)
        case "simclr":
            from rr.methods.simclr import SimCLR

            return SimCLR(config, backbone)
        case "rotation":
            from rr.methods.rotation import RotationNet

            return RotationNet(config, backbone)
        case "infomax":
            from rr.methods.infomax import InfoMax

            return InfoMax(config, backbone)
        case "deepcluster":
            from rr.methods.deepcluster import DeepCluster

            return DeepCluster(config, backbone, num_classes)
        case "byol":
            from rr.methods.byol import BYOL

            return BYOL(config, backbone)
        case "vicreg":
            from rr.methods.vicreg import VICReg

            return VICReg(config, backbone)
        case "barlow":
            from rr.methods.barlow import BarlowTwins

            return BarlowTwins(config, backbone)
        case "random":
            from rr.methods.base import Method

            return Method(backbone)
        case "imported":
            from rr.methods.base import Method
            from rr.methods.initial_weights import load_initial_weights

            load_initial_weights(config, backbone)
            return Method(backbone)
        case kind:  # a user-defined method
            from rr.params.extensions import load_class

            method: Method = load_class(kind)(config, backbone)
            method.setup(num_images, num_classes)
            return method
