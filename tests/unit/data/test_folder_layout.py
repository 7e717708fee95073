"""Tests of the layout of image folders: splits, classes, and layouts that are refused."""

import hashlib
import os
import shutil
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from own_images import fetch_folder, fetched_labels, raw_file, save_file, save_tree
from PIL import Image

from rr.data import raw
from rr.data.exclude import write_excluded_names
from rr.errors import UserError
from rr.fetch import format_fetch_facts

CLASSES = {"cat": 3, "dog": 3}


def in_folders(*folders: str, count: int = 3) -> dict[str, int]:
    return {f"{folder}/{name}": count for folder in folders for name in ("cat", "dog")}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("training-set", "test-set"),
        ("trainset", "testset"),
        ("train", "valid"),
        ("train", "validation"),
        ("train", "dev"),
        ("train", "eval"),
        ("train", "holdout"),
        ("train2017", "val2017"),
        ("train_images", "test_images"),
        ("images/train", "images/val"),
        ("a/b/train", "a/b/test"),
    ],
)
def test_names_of_splits_are_recognized(tmp_path: Path, train: str, test: str) -> None:
    root = save_tree(tmp_path / "images", in_folders(train, count=4) | in_folders(test, count=2))
    facts = fetch_folder(root)
    assert facts["images"] == {"train": 8, "test": 4}
    assert facts["images_per_class"] == {"train": {"cat": 4, "dog": 4}, "test": {"cat": 2, "dog": 2}}
    assert facts["splits"] == {"train": f"folder {train}", "test": f"folder {test}"}
    for name, (split, class_name) in fetched_labels(root).items():
        assert name.startswith(f"{train if split == 'train' else test}/{class_name}/")


@pytest.mark.parametrize("others", [["val"], ["extra"], ["Validation", "dev", "x/y"]])
def test_test_folder_has_priority_and_other_folders_are_reported(tmp_path: Path, others: list[str]) -> None:
    root = save_tree(tmp_path / "images", in_folders("train", "test", *others) | {"": 1})
    save_file(root / "notes.txt", b"")
    facts = fetch_folder(root)
    assert facts["images"] == {"train": 6, "test": 6}
    assert facts["skipped"] == {
        "not an image": {".txt": 1}, "outside the splits that are used": {".png": 6 * len(others) + 1},
    }  # fmt: skip
    folders = sorted(other.split("/")[0] for other in others)
    assert facts["splits"]["not used"] == ", ".join(
        ["outside of folders (1 image)", *(f"{name} (6 images)" for name in folders)]
    )
    assert f"not used: {facts['splits']['not used']}" in format_fetch_facts(facts)


