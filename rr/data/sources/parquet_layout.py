"""Decide which Parquet files belong to which split of a dataset, and report ambiguous names and missing files."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from rr.data.printable_names import display_name, display_names, normalize_unicode, path_to_text, printable
from rr.data.sources.split_names import TEST_ROLES, TRAIN, find_split
from rr.errors import UserError
from rr.params import SplitNames
from rr.runtime.formatting import format_names

# Names such as train-00000-of-00003, with or without a hash; names that Spark writes; names that end in a number.
_SHARD = re.compile(r"(?P<base>.*?)[-_.]?(?P<index>\d+)[-_]of[-_](?P<total>\d+)(?:[-_][0-9a-f]{8,})?")
_SPARK_PART = re.compile(r"(?P<base>part)-(?P<index>\d+)-[0-9a-f-]{36}.*")
# Names that end in a year or a date, such as birds_2023 or 2023-01-05, whose last number is not a shard number.
_DATED = re.compile(r"(?:.*[^0-9])?(?:19|20)\d\d(?:(?:[-_.]\d\d){0,2}|(?:\d\d){1,2})")
_NUMBERED = re.compile(r"(?P<base>.*?)(?P<separator>[-_.]?)(?P<index>\d+)")
_HOW_TO_SPECIFY = (
    "the files in this dataset's source in params.yaml: `splits: {train: 'PATTERN', test: 'PATTERN'}` with "
    "names, folders or patterns such as 'train-*.parquet' (without test, test_fraction of train is held out), or "
    "`splits: none` to use all files without splits"
)


class ParquetLayout(NamedTuple):
    """A dataset's files, as paths relative to its folder.

    Attributes:
        train: files of the training images, or of all images if there is no test split.
        tests: files of each possible test split, by its name, in order of preference.
        unused: all other files.
        without_images: files that have no image column.
    """

    train: list[str]
    tests: dict[str, list[str]]
    unused: list[str]
    without_images: list[str]


class _File(NamedTuple):
    """A file name and its parts.

    Attributes:
        name: path relative to the dataset folder.
        roles: splits that the names of the file and its folders stand for.
        config: path of the folders whose names do not stand for a split.
        group: key that all files in a numbered set share.
        number: number of the file in its set, or None.
        total: number of files in its set, if the name includes it.
        is_separated: whether the number is certainly not part of the name, unlike the number in `cifar10`.
        is_dated: whether the name ends in a year or a date, so that its last number is not the number of a shard.
    """

    name: str
    roles: frozenset[str]
    config: str
    group: tuple[str, ...]
    number: int | None
    total: int | None
    is_separated: bool
    is_dated: bool


def find_layout(
    root: Path, names: Sequence[str], splits: SplitNames | str, has_images: Callable[[str], bool]
) -> ParquetLayout:
    """Decide which of the files `names`, relative to `root`, belong to which split.

    The function `has_images` returns whether a file has an image column.

    Raises:
        UserError: if the names are ambiguous, or if files of the training split are missing.
    """
    files = [_parse_file_name(name) for name in names]
    partial = [file for file in files if any(map(find_split, _partial_conversion_splits(file.name)))]
    if partial and splits == "auto":
        raise UserError(
            f"{display_name(root)} contains only the first part of a split ({_list_names(partial)}), because the "
            "Hugging Face Hub does not convert more of a large dataset. Download the original files of the dataset or, "
            "to use this part, specify the files in this dataset's source in params.yaml: `splits: {train: 'PATTERN', "
            "test: 'PATTERN'}`"
        )
    if isinstance(splits, SplitNames):
        return _layout_from_patterns(root, files, splits)
    known: list[_File] = []
    others: list[_File] = []
    without_images: list[str] = []
    for file in files:
        if file.roles and splits != "none":
            known.append(file)
        elif has_images(file.name):
            others.append(file)
        else:
            without_images.append(file.name)
    if not known:
        groups = _group_by_name(others)
        if len(groups) > 1 and splits != "none":
            raise _ambiguity_error(
                f"{display_name(root)} has several files without a split in their names: {_list_names(others)}"
            )
        for group in groups.values():
            _check_shard_numbers(root, group)
        return ParquetLayout([file.name for file in others], {}, [], without_images)
    if others:
        raise _ambiguity_error(
            f"{display_name(root)} has {_list_names(known[:1])} and other files with images: {_list_names(others)}"
        )
    configs = sorted({file.config for file in known})
    if len(configs) > 1:
        places = display_names(root / config for config in configs)
        raise UserError(
            f"{display_name(root)} has several configurations of the dataset: {places}. Use one of them as the path "
            "of this dataset's source in params.yaml, or specify the files there: `splits: {train: 'PATTERN', test: "
            "'PATTERN'}`"
        )
    by_role: dict[str, list[_File]] = defaultdict(list)
    for file in known:
        if len(file.roles) > 1:
            raise _ambiguity_error(
                f"the path {display_name(root / file.name)} contains the names of several splits "
                f"({', '.join(sorted(file.roles))})",
                "Rename the file or its folder",
            )
        by_role[next(iter(file.roles))].append(file)
    if TRAIN not in by_role:
        raise _ambiguity_error(f"{display_name(root)} has no files of training images, only {_list_names(known)}")
    check_shards(root, [file.name for file in by_role[TRAIN]], TRAIN)
    tests = {role: [file.name for file in by_role[role]] for role in TEST_ROLES if role in by_role}
    return ParquetLayout([file.name for file in by_role[TRAIN]], tests, [], without_images)


def find_number_of_shards(name: str) -> int:
    """Return the number of files in the numbered set that a file belongs to, according to its name, or 1."""
    return _parse_file_name(name).total or 1


def check_shards(root: Path, names: Sequence[str], split: str) -> None:
    """Raise UserError unless the files of a split are a single file or one complete set of numbered files.

    `split` is the name of the split.
    """
    files = [_parse_file_name(name) for name in names]
    if len(_group_by_name(files)) > 1:
        raise _ambiguity_error(
            f"{display_name(root)} has several sets of files for the {split} split: {_list_names(files)}"
        )
    _check_shard_numbers(root, files)


def _parse_file_name(name: str) -> _File:
    *folders, filename = name.split("/")
    stem = filename.rpartition(".")[0] or filename
    match = _SHARD.fullmatch(stem) or _SPARK_PART.fullmatch(stem) or _NUMBERED.fullmatch(stem)
    parts = match.groupdict() if match else {}
    base, number = parts.get("base", stem), parts.get("index", "")
    # Spark writes a set of files as a folder, such as train.parquet.
    folder_roles = {folder: find_split(folder.removesuffix(".parquet")) for folder in folders}
    return _File(
        name,
        roles=frozenset(filter(None, [*folder_roles.values(), find_split(base)])),
        config="/".join(folder for folder in folders if not folder_roles[folder]),
        group=(*folders, base, "numbered" if number else ""),
        number=int(number) if number else None,
        total=int(parts["total"]) if parts.get("total") else None,
        is_separated=parts.get("separator") != "" or not base or number.startswith("0"),
        is_dated=bool(_DATED.fullmatch(stem)),
    )


def _partial_conversion_splits(name: str) -> list[str]:
    """Return what follows `partial-` in the names of the folders that contain a file."""
    return [folder.removeprefix("partial-") for folder in name.split("/")[:-1] if folder.startswith("partial-")]


def _group_by_name(files: Sequence[_File]) -> dict[tuple[str, ...], list[_File]]:
    """Group the files into sets according to their names."""
    groups: dict[tuple[str, ...], list[_File]] = defaultdict(list)
    for file in files:
        groups[file.group].append(file)
    return groups


def _check_shard_numbers(root: Path, files: Sequence[_File], existing: Sequence[_File] | None = None) -> None:
    """Raise UserError if files of a numbered set are missing, or if their numbers are inconsistent.

    `files` are the files to use, and `existing` are all files that exist; by default, the two are the same.
    """
    if not files or files[0].number is None or (len(files) == 1 and not files[0].is_separated):
        return
    where = display_name(root)
    totals = {file.total for file in files}
    if len(totals) > 1:
        raise UserError(
            f"{where} has files whose names contain different totals (“of N”): {_list_names(files)}. Remove those that "
            "do not belong to the dataset, or download them again"
        )
    (total,) = totals
    counts = Counter(file.number for file in existing or files if file.number is not None)
    if twice := [file for file in files if file.number is not None and counts[file.number] > 1]:
        names = _list_names([file for file in existing or files if file.number == twice[0].number])
        raise UserError(
            f"{where} has several files with the number {twice[0].number}: {names}. Remove all but one of them"
        )
    if total is None and all(file.is_dated for file in files):
        return
    if total is None:
        first = 1 if 1 in counts and 0 not in counts else 0
        last = max(counts)
    else:  # some programs count from 1
        first = 1 if total in counts and 0 not in counts else 0
        last = first + total - 1
    if max(counts) > last:
        highest = max(existing or files, key=lambda file: file.number or 0)
        raise UserError(
            f"{where}: the file number in the name of {_list_names([highest])} exceeds {last}, the last number of the "
            "set: remove the file if it does not belong to the dataset, or download the files again"
        )
    missing = [str(number) for number in range(first, min(last, 10**5) + 1) if number not in counts]
    if missing:
        numbers = format_names(missing)
        raise UserError(
            f"{where}: files are missing. Files named like {_list_names(files[:1])} should have the numbers {first} to "
            f"{last}, but these are missing: {numbers}. Download these files, or renumber the others to use only those"
        )


def _layout_from_patterns(root: Path, files: Sequence[_File], splits: SplitNames) -> ParquetLayout:
    """Return the files that match the patterns in params.yaml."""
    groups = _group_by_name(files)
    chosen: dict[str, list[str]] = {}
    for split, pattern in (("train", splits.train), ("test", splits.test)):
        if pattern is None:
            continue
        parts = [part for part in normalize_unicode(pattern).split("/") if part not in ("", ".")]
        # A pattern that matches a folder matches all files in it.
        matching = [
            file
            for file in files
            if _matches_pattern(normalize_unicode(path_to_text(file.name)).split("/"), [*parts, "**"])
        ]
        if not matching:
            raise UserError(
                f"splits.{split}: no Parquet file in {display_name(root)} matches {printable(pattern)}; it contains "
                f"{_list_names(files)}. Fix the pattern in this dataset's source in params.yaml"
            )
        if len(matching) > 1:
            for group, members in _group_by_name(matching).items():
                _check_shard_numbers(root, members, groups[group])
        chosen[split] = [file.name for file in matching]
    test = set(chosen.get("test", []))
    if both := [name for name in chosen["train"] if name in test]:
        raise UserError(
            f"splits: {display_name(both[0])} matches the patterns of both train and test; fix them in this "
            "dataset's source in params.yaml"
        )
    used = {name for matching in chosen.values() for name in matching}
    unused = [file.name for file in files if file.name not in used]
    return ParquetLayout(chosen["train"], {"test": chosen["test"]} if "test" in chosen else {}, unused, [])


def _matches_pattern(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a path match the parts of a pattern. `**` matches any number of folders."""
    if not pattern:
        return not name
    first, *rest = pattern
    if first == "**":
        return any(_matches_pattern(name[start:], rest) for start in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], first) and _matches_pattern(name[1:], rest)


def _ambiguity_error(problem: str, remedy: str = "") -> UserError:
    """Return the error for ambiguous files. `remedy` is an alternative to specifying them in params.yaml."""
    start = f"{remedy}, or specify" if remedy else "Specify"
    return UserError(f"ambiguous files: {problem}. {start} {_HOW_TO_SPECIFY}")


def _list_names(files: Sequence[_File]) -> str:
    return display_names(file.name for file in files)
