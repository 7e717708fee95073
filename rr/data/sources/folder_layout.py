"""Decide which folders are a dataset's splits and classes, and reject ambiguous layouts."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from posixpath import basename, dirname, splitext
from typing import NamedTuple

from rr.data.folder_listing import LISTED_FOLDER, REMEDIES, FolderListing, file_suffix
from rr.data.printable_names import display_name, display_names, normalize_unicode, path_to_text, printable
from rr.data.skipped_files import EXCLUDED
from rr.data.sources.class_names import find_variants, means_unlabeled
from rr.data.sources.split_names import TEST_ROLES, TRAIN, find_split, split_words, suggest_split
from rr.errors import UserError, format_alternatives
from rr.params import FolderSource, SplitNames
from rr.runtime.formatting import format_count, format_names

_HOW_TO_SPECIFY = (
    "the layout in this dataset's source in params.yaml: `splits: {train: FOLDER, test: FOLDER}` (without "
    "test, test_fraction of train is held out), `splits: none` if each folder is a class, or `labels: none` to use the "
    "images of all folders without labels"
)


# Names of image folders and of annotation folders, such as VOC's JPEGImages and SegmentationClass.
_IMAGE_FOLDER = re.compile(r"(jpe?g|input|rgb)?(images?|imgs?|photos?)|rgb|inputs?|jpe?g|png|photographs|pics")
_ANNOTATION_FOLDER = re.compile(
    r"(.*(masks?|annotations?|trimaps?|labels?|targets?|depths?|edges)|(gt|ground ?truths?|segmentation|seg)\b.*)"
    r"( ?(images?|imgs?|maps?))?"
)
# Files such as `000_mask_1.png` next to `000.jpg`. An error is raised if more than `_MAX_ANNOTATION_FRACTION` of the
# images have such names.
_ANNOTATION_FILE = re.compile(
    r"(?P<stem>.+?)[-_. ](?:masks?|seg(?:mentation)?|gt|ground[-_ ]?truth|annotations?|trimap|depth)(?:[-_. ]?\d+)?",
    re.IGNORECASE,
)
_MAX_ANNOTATION_FRACTION = 0.1


class FolderLayout(NamedTuple):
    """The images of a dataset by split and class.

    Attributes:
        class_names: class names in alphabetical order; empty if the images are unlabeled.
        files: for each split ("train" and "test", or "all" if test images are to be held out), the files of each class,
            relative to the dataset folder. The key of unlabeled images is the empty string.
        folders: the folder of each split, relative to the dataset folder ("" for that folder itself). The test folder
            may be in the training folder; its images are not training images.
        unused: folders in the training folder that are not used.
        origins: a description of where the images of each split come from.
        unused_files: files in these folders that are not used.
    """

    class_names: list[str]
    files: dict[str, dict[str, list[str]]]
    folders: dict[str, str]
    unused: list[str]
    origins: dict[str, str]
    unused_files: Collection[str] = ()

    def is_used(self, name: str) -> bool:
        """Return whether a file, relative to the dataset folder, belongs to one of the splits."""
        if name in self.unused_files or not any(is_below(name, folder) for folder in self.folders.values()):
            return False
        return not any(is_below(name, folder) for folder in self.unused)


def find_layout(root: Path, listing: FolderListing, source: FolderSource) -> FolderLayout:
    """Return the layout of the images in `root`.

    Raises:
        UserError: if the layout is ambiguous, if a class or a split has no images, if images are next to class folders,
            or if train and test have different classes.
    """
    tree = _Tree(root, listing)
    is_labeled = source.labels == "auto"  # by the names of the folders
    if isinstance(source.splits, SplitNames):
        folders, test_choice = _folders_from_names(tree, source.splits), ""
    elif source.splits == "none":
        folders, test_choice = {"all": ""}, ""
    else:
        folders, test_choice = _find_split_folders(tree, "", is_labeled)
    unused: list[str] = []
    if is_labeled:
        files = {split: _list_classes(tree, folder, source) for split, folder in folders.items()}
    else:
        files = {split: {"": tree.files_below(folder)} for split, folder in folders.items()}
        if "test" in folders and is_below(folders["test"], folders["train"]):
            siblings = [child for child in tree.children(folders["train"]) if child != folders["test"]]
            unused = [child for child in siblings if find_split(basename(child)) in TEST_ROLES]
            reserved = [folders["test"], *unused]
            files["train"][""] = [
                name for name in files["train"][""] if not any(is_below(name, folder) for folder in reserved)
            ]
    for split, classes in files.items():
        if not any(classes.values()):
            raise UserError(
                f"{tree.path(folders[split])} has no images{tree.describe_skipped(folders[split])}: add some (.jpg, "
                ".png, …), or fix `path` or `splits` in this dataset's source in params.yaml"
            )
    if "test" in files:
        _check_same_classes(tree, folders, files)
    classes = files["train" if "test" in files else "all"]
    origins = {split: f"folder {display_name(name)}" if name else "all folders" for split, name in folders.items()}
    if "test" in files:
        if is_below(folders["test"], folders["train"]):
            origins["train"] = "all other folders"
        origins["test"] += f" ({test_choice})" if test_choice else ""
    return FolderLayout(sorted(name for name in classes if name), files, folders, unused, origins)


class _Tree:
    """The folders of a listing, and the number of images in each.

    A damaged file counts as an image so that it does not change the layout.
    """

    def __init__(self, root: Path, listing: FolderListing) -> None:
        self.root = root
        self._listing = listing
        self._files = listing.files
        self.folders = listing.folders
        self._children: dict[str, list[str]] = defaultdict(list)
        for folder in listing.folders:
            self._children[dirname(folder)].append(folder)
        self.num_images: Counter[str] = Counter()  # including those in subfolders
        self.num_direct_images: Counter[str] = Counter()
        folders = set(listing.folders)
        damaged = [f"{file.name}/?" if file.name in folders else file.name for file in listing.damaged]
        for name in [*listing.files, *damaged]:
            self.num_direct_images[dirname(name)] += 1
            self.num_images[""] += 1
            while name := dirname(name):
                self.num_images[name] += 1

    def children(self, folder: str) -> list[str]:
        """Return the subfolders that contain images."""
        return [child for child in self._children[folder] if self.num_images[child]]

    def empty_children(self, folder: str) -> list[str]:
        """Return the subfolders without images."""
        return [child for child in self._children[folder] if not self.num_images[child]]

    def files_below(self, folder: str) -> list[str]:
        """Return the images in a folder and its subfolders."""
        return [name for name in self._files if is_below(name, folder)]

    def path(self, folder: str) -> str:
        """Return a folder's path for a message."""
        return display_name(self.root / folder)

    def describe(self, folders: Iterable[str]) -> str:
        """Return the names of folders, with the number of images in each, for a message."""
        texts = [
            f"{display_name(folder)} ({format_count(self.num_images[folder], 'images')})"
            for folder in sorted(folders, key=lambda folder: (-self.num_images[folder], folder))
        ]
        return format_names(texts)

    def has_excluded(self, folder: str) -> bool:
        """Return whether images in a folder are in the list of excluded images."""
        return any(file.reason == EXCLUDED and is_below(file.name, folder) for file in self._listing.skipped)

    @property
    def links_to_listed_folders(self) -> list[str]:
        """The links to folders that are not followed, because the folders are already listed."""
        return [file.name for file in self._listing.skipped if file.reason == LISTED_FOLDER]

    def describe_skipped(self, folder: str) -> str:
        """Return a summary of the unused files in a folder, as part of a message."""
        counts = Counter(
            (file.reason, file_suffix(file.name)) for file in self._listing.skipped if is_below(file.name, folder)
        )
        texts = [
            f"{count:,} {display_name(suffix) or 'without suffix'}: {reason}"
            + (f", so {REMEDIES[reason]}" if reason in REMEDIES else "")
            for (reason, suffix), count in counts.most_common(3)
        ]
        return f" ({'; '.join(texts)})" if texts else ""