def test_validation_is_used_if_only_test_has_no_class_folders(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", in_folders("train", "val") | {"test": 5})
    facts = fetch_folder(root)
    assert facts["splits"]["test"] == "folder val (test has no class folders)"
    assert facts["splits"]["not used"] == "test (5 images)"


@pytest.mark.parametrize(
    ("counts", "seen"),
    [
        (in_folders("train", "stuff"), "no folder of test images, and it is unclear what the other folders are: stuff"),
        (in_folders("train", "Training", "test"), "2 folders of training images: Training (6 images), train (6"),
        (in_folders("train", "Training"), "2 folders of training images"),
        (in_folders("train", "test", "Testing"), "2 folders of test images: Testing (6 images), test (6 images)"),
        (CLASSES | {"test": 2}, "no folder of training images, only test (2 images) among other folders: cat (3"),
        (in_folders("test"), "no folder of training images, only test (6 images)"),
        (in_folders("test", "val"), "no folder of training images, only test (6 images), val (6 images)"),
        (CLASSES | {"train": 2}, "no folder of test images, and it is unclear what the other folders are: cat"),
        (in_folders("birds"), "birds would be the only class, but contains folders of images: birds/cat (3 images)"),
        (in_folders("a/birds"), "a would be the only class, but contains folders of images: a/birds (6 images)"),
        (in_folders("train/images", "test/images"), "train/images would be the only class, but contains folders"),
        ({"cat/train": 2, "cat/test": 2, "dog/train": 2, "dog/test": 2}, "cat would be part of a class, but contains"),
        ({"v1/a/train": 2, "v1/a/test": 2, "v2": 2}, "v1/a would be part of a class, but contains splits: v1/a/test"),
        ({"cat_train": 2, "cat_test": 2, "dog_train": 2}, "names contain the names of splits: cat_test (2 images),"),
        ({"trainA": 2, "testA": 2, "trainB": 2}, "the names of splits: testA (2 images), trainA (2 images), trainB"),
        ({"01-train": 2, "02-test": 2}, "names contain the names of splits: 01-train (2 images), 02-test (2 images)"),
        ({"train_80%": 2, "test_20%": 2}, "contain the names of splits: test_20% (2 images), train_80% (2 images)"),
        (in_folders("fold1", "fold2"), "the same subfolders (cat, dog): fold1 (6 images), fold2 (6 images)"),
        (in_folders("images", "masks") | {"x": 1}, "(cat, dog): images (6 images), masks (6 images)"),
        (in_folders("train/2020", "train/2021", "test/2020"), "images/train has folders that contain the same subf"),
        ({"Trainingsdaten": 2, "Testdaten": 2}, "names contain the names of splits: Testdaten (2 images), Trainings"),
        ({"treino": 2, "teste": 2}, "names contain the names of splits: teste (2 images), treino (2 images)"),
        ({"images": 2, "masks": 3}, "annotations instead of classes: masks (3 images), images (2 images). To use"),
        ({"JPEGImages": 2, "SegmentationClass": 2, "SegmentationObject": 2}, "of their annotations instead of classes"),
        ({"train/rgb": 2, "train/depth": 2, "test/rgb": 2, "test/depth": 2}, "of their annotations instead of classes"),
        ({"labeled/cat": 2, "labeled/dog": 2, "unlabeled": 2}, "images, unlabeled (2 images), and folders that con"),
        ({"train cat": 2, "val cat": 2}, "names contain the names of splits: train cat (2 images), val cat (2 images)"),
        ({"cat": 2, "dog": 2, "unlabelled": 3, "unlabeled": 1}, "images: unlabelled (3 images), unlabeled (1 image)"),
        ({"train/cat": 2, "train/-1": 2, "test/cat": 1}, "a folder that seems to contain unlabeled images: train/-1"),
        (CLASSES | {"unlabeled": 1}, "it elsewhere, and use it as a second dataset. Otherwise, specify the layout in"),
    ],
)  # fmt: skip
def test_ambiguous_layout_raises(tmp_path: Path, counts: dict[str, int], seen: str) -> None:
    root = save_tree(tmp_path / "images", counts)
    with pytest.raises(UserError) as caught:
        fetch_folder(root)
    assert str(caught.value).startswith("ambiguous layout: ")
    assert seen in str(caught.value)
    assert "`splits: {train: FOLDER, test: FOLDER}`" in str(caught.value)
    assert "`splits: none` if each folder is a class" in str(caught.value)
    assert not raw_file(root).exists()


@pytest.mark.parametrize(
    ("counts", "seen"),
    [
        ({"Cat": 2, "cat": 2}, "images has folders named 'Cat' and 'cat'"),
        ({"cat": 2, "cat ": 2, "dog": 1}, "images has folders named 'cat' and 'cat '"),
        ({"c at": 2, "c  at": 2}, "images has folders named 'c  at' and 'c at'"),
        ({"train/cat": 2, "train/cat (1)": 2, "test/cat": 1}, "images/train has folders named 'cat' and 'cat (1)'"),
        ({"BÄR": 2, "ba\u0308r": 2}, "images has folders named 'BÄR' and 'ba\u0308r'"),
        ({"cat": 2, "cat - Copy (2)": 2}, "images has folders named 'cat' and 'cat - Copy (2)'"),
        ({"cat": 2, "cat copy": 2}, "images has folders named 'cat' and 'cat copy'"),
        ({"Cat": 2, "cat (another copy)": 2}, "images has folders named 'Cat' and 'cat (another copy)'"),
        ({"7": 2, "007": 2}, "images has folders named '007' and '7'"),
        ({"1": 2, "1.0": 2}, "images has folders named '1' and '1.0'"),
        ({"cat": 2, "cat\u200b": 2}, "images has folders named 'cat' and 'cat\\u200b'"),
        ({"cat": 2, "\ufeffcat": 2}, "images has folders named 'cat' and '\\ufeffcat'"),
        ({"cat": 2, "cat\x07 ": 2}, "images has folders named 'cat' and 'cat\\x07 '"),
        ({"cat": 2, 'cat"': 2}, "images has folders named 'cat' and 'cat\"'"),
        ({"cat": 2, "\uff43\uff41\uff54": 2}, "images has folders named 'cat' and '\uff43\uff41\uff54'"),
    ],
)
def test_similar_class_names_raise(tmp_path: Path, counts: dict[str, int], seen: str) -> None:
    root = save_tree(tmp_path / "images", counts)
    with pytest.raises(UserError) as caught:
        fetch_folder(root)
    assert str(caught.value) == (
        f"{tmp_path}/{seen}, which seem to be the same class: merge them or, if they are different classes, rename one "
        "of them or specify `splits` in this dataset's source in params.yaml"
    )
    assert not raw_file(root).exists()


@pytest.mark.parametrize("suffix", ["_mask", "_segmentation", "_seg", "-GT", "_mask_1", " ground truth", ".masks"])
@pytest.mark.parametrize("folders", [["cat", "dog"], ["train/cat", "test/cat"], [""]])
def test_masks_next_to_images_raise(tmp_path: Path, suffix: str, folders: list[str]) -> None:
    root = save_tree(tmp_path / "images", dict.fromkeys(folders, 3))
    first = folders[0] and f"{folders[0]}/"
    for name in ("0", "2"):
        save_file(root / f"{first}{name}{suffix}.png")
    with pytest.raises(UserError) as caught:
        fetch_folder(root)
    names = f"{first}0{suffix}.png, {first}2{suffix}.png"
    assert f"has 2 images named like annotations, such as masks, of other images: {names}. Move" in str(caught.value)
    save_file(tmp_path / "list", f"{first}0{suffix}.png\n{first}2{suffix}.png".encode())
    assert sum(fetch_folder(root, exclude=str(tmp_path / "list"))["images"].values()) == 3 * len(folders)
    assert sum(fetch_folder(root, splits="none")["images"].values()) == 3 * len(folders) + 2


def test_images_that_are_named_like_masks_are_accepted(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"cat": 20, "with_mask": 3})
    # Only 0_mask is named like the mask of another image, and one of 26 images is within the limit.
    for name in ("0_mask", "face_mask_1", "with_mask"):
        save_file(root / f"cat/{name}.png")
    assert sum(fetch_folder(root)["images"].values()) == 26


