"""Checks on the images that are held out for testing if a dataset has no test split."""

from collections.abc import Mapping
from pathlib import Path

from rr.data import raw
from rr.data.printable_names import display_name
from rr.errors import UserError


def adjust_held_out(test: set[bytes], by_label: Mapping[int, set[bytes]], num_images: int, path: Path) -> set[bytes]:
    """Return `test`, changed so that each class keeps a training image and at least one image is held out.

    Args:
        test: digests of the images chosen for testing.
        by_label: digests of all distinct images of each class.
        num_images: number of images, including copies.
        path: the dataset, for the error message.

    Raises:
        UserError: if there are images, but none can be held out.
    """
    test = set(test)
    for distinct in by_label.values():
        if distinct <= test:  # an image with copies in several classes may have been chosen for another class
            test.remove(max(distinct))
    all_digests = set().union(*by_label.values())
    if not test:
        # The only distinct image of a class must stay in the training split.
        kept = set().union(*(distinct for distinct in by_label.values() if len(distinct) == 1))
        test = set(sorted(all_digests - kept)[:1])
    if all_digests and not test:
        reason = "every distinct image is the only one in some class"
        if len(all_digests) == 1:
            reason = "there is only one image" if num_images == 1 else "all images are identical"
        at_least = "" if by_label.keys() == {raw.UNLABELED} else ", so that at least one class has two"
        kind = "a folder" if path.is_dir() else "files"
        raise UserError(
            f"{display_name(path)}: no test image can be held out, because {reason}: add different images{at_least}, "
            f"or add {kind} of test images"
        )
    return test
