"""The backbone names, and the `backbones` section: user-defined networks."""

import json
import re
from collections.abc import Collection
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, SerializeAsAny

from rr.errors import format_alternatives
from rr.params.base import StrictModel, UnknownNameError
from rr.params.extensions import is_extension_kind, load_config_class

_RESNETS = (
    "resnet34", "resnet18", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
)  # fmt: skip
# The paper's backbones and torchvision's other ResNets. ResNets with the suffix `-cifar` have a first layer for small
# images. These backbones accept images of any size and provide the feature maps that Deep InfoMax needs.
BUILTIN_BACKBONES = ("conv4", "resnet8", "resnet32", "resnet56", *_RESNETS, *(f"{name}-cifar" for name in _RESNETS))
# torchvision's other classification models, except those with auxiliary classifiers (googlenet, inception_v3),
# those whose last layer is not linear (squeezenet), and those whose weights need a version number (mnasnet).
TORCHVISION_BACKBONES = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121", "densenet161",
    "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l",
    "efficientnet_v2_m", "efficientnet_v2_s", "maxvit_t",
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf",
    "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf", "regnet_y_128gf", "regnet_y_16gf",
    "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf", "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "swin_b", "swin_s",
    "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn",
    "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32",
)  # fmt: skip
TIMM_PREFIX = "timm-"


class ExtensionBackboneConfig(StrictModel):
    """Keys of a user-defined backbone; the backbone's `Config` class subclasses this one."""

    kind: str
    required_class: ClassVar[str] = "rr.backbones.base.Backbone"
    required_function: ClassVar[str] = "forward"
    constructor_arguments: ClassVar[tuple[str, ...]] = ("config", "image_size")

    def __hash__(self) -> int:  # pydantic's own method requires hashable values
        return hash(self.model_dump_json())


def _validate_backbone_entry(value: Any) -> Any:
    """Check an entry of `backbones` with the `Config` class of its kind."""
    if not isinstance(value, dict):
        raise ValueError("must be a mapping with the `kind` key")
    if not is_extension_kind(kind := value.get("kind")):
        raise ValueError(f"kind: must name the class of a user-defined network, such as tiny:TinyNet, got {kind!r}")
    return load_config_class(kind, ExtensionBackboneConfig).model_validate_json(json.dumps(value))


BackboneConfig = SerializeAsAny[Annotated[ExtensionBackboneConfig, BeforeValidator(_validate_backbone_entry)]]


def is_known_backbone(name: str) -> bool:
    """Return whether this project or torchvision has a backbone with this name, or whether it is a timm name."""
    return name in (*BUILTIN_BACKBONES, *TORCHVISION_BACKBONES) or bool(re.fullmatch(rf"{TIMM_PREFIX}\w+", name))


def check_backbone_name(name: str, own_names: Collection[str] = (), prefix: str = "") -> None:
    """Check the name of a backbone. Whether timm has a model is checked only when the model is built.

    Args:
        name: the name.
        own_names: names of the user-defined backbones.
        prefix: start of the error message.

    Raises:
        UnknownNameError: if it is not the name of a backbone.
    """
    if name in own_names or is_known_backbone(name):
        return
    if name.startswith("timm/"):
        raise UnknownNameError(
            f"{prefix}write {TIMM_PREFIX}{name.removeprefix('timm/')}, without a slash, because the name is part of "
            "file names"
        )
    names: tuple[str, ...] = (*own_names, *BUILTIN_BACKBONES)
    alternatives = format_alternatives(name, (*names, *TORCHVISION_BACKBONES))
    names += (
        "a torchvision classification model",
        f"{TIMM_PREFIX}NAME for a timm model",
        "a name in the `backbones` section of params.yaml",
    )
    known = f"known: {', '.join(names)}"
    raise UnknownNameError(f"{prefix}unknown backbone '{name}'; {alternatives if 'did you' in alternatives else known}")