def test_similar_class_names_are_accepted_if_they_may_be_meant(tmp_path: Path) -> None:
    counts = {
        "A": 2,
        "a": 2,
        "dog (1)": 2,
        "dog (2)": 2,
        "hard copy": 2,
        "copy": 2,
        "unlabeled bottles": 2,
        "no label": 2,
    }
    assert fetch_folder(save_tree(tmp_path / "a", counts))["classes"] == 8
    numbers = ["01", "02", "10", "1.1", "1.10", "1e1", "4e00", "\uff21", "A"]
    assert fetch_folder(save_tree(tmp_path / "numbers", dict.fromkeys(numbers, 2)))["classes"] == 9
    england, scotland = ("\U0001f3f4" + "".join(chr(0xE0000 + ord(char)) for char in code) for code in ("eng", "sct"))
    symbols = dict.fromkeys(['"', "'", england, scotland], 2)
    assert fetch_folder(save_tree(tmp_path / "symbols", symbols))["classes"] == 4
    root = save_tree(tmp_path / "b", {"Turkey": 2, "turkey": 2, "nan": 2})
    assert fetch_folder(root, splits="none")["classes"] == 3


@pytest.mark.parametrize("name", ["images", "JPEGImages", "img", "photos", "jpg"])
def test_single_folder_with_a_general_name_is_not_a_class(tmp_path: Path, name: str) -> None:
    root = save_tree(tmp_path / "a", {name: 5})
    assert (fetch_folder(root)["classes"], fetch_folder(root, splits="none")["classes"]) == (0, 1)
    root = save_tree(tmp_path / "b", {f"train/{name}": 5, f"test/{name}": 3})
    facts = fetch_folder(root)
    assert (facts["classes"], facts["images"]) == (0, {"train": 5, "test": 3})


