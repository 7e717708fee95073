"""Tests of Parquet files of images: splits, shards, columns, labels, and files that are refused."""

import json
import os
import unicodedata
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import RunRr, add_dataset, open_fetched
from own_images import (
    fetch_folder,
    fetch_parquet,
    fetched_labels,
    make_image,
    make_table,
    raw_file,
    save_file,
    save_tables,
)

from rr.data import raw
from rr.data.sources import parquet, parquet_layout
from rr.errors import UserError
from rr.fetch import fetch, format_fetch_facts
from rr.params import ParquetSource, SplitNames

LABELS = [0, 1] * 6


def save(tmp_path: Path, *names: str, **tables: Any) -> Path:
    """Write a table with twelve labeled images into each named file of a folder, and write the given tables."""
    return save_tables(tmp_path / "set", {name: make_table(LABELS) for name in names} | tables)


def check_raises(root: Path, message: str, **keys: Any) -> None:
    with pytest.raises(UserError) as caught:
        fetch_parquet(root, **keys)
    assert message in str(caught.value)
    assert not raw_file(root).exists()


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train.parquet"], ["test.parquet"]),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], ["test-00000-of-00001.parquet"]),
        (["data/train-00000-of-00001-ab12cd34ef56ab78.parquet"], ["data/validation-00000-of-00001-0123456789.parquet"]),
        (["default/train/0000.parquet", "default/train/0001.parquet"], ["default/test/0000.parquet"]),
        (["train/0000.parquet"], ["val/0000.parquet"]),
        (["plain/train-1-of-2.parquet", "plain/train-2-of-2.parquet"], ["plain/dev.parquet"]),
        (["Train_0.parquet", "Train_1.parquet"], ["TEST.parquet"]),
        (["train.parquet/part-00000-12345678-1234-1234-1234-123456789abc-c000.snappy.parquet"], ["test.parquet"]),
        (["split=train/a.parquet"], ["split=test/a.parquet"]),
    ],
)
def test_names_of_splits_and_shards_are_recognized(tmp_path: Path, train: list[str], test: list[str]) -> None:
    root = save(tmp_path, *train, *test)
    save_file(root / "README.md", b"")
    facts = fetch_parquet(root)
    assert facts["images"] == {"train": 12 * len(train), "test": 12 * len(test)}
    assert facts["files"] == {"train": train, "test": test}
    assert facts["splits"] == {"train": ", ".join(train), "test": ", ".join(test)}
    assert facts["skipped"] == {"without the suffix .parquet": {".md": 1}}
    assert next(iter(fetched_labels(root))) == f"{train[0]}, row 0"


@pytest.mark.parametrize(
    "names",
    [
        ["all.parquet"],
        ["cifar10.parquet"],
        ["train.parquet"],
        ["a/part-0.parquet", "a/part-1.parquet"],
        ["0001.parquet", "0002.parquet"],
        ["birds_2019.parquet", "birds_2021.parquet"],
        ["train_2023.parquet"],
        ["2023-01-05.parquet", "2023-01-07.parquet"],
        ["train_202306.parquet", "train_202309.parquet"],
    ],
)
def test_files_without_test_images_are_split(tmp_path: Path, names: list[str]) -> None:
    facts = fetch_parquet(save(tmp_path, *names), test_fraction=0.4)
    assert sum(facts["images"].values()) == 12 * len(names)
    assert facts["images"]["test"] > 0
    assert facts["splits"]["test"] == "0.4 of the images, held out"


def test_labels_in_folder_names_are_not_ignored(tmp_path: Path) -> None:
    images = make_table(LABELS).drop_columns("label")
    root = save(tmp_path, **{"label=cat/0.parquet": images, "label=dog/0.parquet": images})
    message = "labels in folder names (label=cat) are not read: write them into a column, or set `labels: none`"
    check_raises(root, message, splits="none")
    assert fetch_parquet(root, splits="none", labels="none")["classes"] == 0