def is_below(name: str, folder: str) -> bool:
    """Return whether a relative path is in a folder or in one of its subfolders. The root is the empty string."""
    return not folder or name.startswith(f"{folder}/")


def _folders_from_names(tree: _Tree, splits: SplitNames) -> dict[str, str]:
    """Return the folders of the splits that params.yaml names."""
    by_text = {normalize_unicode(path_to_text(folder)): folder for folder in tree.folders}
    folders = {}
    for split, name in (("train", splits.train), ("test", splits.test)):
        if name is None:
            continue
        text = normalize_unicode("/".join(part for part in name.split("/") if part not in ("", ".")))
        if text not in by_text:
            known = [printable(folder) for folder in by_text if "/" not in folder or len(by_text) <= 10]
            raise UserError(
                f"splits.{split}: {tree.path('')} has no folder {printable(name)}. Fix the name in this "
                f"dataset's source in params.yaml; {format_alternatives(name, known)}"
            )
        folders[split] = by_text[text]
    train, test = folders["train"], folders.get("test")
    if test is None:
        return {"all": train}
    if is_below(f"{train}/", test) or is_below(f"{test}/", train):
        raise UserError(
            f"splits: train ({display_name(train)}) and test ({display_name(test)}) must be different folders, "
            "and neither may contain the other: fix them in this dataset's source in params.yaml"
        )
    return folders


