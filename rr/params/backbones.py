"""The names of the backbones."""

import re
from typing import Annotated

from pydantic import AfterValidator

from rr.errors import format_alternatives

_RESNETS = (
    "resnet34", "resnet18", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d",
)  # fmt: skip
# The paper's backbones and the other ResNets of torchvision. With the suffix `-cifar`, a ResNet has a first layer for
# small images. These backbones accept images of any size and provide the feature maps that Deep InfoMax needs.
BUILTIN_BACKBONES = ("conv4", "resnet8", "resnet32", "resnet56", *_RESNETS, *(f"{name}-cifar" for name in _RESNETS))
# The other classification models of torchvision, except those with auxiliary classifiers (googlenet, inception_v3),
# those whose last layer is not linear (squeezenet), and those that cannot be loaded from tensors only (mnasnet).
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


def check_backbone_name(name: str) -> str:
    """Return `name` if it is the name of a backbone. Whether timm has a model is checked when it is built.

    Raises:
        ValueError: if it is not.
    """
    if name.startswith("timm/"):
        raise ValueError(f"write {TIMM_PREFIX}{name.removeprefix('timm/')}, because the name is part of file names")
    if name not in (*BUILTIN_BACKBONES, *TORCHVISION_BACKBONES) and not re.fullmatch(rf"{TIMM_PREFIX}\w+", name):
        names = (*BUILTIN_BACKBONES, "a classification model of torchvision", f"{TIMM_PREFIX}NAME for a model of timm")
        alternatives = format_alternatives(name, (*BUILTIN_BACKBONES, *TORCHVISION_BACKBONES))
        known = f"known: {', '.join(names)}"
        raise ValueError(f"unknown backbone '{name}'; {alternatives if 'did you' in alternatives else known}")
    return name


BackboneName = Annotated[str, AfterValidator(check_backbone_name)]