def test_file_with_paths_instead_of_images_raises(tmp_path: Path) -> None:
    image = pa.array([{"bytes": None, "path": "a.png"}] * 12, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    root = save(tmp_path, **{"train.parquet": pa.table({"image": image, "label": LABELS})})
    check_raises(root, "train.parquet contains no images, only paths: write the file with embedded images")


def test_shard_without_rows_is_read(tmp_path: Path) -> None:
    root = save(tmp_path, **{"train-00000-of-00002.parquet": make_table(LABELS)})
    pq.ParquetWriter(root / "train-00001-of-00002.parquet", make_table(LABELS).schema).close()
    assert sum(fetch_parquet(root)["images"].values()) == len(LABELS)


def test_labels_of_excluded_rows_are_not_read(tmp_path: Path) -> None:
    train, test = ["a", "b", "", "none", "A", "alone", "a", "b"], ["a", "typo", "b"]
    root = save(tmp_path, **{"train.parquet": make_table(train), "test.parquet": make_table(test)})
    rows = [*(f"train.parquet, row {row}" for row in range(2, 6)), "test.parquet, row 1"]
    (tmp_path / "list").write_text("\n".join(rows))
    facts = fetch_parquet(root, exclude=str(tmp_path / "list"))
    assert facts["images_per_class"] == {"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}}
    assert facts["skipped"] == {"listed in the exclude file": {".parquet": 5}}


def test_list_of_excluded_rows_may_have_another_unicode_form(tmp_path: Path) -> None:
    root = save(tmp_path, **{"caf\u00e9.parquet": make_table(LABELS)})
    (tmp_path / "list").write_text("cafe\u0301.parquet, row 2\n", encoding="utf-8")
    assert sum(fetch_parquet(root, exclude=str(tmp_path / "list"))["images"].values()) == len(LABELS) - 1


@pytest.mark.parametrize("splits", ["auto", "none", SplitNames(train="a*", test="b*")])
def test_files_are_not_compared_with_all_other_files(tmp_path: Path, splits: SplitNames | str) -> None:
    class Name(str):
        num_comparisons = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Name.num_comparisons += 1
            return str.__eq__(self, other)

    stems = ("train", "test") if splits == "auto" else ("a", "b")
    names = [Name(f"{stem}-{number}.parquet") for stem in stems for number in range(100)]
    parquet_layout.find_layout(tmp_path, names, splits, lambda name: name.startswith("a"))
    assert Name.num_comparisons < 10 * len(names)


def test_numbers_of_excluded_rows_do_not_add_classes(tmp_path: Path) -> None:
    root = save(tmp_path, **{"train.parquet": make_table([0, 1, 7, 1]), "test.parquet": make_table([1, 5, 0])})
    (tmp_path / "list").write_text("train.parquet, row 2\ntest.parquet, row 1\n")
    facts = fetch_parquet(root, exclude=str(tmp_path / "list"))
    assert (facts["classes"], facts["images"]) == (2, {"train": 3, "test": 2})


def test_path_of_a_file_selects_it(tmp_path: Path) -> None:
    root = save(tmp_path, "train-00001-of-00003.parquet", "x.parquet", "all-1-of-1.parquet")
    shard = root / "train-00001-of-00003.parquet"
    check_raises(shard, f"{shard} is one of 3 files of a dataset: to use all of them, use the folder {root} instead")
    for path, splits in ((shard, "none"), (root / "x.parquet", "auto"), (root / "all-1-of-1.parquet", "auto")):
        assert sum(fetch_parquet(path, splits=splits)["images"].values()) == 12
    with pytest.raises(UserError, match=r"x\.parquet is a file; to use splits, set the source's path"):
        fetch_parquet(root / "x.parquet", splits={"train": "x.parquet"})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
            "files are missing. Files named like train-00000-of-00003.parquet should have the numbers 0 to 2, but "
            "these are missing: 1",
        ),
        (["train-00001-of-00002.parquet"], "numbers 0 to 1, but these are missing: 0"),
        (
            ["train/0000.parquet", "train/0002.parquet", "train/0004.parquet"],
            "numbers 0 to 4, but these are missing: 1, 3",
        ),
        (["0003.parquet"], "numbers 0 to 3, but these are missing: 0, 1, 2"),
        (["train-0-of-2.parquet", "train-1-of-3.parquet"], "contain different totals (“of N”): train-0-of-2.parquet"),
        (
            ["train-00000-of-00001.parquet", "train-00000-of-00001-abcdef0123.parquet"],
            "several files with the number 0: train-00000-of-00001-abcdef0123.parquet, train-00000-of-00001.parquet",
        ),
        (["train-0-of-2.parquet", "train-1-of-2.parquet", "train-5-of-2.parquet"], "5-of-2.parquet exceeds 1, the"),
        (["a/train.parquet", "b/train.parquet"], "several configurations of the dataset: {root}/a, {root}/b. Use one"),
        (["train.parquet", "data/train.parquet"], "several configurations of the dataset: {root}, {root}/data"),
        (["train.parquet", "train_old.parquet"], "{root} has train.parquet and other files with images: train_old"),
        (["train/0000.parquet", "train/old.parquet"], "several sets of files for the train split: train/0000"),
        (["train.parquet", "training.parquet"], "several sets of files for the train split: train.parquet"),
        (["train.parquet", "test.parquet", "test-0.parquet"], "several sets of files for the test split: test-0"),
        (["train.parquet", "val.parquet", "val-0.parquet"], "several sets of files for the val split: val-0.parquet"),
        (["a.parquet", "b.parquet"], "{root} has several files without a split in their names: a.parquet, b.parquet"),
        (["test.parquet", "val.parquet"], "{root} has no files of training images, only test.parquet, val.parquet"),
        (["default/partial-train/0000.parquet"], "the first part of a split (default/partial-train/0000.parquet), bec"),
        (["train/test.parquet"], "/train/test.parquet contains the names of several splits (test, train). Rename the"),
        ([], "no Parquet file with images found"),
    ],
)  # fmt: skip
def test_missing_or_ambiguous_files_raise(tmp_path: Path, names: list[str], message: str) -> None:
    root = save(tmp_path, *names)
    root.mkdir(exist_ok=True)
    check_raises(root, message.format(root=root))


