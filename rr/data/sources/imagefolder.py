"""Read your own images from folders, one folder per class."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import Any, NamedTuple

from rr.data import raw
from rr.data.exclude import reject_unknown_names
from rr.data.folder_listing import (
    UNREADABLE_FILE,
    DamagedFile,
    SkippedFile,
    describe_non_folder,
    image_kind,
    list_folder,
)
from rr.data.image_summary import ImageFacts
from rr.data.printable_names import display_name, path_to_text, printable
from rr.data.skipped_files import EXCLUDED, SkippedFiles, inspect_image
from rr.data.sources.folder_layout import FolderLayout, find_layout
from rr.data.sources.held_out import adjust_held_out, hash_readable_images
from rr.data.sources.label_file import ImageLabels, read_label_file
from rr.data.sources.split_names import TEST_ROLES, TRAIN, UNUSED
from rr.errors import UserError
from rr.params import FolderSource
from rr.paths import expand_user
from rr.runtime.formatting import format_count, format_names

_SPLIT_TEXTS = {"train": "training ", "test": "test ", "all": ""}


class _LabeledFile(NamedTuple):
    """An image file. `name` is relative to the dataset folder; `digest` is the file's SHA-256, or empty."""

    name: str
    split: str
    label: int
    digest: bytes = b""


def read_dataset(source: FolderSource, local_copy: Path | None, skipped: SkippedFiles) -> raw.RawDataset:
    """Return the images of a folder that has one subfolder per class, or one per split with class folders inside.

    `rr.data.sources.folder_layout` recognizes the layout, and `rr.data.sources.label_file` reads labels from a CSV
    file. If there is no folder of test images, about `test_fraction` of each class is held out. The choice depends only
    on the image bytes, so it is the same on every machine.

    All unused files are reported to `skipped`.

    Raises:
        UserError: if the folder is missing, if its layout is ambiguous, if a class has no images, or if train and test
            have different classes.
    """
    root = local_copy or Path(source.path)
    if not root.is_dir():
        raise UserError(
            f"{display_name(root)} is not a folder{describe_non_folder(root)}: fix the source's path in "
            "params.yaml, or specify a path with --from"
        )
    listing = list_folder(root, image_kind())
    names = [*listing.files, *(file.name for file in listing.damaged)]
    excluded = {name: SkippedFile(name, EXCLUDED) for name in names if skipped.is_excluded(name)}
    if source.exclude:
        reject_unknown_names(expand_user(source.exclude), skipped.unknown_excluded)
    label_file = expand_user(source.label_file) if source.label_file else None
    listing = listing._replace(
        files=[name for name in listing.files if name not in excluded],
        damaged=[file for file in listing.damaged if file.name not in excluded],
    )
    try:
        layout = find_layout(root, listing._replace(skipped=[*listing.skipped, *excluded.values()]), source)
        reads_splits = source.splits == "auto" and "all" in layout.files
        labels = read_label_file(label_file, names, root, reads_splits=reads_splits) if label_file else None
    except UserError:
        for damaged_file in listing.damaged:  # they may be the reason for an unexpected layout or a missing image
            skipped.add_damaged(damaged_file)
        skipped.raise_if_unreadable()
        raise
    if label_file and labels:
        if labels.split_column:
            layout = _split_by_column(layout, labels)
        layout = _replace_labels(layout, labels, label_file)
    for file in listing.skipped:
        if label_file is None or realpath(root / file.name) != realpath(label_file):
            skipped.count(file)
    for damaged_file in listing.damaged:
        if layout.is_used(damaged_file.name):
            skipped.add_damaged(damaged_file)
    unused = [name for name in [*listing.files, *(file.name for file in listing.damaged)] if not layout.is_used(name)]
    for name in unused:
        skipped.count(SkippedFile(name, UNUSED))
    files = _label_files(layout)
    origins = layout.origins
    if "all" in layout.files:
        files = _hold_out(root, files, source.test_fraction, skipped)
        images = _iter_verified_images(root, files)
        origins = {
            "train": origins["all"],
            "test": f"{source.test_fraction:g} of the images{' of each class' if layout.class_names else ''}, held out",
        }
    else:
        images = skipped.iter_readable(_iter_readable_images(root, files, skipped))
    if unused:
        origins = {**origins, "not used": _describe_unused(unused, layout)}
    facts: dict[str, Any] = {"splits": origins}
    if label_file and labels:
        facts["labels_sha256"] = labels.sha256
        facts["labels"] = (
            f"column '{labels.label_column}' of {display_name(label_file)}, for the images in '{labels.image_column}'"
        )
    return raw.RawDataset(layout.class_names, images, len(files), facts)


def _split_by_column(layout: FolderLayout, labels: ImageLabels) -> FolderLayout:
    """Return a layout without splits after assigning its images to the splits in a column of a CSV file.

    Images that are not in the file belong to the training split. As with folders, the test split consists of the images
    with the first of TEST_ROLES of which some are labeled; images with other roles are not used. If there are only
    training images, the layout is returned unchanged.
    """
    roles = labels.role_by_image
    tests = [role for role in TEST_ROLES if role in roles.values()]
    if not tests:
        return layout
    labeled_roles = {roles[image] for image in labels.by_image}
    test = next((role for role in tests if role in labeled_roles), tests[0])
    files: dict[str, dict[str, list[str]]] = {"train": {"": []}, "test": {"": []}}
    for name in layout.files["all"][""]:
        role = roles.get(name, TRAIN)
        if role in (TRAIN, test):
            files["train" if role == TRAIN else "test"][""].append(name)
    origins = {"train": f"column '{labels.split_column}'", "test": f"{test} in the column '{labels.split_column}'"}
    if test != tests[0]:
        origins["test"] += f" ({tests[0]} has no labels)"
    unused = {image for image, role in roles.items() if role not in (TRAIN, test)}
    return layout._replace(files=files, origins=origins, unused_files=unused)