def test_images_without_class_folders_are_unlabeled(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"": 10})
    assert fetch_folder(root)["classes"] == 0
    assert set(raw.RawFile(raw_file(root)).labels) == {raw.UNLABELED}


def test_message_about_folder_of_other_files_suggests_unlabeled_images(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"train/images": 3, "valid/images": 2})
    for split in ("train", "valid"):
        save_file(root / split / "labels/0.txt", b"0 0.5 0.5 1 1")
    with pytest.raises(UserError) as caught:
        fetch_folder(root)
    assert str(caught.value) == (
        f"{root}/train/labels is next to class folders, but has no images (1 .txt: not an image): if it is not a "
        "class, move it elsewhere. If the other folders are not classes either, set `labels: none` in this dataset's "
        "source in params.yaml to use all images without labels"
    )
    assert fetch_folder(root, labels="none")["images"] == {"train": 3, "test": 2}


def test_names_with_characters_that_are_not_printable_can_be_excluded(tmp_path: Path) -> None:
    names = ["Screenshot\u202fPM.png", "日本\u3000語.png", "می\u200cرود.png", "a\\b.png"]
    root = save_tree(tmp_path / "images", {"": 6})
    for name in names:
        save_file(root / name)
    (tmp_path / "list").write_text("\n".join(names), encoding="utf-8")
    assert sum(fetch_folder(root, exclude=str(tmp_path / "list"))["images"].values()) == 6
    write_excluded_names(tmp_path / "list", names)
    assert sum(fetch_folder(root, exclude=str(tmp_path / "list"))["images"].values()) == 6


def test_excluded_names_may_have_another_unicode_form(tmp_path: Path) -> None:
    names = ["caf\u00e9.png", "zoe\u0308.png"]
    root = save_tree(tmp_path / "images", {"": 6})
    for name in names:
        save_file(root / name)
    for form in ("NFC", "NFD"):
        save_file(tmp_path / "list", unicodedata.normalize(form, "\n".join(names)).encode())
        assert sum(fetch_folder(root, exclude=str(tmp_path / "list"))["images"].values()) == 6


def test_class_whose_images_are_all_excluded_is_named(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"cat": 3, "dog": 2})
    save_file(tmp_path / "list", b"dog/0.png\ndog/1.png\n")
    with pytest.raises(UserError, match=r"^the exclude list contains all images in .*images/dog: remove some of them"):
        fetch_folder(root, exclude=str(tmp_path / "list"))


def test_folders_without_images_do_not_matter_for_the_layout(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", in_folders("images/train", "images/test") | {"labels/train": 0})
    save_file(root / "labels/train/0.txt", b"1")
    assert fetch_folder(root)["splits"] == {"train": "folder images/train", "test": "folder images/test"}
    root = save_tree(tmp_path / "other", in_folders("train", count=10))
    save_file(root / "annotations/0.xml", b"")
    assert fetch_folder(root)["images"] == {"train": 16, "test": 4}


def test_stated_splits_are_used(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", in_folders("old/train", "new/Bilder", "new/train", count=5))
    facts = fetch_folder(root, splits={"train": "old/train", "test": "./new/Bilder/"})
    assert facts["splits"] == {
        "train": "folder old/train", "test": "folder new/Bilder", "not used": "new/train (10 images)",
    }  # fmt: skip
    facts = fetch_folder(root, splits={"train": "new/train"}, test_fraction=0.4)
    assert facts["images"] == {"train": 6, "test": 4}
    assert facts["splits"]["test"] == "0.4 of the images of each class, held out"


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": "trian"}, "splits.train: {root} has no folder trian. Fix the name .*; did you mean 'train'"),
        ({"train": "train", "test": ".."}, r"splits.test: {root} has no folder \.\."),
        (
            {"train": "train", "test": "train/cat"},
            r"train \(train\) and test \(train/cat\) must be different folders",
        ),
        ({"train": "train", "test": "train"}, r"train \(train\) and test \(train\) must be different folders"),
    ],
)
def test_stated_splits_that_do_not_fit_raise(tmp_path: Path, splits: dict[str, str], expected: str) -> None:
    root = save_tree(tmp_path / "images", in_folders("train", "test"))
    with pytest.raises(UserError, match=expected.format(root=root)):
        fetch_folder(root, splits=splits)


