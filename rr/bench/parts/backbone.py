"""The `backbone` part: the forward and backward pass on 32 × 32 images, and the forward pass that extracts features."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rr import backbones
from rr.bench import reference
from rr.bench.measure import Candidate, PartResult, compare_candidates
from rr.bench.settings import IMAGES, VIEWS, Settings

_TRAINING_BATCHES = (("conv4", VIEWS * IMAGES), ("conv4", 4 * IMAGES), ("resnet32", 128), ("resnet34", 128))
_INFERENCE_BATCHES = (("conv4", 128), ("resnet32", 128), ("resnet34", 128))


def run(settings: Settings) -> PartResult:
    """Compare rr's backbones in channels-last memory format with the reference's backbones in NCHW format."""
    result = PartResult(notes=["Gradients are computed with respect to the weights, but not the images."])
    for threads in settings.choose_thread_counts(1, 2):
        for make_pass, batches in (
            (_make_forward_and_backward, _TRAINING_BATCHES),
            (_make_inference, _INFERENCE_BATCHES),
        ):
            for backbone, batch_size in batches:
                batch_size = 16 if settings.smoke_test else batch_size
                images = torch.randn(batch_size, 3, 32, 32)
                channels_last = images.to(memory_format=torch.channels_last)
                candidates = [
                    Candidate("rr", make_pass(backbones.build(backbone), channels_last), batch_size),
                    Candidate("NCHW", make_pass(reference.build_backbone(backbone)[0], images), batch_size),
                ]
                case = f"{backbone}, {'inference' if make_pass is _make_inference else 'training'}, batch {batch_size}"
                repeats = settings.steps if backbone == "conv4" else min(settings.steps, 7)
                result.cases.append(compare_candidates(case, "views", threads, candidates, repeats))
    return result


def _make_forward_and_backward(backbone: nn.Module, images: Tensor) -> Callable[[], None]:
    def step() -> None:
        backbone.zero_grad()
        features = backbone(images)
        features.backward(torch.ones_like(features))

    return step


def _make_inference(backbone: nn.Module, images: Tensor) -> Callable[[], None]:
    backbone.eval()

    def encode() -> None:
        with torch.inference_mode():
            backbone(images)

    return encode
