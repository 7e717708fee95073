"""Part `backbone`: forward and backward of Conv-4, side 32, at the batches of K = 32 and K = 4."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rr import backbones
from rr.bench import reference
from rr.bench.measure import Contestant, Part, compare
from rr.bench.settings import IMAGES, VIEWS, Settings


def run(settings: Settings) -> Part:
    """The product's backbone on the memory layout that its views have, against plain NCHW."""
    part = Part(notes=["gradients of the weights, not of the pictures"])
    for threads in settings.threads_or(1, 2):
        for batch in (16,) if settings.small else (VIEWS * IMAGES, 4 * IMAGES):
            pictures = torch.randn(batch, 3, 32, 32)
            contestants = [
                Contestant(
                    "rr", _work(backbones.build("conv4"), pictures.to(memory_format=torch.channels_last)), batch
                ),
                Contestant("NCHW", _work(reference.Conv4(), pictures), batch),
            ]
            part.rows.append(compare(f"batch {batch}", "views", threads, contestants, settings.steps))
    return part


def _work(backbone: nn.Module, pictures: Tensor) -> Callable[[], None]:
    def both() -> None:
        backbone.zero_grad()
        features = backbone(pictures)
        features.backward(torch.ones_like(features))

    return both
