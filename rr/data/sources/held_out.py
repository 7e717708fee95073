"""Read all images of a dataset without a test split, and check the choice of those that are held out for testing."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from rr.data import raw
from rr.data.folder_listing import DamagedFile
from rr.data.image_summary import ImageFacts
from rr.data.printable_names import display_name
from rr.data.skipped_files import SkippedFiles
from rr.errors import UserError
from rr.runtime.ordered_map import DECODING_THREADS, map_ordered
from rr.runtime.progress import Progress

_Image = TypeVar("_Image")
_Key = TypeVar("_Key")


def hash_readable_images(
    inspect: Callable[[_Image], tuple[_Key, int, bytes, ImageFacts | DamagedFile]],
    images: Iterable[_Image],
    num_images: int,
    skipped: SkippedFiles,
    suffix: str | None = None,
) -> tuple[dict[_Key, bytes], dict[int, set[bytes]]]:
    """Check all images, and return the digests of those that can be read, by key and by label.

    Args:
        inspect: function that returns the key of an image, its label, its digest, and facts about it or the reason why
            it cannot be read. Several threads call it.
        images: the arguments of `inspect`.
        num_images: number of images, for the progress.
        skipped: where images that cannot be read are reported.
        suffix: suffix under which they are counted, which defaults to that of their name.

    Raises:
        UserError: if images cannot be read, unless they are skipped.
    """
    by_key: dict[_Key, bytes] = {}
    by_label: dict[int, set[bytes]] = defaultdict(set)
    with Progress("fetch", num_images, "images", note="checking") as progress:
        for key, label, digest, result in map_ordered(inspect, images, DECODING_THREADS):
            if skipped.report(result, suffix):
                by_key[key] = digest
                by_label[label].add(digest)
            progress.advance(1)
    skipped.raise_if_unreadable()
    return by_key, by_label


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
        at_least = "" if by_label.keys() == {raw.UNLABELED} else ", so that at least one class has two"
        kind = "a folder" if path.is_dir() else "files"
        remedy = f"add different images{at_least}, or add {kind} of test images"
        if len(all_digests) == 1:
            reason = "there is only one image" if num_images == 1 else "all images are identical"
        elif len(by_label) == num_images and raw.UNLABELED not in by_label:
            reason = f"the labels have {len(by_label):,} different values for {num_images:,} images"
            remedy = f"use classes that several images share, not measurements or numbers of images, or {remedy}"
        else:
            reason = "every distinct image is the only one in some class"
        raise UserError(f"{display_name(path)}: no test image can be held out, because {reason}: {remedy}")
    return test
