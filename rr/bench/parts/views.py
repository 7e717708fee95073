"""Part `views`: views a second of one core, the paper's policy in full."""

from collections.abc import Callable, Iterator
from itertools import count, cycle

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rr.bench import peers, reference
from rr.bench.measure import Contestant, Part, compare
from rr.bench.settings import AUGMENTATION, IMAGES, MEAN, STD, VIEWS, Settings
from rr.views import make_views


def run(settings: Settings) -> Part:
    """Sides 32, 64 and 96; peers that are installed join in."""
    part = Part(notes=["one thread each; the reference makes its views in this process, without a loader's transport"])
    for side in (32,) if settings.small else (32, 64, 96):
        images, views = (8, 2) if settings.small else (IMAGES, VIEWS)
        pictures = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), np.uint8)
        for threads in settings.threads_or(1):
            few = 1 if settings.small else 4  # images a turn of the slower contestants
            contestants = [
                Contestant("rr", _ours(pictures, views), images * views),
                Contestant("torchvision on PIL", _per_picture(pictures, side, views, few), few * views),
            ]
            made, absent = peers.contestants(pictures, side, views, few)
            case = f"side {side}, K={views}, M={images}"
            part.rows.append(compare(case, "views", threads, contestants + made, settings.steps))
    part.notes += [f"skipped, as it does not import: {name} (pip install 'rr[bench]' brings it)" for name in absent]
    if made:
        part.notes.append("peers have the whole policy; kornia works on batches of 512 float tensors")
    return part


def _ours(pictures: np.ndarray, views: int) -> Callable[[], Tensor]:
    epochs, index = count(), np.arange(len(pictures))

    def work() -> Tensor:
        return make_views(
            pictures, index, augmentation=AUGMENTATION, seed=0, epoch=next(epochs), views=views,
            mean=MEAN, std=STD, device="cpu",
        )  # fmt: skip

    return work


def _per_picture(pictures: np.ndarray, side: int, views: int, few: int) -> Callable[[], Tensor]:
    transform = reference.relational_transform(side, MEAN, STD)
    turns: Iterator[np.ndarray] = cycle(pictures)

    def work() -> Tensor:
        made = []
        for _ in range(few):
            picture = Image.fromarray(next(turns))
            made += [transform(picture) for _ in range(views)]
        return torch.stack(made)

    return work
