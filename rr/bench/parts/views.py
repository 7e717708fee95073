"""The `views` part: views per second with the paper's augmentation."""

from collections.abc import Callable
from itertools import count

import numpy as np
from PIL import Image
from torch import Tensor

from rr.bench import other_libraries, reference
from rr.bench.measure import Candidate, PartResult, compare_candidates
from rr.bench.settings import AUGMENTATION, IMAGES, MEAN, STD, VIEWS, Settings
from rr.views import make_views


def run(settings: Settings) -> PartResult:
    """Compare rr at 32, 64 and 96 pixels with torchvision and with other libraries that are installed."""
    result = PartResult(
        notes=[
            "By default, each implementation uses one thread. The reference makes its views in this process, so the "
            "time does not include the transfer from DataLoader worker processes."
        ]
    )
    num_images, views = (8, 2) if settings.smoke_test else (IMAGES, VIEWS)
    images_per_call = 1 if settings.smoke_test else 4  # for the slower candidates
    for image_size in (32,) if settings.smoke_test else (32, 64, 96):
        images = np.random.default_rng(0).integers(0, 256, (num_images, image_size, image_size, 3), np.uint8)
        for threads in settings.choose_thread_counts(1):
            candidates = [
                Candidate("rr", _make_rr_call(images, views), num_images * views),
                _make_torchvision_candidate(images, image_size, views, images_per_call),
            ]
            others, notes = other_libraries.make_library_candidates(images, image_size, views, images_per_call)
            case = f"{image_size} × {image_size}, K={views}, M={num_images}"
            result.cases.append(compare_candidates(case, "views", threads, candidates + others, settings.steps))
    result.notes += notes
    if max(settings.choose_thread_counts(1)) > 1:
        result.notes.append("torchvision uses only one thread.")
    if others:
        result.notes.append(
            "The other libraries apply the same operations as rr. kornia processes batches of up to 512 images."
        )
    return result


def _make_rr_call(images: np.ndarray, views: int) -> Callable[[], Tensor]:
    epochs, index = count(), np.arange(len(images))

    def call() -> Tensor:
        return make_views(
            images, index, augmentation=AUGMENTATION, seed=0, epoch=next(epochs), num_views=views,
            mean=MEAN, std=STD, device="cpu",
        )  # fmt: skip

    return call


def _make_torchvision_candidate(images: np.ndarray, image_size: int, views: int, images_per_call: int) -> Candidate:
    transform = reference.relational_transform(image_size, MEAN, STD)

    def make_views_of(image: np.ndarray) -> list[Tensor]:
        pil_image = Image.fromarray(image)
        return [transform(pil_image) for _ in range(views)]

    call = other_libraries.cycle_through_images(images, images_per_call, make_views_of)
    return Candidate("torchvision on PIL", call, images_per_call * views)
