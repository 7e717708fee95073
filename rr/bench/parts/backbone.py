"""Part `backbone`: forward and backward pass of Conv-4 on 32 × 32 images, with the batch sizes of K = 32 and K = 4."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rr import backbones
from rr.bench import reference
from rr.bench.measure import Candidate, PartResult, compare_candidates
from rr.bench.settings import IMAGES, VIEWS, Settings


def run(settings: Settings) -> PartResult:
    """Compare the backbone of rr in channels-last memory format with the reference in NCHW format."""
    result = PartResult(notes=["The gradients are computed with respect to the weights, but not to the images."])
    for threads in settings.available_thread_counts(1, 2):
        for batch_size in (16,) if settings.smoke_test else (VIEWS * IMAGES, 4 * IMAGES):
            images = torch.randn(batch_size, 3, 32, 32)
            channels_last = images.to(memory_format=torch.channels_last)
            candidates = [
                Candidate("rr", _make_step(backbones.build("conv4"), channels_last), batch_size),
                Candidate("NCHW", _make_step(reference.Conv4(), images), batch_size),
            ]
            result.cases.append(compare_candidates(f"batch {batch_size}", "views", threads, candidates, settings.steps))
    return result


def _make_step(backbone: nn.Module, images: Tensor) -> Callable[[], None]:
    def step() -> None:
        backbone.zero_grad()
        features = backbone(images)
        features.backward(torch.ones_like(features))

    return step