def _find_split_folders(tree: _Tree, folder: str, is_labeled: bool) -> tuple[dict[str, str], str]:
    """Return the folder of each split in `folder`, and why the test folder was chosen ("" for the default order)."""
    by_role: dict[str | None, list[str]] = defaultdict(list)
    for child in [*tree.children(folder), *tree.empty_children(folder)]:
        by_role[find_split(basename(child))].append(child)
    tests = [by_role[role] for role in TEST_ROLES if by_role[role]]
    find_splits = _find_labeled_splits if is_labeled else _find_unlabeled_splits
    if splits := find_splits(tree, folder, by_role[TRAIN], tests):
        return splits
    inner = folder
    while len(tree.children(inner)) == 1 and not tree.num_direct_images[inner]:
        inner = tree.children(inner)[0]
        if any(find_split(basename(child)) for child in tree.children(inner)):
            return _find_split_folders(tree, inner, is_labeled)
    if is_labeled:
        if inner != folder:
            _reject_wrapper(tree, tree.children(folder)[0])
        _reject_splits_in_classes(tree, folder)
    else:
        _reject_nested_splits(tree)
    return {"all": folder if is_labeled else ""}, ""


def _find_labeled_splits(
    tree: _Tree, folder: str, train: list[str], tests: list[list[str]]
) -> tuple[dict[str, str], str] | None:
    """Return the folder of each split in `folder`, and the reason for the choice of the test folder (may be empty).

    Return None if the subfolders are not splits.

    Raises:
        UserError: if it is ambiguous which folder is which split.
    """
    where, others = tree.path(folder), _other_children(tree, folder)
    if train and tests:
        test, test_choice = _choose_test_folders(tree, train[0], tests)
        for candidates, split in ((train, "training"), (test, "test")):
            if len(candidates) > 1:
                raise _ambiguity_error(
                    f"{where} has {len(candidates)} folders of {split} images: {tree.describe(candidates)}"
                )
        return {"train": train[0], "test": test[0]}, test_choice
    if train and others:
        raise _ambiguity_error(
            f"{where} has a folder {display_name(basename(train[0]))}, but no folder of test images, and "
            f"it is unclear what the other folders are: {tree.describe(others)}"
        )
    if len(train) > 1:
        raise _ambiguity_error(f"{where} has {len(train)} folders of training images: {tree.describe(train)}")
    if train:
        return {"all": train[0]}, ""
    if tests:
        names = [child for candidates in tests for child in candidates]
        raise _ambiguity_error(
            f"{where} has no folder of training images, only {tree.describe(names)}"
            + (f" among other folders: {tree.describe(others)}" if others else "")
        )
    return None