def test_unused_split_may_be_incomplete(tmp_path: Path) -> None:
    root = save(tmp_path, "train.parquet", "test.parquet", "validation-1-of-2.parquet")
    facts = fetch_parquet(root)
    assert facts["splits"]["not used"] == "validation-1-of-2.parquet"
    assert facts["skipped"] == {"outside the splits that are used": {".parquet": 1}}


def test_unknown_file_without_images_is_reported(tmp_path: Path) -> None:
    root = save(tmp_path, "train.parquet", **{"captions.parquet": pa.table({"text": ["a"]})})
    assert fetch_parquet(root)["skipped"] == {"without a column of images": {".parquet": 1}}


def test_hidden_files_and_those_of_programs_are_reported(tmp_path: Path) -> None:
    root = save(tmp_path, "train.parquet", ".cache/x.parquet", "__MACOSX/._train.parquet")
    save_file(root / "cat.png")
    assert fetch_parquet(root)["skipped"] == {
        "created by another program": {".parquet": 1}, "hidden": {".parquet": 1},
        "without the suffix .parquet": {".png": 1},
    }  # fmt: skip


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    save_tables(tmp_path, {"train.parquet": make_table(LABELS)})
    folder.mkdir()
    (tmp_path / "train.parquet").rename(folder / os.fsdecode(b"\xe9.parquet"))
    source = ParquetSource(kind="parquet", path="unused")
    facts = fetch(source, tmp_path / "fetched.parquet", tmp_path, folder)
    assert facts["files"] == {"train": ["\\xe9.parquet"]}


def test_parquet_file_with_another_suffix_is_reported(tmp_path: Path) -> None:
    root = save(tmp_path, "train.parquet", "test.pq")
    skipped = fetch_parquet(root)["skipped"]
    assert skipped == {"a Parquet file without the suffix .parquet; rename it": {".pq": 1}}


def test_images_in_other_columns_are_reported(tmp_path: Path) -> None:
    images = [{"bytes": make_image(), "path": None}] * 12
    table = make_table(LABELS, depth=images, views=[images[:2]] * 12, Label=list(range(12)))
    facts = fetch_parquet(save_tables(tmp_path / "set", {"all.parquet": table}))
    assert facts["unused_images"] == ["depth", "views"]
    assert "label from 'label' (int64), not used: images in 'depth', not used: images in 'views'" in format_fetch_facts(
        facts
    )


def test_folder_without_parquet_files_raises_with_what_it_contains(tmp_path: Path) -> None:
    save_file(tmp_path / "set/train.pq", b"")
    check_raises(tmp_path / "set", "images found (skipped 1 file: without the suffix .parquet (.pq 1)); fix")


def test_damaged_files_raise(tmp_path: Path) -> None:
    root = save(tmp_path, "train.parquet")
    (root / "test.parquet").symlink_to("../.git/annex/objects/x")
    check_raises(root, "test.parquet: a broken link; run `git annex get` or `datalad get`")
    (root / "test.parquet").unlink()
    for data, message in (
        (b"PAR1 no", "test.parquet is damaged or not a valid Parquet file"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is not a Parquet file: a Git LFS pointer instead of the file",
        ),
        (b"", "test.parquet is not a Parquet file: the file is empty"),
    ):
        save_file(root / "test.parquet", data)
        check_raises(root, message, on_unreadable="skip")
    check_raises(tmp_path / "nothing", "nothing is neither a file nor a folder")


