"""Other libraries' forms of the paper's policy, for those that are installed (the extra `bench`)."""

import importlib.util
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rr.bench.measure import Contestant
from rr.bench.settings import MEAN, STD

_KORNIA_BATCH = 512


def contestants(pictures: np.ndarray, side: int, views: int, few: int) -> tuple[list[Contestant], list[str]]:
    """Contestants for uint8 `pictures` (M, side, side, 3), `few` a turn, and the libraries that do not import."""
    made, absent = [], []
    for name, build in (("kornia", _kornia), ("lightly", _lightly), ("albumentations", _albumentations)):
        if importlib.util.find_spec(name) is None:
            absent.append(name)
            continue
        try:
            made.append(build(pictures, side, views, few))
        except ImportError as error:
            absent.append(f"{name} ({error})")
    return made, absent


def _kornia(pictures: np.ndarray, side: int, views: int, few: int) -> Contestant:
    import kornia.augmentation as kornia

    policy = torch.nn.Sequential(
        kornia.RandomResizedCrop((side, side), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        kornia.RandomGrayscale(p=0.2),
        kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    amount = min(_KORNIA_BATCH, len(pictures) * views)
    chosen = np.resize(np.arange(len(pictures)), amount)

    def work() -> Tensor:
        batch = torch.from_numpy(pictures[chosen]).permute(0, 3, 1, 2).float().div_(255)
        with torch.no_grad():
            return policy(batch)

    return Contestant("kornia", work, amount)


def _lightly(pictures: np.ndarray, side: int, views: int, few: int) -> Contestant:
    from lightly.transforms import SimCLRTransform

    # Full strength and the paper's ranges; no blur. A call makes two views.
    transform = SimCLRTransform(
        input_size=side, cj_prob=0.8, cj_strength=1.0, cj_bright=0.8, cj_contrast=0.8, cj_sat=0.8, cj_hue=0.2,
        min_scale=0.08, random_gray_scale=0.2, gaussian_blur=0.0, hf_prob=0.5,
        normalize={"mean": list(MEAN), "std": list(STD)},
    )  # fmt: skip
    calls = max(views // 2, 1)

    def per_picture(picture: np.ndarray) -> list[Tensor]:
        image = Image.fromarray(picture)
        return [view for _ in range(calls) for view in transform(image)]

    return Contestant("lightly", _turns(pictures, few, per_picture), few * calls * 2)


def _albumentations(pictures: np.ndarray, side: int, views: int, few: int) -> Contestant:
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    a: Any = albumentations
    transform = a.Compose(
        [
            a.RandomResizedCrop(size=(side, side), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
            a.HorizontalFlip(p=0.5),
            a.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            a.ToGray(p=0.2),
            a.Normalize(MEAN, STD),
            a.pytorch.ToTensorV2(),
        ]
    )

    def per_picture(picture: np.ndarray) -> list[Tensor]:
        return [transform(image=picture)["image"] for _ in range(views)]

    return Contestant("albumentations", _turns(pictures, few, per_picture), few * views)


def _turns(pictures: np.ndarray, few: int, per_picture: Callable[[np.ndarray], list[Tensor]]) -> Callable[[], Tensor]:
    turns: Iterator[np.ndarray] = cycle(pictures)
    return lambda: torch.stack([view for _ in range(few) for view in per_picture(next(turns))])