def test_without_splits_each_folder_is_a_class(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"train": 5, "test": 5, "bus/old": 5})
    assert fetch_folder(root, splits="none")["images_per_class"]["train"] == {"bus": 4, "test": 4, "train": 4}
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "test")
    assert fetch_folder(root, splits="none")["images_per_class"]["train"] == {"bus": 4}


@pytest.mark.parametrize(
    ("counts", "splits", "expected"),
    [
        ({"2019/summer": 4, "2020": 4, "": 2}, "auto", (8, 2)),
        ({"Training": 5, "Holiday": 5}, "auto", (8, 2)),
        ({"train": 3, "test/a": 2, "more/b": 2, "": 1}, "auto", (6, 2)),
        ({"a/train": 3, "a/test": 2, "a/more": 2}, "auto", (5, 2)),
        ({"train1": 3, "train2": 1, "test": 2}, "auto", (4, 2)),
        ({"train": 3, "test": 2, "val": 4}, "auto", (3, 2)),
        ({"unlabeled": 3, "test": 2}, "auto", (3, 2)),
        ({"": 3, "Test/cat": 2, "val": 1}, "auto", (3, 2)),
        ({"photos/2021": 3, "photos/2022": 1, "photos/test": 2}, "auto", (4, 2)),
        ({"a/train": 3, "b/test": 2}, "auto", (4, 1)),
        ({"a/train": 3, "a/test": 2, "b/train": 2}, "none", (6, 1)),
        ({"train": 3, "val": 2, "more": 1}, {"train": "train", "test": "val"}, (3, 2)),
        ({"train": 3, "test": 2}, "none", (4, 1)),
        ({"x/a": 3, "y/b": 2, "z": 1}, {"train": "x", "test": "y"}, (3, 2)),
    ],
)
def test_images_without_labels(tmp_path: Path, counts: dict, splits: object, expected: tuple[int, int]) -> None:
    root = save_tree(tmp_path / "images", counts)
    facts = fetch_folder(root, labels="none", splits=splits)
    assert tuple(facts["images"].values()) == expected
    assert facts["classes"] == 0
    assert set(raw.RawFile(raw_file(root)).labels) == {raw.UNLABELED}
    assert f"unlabeled images: {expected[0]} train, {expected[1]} test" in format_fetch_facts(facts)


def test_test_splits_are_never_training_images_without_labels(tmp_path: Path) -> None:
    counts = in_folders("train", "test") | {"unlabeled": 4, "validation": 2, "": 1}
    root = save_tree(tmp_path / "images", counts)
    facts = fetch_folder(root, labels="none")
    assert facts["images"] == {"train": 11, "test": 6}
    assert facts["splits"] == {
        "train": "all other folders", "test": "folder test", "not used": "validation (2 images)",
    }  # fmt: skip
    assert {name.split("/")[0] for name, (split, _) in fetched_labels(root).items() if split == "test"} == {"test"}
    for number in range(3):
        (root / f"train/cat/{number}.png").write_bytes(b"")
        (root / f"validation/{number}.png").write_bytes(b"")
    facts = fetch_folder(root, labels="none", on_unreadable="skip")
    assert facts["images"] == {"train": 8, "test": 6}
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(UserError, match="train has no images"):
        fetch_folder(root, labels="none")


def test_empty_test_folder_does_not_change_how_images_without_labels_are_split(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"": 5})
    (root / "test").mkdir()
    assert fetch_folder(root, labels="none")["images"] == {"train": 4, "test": 1}


