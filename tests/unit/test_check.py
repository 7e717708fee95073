"""Tests of `rr check` on folders and files with known faults."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import RunRr, add_dataset, open_fetched, write_params
from own_images import make_image, make_table, save_file, save_tables, save_tree
from photographs import photographs
from PIL import Image, ImageOps

from rr import backbones, check
from rr.backbones.weights import save_backbone
from rr.check import Finding, find_similar, find_small_classes
from rr.params import load_params
from rr.runtime.hashing import file_sha256
from rr.runtime.lock import exclusive_lock
from rr.workflow.grid_checks import find_grid_problems
from rr.workflow.verify import find_grid_mismatches

SOURCE = {"kind": "imagefolder", "path": "images"}
CHECK = Path("data/check/mine")


def save(path: Path, image: np.ndarray | Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)


@pytest.fixture
def faulty_folder(project: Path) -> Path:
    """Return a folder of images with one image for each kind of fault."""
    photos, root = photographs(), project / "images"
    for number in range(10):
        save(root / f"train/cat/{number}.png", photos[number])
        save(root / f"train/dog/{number}.png", photos[10 + number])
    for number in range(3):
        save(root / f"test/cat/{number}.png", photos[20 + number])
        save(root / f"test/dog/{number}.png", photos[25 + number])
    save(root / "train/cat/copy.png", photos[20])  # of test/cat/0.png
    save(root / "train/cat/compressed.jpg", photos[21])  # of test/cat/1.png
    save(root / "train/dog/mirrored.png", ImageOps.mirror(Image.fromarray(photos[1])))  # of train/cat/1.png
    save(root / "train/dog/gray.png", np.full((213, 213, 3), 128, np.uint8))
    save(root / "train/cat/panorama.png", Image.fromarray(photos[29]).resize((900, 60)))
    save(root / "train/cat/large.png", Image.fromarray(photos[23]).resize((900, 900)))
    (root / "train/cat/notes.txt").touch()
    add_dataset(project, SOURCE)
    return root


def test_fetch_counts_images_in_several_classes(project: Path, rr: RunRr) -> None:
    """Two different files are in two classes each, and one file appears twice in one class."""
    root = save_tree(project / "images", {"cat": 8, "dog": 8})
    images = sorted((root / "cat").iterdir())
    for source, copy in zip(images, ("dog/copy0.png", "dog/copy1.png", "cat/copy2.png"), strict=False):
        shutil.copy(source, root / copy)
    add_dataset(project, SOURCE)
    assert "2 images with copies in several classes" in rr("fetch", "--dataset", "mine").out


def read_findings() -> set[tuple[str, str, str | None, str | None, str | None]]:
    """Return, for each finding, its kind and the file and split of both images."""
    table = pq.read_table(CHECK / "findings.parquet")
    keys = ("kind", "file", "split", "other_file", "other_split")
    return {tuple(row[key] for key in keys) for row in table.to_pylist()}


def test_known_faults_are_found_and_can_be_excluded(project: Path, faulty_folder: Path, rr: RunRr) -> None:
    fetched = rr("fetch", "--dataset", "mine").out
    assert "sizes: 213 × 213 to 900 × 900 pixels; median of the shorter side: 213" in fetched
    assert "found 1 test image with a copy in the training split, 1 image of a single color; rr check lists" in fetched
    outcome = rr("check", "mine")
    assert outcome.code == 0, outcome.err
    assert read_findings() == {
        ("exact duplicate", "train/cat/copy.png", "train", "test/cat/0.png", "test"),
        ("near duplicate", "train/cat/compressed.jpg", "train", "test/cat/1.png", "test"),
        ("mirrored duplicate", "train/dog/mirrored.png", "train", "train/cat/1.png", "train"),
        ("blank image", "train/dog/gray.png", "train", None, None),
        ("unusual size", "train/cat/large.png", "train", None, None),
        ("long image", "train/cat/panorama.png", "train", None, None),
    }
    excluded = ["train/cat/compressed.jpg", "train/cat/copy.png", "train/dog/gray.png", "train/dog/mirrored.png"]
    assert (CHECK / "exclude.txt").read_text().splitlines() == excluded
    with Image.open(CHECK / "findings.png") as sheet:
        assert sheet.width > 1000
    assert outcome.out.splitlines() == [
        "data/raw/mine/images.parquet: 32 images checked",
        "2 of 6 test images have an identical or nearly identical image in the training split",
        "exact duplicate: 1 train",
        "near duplicate: 1 train",
        "mirrored duplicate: 1 train; 1 in a different class than the other image",
        "blank image: 1 train",
        "unusual size: 1 train",
        "long image: 1 train",
        "6% of the images are near or mirrored duplicates. Images with few details, such as an object on a plain "
        "background, are often similar without being copies: look at them before you exclude any",
        "all findings: data/check/mine/findings.parquet; some of them are shown in data/check/mine/findings.png",
        "images to exclude: data/check/mine/exclude.txt (4)",
        "skipped 1 file: not an image (.txt 1)",
        "to leave these images out: add `exclude: data/check/mine/exclude.txt` to the source of mine in params.yaml, "
        "then run dvc repro",
    ]
    kinds = ("exact duplicate", "near duplicate", "mirrored duplicate", "blank image", "unusual size", "long image")
    assert json.loads(rr("check", "mine", "--json").out) == {
        "images": 32, "test_images": 6, "test_images_in_training_split": 2, "findings": dict.fromkeys(kinds, 1),
        "excluded": 4, "files": {"findings": f"{CHECK}/findings.parquet", "exclude": f"{CHECK}/exclude.txt"},
    }  # fmt: skip

    add_dataset(project, {**SOURCE, "exclude": str(CHECK / "exclude.txt")})
    assert (
        "images to exclude: data/check/mine/exclude.txt (4)" in rr("check", "mine").out
    )  # before the images are left out
    assert (CHECK / "exclude.txt").read_text().splitlines() == excluded
    outcome = rr("fetch", "--dataset", "mine")
    assert "skipped 4 files: listed in the exclude file (.png 3, .jpg 1)" in outcome.out
    names = {name for name, _ in open_fetched(project).iter_images()}
    assert len(names) == 28
    assert not names & set(excluded)
    record = json.loads((project / "data/raw/mine/run.json").read_text())
    assert record["exclude_sha256"] == file_sha256(project / CHECK / "exclude.txt")
    assert record["params"]["datasets.mine.source"]["exclude"] == str(CHECK / "exclude.txt")
    outcome = rr("check", "mine")
    assert {kind for kind, *_ in read_findings()} == {"unusual size", "long image"}
    assert (CHECK / "exclude.txt").read_text().splitlines() == excluded  # not only what this check found
    assert outcome.out.splitlines()[-3] == "no further images to exclude"
    assert "to leave these images out" not in outcome.out

    # A new fault.
    save(faulty_folder / "train/dog/black.png", np.zeros((213, 213, 3), np.uint8))
    rr("fetch", "--dataset", "mine")
    outcome = rr("check", "mine")
    assert "images to exclude: data/check/mine/exclude.txt (5)" in outcome.out
    assert "to leave these images out: run `rr fetch --dataset mine`, then dvc repro" in outcome.out
    absolute = str((project / CHECK / "exclude.txt").resolve())
    add_dataset(project, {**SOURCE, "exclude": absolute})
    save(faulty_folder / "train/dog/white.png", np.full((213, 213, 3), 255, np.uint8))
    assert rr("fetch", "--dataset", "mine").code == 0
    assert "to leave these images out: run `rr fetch --dataset mine`, then dvc repro" in rr("check", "mine").out


LABELS = [f"{name}/{number}.png,{name}\n" for name in ("cat", "dog") for number in range(10)]


@pytest.mark.parametrize(
    ("key", "kind", "first", "second"),
    [
        ("exclude", "exclude list", "cat/0.png\n", "cat/1.png\n"),
        ("labels", "label file", "".join(["file,label\n", *LABELS]), "".join(["file,label\n", *LABELS[1:]])),
    ],
)
def test_edit_of_the_exclude_list_or_label_file_is_reported(
    project: Path, rr: RunRr, key: str, kind: str, first: str, second: str
) -> None:
    save_tree(project / "images", {"cat": 10, "dog": 10})
    lists = project / "list.csv"
    lists.write_text(first)

    def use_source(source: dict[str, str]) -> None:
        def change(params: dict) -> None:
            params["datasets"]["mine"] = {**params["datasets"]["shapes"], "source": source, "image_size": 16}
            params["grid"].update(data=["mine"], dataset=["mine"], target=[])

        write_params(project, change)

    def messages() -> list[str]:
        params = load_params(project / "params.yaml")
        assert set(find_grid_problems(params)) <= {
            message for _, found in find_grid_mismatches(params) for message in found
        }
        return find_grid_problems(params)

    use_source({**SOURCE, key: "list.csv"})
    assert messages() == []  # not fetched yet
    assert rr("fetch", "--dataset", "mine").code == 0
    assert messages() == []
    lists.write_text(second)
    end = "has changed since the run: run rr fetch --dataset mine"
    assert messages() == [f"list.csv ({kind} of data/raw/mine) {end}"]
    outcome = rr("convert", "--dataset", "mine")
    assert (outcome.code, messages()[0] in outcome.err) == (2, True)
    assert rr("fetch", "--dataset", "mine").code == 0
    assert messages() == []
    lists.unlink()
    assert messages() == []  # the images may have been copied from another machine without the list
    use_source(SOURCE)
    assert messages() == []  # the engines notice that the parameter has changed


def test_clean_dataset_has_no_findings(project: Path, rr: RunRr) -> None:
    for number, photo in enumerate(photographs()):
        save(project / f"images/{number}.png", photo)
    add_dataset(project, SOURCE)
    assert "rr check" not in rr("fetch", "--dataset", "mine").out
    assert rr("check", "mine").out.splitlines()[1:] == [
        "0 of 6 test images have an identical or nearly identical image in the training split",
        "no findings",
        "no images to exclude",
    ]
    assert read_findings() == set()
    assert not (CHECK / "findings.png").exists()


def test_features_are_compared_if_weights_are_given(project: Path, rr: RunRr) -> None:
    photos = photographs()
    for number in (0, 2, 4, 10, 12, 14, 15, 17, 19, 25, 27, 29):  # they do not overlap
        save(project / f"images/{number}.png", photos[number])
    save(project / "images/rotated.png", Image.fromarray(photos[4]).rotate(6, Image.Resampling.BICUBIC))
    add_dataset(project, SOURCE)
    rr("fetch", "--dataset", "mine")
    rr("check", "mine")
    assert read_findings() == set()
    torch.manual_seed(0)
    save_backbone(backbones.build("conv4"), Path("w.safetensors"), load_params(Path("params.yaml")).datasets["shapes"])
    assert rr("check", "mine", "--weights", "w.safetensors").code == 0
    rows = pq.read_table(CHECK / "findings.parquet").to_pylist()
    assert {row["kind"] for row in rows} == {"similar features"}
    assert all(row["value"] > 0.95 for row in rows)
    most_similar = max(rows, key=lambda row: row["value"])
    assert {most_similar["file"], most_similar["other_file"]} == {"4.png", "rotated.png"}
    assert (CHECK / "exclude.txt").read_text() == ""
    save_backbone(backbones.build("conv4"), Path("w.safetensors"))  # as rr import does
    outcome = rr("check", "mine", "--weights", "w.safetensors")
    assert outcome.err.endswith("lacks the image size, mean or std: use the backbone.safetensors from a run\n")


def test_similar_features_by_hand() -> None:
    features = np.array([[3, 0], [-3, 0.1], [2, 0], [0, 5], [0, -5.1]], np.float32)  # their mean is almost 0
    findings = find_similar(features - features.mean(0) + 7, np.array([False, False, True, False, False]))
    assert [(finding.image, finding.other) for finding in findings] == [(0, 2)]
    assert findings[0].value == pytest.approx(1, abs=0.01)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2500, 4)).astype(np.float32)  # more than two blocks
    is_test = rng.random(2500) < 0.2
    centered = features - features.mean(0)
    cosines = (centered @ centered.T) / np.outer(*[np.linalg.norm(centered, axis=1)] * 2)
    ranks = np.argsort(np.argsort(~is_test, kind="stable"))
    for finding in find_similar(features, is_test):
        before = np.flatnonzero(ranks < ranks[finding.image])
        assert finding.other == before[cosines[finding.image, before].argmax()]
        assert finding.value == pytest.approx(cosines[finding.image, finding.other], abs=1e-5)


def test_similar_features_do_not_depend_on_the_size_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    is_test = np.arange(60) % 3 == 0
    expected = find_similar(features, is_test)
    monkeypatch.setattr(check, "_MAX_SIMILARITIES", 60 * 7)
    assert [finding[:3] for finding in find_similar(features, is_test)] == [finding[:3] for finding in expected]
    assert expected


def test_small_classes_by_hand() -> None:
    labels = np.array([0] * 10 + [1] * 9 + [-1, 0, 1, 3])
    is_test = np.arange(len(labels)) >= 20
    assert find_small_classes(labels, is_test, 4) == [
        Finding("small class", label=1, value=9),
        Finding("small class", label=2, value=0),
        Finding("small class", label=3, value=0),
        Finding("class without test images", label=2, value=0),
    ]
    assert find_small_classes(np.full(5, -1), np.arange(5) > 3, 0) == []


def test_small_class_is_printed_by_name(project: Path, rr: RunRr) -> None:
    save_tree(project / "images", {"cat": 12, "dog": 9})
    add_dataset(project, SOURCE)
    rr("fetch", "--dataset", "mine")
    assert "small class (training images): dog (7)" in rr("check", "mine").out


def test_check_before_fetch_raises(project: Path, rr: RunRr) -> None:
    outcome = rr("check", "shapes")
    assert (outcome.code, outcome.err) == (2, "rr: data/raw/shapes/run.json is missing: run rr fetch first\n")


def test_second_check_at_the_same_time_raises(project: Path, rr: RunRr) -> None:
    save_tree(project / "images", {"cat": 12, "dog": 9})
    add_dataset(project, SOURCE)
    rr("fetch", "--dataset", "mine")
    with exclusive_lock(CHECK):
        outcome = rr("check", "mine")
    assert (outcome.code, "is writing to data/check/mine: wait until it has finished" in outcome.err) == (2, True)
    assert not CHECK.exists()
    assert rr("check", "mine").code == 0


def test_16_bit_images_with_few_values_are_not_blank(project: Path, rr: RunRr) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 2**10, (8, 8), np.uint16)
        save(project / f"images/{number}.png", pixels if number else np.zeros_like(pixels))
    add_dataset(project, SOURCE)
    rr("fetch", "--dataset", "mine")
    assert "blank image: 1 train" in (found := rr("check", "mine").out) or "blank image: 1 test" in found


class TestExclude:
    def test_rows_of_a_parquet_file(self, project: Path, rr: RunRr) -> None:
        save_tables(project / "tables", {"train.parquet": make_table([0, 1] * 5), "test.parquet": make_table([0, 1])})
        (project / "list.txt").write_text("train.parquet, row 3\n\ntrain.parquet, row 4\n")
        add_dataset(project, {"kind": "parquet", "path": "tables", "exclude": "list.txt"})
        assert "skipped 2 files: listed in the exclude file (.parquet 2)" in rr("fetch", "--dataset", "mine").out
        names = [name for name, _ in open_fetched(project).iter_images()]
        assert names[:4] == [f"train.parquet, row {row}" for row in (0, 1, 2, 5)]

    def test_row_that_contains_another_image_raises(self, project: Path, rr: RunRr) -> None:
        images = make_table([0, 1] * 10)
        table = pa.concat_tables([images, images.slice(3, 2)])  # two duplicates
        source = {"kind": "parquet", "path": "tables"}
        save_tables(project / "tables", {"all.parquet": table})
        add_dataset(project, source)
        rr("fetch", "--dataset", "mine")
        rr("check", "mine")
        lines = (project / CHECK / "exclude.txt").read_text().splitlines()
        assert [re.sub(r"row \d+, sha256 [0-9a-f]{16}$", "", line) for line in lines] == ["all.parquet, "] * 2
        add_dataset(project, {**source, "exclude": str(CHECK / "exclude.txt")})
        assert "skipped 2 files: listed in the exclude file (.parquet 2)" in rr("fetch", "--dataset", "mine").out
        save_tables(project / "tables", {"all.parquet": table.take(list(range(len(table)))[::-1])})
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 2
        message = r"exclude: all\.parquet, row \d+ has changed since the exclude list was written \(.* with \w{16}\): "
        assert re.search(message, outcome.err)

    def test_marks_and_prefixes_of_other_programs(self, project: Path, rr: RunRr) -> None:
        save_tree(project / "images", {"cat": 6})
        (project / "list.txt").write_bytes(b"\xef\xbb\xbfcat/1.png\r\n./cat/2.png\r\n")
        add_dataset(project, {**SOURCE, "exclude": "list.txt"})
        assert "skipped 2 files: listed in the exclude file (.png 2)" in rr("fetch", "--dataset", "mine").out
        (project / "list.txt").write_text("cat/\u200b1.png\n", encoding="utf-8")
        assert r"does not contain: cat/\u200b1.png. Remove" in rr("fetch", "--dataset", "mine").err

    def test_class_whose_training_images_are_excluded_is_named(self, project: Path, rr: RunRr) -> None:
        save_tables(project / "set", {"train.parquet": make_table(["a", "b"]), "test.parquet": make_table(["a", "b"])})
        (project / "list.txt").write_text("train.parquet, row 1\n")
        add_dataset(project, {"kind": "parquet", "path": "set", "exclude": "list.txt"})
        message = "'label' have no training images, apart from those in the exclude list: b. Add training images, or"
        assert message in rr("fetch", "--dataset", "mine").err

    def test_unreadable_image_and_unprintable_name(self, project: Path, rr: RunRr) -> None:
        save_tree(project / "images", {"cat": 5})
        save_file(project / "images/cat/broken.png", b"")
        save_file(project / "images/cat/two\nlines.png", make_image())
        (project / "list.txt").write_text("cat/broken.png\ncat/two\\nlines.png\n")
        add_dataset(project, {**SOURCE, "exclude": "list.txt"})
        assert rr("fetch", "--dataset", "mine").code == 0
        assert sorted(name for name, _ in open_fetched(project).iter_images()) == [f"cat/{i}.png" for i in range(5)]

    def test_unknown_name_and_missing_list_raise(self, project: Path, rr: RunRr) -> None:
        save_tree(project / "images", {"cat": 5})
        add_dataset(project, {**SOURCE, "exclude": "list.txt"})
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 2
        assert outcome.err.startswith("rr: exclude: list.txt cannot be read ([Errno 2] No such file")
        save_file(project / "images/cat/broken.png", b"")  # images are read only after the list has been checked
        (project / "list.txt").write_text("cat/1.png\nmissing.png\n")
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 2
        assert "list.txt lists images that the source does not contain: missing.png. Remove these lines" in outcome.err
        assert not (project / "data/raw/mine/images.parquet").exists()