@pytest.mark.parametrize(
    ("splits", "train", "test"),
    [
        ({"train": "part-*.parquet", "test": "x.parquet"}, ["part-0.parquet", "part-1.parquet"], ["x.parquet"]),
        ({"train": "a", "test": "x.parquet"}, ["a/b/0.parquet", "a/c.parquet"], ["x.parquet"]),
        (
            {"train": "**/*0.parquet", "test": "part-[1].parquet"},
            ["a/b/0.parquet", "part-0.parquet"],
            ["part-1.parquet"],
        ),
    ],
)
def test_stated_patterns_are_used(tmp_path: Path, splits: dict[str, str], train: list[str], test: list[str]) -> None:
    names = ["a/b/0.parquet", "a/c.parquet", "part-0.parquet", "part-1.parquet", "x.parquet"]
    facts = fetch_parquet(save(tmp_path, *names), splits=splits)
    assert facts["files"] == {"train": train, "test": test}
    assert facts["splits"]["not used"].split(", ") == [name for name in names if name not in train + test]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (
            {"train": "prt-*"},
            "splits.train: no Parquet file in {root} matches prt-*; it contains part-0.parquet, part-2",
        ),
        ({"train": "part-*"}, "numbers 0 to 2, but these are missing: 1"),
        ({"train": "part-0.parquet", "test": "*-[0]*"}, "part-0.parquet matches the patterns of both train and test"),
        ({"train": "../set/*"}, "matches ../set/*"),
    ],
)
def test_stated_patterns_that_do_not_fit_raise(tmp_path: Path, splits: dict[str, str], message: str) -> None:
    root = save(tmp_path, "part-0.parquet", "part-2.parquet")
    check_raises(root, message.format(root=root), splits=splits)


def test_file_outside_its_set_is_named_even_if_it_is_not_stated(tmp_path: Path) -> None:
    root = save(tmp_path, *(f"part-{number}-of-2.parquet" for number in (0, 1, 5)))
    check_raises(root, "in the name of part-5-of-2.parquet exceeds 1", splits={"train": "part-[01]-of-2.parquet"})


def test_part_of_a_complete_set_may_be_stated(tmp_path: Path) -> None:
    root = save(tmp_path, *(f"part-{number}-of-3.parquet" for number in range(3)))
    facts = fetch_parquet(root, splits={"train": "part-[01]-of-3.parquet", "test": "part-2-of-3.parquet"})
    assert facts["images"] == {"train": 24, "test": 12}


def test_without_splits_all_files_are_used(tmp_path: Path) -> None:
    root = save(tmp_path, "train.parquet", "b/test.parquet")
    assert sum(fetch_parquet(root, splits="none")["images"].values()) == 24


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("split", ["train"] * 12),
        ("Split", ["train", "test"] * 6),
        ("subset", ["Training", "valid", None] * 4),
        ("Usage", ["Training", "PublicTest", "PrivateTest"] * 4),
        ("is_train", [True, False] * 6),
        ("is_test", [0, 1] * 6),
        ("split", [0, 1, 2] * 4),
        ("fold", [0, 1, 2] * 4),
    ],
)
def test_column_of_splits_raises(tmp_path: Path, name: str, values: list) -> None:
    root = save_tables(tmp_path / "set", {"all.parquet": make_table(LABELS, **{name: values})})
    check_raises(root, f"all.parquet has a column '{name}' that seems to assign rows to splits")
    assert sum(fetch_parquet(root, splits="none")["images"].values()) == 12


def test_column_of_splits_is_recognized_in_all_files(tmp_path: Path) -> None:
    tables = {f"{number}.parquet": make_table(LABELS, part=[part] * 12) for number, part in enumerate(("train", "val"))}
    check_raises(save_tables(tmp_path / "set", tables), "has a column 'part' that seems to assign rows")


@pytest.mark.parametrize(
    "columns",
    [
        {"test_score": range(12)},
        {"age": [1, 2] * 6},
        {"caption": [f"train test {row}" for row in range(12)]},
        {"license": ["train", "cc"] * 6},
        {"new": [True] * 12},
    ],
)
def test_other_columns_of_text_are_ignored(tmp_path: Path, columns: dict) -> None:
    root = save_tables(tmp_path / "set", {"all.parquet": make_table(LABELS, **columns)})
    assert sum(fetch_parquet(root)["images"].values()) == 12


@pytest.mark.parametrize(
    ("columns", "keys", "expected"),
    [
        ({"image": "Image", "label": "Label", "Age": LABELS}, {}, ("Image", "Label")),
        ({"label": "cls", "class_name": ["a", "b"] * 6}, {}, ("image", "cls")),
        ({"image.size": ["4 x 4"] * 12}, {}, ("image", "label")),
        ({"image": "img", "label": "fine_label", "coarse_label": LABELS}, {}, ("img", "fine_label")),
        ({"image": "photo", "label": "labels", "id": LABELS}, {}, ("photo", "labels")),
        ({"image": "x", "label": "class", "class_id": LABELS, "age": LABELS}, {}, ("x", "class")),
        ({"label": "kind", "age": LABELS}, {"label": "kind"}, ("image", "kind")),
        ({"label": "a", "b": LABELS}, {"label": "b"}, ("image", "b")),
        ({"image": "a", "image2": [b"x"] * 12}, {"image": "a"}, ("a", "label")),
        ({"name": ["x"] * 12}, {"labels": "none"}, ("image", None)),
    ],
)
def test_columns_are_chosen_by_name_and_type(tmp_path: Path, columns: dict, keys: dict, expected: tuple) -> None:
    root = save_tables(tmp_path / "set", {"train.parquet": make_table(LABELS, **columns)})
    facts = fetch_parquet(root, **keys)
    assert facts["columns"] == {"image": expected[0], "label": expected[1]}
    assert facts["classes"] == (2 if expected[1] else 0)
    assert facts["schema"][expected[0]] == "struct<bytes: binary, path: string>"
    assert f"columns: image from '{expected[0]}' (struct<bytes: binary, path: string>)" in format_fetch_facts(facts)