def test_nested_splits_of_images_without_labels_raise(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"a/train": 3, "a/test": 2, "b/train": 2, "b/test": 1})
    with pytest.raises(UserError) as caught:
        fetch_folder(root, labels="none")
    assert str(caught.value) == (
        f"ambiguous layout: {root}/a contains splits: a/train (3 images), a/test (2 images). In this dataset's source "
        "in params.yaml, set `splits: {train: FOLDER, test: FOLDER}`, or `splits: none` to use the images of all "
        "folders and hold out test_fraction of them"
    )
    two = save_tree(tmp_path / "two", {"x": 3, "test": 2, "testing": 1})
    with pytest.raises(UserError, match=r"has 2 folders of test images: test \(2 images\), testing \(1 image\)"):
        fetch_folder(two, labels="none")


def test_flat_test_folder_raises_with_both_ways_out(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", in_folders("train") | {"test": 3})
    with pytest.raises(UserError, match=r"test has no class folders, unlike .*/train") as caught:
        fetch_folder(root)
    assert "set `splits: {train: train}`" in str(caught.value)
    assert "`labels: none`" in str(caught.value)


def test_equal_names_in_other_unicode_forms_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    counts = {f"train/{composed}": 2, f"test/{decomposed}": 2, "train/dog": 2, "test/dog": 2}
    assert fetch_folder(save_tree(tmp_path / "a", counts))["images_per_class"]["test"] == {composed: 2, "dog": 2}
    with pytest.raises(UserError, match=r"two folders named café, .* \('cafe\\u0301' and 'caf\\xe9'\)"):
        fetch_folder(save_tree(tmp_path / "b", {composed: 2, decomposed: 2}))


def test_class_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {os.fsdecode(b"caf\xe9"): 5, "a\nb": 5})
    facts = fetch_folder(root)
    assert list(facts["images_per_class"]["train"]) == ["a\nb", "caf\\xe9"]
    assert "classes (train + test images): a\\nb (4 + 1), caf\\xe9 (4 + 1)" in format_fetch_facts(facts)


def test_class_with_a_single_distinct_image_stays_in_training(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"cat": 1, "dog": 5, "owl": 1})
    for copy in ("a.png", "b.png"):
        shutil.copy(root / "owl/0.png", root / "owl" / copy)
    facts = fetch_folder(root, test_fraction=0.9)
    assert facts["images_per_class"] == {"train": {"cat": 1, "dog": 1, "owl": 3}, "test": {"dog": 4}}
    shutil.rmtree(root / "dog")
    with pytest.raises(UserError) as caught:
        fetch_folder(root)
    assert (
        "no test image can be held out, because every distinct image is the only one in some class: add different "
        "images, so that at least one class has two, or add a folder of test images"
    ) in str(caught.value)
    assert not raw_file(root).with_suffix(".tmp.parquet").exists()


def test_image_that_is_not_the_only_one_in_any_class_is_held_out(tmp_path: Path) -> None:
    """By its SHA-256, the image that is in both classes would be held out, but it is the only image in `cat`."""
    root = save_tree(tmp_path / "images", {"cat": 0, "dog": 2})
    first, _ = sorted(root.glob("dog/*"), key=lambda file: hashlib.sha256(file.read_bytes()).digest())
    shutil.copy(first, root / "cat" / "copy.png")
    assert fetch_folder(root)["images_per_class"] == {"train": {"cat": 1, "dog": 1}, "test": {"dog": 1}}


def test_copies_in_other_classes_are_in_the_same_split(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"cat": 20, "dog": 20, "copies/of cats": 0})
    for number in range(20):
        shutil.copy(root / f"cat/{number}.png", root / f"copies/of cats/{number}.png")
    for name in ("0.png", "1.png"):
        shutil.copy(root / "dog" / name, root / "copies" / name)
    facts = fetch_folder(root)
    assert (facts["test_copies"], facts["contradictory"]) == (0, 22)
    assert facts["images_per_class"]["train"].keys() == {"cat", "copies", "dog"}
    split_by_file = {name: split for name, (split, _) in fetched_labels(root).items()}
    assert all(split_by_file[f"cat/{n}.png"] == split_by_file[f"copies/of cats/{n}.png"] for n in range(20))


