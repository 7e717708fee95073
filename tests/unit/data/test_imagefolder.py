"""Tests of `rr fetch` on image folders: splits, local copies, the record, and the mistakes a user can make."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import RunRr, add_dataset, open_fetched
from PIL import Image

IMAGES = "data/raw/mine/images.parquet"


def save_image(path: Path, color: str = "red", size: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def test_images_of_train_and_val_folders_are_fetched_and_converted(project: Path, rr: RunRr) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for class_name in ("b cat", "a;dog"):
            for i in range(count):
                save_image(project / "images" / split / class_name / f"{i} x.png")
    add_dataset(project, {"kind": "imagefolder", "path": "images"})
    assert rr("fetch", "--dataset", "mine").code == 0
    data = open_fetched(project)
    assert data.class_names == ["a;dog", "b cat"]
    assert data.splits.tolist() == ["train"] * 6 + ["test"] * 4
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert rr("convert", "--dataset", "mine").code == 0


def test_single_folder_is_split_within_each_class(project: Path, rr: RunRr) -> None:
    for class_name, count in (("cat", 20), ("dog", 10)):
        for i in range(count):
            save_image(project / "images" / class_name / f"{i}.png", f"#{i:02}{count:02}00")
    add_dataset(project, {"kind": "imagefolder", "path": "images", "test_fraction": 0.2})
    assert rr("fetch", "--dataset", "mine").code == 0
    before = open_fetched(project)
    test = before.labels[before.splits == "test"]
    assert ((test == 0).sum(), (test == 1).sum()) == (4, 2)
    split_before = dict(zip((name for name, _ in before.iter_images()), before.splits, strict=True))
    for copy in ("a.png", "b.png", "c.png"):
        shutil.copy(project / "images/cat/0.png", project / "images/cat" / copy)
    rr("fetch", "--dataset", "mine")
    after = open_fetched(project)
    split_after = dict(zip((name for name, _ in after.iter_images()), after.splits, strict=True))
    assert sum(split_after[name] != split for name, split in split_before.items()) == 0
    assert len({str(split_after[f"cat/{name}.png"]) for name in ("0", "a", "b", "c")}) == 1, (
        "copies of an image are in different splits"
    )


def test_invalid_utf8_in_name_is_escaped(project: Path, rr: RunRr) -> None:
    for i in range(4):
        save_image(project / "images/cat" / f"{i}.png", f"#{i:02}0000")
    os.rename(project / "images/cat/0.png", os.fsencode(project / "images/cat") + b"/\xff.png")
    add_dataset(project, {"kind": "imagefolder", "path": "images"})
    assert rr("fetch", "--dataset", "mine").code == 0
    assert "cat/\\xff.png" in [name for name, _ in open_fetched(project).iter_images()]


def test_from_option_replaces_path(project: Path, rr: RunRr) -> None:
    for i in range(10):
        save_image(project / "elsewhere/cat" / f"{i}.png", f"#{i:02}0000")
    add_dataset(project, {"kind": "imagefolder", "path": "/nowhere"})
    assert rr("fetch", "--dataset", "mine", "--from", "elsewhere").code == 0


def test_local_copy_is_read_again_unless_the_path_changes(project: Path, rr: RunRr) -> None:
    save_image(project / "other/cat/1.png")
    for i in range(10):
        save_image(project / "elsewhere/cat" / f"{i}.png", f"#{i:02}0000")
    add_dataset(project, {"kind": "imagefolder", "path": "nowhere"})
    assert rr("fetch", "--dataset", "mine", "--from", "elsewhere").out.startswith(f"{IMAGES}: 8 train, 2 test")
    changed = {"kind": "imagefolder", "path": "nowhere", "test_fraction": 0.5, "on_unreadable": "skip"}
    add_dataset(project, changed)
    outcome = rr("fetch", "--dataset", "mine")
    assert "elsewhere again, because data/raw/mine/run.json names it" in outcome.err
    assert outcome.out.startswith(f"{IMAGES}: 5 train, 5 test")
    add_dataset(project, changed | {"path": "other"})
    assert "other: no test image can be held out" in rr("fetch", "--dataset", "mine").err


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.zip", b"PK\x03\x04", "a zip archive; extract it"),
        ("a.tar", bytes(257) + b"ustar", "a tar archive; extract it"),
        ("a.zip", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer .* run `git lfs pull`"),
        ("a.jpg", b"\xff\xd8", "it is an image; use its folder"),
        ("a.txt", b"text", "it is a file"),
    ],
)
def test_file_in_place_of_a_folder_is_named(project: Path, rr: RunRr, name: str, data: bytes, expected: str) -> None:
    (project / name).write_bytes(data)
    add_dataset(project, {"kind": "imagefolder", "path": name})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 2
    assert re.search(rf"{name} is not a folder \({expected}\): fix the source's path", outcome.err)


@pytest.mark.parametrize("kind", ["imagefolder", "parquet", "cifar10", "slimagenet64"])
def test_url_in_place_of_a_path_is_named(project: Path, rr: RunRr, kind: str) -> None:
    add_dataset(project, {"kind": kind, "path": "https://example.org/a.zip"}, image_size=32)
    for arguments in ((), ("--from", "https://example.org/a.zip")):
        outcome = rr("fetch", "--dataset", "mine", *arguments)
        assert outcome.code == 2
        assert "https://example.org/a.zip is a URL: download the files" in outcome.err


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda folder: None, "images is not a folder: fix the source's path"),
        (lambda folder: folder.mkdir(), "images has no images"),
        (lambda folder: (save_image(folder / "cat/1.png"), (folder / "dog").mkdir()), "dog has no images"),
        (
            lambda folder: (save_image(folder / "cat/1.png"), save_image(folder / "2.png")),
            "2.png is next to class folders",
        ),
        (
            lambda folder: (save_image(folder / "train/cat/1.png"), save_image(folder / "test/dog/1.png")),
            "that only one of them has: cat, dog",
        ),
    ],
)
def test_missing_or_empty_folder_raises(project: Path, rr: RunRr, prepare: Callable, expected: str) -> None:
    prepare(project / "images")
    add_dataset(project, {"kind": "imagefolder", "path": "images"})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 2
    assert expected in outcome.err
    assert "Traceback" not in outcome.err
    assert not list((project / "data").rglob("*.parquet"))


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"GIF89a" + data]
)
def test_unreadable_image_raises_or_is_skipped(project: Path, rr: RunRr, damage: Callable) -> None:
    for i in range(10):
        save_image(project / "images/cat" / f"{i}.png", f"#{i:02}0000", size=(90, 90))
    broken = save_image(project / "images/cat/broken.png", size=(90, 90))
    broken.write_bytes(damage(broken.read_bytes()))
    add_dataset(project, {"kind": "imagefolder", "path": "images"})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 2
    assert "broken.png: not a readable image" in outcome.err
    assert not list((project / "data").rglob("*.parquet*"))
    add_dataset(project, {"kind": "imagefolder", "path": "images", "on_unreadable": "skip"})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 0
    assert "skipped" in outcome.err
    assert len(open_fetched(project).labels) == 10
    (counts,) = json.loads((project / "data/raw/mine/run.json").read_text())["skipped"].values()
    assert counts == {".png": 1}
    assert "skipped 1 file: an " in outcome.out


def test_fetch_prints_and_records_what_it_found(project: Path, rr: RunRr) -> None:
    for class_name in ("cat", "dog"):
        for i in range(5):
            save_image(project / "images/Train" / class_name / f"{i}.png")
            save_image(project / "images/Test" / class_name / f"{i}.png")
    save_image(project / "images/Val/cat/1.png")
    (project / "images/Train/cat/1.dng").write_bytes(b"")
    add_dataset(project, {"kind": "imagefolder", "path": "images"})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.out.splitlines() == [
        "data/raw/mine/images.parquet: 10 train, 10 test, 2 classes",
        "train: folder Train; test: folder Test; not used: Val (1 image)",
        "classes (train + test images): cat (5 + 5), dog (5 + 5)",
        "size of all images: 20 × 30 pixels",
        "found 10 test images with a copy in the training split, 1 image with copies in several classes, 20 images of "
        "a single color; rr check lists them",
        "skipped 1 file: in a format that Pillow cannot read (.dng 1); convert photographs to JPEG to use them",
        "skipped 1 file: outside the splits that are used (.png 1)",
    ]
    record = json.loads((project / "data/raw/mine/run.json").read_text())
    assert record["images"] == {"train": 10, "test": 10}
    assert record["classes"] == 2
    assert record["images_per_class"] == {"train": {"cat": 5, "dog": 5}, "test": {"cat": 5, "dog": 5}}
    assert record["splits"] == {"train": "folder Train", "test": "folder Test", "not used": "Val (1 image)"}
    assert record["skipped"] == {
        "in a format that Pillow cannot read": {".dng": 1}, "outside the splits that are used": {".png": 1},
    }  # fmt: skip
    assert record["params"]["datasets.mine.source"]["test_fraction"] == 0.2