def _find_unlabeled_splits(
    tree: _Tree, folder: str, train: list[str], tests: list[list[str]]
) -> tuple[dict[str, str], str] | None:
    """Return the folders of the splits in `folder`, or None. All images outside the test folders are for training."""
    has_other_images = bool(_other_children(tree, folder) or train[1:] or tree.num_direct_images[folder])
    if not tests or not (train or (has_other_images and tree.num_images[tests[0][0]])):
        return None
    test = tests[0]
    if len(test) > 1:
        raise _ambiguity_error(f"{tree.path(folder)} has {len(test)} folders of test images: {tree.describe(test)}")
    if has_other_images and (not train or tree.num_images[train[0]]):
        return {"train": folder, "test": test[0]}, ""
    return {"train": train[0], "test": test[0]}, ""


def _other_children(tree: _Tree, folder: str) -> list[str]:
    """Return the subfolders that contain images and whose names do not stand for a split."""
    return [child for child in tree.children(folder) if find_split(basename(child)) is None]


def _choose_test_folders(tree: _Tree, train: str, candidates: list[list[str]]) -> tuple[list[str], str]:
    """Return the folders of the test split, and the reason for the choice (empty for the default).

    The default is the first of the candidates, each of which is a list of folders. If it has no class folders, but
    `train` does, the next candidate that has class folders is used.
    """
    first, *rest = candidates
    if tree.children(train) and not any(tree.children(folder) for folder in first):
        for folders in rest:
            if any(tree.children(folder) for folder in folders):
                return folders, f"{display_name(first[0])} has no class folders"
    return first, ""


def _reject_wrapper(tree: _Tree, folder: str) -> None:
    """Raise UserError if `folder`, which would be the only class, contains folders that look like classes."""
    subfolders = tree.children(folder)
    if subfolders and not tree.num_direct_images[folder]:
        raise _ambiguity_error(
            f"{tree.path(folder)} would be the only class, but contains folders of images: {tree.describe(subfolders)}",
            f"If they are the classes, use {tree.path(folder)} as the path of the source, or {display_name(folder)} in "
            "splits",
        )