def test_class_of_copies_that_are_test_images_elsewhere_keeps_a_training_image(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"cat": 6, "dog": 0})
    fetch_folder(save_tree(tmp_path / "images", {"dog": 6}), test_fraction=0.5)
    test_cats = [name for name, (split, label) in fetched_labels(root).items() if (split, label) == ("test", "cat")]
    shutil.rmtree(root / "dog")
    (root / "dog").mkdir()
    for name in test_cats:
        shutil.copy(root / name, root / "dog")
    facts = fetch_folder(root, test_fraction=0.5)
    assert facts["images_per_class"] == {"train": {"cat": 4, "dog": 1}, "test": {"cat": 2, "dog": 2}}
    assert facts["test_copies"] == 0


def test_damage_and_unreadable_images_are_reported_together(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"cat": 4, "dog": 4})
    (root / "cat/annex.png").symlink_to("../.git/annex/objects/x")
    save_file(root / "dog/lfs.png", b"version https://git-lfs.github.com/spec/v1\n")
    save_file(root / "dog/empty.png", b"")
    save_file(root / "dog/page.png", b"<!DOCTYPE html>")
    with pytest.raises(UserError) as caught:
        fetch_folder(root)
    assert str(caught.value).splitlines() == [
        "4 images cannot be read:",
        "  cat/annex.png: a broken link; run `git annex get` or `datalad get` in this folder",
        "  dog/empty.png: not a readable image (the file is empty)",
        "  dog/lfs.png: not a readable image (a Git LFS pointer instead of the file; run `git lfs pull`)",
        "  dog/page.png: not a readable image (an HTML page (from a failed download?))",
        f"repair or remove them in {root}, or set 'on_unreadable: skip' in this dataset's source in params.yaml",
    ]
    assert not raw_file(root).exists()
    facts = fetch_folder(root, on_unreadable="skip", test_fraction=0.5)
    assert facts["images_per_class"] == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}}
    assert facts["skipped"] == {
        "a Git LFS pointer": {".png": 1}, "a broken link": {".png": 1}, "an empty file": {".png": 1},
        "not an image, despite its suffix": {".png": 1},
    }  # fmt: skip


