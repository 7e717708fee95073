"""Use part of the training images of a published dataset as the test split, instead of the usual one."""

from collections import Counter
from collections.abc import Iterable, Iterator

from rr.data import raw
from rr.errors import UserError


def make_validation_split(dataset: raw.RawDataset, fraction: float) -> raw.RawDataset:
    """Return the training images of `dataset`, with `fraction` of each class as the test split.

    The images are selected at regular intervals in the order of the source, so the choice is the same on every machine.
    Unlabeled images are treated like a class. The selected images are kept in memory.

    Raises:
        UserError: while the images are read, if none is selected.
    """

    def iter_images() -> Iterator[raw.EncodedImage]:
        selected = []
        for image, is_selected in _select_at_intervals(dataset.images, fraction):
            if is_selected:
                selected.append(image._replace(split="test"))
            else:
                yield image
        if not selected:
            raise UserError(f"validation_fraction {fraction:g} selects no training images: raise it in params.yaml")
        yield from selected

    unit = "images of each class" if dataset.class_names else "images"
    origins = {"train": "the other training images", "test": f"{fraction:g} of the training {unit}, held out"}
    return dataset._replace(images=iter_images(), num_images=None, facts={"splits": origins})


def _select_at_intervals(
    images: Iterable[raw.EncodedImage], fraction: float
) -> Iterator[tuple[raw.EncodedImage, bool]]:
    """Yield each training image and whether it is selected. Of n images of a class, round(fraction * n) are."""
    counts: Counter[int] = Counter()
    for image in images:
        if image.split != "train":
            return  # the training images come first
        before = counts[image.label]
        counts[image.label] += 1
        yield image, round(fraction * (before + 1)) > round(fraction * before)


def count_validation_images(num_images: int, num_classes: int, fraction: float) -> int:
    """Return how many training images `make_validation_split` selects if all classes have the same number of images."""
    num_classes = max(num_classes, 1)
    return num_classes * round(fraction * (num_images // num_classes))