def test_class_label_is_preferred_to_other_integers(tmp_path: Path) -> None:
    table = make_table(LABELS, ["a", "b"], label="kind", number=LABELS)
    assert fetch_parquet(save_tables(tmp_path / "set", {"train.parquet": table}))["columns"]["label"] == "kind"


def test_images_may_be_a_column_of_bytes(tmp_path: Path) -> None:
    for kind in (pa.large_binary(), pa.binary_view()):
        table = pa.table({"photo": pa.array([make_image() for _ in LABELS], kind), "label": LABELS})
        root = save_tables(tmp_path / str(kind), {"train.parquet": table})
        assert sum(fetch_parquet(root)["images"].values()) == 12


def test_file_without_another_column_is_unlabeled(tmp_path: Path) -> None:
    table = make_table(LABELS).drop_columns(["label"])
    facts = fetch_parquet(save_tables(tmp_path / "set", {"train.parquet": table}))
    assert facts["columns"] == {"image": "image", "label": None}
    assert "\nunlabeled images: " in format_fetch_facts(facts)


IMAGES = [{"bytes": b"x", "path": "x"}]


@pytest.mark.parametrize(
    ("table", "keys", "message"),
    [
        ({"photo": [1], "label": [0]}, {}, "has no column of embedded images"),
        ({"image": ["x.png"], "label": [0]}, {}, "Its columns are 'image' (string), 'label' (int64)"),
        ({"image": [{"path": "x.png"}], "label": [0]}, {}, "bytes are not read). Its columns are 'image' (struct<"),
        ({"images": [[b"x"]], "label": [0]}, {}, "write the contents of the image files as bytes, one image in each"),
        ({"a": IMAGES, "b": IMAGES, "label": [0]}, {}, "has several columns of bytes; set `image: NAME`"),
        (
            {"image": IMAGES, "age": [3]},
            {},
            "has no column that is named like a label; set `label: NAME`, or `labels: none` for",
        ),
        ({"image": IMAGES, "category": ["a"], "target": [3]}, {}, "has several columns that may be labels"),
        ({"image": IMAGES, "a_class": [3], "b": [3], "class": [3]}, {}, "several columns that may be labels; set"),
        ({"image": IMAGES, "label": [0.5], "b": [3]}, {}, "has a column 'label' that contains neither integers nor"),
        ({"image": IMAGES, "label": [[0]]}, {}, "has a column 'label' that contains neither integers nor text"),
        ({"image": IMAGES, "label": [0]}, {"image": "img"}, "has no column 'img' of images"),
        ({"image": IMAGES, "label": [0]}, {"image": "label"}, "has no column 'label' of images; fix the `image` key "),
        ({"image": IMAGES, "label": [0]}, {"label": "image"}, "has no column 'image' of integers or text"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_raise_with_their_types(tmp_path: Path, table: dict, keys: dict, message: str) -> None:
    root = save_tables(tmp_path / "set", {"train.parquet": pa.table(table)})
    check_raises(root, message, **keys)
    check_raises(root / "train.parquet", "Its columns are '", **keys)


@pytest.mark.parametrize(
    ("names", "keys", "twice"),
    [
        (["image", "label", "label"], {}, "label"),
        (["image", "label", "label"], {"label": "label"}, "label"),
        (["image", "class", "class"], {}, "class"),
        (["image", "image", "label"], {}, "image"),
        (["image", "image", "label"], {"image": "image"}, "image"),
        (["photo", "photo", "label"], {}, "photo"),
    ],
)
def test_two_columns_of_one_name_raise(tmp_path: Path, names: list[str], keys: dict, twice: str) -> None:
    columns = [[make_image() for _ in LABELS] if name in ("image", "photo") else LABELS for name in names]
    table = pa.table([pa.array(column) for column in columns], names=names)
    root = save_tables(tmp_path / "set", {"train.parquet": table})
    message = f"train.parquet has 2 columns named '{twice}': rename all but one of them. Its columns are "
    check_raises(root, message, **keys)
    check_raises(root / "train.parquet", f"{message}'{names[0]}' (binary), '{names[1]}'", **keys)
    root = save_tables(tmp_path / "set2", {"train.parquet": table.select([0, 2]), "test.parquet": table})
    check_raises(root, f"test.parquet has 2 columns named '{twice}'", **keys)


def test_table_without_rows_raises(tmp_path: Path) -> None:
    empty = pa.table({"image": pa.array([], pa.float64()), "label": pa.array([], pa.float64())})
    for name, table in (("a", empty), ("b", make_table(LABELS).slice(0, 0))):
        root = save_tables(tmp_path / name, {"train.parquet": table})
        for path in (root, root / "train.parquet"):
            check_raises(path, f"{root}/train.parquet: no rows: write the images to the file again")


@pytest.mark.parametrize("fetch_images", [fetch_parquet, fetch_folder])
def test_saved_arrow_dataset_raises_with_a_remedy(tmp_path: Path, fetch_images: Any) -> None:
    root = save_tables(tmp_path / "set", {"train/data-00000-of-00001.arrow": b"x", "dataset_dict.json": b"{}"})
    with pytest.raises(UserError, match=r"Hugging Face datasets saved, write them to Parquet files with to_parquet"):
        fetch_images(root)


def test_files_with_other_columns_raise(tmp_path: Path) -> None:
    for number, other in enumerate(
        (make_table(LABELS, label="kind"), make_table(["a"] * 12), make_table(LABELS, image="x"))
    ):
        root = save_tables(tmp_path / f"{number}", {"train.parquet": make_table(LABELS), "test.parquet": other})
        with pytest.raises(UserError, match=r"test\.parquet has (no|a different type in) "):
            fetch_parquet(root)


@pytest.mark.parametrize(
    "make",
    [
        list,
        lambda labels: pa.array(labels, pa.large_string()),
        lambda labels: pa.array(labels, pa.string_view()),
        lambda labels: pa.array(labels).dictionary_encode(),
        lambda labels: [label and f" {label} " for label in labels],
    ],
)
def test_text_labels_become_classes(tmp_path: Path, make: Any) -> None:
    train, test = ["dog", "cat", None, "owl", "cat"], ["owl", unicodedata.normalize("NFD", "cat"), None]
    root = save_tables(
        tmp_path / "set", {"train.parquet": make_table(make(train)), "test.parquet": make_table(make(test))}
    )
    facts = fetch_parquet(root)
    assert facts["images_per_class"] == {"train": {"cat": 2, "dog": 1, "owl": 1}, "test": {"cat": 1, "owl": 1}}
    assert [name for _, name in fetched_labels(root).values()] == [name or "" for name in train + test]


def test_letters_may_differ_in_case(tmp_path: Path) -> None:
    root = save_tables(tmp_path / "set", {"all.parquet": make_table(["a", "A", "none", "unknown"] * 3)})
    assert fetch_parquet(root)["classes"] == 4


def test_surrounding_spaces_are_not_part_of_a_class_name(tmp_path: Path) -> None:
    root = save_tables(tmp_path / "set", {"all.parquet": make_table(["b ", "\ta", "a!"] * 4)})
    fetch_parquet(root)
    data = raw.RawFile(raw_file(root))
    assert data.class_names == ["a", "a!", "b"]
    assert np.bincount(data.labels).tolist() == [4, 4, 4]


def test_names_in_other_unicode_forms_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = save_tables(
        tmp_path / "a", {"train.parquet": make_table([composed, "x"]), "test.parquet": make_table([decomposed, "x"])}
    )
    assert fetch_parquet(root)["images_per_class"]["test"] == {composed: 1, "x": 1}
    root = save_tables(
        tmp_path / "b",
        {"train.parquet": make_table([0, 1], [composed, "x"]), "test.parquet": make_table([0], [decomposed, "x"])},
    )
    assert fetch_parquet(root)["images_per_class"]["test"] == {composed: 1}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ((LABELS, ["cat", "dog"]), (LABELS, ["dog", "cat"]), "label 0 is dog in the first, but cat in the second"),
        ((LABELS, ["cat", "dog"]), (LABELS, ["cat", "dog", "owl"]), "the first has 3, the second 2. Export"),
        ((LABELS, ["cat"]), None, "label 1 in column 'label' has no name (the number of class names in "),
        ((LABELS, ["cat", "cat"]), None, "several labels in column 'label' have the name cat: give the classes"),
        ((LABELS, None), ([0, 1, 2], None), "these labels in column 'label' have no training images: 2. Add training"),
        ((LABELS, ["a", "b", "c"]), ([2], ["a", "b", "c"]), "have no training images: c"),
        ((["a"], None), (["b"], None), "have no training images: b"),
        ((["a", " "], None), None, "row 1: the label in column 'label' is an empty string; use null"),
        ((["a", "-1"], None), None, "row 1: the label in column 'label' is the text '-1'; use null for unlabeled imag"),
        ((["a", "b"], None), (["NaN"], None), "test.parquet, row 0: the label in column 'label' is the text 'NaN'"),
        ((["a", "null"], None), None, "is the text 'null'; use null for unlabeled images (or, in a column of integers"),
        ((["unlabelled", "unlabeled"], None), None, "row 1: the label in column 'label' is the text 'unlabeled'; use"),
        ((["Cat", "dog"], None), (["cat"], None), "the labels 'Cat' and 'cat' in column 'label' seem to be the same"),
        ((["1", "2"], None), (["1.0"], None), "the labels '1' and '1.0' in column 'label' seem to be the same class"),
        ((["a", "-1.0"], None), None, "row 1: the label in column 'label' is the text '-1.0'; use null for unlabeled"),
        ((["cat", "cat (1)"], None), None, "the labels 'cat' and 'cat (1)' in column 'label' seem to be the same"),
        ((["a b", "a  b"], None), None, "the labels 'a  b' and 'a b' in column 'label' seem to be the same class"),
        ((["cat", "cat "], None), None, "the labels 'cat' and 'cat ' in column 'label' differ only in the spaces"),
        ((["cat"], None), ([" cat"], None), "the labels ' cat' and 'cat' in column 'label' differ only in the spaces"),
        ((LABELS, ["a", "", "b"]), None, "the name of label 1 in column 'label' is empty: give the class a name"),
        (([-1, -1], None), ([0], None), "have no training images: 0"),
        ((LABELS, None), ([-1, None], None), "test.parquet has no labels, unlike "),
    ],
)  # fmt: skip
def test_labels_that_do_not_agree_raise(tmp_path: Path, train: tuple, test: tuple | None, message: str) -> None:
    tables = {"train.parquet": make_table(*train)} | ({"test.parquet": make_table(*test)} if test else {})
    check_raises(save_tables(tmp_path / "set", tables), message)


def test_different_class_names_in_a_shard_raise(tmp_path: Path) -> None:
    names = (["cat", "dog"], ["dog", "cat"])
    tables = {f"train-{number}-of-2.parquet": make_table(LABELS, names[number]) for number in range(2)}
    check_raises(save_tables(tmp_path / "set", tables), "train-1-of-2.parquet and ")


def test_unlabeled_test_split_gives_way_to_a_labeled_validation_split(tmp_path: Path) -> None:
    root = save(tmp_path, "train.parquet", "validation.parquet", **{"test.parquet": make_table([-1] * 4)})
    facts = fetch_parquet(root)
    assert facts["splits"] == {
        "train": "train.parquet", "test": "validation.parquet (test has no labels)", "not used": "test.parquet",
    }  # fmt: skip
    assert facts["images"] == {"train": 12, "test": 12}
    assert fetch_parquet(root, labels="none")["images"] == {"train": 12, "test": 4}


def test_class_names_are_text(tmp_path: Path) -> None:
    metadata = '{"info": {"features": {"label": {"names": ["\\ud800", "b\\n"]}}}}'
    table = make_table(LABELS).replace_schema_metadata({"huggingface": metadata})
    facts = fetch_parquet(save_tables(tmp_path / "set", {"train.parquet": table}))
    assert list(facts["images_per_class"]["train"]) == ["\\ud800", "b\n"]
    assert "\\ud800 (" in format_fetch_facts(facts)
    assert "b\\n (" in format_fetch_facts(facts)


def test_rows_without_embedded_images_raise_in_one_error(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": "a.png"}, None, {"bytes": b"", "path": "b.png"}, {"bytes": b"x", "path": None}]
    images += [{"bytes": make_image(), "path": None} for _ in range(8)]
    root = save_tables(tmp_path / "set", {"train.parquet": pa.table({"image": images, "label": LABELS})})
    with pytest.raises(UserError) as caught:
        fetch_parquet(root)
    assert str(caught.value).splitlines()[:5] == [
        "4 images cannot be read:",
        "  train.parquet, row 0: the image is missing; only its path is stored (a.png): write the file with embedded "
        "images",
        "  train.parquet, row 1: the image is missing",
        "  train.parquet, row 2: the image is empty (0 bytes)",
        "  train.parquet, row 3: not a readable image (Pillow does not recognize its format)",
    ]
    facts = fetch_parquet(root, on_unreadable="skip")
    assert sum(facts["images"].values()) == 8
    assert facts["skipped"] == {"an image that cannot be decoded": {".parquet": 1}, "without an image": {".parquet": 3}}


def test_split_depends_only_on_the_image_but_keeps_each_class_in_training(tmp_path: Path) -> None:
    rows = [{"bytes": make_image(), "path": None} for _ in range(61)]
    labels = [i % 3 for i in range(61)]
    expected = {
        row["bytes"]: "test" if int(sha256(row["bytes"]).hexdigest()[:16], 16) < 0.3 * 2**64 else "train"
        for row in rows
    }
    tables = [
        pa.table({"image": rows[:60], "label": labels[:60]}),
        pa.table({"image": [*rows[::-1], rows[0]], "label": [*labels[::-1], labels[0]]}),  # a copy, and a new image
    ]
    for number, table in enumerate(tables):
        root = save_tables(tmp_path / f"{number}", {"all.parquet": table})
        fetch_parquet(root, test_fraction=0.3)
        data = raw.RawFile(raw_file(root))
        splits = [(content, split) for (_, content), split in zip(data.iter_images(), data.splits, strict=True)]
        assert len(splits) == len(table)
        assert all(split == expected[content] for content, split in splits)
    assert {"train", "test"} == set(expected.values())
    root = save_tables(tmp_path / "few", {"all.parquet": pa.table({"image": rows[:9], "label": labels[:9]})})
    for fraction in (0.001, 0.999):
        facts = fetch_parquet(root, test_fraction=fraction)
        assert facts["images_per_class"]["train"].keys() == {"0", "1", "2"}
        assert facts["images"]["test"] == (1 if fraction < 0.5 else 6)
    root = save_tables(tmp_path / "one/set", {"all.parquet": pa.table({"image": rows[:3], "label": labels[:3]})})
    check_raises(root, "no test image can be held out, because the labels have 3 different values for 3 images")
    for count, reason in ((1, "there is only one image"), (3, "all images are identical")):
        table = pa.table({"image": rows[:1] * count, "label": labels[:count]})
        root = save_tables(tmp_path / f"same-{count}/set", {"all.parquet": table})
        message = f"no test image can be held out, because {reason}: add different images"
        check_raises(root, f"{message}, so that at least one class has two, or add files of test images")
        check_raises(root, f"{message}, or add files of test images", labels="none")


def test_file_that_is_replaced_while_it_is_read_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = save(tmp_path, "all.parquet")
    hold_out = parquet._hold_out

    def replace_file(*arguments: Any) -> Any:
        splits = hold_out(*arguments)
        save(tmp_path, "all.parquet")
        return splits

    monkeypatch.setattr(parquet, "_hold_out", replace_file)
    check_raises(root, "all.parquet changed while it was read: run rr fetch again")


@pytest.mark.parametrize("names", [["train.parquet", "test.parquet"], ["all.parquet"]])
def test_rows_keep_their_labels_and_names_across_row_groups(tmp_path: Path, names: list[str]) -> None:
    expected = {}
    for name in names:
        table = make_table([row % 7 for row in range(150)])
        pq.write_table(table, tmp_path / name, row_group_size=40)
        for row, (image, label) in enumerate(zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)):
            expected[image["bytes"]] = (f"{name}, row {row}", label)
    root = tmp_path if len(names) > 1 else tmp_path / names[0]
    fetch_parquet(root)
    data = raw.RawFile(raw_file(root))
    found = zip(data.iter_images(), data.labels.tolist(), strict=True)
    assert {content: (name, label) for (name, content), label in found} == expected


def test_test_file_without_rows_is_not_called_unlabeled(tmp_path: Path) -> None:
    root = save(tmp_path, "train.parquet", **{"test.parquet": make_table(LABELS).slice(0, 0)})
    check_raises(root, "test.parquet has no rows, unlike")


def test_more_files_than_a_process_can_open(tmp_path: Path) -> None:
    import resource

    root = save(tmp_path, *(f"train-{number:05}-of-00100.parquet" for number in range(100)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, limits[1]))
    try:
        facts = fetch_parquet(root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert sum(facts["images"].values()) == 1200
    assert "train-00002-of-00100.parquet" in facts["splits"]["train"]
    assert facts["splits"]["train"].endswith("and 90 more")


@pytest.mark.parametrize("label", [-2, 2**40, 2**63])
def test_label_out_of_range_raises(project: Path, rr: RunRr, label: int) -> None:
    kind = pa.uint64() if label > 2**62 else pa.int64()
    pq.write_table(make_table(pa.array([0] * 19 + [label], kind)), project / "all.parquet")
    add_dataset(project, {"kind": "parquet", "path": "all.parquet"})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 2
    assert f"all.parquet: label {label} is out of range: use 0 to 99999, or -1 if unlabeled" in outcome.err


def test_fetched_parquet_is_converted(project: Path, rr: RunRr) -> None:
    names = json.loads('["\\ud800 cat", "dög"]')
    save_tables(
        project / "set", {"train.parquet": make_table(LABELS, names), "test.parquet": make_table(LABELS, names)}
    )
    add_dataset(project, {"kind": "parquet", "path": "set"})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 0, outcome.err
    assert open_fetched(project).class_names == ["\\ud800 cat", "dög"]
    assert np.array_equal(open_fetched(project).labels, LABELS * 2)
    assert rr("convert", "--dataset", "mine").code == 0