def test_damage_is_reported_before_the_layout_that_it_causes(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", in_folders("train"))
    (root / "test").symlink_to("/no/such/folder")
    (root / "extra").symlink_to("/no/such/folder")
    with pytest.raises(UserError, match="2 images cannot be read:\n  extra: a broken link\n  test: a broken link"):
        fetch_folder(root)


def test_damage_outside_the_splits_is_only_counted(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", in_folders("train", "test", "extra"))
    (root / "extra/x.png").symlink_to("nowhere")
    assert fetch_folder(root)["skipped"] == {"outside the splits that are used": {".png": 7}}


def test_class_whose_training_images_are_all_skipped_raises(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", in_folders("train", "test"))
    for path in (root / "train/cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no training image of cat can be read: repair or add training images"):
        fetch_folder(root, on_unreadable="skip")
    assert not raw_file(root).exists()


def test_file_that_changes_while_it_is_read_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = save_tree(tmp_path / "images", {"cat": 5})
    read_bytes = Path.read_bytes
    calls: list[Path] = []

    def read_changed_bytes(path: Path) -> bytes:
        calls.append(path)
        return read_bytes(path) + (b"x" if calls.count(path) == 2 and path.name == "3.png" else b"")

    monkeypatch.setattr(Path, "read_bytes", read_changed_bytes)
    with pytest.raises(UserError, match=r"cat/3\.png changed while the images were being read: run rr fetch again"):
        fetch_folder(root)
    assert not raw_file(root).exists()


def test_link_to_a_class_of_the_other_split_is_named(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"train/cat": 2, "train/dog": 2, "test/cat": 2})
    (root / "test/dog").symlink_to("../train/dog")
    with pytest.raises(
        UserError, match=r"only one of them has: dog \(test/dog is a link to a folder that is used already\)"
    ):
        fetch_folder(root)


def test_class_names_with_words_of_splits_are_accepted(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"train station": 2, "test tube": 2, "cat": 2})
    assert list(fetch_folder(root)["images_per_class"]["train"]) == ["cat", "test tube", "train station"]


def test_subfolders_of_classes_are_accepted(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "a", {"cat/images": 2, "dog/images": 2, "dog/more": 2})
    assert fetch_folder(root)["classes"] == 2
    root = save_tree(tmp_path / "b", in_folders("left", "right"))
    facts = fetch_folder(root, splits="none")
    assert facts["images_per_class"] == {"train": {"left": 5, "right": 5}, "test": {"left": 1, "right": 1}}
    facts = fetch_folder(root, splits={"train": "left", "test": "right"})
    assert list(facts["images_per_class"]["train"]) == ["cat", "dog"]


def test_images_with_several_frames_are_counted(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", CLASSES)
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    for name in ("0.tif", "0.gif", "0.webp", "0.mpo"):
        frames[0].save(root / "cat" / name, save_all=True, append_images=frames[1:])
    facts = fetch_folder(root)
    assert facts["several_frames"] == 3
    assert "\n3 images with several frames: only the first is used\n" in format_fetch_facts(facts)


@pytest.mark.parametrize(("bits", "num_dim"), [(10, 7), (12, 7), (14, 7), (16, 0)])
def test_values_with_fewer_bits_than_their_container_are_reported(tmp_path: Path, bits: int, num_dim: int) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(6):
        pixels = rng.integers(0, 2**bits, (8, 8), np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.{('png', 'tif')[number % 2]}")
    raw_rgb = rng.integers(0, 2**bits, (8, 8, 3)).astype(">u2").tobytes()
    rows = b"".join(b"\0" + raw_rgb[start : start + 48] for start in range(0, len(raw_rgb), 48))
    chunks = {b"IHDR": struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    data = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks.items()]
    save_file(tmp_path / "images/rgb.png", b"\x89PNG\r\n\x1a\n" + b"".join(data))
    Image.fromarray(rng.integers(0, 9, (8, 8), np.uint8)).save(tmp_path / "images/dark.png")  # 8 bits
    facts = fetch_folder(tmp_path / "images")
    assert (facts["dark_16_bit"], facts["blank"]) == (num_dim, 0)
    line = f"\n{num_dim} 16-bit images with values of at most a quarter of the maximum, which look dark after"
    assert (line in format_fetch_facts(facts)) == bool(num_dim)


def test_class_without_a_readable_image_is_reported(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", CLASSES)
    save_file(root / "owl/0.png", b"")
    assert "dog (2 + 1); 1 without images" in format_fetch_facts(fetch_folder(root, on_unreadable="skip"))


def test_class_folder_with_only_damaged_files_has_no_images(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "images", {"cat": 5, "dog": 0})
    (root / "dog/x.png").symlink_to("nowhere")
    (root / "owl").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"2 images .*\n  dog/x\.png: a broken link\n  owl: a"):
        fetch_folder(root)
    facts = fetch_folder(root, on_unreadable="skip")
    assert facts["images_per_class"] == {"train": {"cat": 4}, "test": {"cat": 1}}
    assert facts["skipped"] == {"a broken link": {"": 1, ".png": 1}}
    assert facts["classes"] == 3  # dog and owl count as classes, as they do if their images cannot be decoded


@pytest.mark.parametrize("data", [b"", None])
def test_test_class_with_only_damaged_files_is_still_a_class(tmp_path: Path, data: bytes | None) -> None:
    root = save_tree(tmp_path / "images", {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 0})
    if data is None:
        (root / "test/dog/0.png").symlink_to("nowhere")
    else:
        save_file(root / "test/dog/0.png", data)
    facts = fetch_folder(root, on_unreadable="skip")
    assert facts["images_per_class"] == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 2}}
    shutil.rmtree(root / "train/dog")
    shutil.move(root / "test/dog", root / "train")
    save_file(root / "test/dog/1.png")
    with pytest.raises(UserError, match="no training image of dog can be read: repair or add training images"):
        fetch_folder(root, on_unreadable="skip")