def _replace_labels(layout: FolderLayout, labels: ImageLabels, label_file: Path) -> FolderLayout:
    """Return an unlabeled layout after adding the labels from a CSV file.

    Raises:
        UserError: if no image in one of the splits has a label, or if only test images have a label.
    """
    files: dict[str, dict[str, list[str]]] = {}
    train_folder = display_name(layout.folders.get("train", ""))
    for split, classes in layout.files.items():
        files[split] = defaultdict(list)
        for name in classes[""]:
            files[split][labels.by_image.get(name, "")].append(name)
        if not any(files[split]):
            remedy = "add labels"
            if labels.split_column and "test" in layout.files:
                remedy += (
                    ", or set `splits: none` in this dataset's source in params.yaml to ignore the column and to hold "
                    "out test_fraction of the images instead"
                )
            elif split == "test" and train_folder:
                remedy += (
                    ". To hold out test_fraction of the training images instead, set `splits: {train: "
                    f"{train_folder}}}` in this dataset's source in params.yaml"
                )
            elif split == "test":
                remedy += ", or move these images elsewhere to hold out test_fraction of the training images instead"
            raise UserError(
                f"labels: {display_name(label_file)} has no label for any of the {_SPLIT_TEXTS[split]}images "
                f"({layout.origins[split]}): {remedy}"
            )
    used = set().union(*files.values())
    class_names = [name for name in labels.class_names if name in used]
    train = files["train" if "train" in files else "all"]
    if without_training := [printable(name) for name in class_names if name not in train]:
        raise UserError(
            f"labels: in {display_name(label_file)}, only test images have these labels: "
            f"{format_names(without_training)}. Add training images with these labels, or remove the test images"
        )
    return layout._replace(class_names=class_names, files=files)


def _label_files(layout: FolderLayout) -> list[_LabeledFile]:
    """Return all files of a layout, with the training split first and sorted by class name."""
    labels = {name: label for label, name in enumerate(layout.class_names)} | {"": raw.UNLABELED}
    return [
        _LabeledFile(file, split, labels[name])
        for split, classes in layout.files.items()
        for name, files in sorted(classes.items())
        for file in files
    ]


def _try_read(root: Path, name: str) -> bytes | DamagedFile:
    """Return the contents of a file, or the reason why it cannot be read."""
    try:
        return (root / name).read_bytes()
    except OSError as error:
        return DamagedFile(name, UNREADABLE_FILE, f"{UNREADABLE_FILE} ({error.strerror})")


def _inspect_file(root: Path, file: _LabeledFile) -> tuple[_LabeledFile, int, bytes, ImageFacts | DamagedFile]:
    """Return a file, its label, its SHA-256, and facts about it or the reason why it cannot be read or decoded."""
    data = _try_read(root, file.name)
    if isinstance(data, DamagedFile):
        return file, file.label, b"", data
    return file, file.label, hashlib.sha256(data).digest(), inspect_image(file.name, data)


def _iter_readable_images(
    root: Path, files: Iterable[_LabeledFile], skipped: SkippedFiles
) -> Iterator[raw.EncodedImage]:
    """Yield the contents of the files, and report those that the operating system cannot read."""
    for name, split, label, _ in files:
        data = _try_read(root, name)
        if isinstance(data, DamagedFile):
            skipped.add_damaged(data)
        else:
            yield raw.EncodedImage(split, path_to_text(name), data, label)


def _hold_out(root: Path, files: list[_LabeledFile], fraction: float, skipped: SkippedFiles) -> list[_LabeledFile]:
    """Check all images, and assign about `fraction` of the distinct images of each class to the test split.

    At least one distinct image of each class is left for training and, if there are others, at least one of them is
    chosen. The images are ranked by the SHA-256 of their bytes, and copies of an image are in the same split, even if
    they are in different classes.

    Raises:
        UserError: if images cannot be read, or if no image can be chosen.
    """
    digests, by_label = hash_readable_images(partial(_inspect_file, root), files, len(files), skipped)
    test: set[bytes] = set()
    for distinct in by_label.values():
        count = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
        test.update(sorted(distinct)[:count])
    test = adjust_held_out(test, by_label, len(digests), root)
    chosen = [
        file._replace(split="test" if digest in test else "train", digest=digest) for file, digest in digests.items()
    ]
    return sorted(chosen, key=lambda file: file.split == "test")


def _iter_verified_images(root: Path, files: list[_LabeledFile]) -> Iterator[raw.EncodedImage]:
    """Yield the contents of files that have been checked.

    Raises:
        UserError: if a file has changed since the check.
    """
    for name, split, label, digest in files:
        try:
            data = (root / name).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).digest() != digest:
            raise UserError(f"{display_name(root / name)} changed while the images were being read: run rr fetch again")
        yield raw.EncodedImage(split, path_to_text(name), data, label)


def _describe_unused(names: list[str], layout: FolderLayout) -> str:
    """Return the number of unused images with other splits in the CSV file, and in each folder.

    The folders have the depth of the split folders.
    """
    depth = max(folder.count("/") for folder in layout.folders.values()) + 1
    other_folders = [name for name in names if name not in layout.unused_files]
    counts = Counter("/".join(name.split("/")[:-1][:depth]) for name in other_folders)
    texts = [
        f"{display_name(folder) or 'outside of folders'} ({format_count(count, 'images')})"
        for folder, count in sorted(counts.items())
    ]
    if num_others := len(names) - len(other_folders):
        texts.append(f"other splits ({format_count(num_others, 'images')})")
    return format_names(texts)