def _reject_repeated_subfolders(tree: _Tree, folder: str) -> None:
    """Raise UserError if several folders contain the same subfolders, which may be the classes."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for child in tree.children(folder):
        for subfolder in tree.children(child):
            by_name[normalize_unicode(path_to_text(basename(subfolder)))].append(child)
    repeated = {name: parents for name, parents in by_name.items() if len(parents) > 1}
    if len(repeated) > 1:
        parents = {parent for parents in repeated.values() for parent in parents}
        raise _ambiguity_error(
            f"{tree.path(folder)} has folders that contain the same subfolders "
            f"({display_names(sorted(repeated))}): {tree.describe(parents)}",
            "If the subfolders are the classes, move them into a folder of training images and a folder of test images",
        )


def _reject_annotations(tree: _Tree, folder: str) -> None:
    """Raise UserError if the folders are named like images and their annotations instead of like classes."""
    names = {child: _words(child) for child in tree.children(folder)}
    images = [child for child, name in names.items() if _IMAGE_FOLDER.fullmatch(name)]
    annotations = [child for child, name in names.items() if _ANNOTATION_FOLDER.fullmatch(name)]
    if images and annotations:
        raise _ambiguity_error(
            f"{tree.path(folder)} seems to have a folder of images and folders of their annotations instead of "
            f"classes: {tree.describe([*images, *annotations])}",
            f"To use only the images, set the source's path to {tree.path(images[0])}",
        )


def _reject_annotation_files(tree: _Tree, folder: str) -> None:
    """Raise UserError if files are named like annotations, such as masks, of other images in the same folder."""
    names = tree.files_below(folder)
    stems = {splitext(name)[0] for name in names}
    annotations = [
        name
        for name in names
        if (match := _ANNOTATION_FILE.fullmatch(splitext(basename(name))[0]))
        and f"{name[: -len(basename(name))]}{match['stem']}" in stems
    ]
    if len(annotations) > max(1, _MAX_ANNOTATION_FRACTION * len(names)):
        raise UserError(
            f"{tree.path(folder)} has {format_count(len(annotations), 'images')} named like annotations, such as "
            f"masks, of other images: {display_names(annotations)}. Move them out of "
            f"{tree.path('')}, or list them in a file and set `exclude` to its path. To use them as images, set "
            "`splits: none` in this dataset's source in params.yaml"
        )


def _reject_similar_names(tree: _Tree, folder: str, classes: Mapping[str, str]) -> None:
    """Raise UserError if class names are variants of one name, or mean "unlabeled".

    `classes` maps each class name to its folder in `folder`.
    """
    if similar := find_variants(classes):
        first, second = (f"'{display_name(basename(classes[name]))}'" for name in similar)
        raise UserError(
            f"{tree.path(folder)} has folders named {first} and {second}, which seem to be the same class: merge them "
            "or, if they are different classes, rename one of them or specify `splits` in this dataset's source in "
            "params.yaml"
        )
    unlabeled = [child for name, child in classes.items() if means_unlabeled(name)]
    if unlabeled and len(classes) > 1:
        raise _ambiguity_error(
            f"{tree.path(folder)} has class folders and a folder that seems to contain unlabeled images: "
            f"{tree.describe(unlabeled)}",
            "If its images are unlabeled, move it elsewhere, and use it as a second dataset",
        )


def _reject_mixed_depths(tree: _Tree, folder: str) -> None:
    """Raise UserError if some folders contain images but others contain only image folders, which may be classes."""
    children = tree.children(folder)
    groups = [child for child in children if not tree.num_direct_images[child] and len(tree.children(child)) > 1]
    others = [child for child in children if tree.num_direct_images[child]]
    if groups and others:
        raise _ambiguity_error(
            f"{tree.path(folder)} has folders of images, {tree.describe(others)}, and folders that contain only "
            f"folders of images, {tree.describe(groups)}"
        )


def _reject_splits_in_classes(tree: _Tree, folder: str) -> None:
    """Raise UserError if class folders, or folders in them, have names that contain the names of splits."""
    for parent in tree.folders:
        if not is_below(parent, folder):
            continue
        roles = {find_split(basename(sub)): sub for sub in tree.children(parent)}
        is_pair = TRAIN in roles and not roles.keys().isdisjoint(TEST_ROLES)
        found = [sub for role, sub in roles.items() if role]
        if is_pair or (found and dirname(parent) == folder):
            raise _ambiguity_error(
                f"{tree.path(parent)} would be part of a class, but contains splits: {tree.describe(found)}"
            )
    by_rest: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for child in tree.children(folder):
        words = split_words(basename(child))
        for position, word in enumerate(words):
            if role := suggest_split(word):
                others = [*words[:position], *words[position + 1 :]]
                by_rest[tuple(other for other in others if len(other) > 1 and not other.isdigit())][role].append(child)
    for by_role in by_rest.values():
        if TRAIN in by_role and len(by_role) > 1:
            names = tree.describe(itertools.chain(*by_role.values()))
            raise _ambiguity_error(
                f"{tree.path(folder)} has folders whose names contain the names of splits: {names}",
                "If they belong to splits, move them into a folder of training images and a folder of test images",
            )


def _reject_nested_splits(tree: _Tree) -> None:
    """Raise UserError if folders of unlabeled images contain both a training and a test split."""
    for parent in tree.folders:
        splits = {find_split(basename(child)): child for child in tree.children(parent)}
        if TRAIN in splits and not splits.keys().isdisjoint(TEST_ROLES):
            raise UserError(
                f"ambiguous layout: {tree.path(parent)} contains splits: "
                f"{tree.describe(child for split, child in splits.items() if split)}. In this dataset's source in "
                "params.yaml, set `splits: {train: FOLDER, test: FOLDER}`, or `splits: none` to use the images of all "
                "folders and hold out test_fraction of them"
            )


def _list_classes(tree: _Tree, folder: str, source: FolderSource) -> dict[str, list[str]]:
    """Return the images of each class folder in `folder`; images without a class folder have the key "".

    Unless `splits` is `none`, a single folder with a name such as `images` is not a class.

    Raises:
        UserError: if there are images next to class folders, or if a class folder has no images.
    """
    children = tree.children(folder)
    if source.splits == "auto":
        _reject_annotation_files(tree, folder)
    if not children:
        return {"": tree.files_below(folder)}
    if direct := [name for name in tree.files_below(folder) if dirname(name) == folder]:
        raise UserError(
            f"{tree.path(direct[0])} is next to class folders: move all images in {tree.path(folder)} into class "
            "folders or elsewhere, or set `labels: none` in this dataset's source in params.yaml to use all "
            "images without labels"
        )
    for child in tree.empty_children(folder):
        raise _empty_folder_error(tree, child)
    if source.splits != "none" and len(children) == 1:
        _reject_wrapper(tree, children[0])
        if _IMAGE_FOLDER.fullmatch(_words(children[0])):
            return {"": tree.files_below(folder)}
    if source.splits == "auto":
        _reject_repeated_subfolders(tree, folder)
        _reject_annotations(tree, folder)
        _reject_mixed_depths(tree, folder)
    by_folder: dict[str, list[str]] = {child: [] for child in children}
    depth = len(folder) + 1 if folder else 0
    for name in tree.files_below(folder):
        by_folder[name[: name.index("/", depth)]].append(name)
    names: dict[str, str] = {}
    for child in by_folder:
        name = normalize_unicode(path_to_text(basename(child)))
        if name in names:
            raise UserError(
                f"{tree.path(folder)} has two folders named {display_name(name)}, encoded in different "
                f"Unicode forms ({basename(names[name])!a} and {basename(child)!a}): merge or rename them"
            )
        names[name] = child
    if source.splits == "auto":
        _reject_similar_names(tree, folder, names)
    return {name: by_folder[child] for name, child in sorted(names.items())}


def _empty_folder_error(tree: _Tree, folder: str) -> UserError:
    """Return the error for a folder without images that is next to class folders."""
    if tree.has_excluded(folder):
        return UserError(
            f"the exclude list contains all images in {tree.path(folder)}: remove some of them from the list, or move "
            "this folder elsewhere"
        )
    if other_files := tree.describe_skipped(folder):
        return UserError(
            f"{tree.path(folder)} is next to class folders, but has no images{other_files}: if it is not a class, move "
            "it elsewhere. If the other folders are not classes either, set `labels: none` in this dataset's source in "
            "params.yaml to use all images without labels"
        )
    return UserError(f"{tree.path(folder)} has no images: add some (.jpg, .png, …), or remove this folder")


def _words(folder: str) -> str:
    """Return the words in the name of a folder, in lower case and separated by spaces."""
    return " ".join(split_words(basename(folder))).casefold()


def _check_same_classes(tree: _Tree, folders: dict[str, str], files: dict[str, dict[str, list[str]]]) -> None:
    """Raise UserError if the splits have different classes."""
    different = sorted(files["train"].keys() ^ files["test"].keys())
    if not different:
        return
    train, test = (tree.path(folders[split]) for split in ("train", "test"))
    hold_out = (
        f"To hold out test_fraction of the training images instead, set `splits: {{train: "
        f"{display_name(folders['train'])}}}` in this dataset's source in params.yaml"
    )
    if "" in different:
        without = test if "" in files["test"] else train
        raise UserError(
            f"{without} has no class folders, unlike {train if without == test else test}: add the class folders, or "
            f"set `labels: none` to treat all images as unlabeled. {hold_out}"
        )
    names = display_names(different)
    links = [display_name(name) for name in tree.links_to_listed_folders if basename(name) in different]
    note = f" ({links[0]} is a link to a folder that is used already)" if links else ""
    raise UserError(
        f"{train} and {test} must have the same class folders: add or remove the folders that only one of them has: "
        f"{names}{note}. {hold_out}"
    )


def _ambiguity_error(problem: str, remedy: str = "") -> UserError:
    """Return the error for an ambiguous layout. `remedy` is what to do in the most likely case."""
    start = f"{remedy}. Otherwise, specify" if remedy else "Specify"
    return UserError(f"ambiguous layout: {problem}. {start} {_HOW_TO_SPECIFY}")
