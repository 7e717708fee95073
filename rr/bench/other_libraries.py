"""The paper's augmentation implemented with other libraries, which the `bench` extra installs."""

import importlib.util
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rr.bench.measure import Candidate
from rr.bench.settings import MEAN, STD

_KORNIA_BATCH_SIZE = 512


def make_library_candidates(
    images: np.ndarray, image_size: int, views: int, images_per_call: int
) -> tuple[list[Candidate], list[str]]:
    """Return a candidate for each library that can be imported, and a note on each library that cannot.

    `images` is uint8 (M, image_size, image_size, 3). Each call processes `images_per_call` of them, except that kornia
    uses larger batches.
    """
    candidates, notes = [], []
    functions = {
        "kornia": _make_kornia_candidate,
        "lightly": _make_lightly_candidate,
        "albumentations": _make_albumentations_candidate,
    }
    for name, make in functions.items():
        if importlib.util.find_spec(name) is None:
            notes.append(f"{name} is not installed. To include it, run pip install {name}.")
            continue
        try:
            candidates.append(make(images, image_size, views, images_per_call))
        except ImportError as error:
            first_line = str(error).split("\n")[0]
            notes.append(f"{name} cannot be imported: {first_line}")
    return candidates, notes


def _make_kornia_candidate(images: np.ndarray, image_size: int, views: int, images_per_call: int) -> Candidate:
    import kornia.augmentation as kornia

    augment = torch.nn.Sequential(
        kornia.RandomResizedCrop((image_size, image_size), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        kornia.RandomHorizontalFlip(p=0.5),
        kornia.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        kornia.RandomGrayscale(p=0.2),
        kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    batch_size = min(_KORNIA_BATCH_SIZE, len(images) * views)
    rows = np.resize(np.arange(len(images)), batch_size)

    def make_views() -> Tensor:
        batch = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float().div_(255)
        with torch.no_grad():
            return augment(batch)

    return Candidate("kornia", make_views, batch_size)


def _make_lightly_candidate(images: np.ndarray, image_size: int, views: int, images_per_call: int) -> Candidate:
    from lightly.transforms import SimCLRTransform

    # Color jitter at full strength, the paper's ranges, and no blur. Each call returns two views.
    transform = SimCLRTransform(
        input_size=image_size, cj_prob=0.8, cj_strength=1.0, cj_bright=0.8, cj_contrast=0.8, cj_sat=0.8, cj_hue=0.2,
        min_scale=0.08, random_gray_scale=0.2, gaussian_blur=0.0, hf_prob=0.5,
        normalize={"mean": list(MEAN), "std": list(STD)},
    )  # fmt: skip
    calls = max(views // 2, 1)

    def make_views(image: np.ndarray) -> list[Tensor]:
        pil_image = Image.fromarray(image)
        return [view for _ in range(calls) for view in transform(pil_image)]

    return Candidate("lightly", cycle_through_images(images, images_per_call, make_views), images_per_call * calls * 2)


def _make_albumentations_candidate(images: np.ndarray, image_size: int, views: int, images_per_call: int) -> Candidate:
    import albumentations
    import cv2

    cv2.setNumThreads(1)
    a: Any = albumentations
    transform = a.Compose(
        [
            a.RandomResizedCrop(size=(image_size, image_size), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
            a.HorizontalFlip(p=0.5),
            a.ColorJitter((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2), p=0.8),
            a.ToGray(p=0.2),
            a.Normalize(MEAN, STD),
            a.pytorch.ToTensorV2(),
        ]
    )

    def make_views(image: np.ndarray) -> list[Tensor]:
        return [transform(image=image)["image"] for _ in range(views)]

    call = cycle_through_images(images, images_per_call, make_views)
    return Candidate("albumentations", call, images_per_call * views)


def cycle_through_images(
    images: np.ndarray, images_per_call: int, make_views: Callable[[np.ndarray], list[Tensor]]
) -> Callable[[], Tensor]:
    """Return a function that makes views of the next images on each call, and starts over after the last image."""
    next_images: Iterator[np.ndarray] = cycle(images)
    return lambda: torch.stack([view for _ in range(images_per_call) for view in make_views(next(next_images))])
