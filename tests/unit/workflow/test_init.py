"""Tests of `rr init`: it adds images to the real params.yaml, and the result can be run."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import RunRr, add_dataset
from own_images import make_image, make_table, save_tables, save_tree
from PIL import Image

import rr.fetch as rr_fetch
from rr import commands
from rr.params import FolderSource, load_params
from rr.paths import lock_file
from rr.runtime.lock import exclusive_lock
from rr.workflow import stage_runs
from rr.workflow.grid_checks import find_grid_problems
from rr.workflow.init import MAX_VIEWS, choose_image_size, choose_settings, choose_stored_size
from rr.workflow.params_file import dump_yaml, make_yaml


def save_images(root: Path, counts: dict[str, int], size: tuple[int, int]) -> Path:
    """Write random images of the given size (width, height) into folders, and return `root`."""
    rng = np.random.default_rng(0)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 32), (32, 32), (63, 32), (64, 64), (100, 96), (128, 128), (4000, 128)]
)
def test_image_size_is_at_most_the_median(side: int, expected: int) -> None:
    assert choose_image_size(side) == expected


@pytest.mark.parametrize(
    ("side", "num_images", "expected"),
    [
        (128, 100, None), (159, 100, None), (160, 100, 160), (255, 100, 160), (256, 100_000, 256), (256, 100_001, 160),
        (4000, 500, 256), (4000, 500_000, 160), (100, 500_000, None),
    ],
)  # fmt: skip
def test_stored_size_depends_on_the_number_and_size_of_images(side: int, num_images: int, expected: int | None) -> None:
    assert choose_stored_size(side, num_images) == expected


@pytest.mark.parametrize(
    ("num_images", "expected"),
    [
        (2, (8, 2, 200)),
        (40, (8, 10, 200)),
        (5_000, (8, 64, 25)),
        (125_000, (8, 64, 1)),
        (200_000, (4, 64, 1)),
        (500_000, (2, 64, 1)),
        (2_000_000, (2, 64, 1)),
        (250_049, (2, 63, 1)),  # 64 images per mini-batch would leave one
    ],
)
def test_settings_for_a_number_of_images(num_images: int, expected: tuple[int, int, int]) -> None:
    assert choose_settings(num_images) == expected


def test_training_needs_at_most_a_million_views() -> None:
    for num_images in range(1, 500_000, 997):
        settings = choose_settings(num_images)
        assert settings.views * num_images * settings.epochs <= MAX_VIEWS


def test_labeled_folder_is_added_with_a_grid(params_file: Path, rr: RunRr) -> None:
    before, comments = load_params(params_file), params_file.read_text().count("#")
    save_images(Path("My birds"), {"robin": 30, "wren": 20}, (90, 70))
    outcome = rr("init", "My birds")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [
        "data/raw/My-birds/images.parquet: 40 train, 10 test, 2 classes",
        "train: all folders; test: 0.2 of the images of each class, held out",
        "classes (train + test images): robin (24 + 6), wren (16 + 4)",
        "size of all images: 90 × 70 pixels",
        "the previous grid, which trained on shapes, was replaced",
        "params.yaml: dataset My-birds with images of 64 × 64 pixels; method relational-My-birds with 8 views per "
        "image, batches of 10 images and 200 epochs; evaluations: linear, knn, retrieval, embedding",
        "next: `rr check My-birds` looks for duplicates and other problems; `dvc repro` trains and writes the report",
    ]
    after = load_params(params_file)
    assert params_file.read_text().count("#") == comments + 4  # two are copied with the method
    assert {name: after.datasets[name] for name in before.datasets} == before.datasets
    assert {name: after.methods[name] for name in before.methods} == before.methods
    assert (after.protocols, after.threads, after.dynamics) == (before.protocols, before.threads, before.dynamics)
    changes = {"views": 8, "batch_size": 10, "epochs": 200}
    assert after.methods["relational-My-birds"] == before.methods["relational"].model_copy(update=changes)
    assert after.grid[0].model_dump() == {
        "data": ["My-birds"], "dataset": ["My-birds"], "backbone": ["conv4"], "seed": [1], "target": ["My-birds"],
        "method": ["random", "relational-My-birds"], "protocol": ["linear", "knn", "retrieval", "embedding"],
        "claims": [],
    }  # fmt: skip
    assert find_grid_problems(after) == []
    # The images need not be fetched again.
    assert stage_runs.make_fetch_run(after, "My-birds").params == {
        "datasets.My-birds.source": after.datasets["My-birds"].source.model_dump()
    }
    assert rr("convert", "--dataset", "My-birds").code == 0


def test_claims_of_the_former_grid_are_removed(params_file: Path, rr: RunRr) -> None:
    assert rr("suite", "use", "heads").code == 0
    num_claims = len(load_params(params_file).grid[0].claims)
    assert num_claims
    save_images(Path("birds"), {"robin": 30, "wren": 20}, (90, 70))
    assert f"\nremoved from the grid: {num_claims} claims\n" in rr("init", "birds").out
    assert load_params(params_file).grid[0].claims == []


def test_edits_while_the_images_are_read_are_kept(
    params_file: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch_slowly(*arguments: Any, **keys: Any) -> Any:
        params_file.write_text(change(params_file.read_text()))
        return fetch(*arguments, **keys)

    fetch = rr_fetch.fetch
    monkeypatch.setattr(rr_fetch, "fetch", fetch_slowly)
    save_images(Path("birds"), {"robin": 30, "wren": 20}, (90, 70))
    change = partial(re.sub, "threads: [0-9]+", "threads: 3")
    assert rr("init", "birds").code == 0
    assert load_params(params_file).threads == 3
    dataset = "{source: {kind: imagefolder, path: x}, image_size: 8}"
    change = partial(re.sub, "datasets:\n", f"datasets:\n  wrens: {dataset}\n")
    Path("birds").rename("wrens")
    outcome = rr("init", "wrens")
    assert outcome.code == 2
    assert "the dataset wrens was added to params.yaml while the images were being read: run the same" in outcome.err
    assert load_params(params_file).datasets["wrens"].image_size == 8


def test_protocols_that_need_more_images_are_left_out(params_file: Path, rr: RunRr) -> None:
    save_images(Path("few"), {"robin": 8, "wren": 8}, (40, 40))
    assert "evaluations: linear, retrieval" in rr("init", "few").out
    assert find_grid_problems(load_params(params_file)) == []


@pytest.mark.parametrize(
    ("count", "evaluations", "target", "methods"),
    [(30, "evaluations: embedding", ["mine"], ["random"]), (10, "no evaluations: too few test images", [], [])],
)
def test_unlabeled_folder_is_added_with_a_grid(
    params_file: Path, rr: RunRr, count: int, evaluations: str, target: list[str], methods: list[str]
) -> None:
    save_images(Path("photos"), {"": count, "holidays": 0}, (40, 40))
    outcome = rr("init", "photos", "--name", "mine")
    assert outcome.out.splitlines()[-2].endswith(f"; {evaluations}")
    after = load_params(params_file)
    assert (after.grid[0].dataset, after.grid[0].target) == (["mine"], target)
    assert after.grid[0].method == [*methods, "relational-mine"]
    assert after.grid[0].protocol == (["embedding"] if target else [])
    assert find_grid_problems(after) == []


def test_photographs_are_stored_at_a_size_of_their_own(params_file: Path, rr: RunRr) -> None:
    before = params_file.read_text()
    save_images(Path("photos"), {"": 12}, (400, 300))
    outcome = rr("init", "photos")
    assert outcome.code == 0, outcome.err
    assert (
        "dataset photos with images of 128 × 128 pixels, cropped from photographs with a shorter side of at most 256 "
        "pixels; method" in outcome.out
    )
    after = load_params(params_file)
    assert (after.datasets["photos"].image_size, after.datasets["photos"].stored_size) == (128, 256)
    assert (
        "    image_size: 128  # height and width of the views and of the evaluated images\n"
        "    stored_size: 256 # shorter side of the stored photographs; views are cropped from them\n"
    ) in params_file.read_text()
    assert params_file.read_text().count("#") == before.count("#") + 6
    assert find_grid_problems(after) == []


def test_folders_that_are_not_classes_need_two_options(params_file: Path, rr: RunRr) -> None:
    """The folders are named after years, one photograph is next to them, and one is damaged: two options suffice."""
    root = save_tree(Path("photos"), {"2019": 14, "2020": 14, "": 1})
    (root / "2019/damaged.jpg").write_bytes(b"x")
    text = params_file.read_text()
    outcome = rr("init", "photos")
    assert (outcome.code, params_file.read_text()) == (2, text)
    assert "rr init --no-labels treats all images as unlabeled" in outcome.err
    outcome = rr("init", "photos", "--no-labels")
    assert (outcome.code, params_file.read_text()) == (2, text)
    assert "--skip-unreadable leaves out images that cannot be read" in outcome.err
    outcome = rr("init", "photos", "--no-labels", "--skip-unreadable")
    assert outcome.code == 0, outcome.err
    assert "skipped 1 file" in outcome.out
    params = load_params(params_file)
    source = params.datasets["photos"].source
    assert (source.labels, source.on_unreadable, params.grid[0].protocol) == ("none", "skip", ["embedding"])


def test_error_for_raw_photographs_contains_the_remedy(params_file: Path, rr: RunRr) -> None:
    Path("camera").mkdir()
    Path("camera/IMG_0001.DNG").write_bytes(b"x")
    outcome = rr("init", "camera")
    assert outcome.code == 2
    assert outcome.err.startswith(
        "rr: camera has no images (1 .dng: in a format that Pillow cannot read, so convert photographs to JPEG to use "
        "them): "
    )


def test_sizes_that_a_user_has_defined_are_kept(params_file: Path, rr: RunRr) -> None:
    save_images(Path("birds"), {"": 12}, (400, 300))
    text = params_file.read_text()
    entry = "\ndatasets:\n  birds:\n    source: {kind: imagefolder, path: birds}\n    image_size: 64\n"
    params_file.write_text(text.replace("\ndatasets:\n", entry))
    assert rr("init", "birds").out.splitlines()[-1] == (
        "the sizes that params.yaml defines are kept; for a new dataset, rr init would write image_size: 128 and "
        "stored_size: 256"
    )
    assert load_params(params_file).datasets["birds"].image_size == 64


def test_options_do_not_change_a_dataset_that_is_defined(params_file: Path, rr: RunRr) -> None:
    save_tree(Path("birds"), {"a": 15, "b": 15})
    text = params_file.read_text()
    entry = "\ndatasets:\n  birds:\n    source: {kind: imagefolder, path: birds}\n    image_size: 32\n"
    params_file.write_text(text.replace("\ndatasets:\n", entry))
    outcome = rr("init", "birds", "--no-labels")
    assert outcome.code == 2
    assert "params.yaml already defines birds: set `labels` or `on_unreadable`" in outcome.err


def test_datasets_with_and_without_labels_in_turn(params_file: Path, rr: RunRr) -> None:
    comments = params_file.read_text().count("#")
    for number in range(6):
        counts = {"a": 8, "b": 8} if number % 2 else {"": 16}
        save_tree(Path(f"set{number}"), counts)
        outcome = rr("init", f"set{number}")
        assert outcome.code == 0, outcome.err
        assert load_params(params_file).grid[0].target == ([f"set{number}"] if number % 2 else [])
    assert set(load_params(params_file).datasets) >= {f"set{number}" for number in range(6)}
    assert params_file.read_text().count("#") == comments + 4 * 6


@pytest.mark.parametrize("path", ["tables", "tables/train.parquet"])
def test_parquet_file_or_folder_is_added(params_file: Path, rr: RunRr, path: str) -> None:
    save_tables(Path("tables"), {"train.parquet": make_table(["a", "b"] * 20)})
    outcome = rr("init", path, "--name", "tables")
    assert outcome.code == 0, outcome.err
    assert load_params(params_file).datasets["tables"].source.kind == "parquet"


def save_clone(root: Path, *images: str) -> Path:
    """Write a Parquet file with images, and image files like those of a dataset card on the Hugging Face Hub."""
    save_tables(root / "data", {"train-00000-of-00001.PARQUET": make_table(["a", "b"] * 20)})
    for name in images:
        save_images(root / name, {"": 3}, (40, 40))
    (root / "README.md").touch()
    return root


@pytest.mark.parametrize("images", [".", "assets"])
@pytest.mark.parametrize("kind", ["parquet", "imagefolder"])
def test_images_next_to_parquet_files_with_images_raise(params_file: Path, rr: RunRr, images: str, kind: str) -> None:
    save_clone(Path("hub"), images)
    text = params_file.read_text()
    outcome = rr("init", "hub", "--no-labels")
    assert (outcome.code, params_file.read_text()) == (2, text)
    first = f"{images}/0.png".removeprefix("./")
    assert outcome.err.startswith(f"rr: hub contains images ({first}, ")
    assert "and Parquet files with images (data/train-00000-of-00001.PARQUET), and either may be the" in outcome.err
    entries = outcome.err.partition("run the same command again:\n")[2].split("  hub:\n")[1:]
    (entry,) = [entry for entry in entries if f"kind: {kind}, path: hub, labels: none" in entry]
    params_file.write_text(text.replace("\ndatasets:\n", f"\ndatasets:\n  hub:\n{entry}"))
    outcome = rr("init", "hub", "--no-labels")
    assert outcome.code == 0, outcome.err
    assert load_params(params_file).datasets["hub"].source.kind == kind


def test_images_next_to_other_parquet_files_are_the_dataset(params_file: Path, rr: RunRr) -> None:
    root = save_images(Path("photos"), {"": 20}, (40, 40))
    save_tables(root, {"metadata.parquet": pa.table({"file_name": ["0.png"], "text": ["a bird"]})})
    save_tables(root / ".cache", {"x.parquet": make_table(["a", "b"])})
    assert rr("init", "photos").code == 0
    assert load_params(params_file).datasets["photos"].source.kind == "imagefolder"
    (root / "metadata.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "and Parquet files with images (metadata.parquet)" in rr("init", "photos", "--name", "mine").err


def test_parquet_files_are_found_regardless_of_case(params_file: Path, rr: RunRr) -> None:
    outcome = rr("init", save_clone(Path("hub")))
    assert outcome.code == 0, outcome.err
    assert load_params(params_file).datasets["hub"].source.kind == "parquet"


def test_existing_name_is_not_overwritten(params_file: Path, rr: RunRr) -> None:
    save_tree(Path("shapes"), {"a": 5, "b": 5})
    text = params_file.read_text()
    outcome = rr("init", "shapes")
    assert outcome.code == 2
    assert outcome.err.startswith("rr: params.yaml already defines shapes: ")
    assert "if images were added or removed, run `rr fetch --dataset shapes`." in outcome.err
    assert params_file.read_text() == text
    assert rr("init", "shapes", "--name", "mine").code == 0
    text = params_file.read_text()
    assert rr("init", "shapes", "--name", "mine").code == 2
    assert params_file.read_text() == text
    outcome = rr("init", "shapes", "--name", "$")
    assert (outcome.code, outcome.err.startswith("rr: invalid name '$': choose one with --name")) == (2, True)
    assert params_file.read_text() == text


def test_dataset_with_keys_of_the_user_is_kept(params_file: Path, rr: RunRr) -> None:
    """A folder with a damaged image: the message contains an entry, which the user adds with `on_unreadable: skip`."""
    root = save_tree(Path("My birds: 1"), {"a": 15, "b": 15})
    (root / "a/damaged.jpg").write_bytes(b"x")
    outcome = rr("init", str(root))
    assert (outcome.code, outcome.err.count("run the same command again:\n")) == (2, 1)
    entry = outcome.err.partition("again:\n")[2].replace("}", ", on_unreadable: skip}").replace("64", "32")
    text = params_file.read_text().replace("\ndatasets:\n", f"\ndatasets:\n{entry}")
    params_file.write_text(text)
    outcome = rr("init", str(root))
    assert outcome.code == 0, outcome.err
    assert entry in params_file.read_text()
    assert load_params(params_file).grid[0].dataset == ["My-birds-1"]
    assert rr("init", str(root)).err.startswith("rr: params.yaml already defines My-birds-1: ")


def test_single_class_is_the_reason_for_no_evaluations(params_file: Path, rr: RunRr) -> None:
    save_tree(Path("mine"), {"robin": 10})
    message = "; no evaluations: all test images belong to one class, and there are too few for an evaluation without"
    assert message in rr("init", "mine").out
    assert load_params(params_file).grid[0].target == []


@pytest.mark.parametrize(
    ("folder", "name"),
    [("ünï", "uni"), ("Vo\u0308gel 2", "Vogel-2"), ("鳥", ""), ("鳥 1", ""), ("Straße", ""), ("…", ""), ("1️⃣ a", "1-a")],
)
def test_default_name_is_that_of_the_folder_without_accents(
    params_file: Path, rr: RunRr, folder: str, name: str
) -> None:
    before = params_file.read_text()
    save_tree(Path(folder), {"": 20})
    outcome = rr("init", folder)
    if name:
        assert outcome.code == 0, outcome.err
        assert load_params(params_file).grid[0].dataset == [name]
    else:
        assert (outcome.code, params_file.read_text()) == (2, before)
        assert outcome.err.startswith(f"rr: cannot derive a dataset name from {folder}, because dataset names may")
        assert rr("init", folder, "--name", "mine").code == 0


@pytest.mark.parametrize("is_absolute", [False, True])
def test_ambiguous_folder_leaves_the_file_unchanged(params_file: Path, rr: RunRr, *, is_absolute: bool) -> None:
    save_tree(Path("images"), {"fold1/cat": 3, "fold1/dog": 3, "fold2/cat": 3, "fold2/dog": 3})
    text = params_file.read_text()
    outcome = rr("init", "images", "--params", params_file.resolve() if is_absolute else params_file)
    assert outcome.code == 2
    assert "contain the same subfolders" in outcome.err
    assert "params.yaml is unchanged" in outcome.err
    assert "    source: {kind: imagefolder, path: images}" in outcome.err
    assert params_file.read_text() == text
    assert not Path("data/raw/images").exists()


NUMPY = " (it contains NumPy arrays; to read them, see 'Read another file format' in docs/guides/datasets.md)"


@pytest.mark.parametrize(("path", "what"), [("missing", ""), ("params.yaml", " (it is a file)"), ("x.npz", NUMPY)])
def test_path_without_images_raises(params_file: Path, rr: RunRr, path: str, what: str) -> None:
    np.savez("x.npz", np.zeros(3))
    outcome = rr("init", path)
    assert (outcome.code, outcome.err) == (
        2,
        f"rr: {path} is not a folder or a Parquet file{what}: use a folder of images\n",
    )


def test_missing_base_method_is_reported_before_images_are_read(params_file: Path, rr: RunRr) -> None:
    yaml = make_yaml()
    content = yaml.load(params_file.read_text())
    content["methods"] = {"simclr": content["methods"]["simclr"]}
    content["grid"] |= {"method": ["simclr"], "claims": []}
    other = params_file.rename("other.yaml")
    other.write_text(dump_yaml(yaml, content))
    before = other.read_bytes()
    outcome = rr("init", save_tree(Path("birds"), {"wren": 10}), "--params", other)
    assert (outcome.code, outcome.out) == (2, "")
    assert "other.yaml does not define the method relational, which rr init needs: copy it from the" in outcome.err
    assert (other.read_bytes(), Path("data").exists()) == (before, False)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1, "because there is only one image: add different images, or add a folder of test images"),
        (2, "mine: a training split of 1 image is too small"),
    ],
)
def test_too_few_images_leave_the_file_unchanged(params_file: Path, rr: RunRr, count: int, message: str) -> None:
    before = params_file.read_bytes()
    outcome = rr("init", save_tree(Path("mine"), {".": count}))
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert params_file.read_bytes() == before
    assert not Path("data/raw/mine").exists()


def test_path_that_is_not_utf8_raises(params_file: Path, rr: RunRr) -> None:
    before = params_file.read_bytes()
    outcome = rr("init", save_tree(Path("n\udce9"), {"cat": 4}), "--name", "mine")
    assert (outcome.code, outcome.out) == (2, "")
    assert "n\\xe9: the path is not valid UTF-8, so params.yaml cannot contain it: rename it" in outcome.err
    assert params_file.read_bytes() == before


def test_path_of_an_unknown_user_raises(params_file: Path, rr: RunRr) -> None:
    outcome = rr("init", "~nobody-here/birds")
    assert (outcome.code, outcome.out) == (2, "")
    message = "the home folder ~nobody-here cannot be found: fix the user name, or write the full path"
    assert outcome.err == f"rr: ~nobody-here/birds: {message}\n"


def test_current_folder_among_the_images_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr) -> None:
    (tmp_path / "below").mkdir()
    for folder in (tmp_path, tmp_path / "below"):
        monkeypatch.chdir(folder)
        outcome = rr("init", str(tmp_path))
        assert outcome.code == 2
        assert f"{tmp_path} contains the current folder" in outcome.err
    assert [path.name for path in tmp_path.rglob("*")] == ["below"]


@pytest.mark.parametrize(
    ("folder", "overlap"),
    [
        ("data", "contains the folder data/raw"),
        ("runs", "is the folder runs"),
        ("data/raw/birds", "is in the folder data/raw"),
        ("link", "contains the folder data/raw"),
        (".rr/birds", "is in the folder .rr"),
    ],
)
def test_images_in_a_folder_that_rr_writes_to_raise(project: Path, rr: RunRr, folder: str, overlap: str) -> None:
    save_tree(project / ("data" if folder == "link" else folder), {"": 5})
    if folder == "link":
        (project / "link").symlink_to("data")
    before = sorted(project.rglob("*"))
    message = f"{folder} {overlap}, to which rr writes its results: move the images to another folder, or run rr in a"
    outcome = rr("init", folder)
    assert (outcome.code, outcome.err.startswith(f"rr: {message}")) == (2, True)
    add_dataset(project, {"kind": "imagefolder", "path": folder})
    outcome = rr("fetch", "--dataset", "mine")
    assert (outcome.code, outcome.err.startswith(f"rr: {message}")) == (2, True)
    assert rr("fetch", "--dataset", "mine", "--from", folder).err == outcome.err
    assert sorted(project.rglob("*")) == before
    root = save_tree(project / "data/birds", {"": 5})  # next to the folders of the stages
    assert rr("fetch", "--dataset", "mine", "--from", root).code == 0


def test_dataset_has_the_name_of_the_link_to_its_folder(params_file: Path, rr: RunRr) -> None:
    Path("birds").symlink_to(save_tree(Path("2021-05"), {"": 5}))
    assert rr("init", "birds").code == 0
    assert load_params(params_file).datasets["birds"].source.path == "birds"


def test_missing_folder_creates_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = rr("init", "birdz")
    assert (outcome.code, "birdz is not a folder or a Parquet file" in outcome.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_project_is_created_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr) -> None:
    images = save_tree(tmp_path / "images", {"a": 5, "b": 5})
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    outcome = rr("init", str(images))
    assert outcome.code == 0, outcome.err
    assert "images" in load_params(Path("params.yaml")).datasets
    assert Path("dvc.yaml").is_file()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"fold1/cat": 3, "fold1/dog": 3, "fold2/cat": 3, "fold2/dog": 3}, "\nno project was created. rr init --no-la"),
        ({"": 2}, "mine: a training split of 1 image is too small"),
        ({"cat": 1, "dog": 1}, "run `rr init` without arguments, which creates params.yaml, add this entry"),
    ],
)
@pytest.mark.parametrize("existing", [[], [".rr/gallery/x", "data/raw/other/y"]])
def test_first_init_that_fails_leaves_the_folder_unchanged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rr: RunRr,
    counts: dict[str, int],
    message: str,
    existing: list[str],
) -> None:
    images = save_tree(tmp_path / "images", counts)
    project = tmp_path / "project"
    project.mkdir()
    for name in existing:
        (project / name).parent.mkdir(parents=True)
        (project / name).touch()
    monkeypatch.chdir(project)
    outcome = rr("init", str(images), "--name", "mine")
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err
    assert {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()} == set(existing)
    assert existing or not list(project.iterdir())


def test_first_init_that_fails_keeps_what_another_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr
) -> None:
    images = save_tree(tmp_path / "images", {"a": 5, "b": 5})
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with exclusive_lock(Path("data/raw/images")):
        outcome = rr("init", str(images))
        assert (outcome.code, "is writing to data/raw/images: wait until it has finished" in outcome.err) == (2, True)
        assert lock_file(Path("data/raw/images")).is_file()


def test_first_init_that_fails_keeps_the_lock_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr
) -> None:
    images = save_tree(tmp_path / "images", {"fold1/cat": 3, "fold1/dog": 3, "fold2/cat": 3, "fold2/dog": 3})
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with exclusive_lock(Path("params.yaml")):
        outcome = rr("init", str(images))
        assert (outcome.code, "no project was created" in outcome.err) == (2, True)
        assert lock_file(Path("params.yaml")).is_file()


def test_name_without_images_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rr: RunRr) -> None:
    monkeypatch.chdir(tmp_path)
    assert rr("init", "--name", "birds").err == (
        "rr: --name, --no-labels, --labels, --skip-unreadable and --run require images: specify a folder of images or "
        "a Parquet file, as in rr init IMAGES\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_run_outside_a_project_raises_before_anything_is_read(params_file: Path, rr: RunRr) -> None:
    save_tree(Path("images"), {"a": 5, "b": 5})
    text = params_file.read_text()
    assert "--run: dvc.yaml not found" in rr("init", "images", "--run").err
    assert (
        "--run: DVC reads only params.yaml, not other.yaml"
        in rr("init", "images", "--run", "--params", "other.yaml").err
    )
    assert params_file.read_text() == text


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_labels_in_a_csv_file_are_not_ignored_silently(params_file: Path, rr: RunRr, suffix: str) -> None:
    save_images(Path("photos"), {"": 12}, (40, 40))
    Path(f"photos/labels{suffix}").write_text("file,label\n0.png,robin\n")
    message = (
        f"if a {suffix} file contains the labels: use rr init --labels FILE, or set `labels: FILE` in this dataset's"
    )
    assert message in rr("init", "photos").out
    save_images(Path("birds"), {"robin": 12, "wren": 12}, (40, 40))
    Path("birds/labels.csv").touch()
    assert message not in rr("init", "birds").out
    save_tables(Path("tables"), {"x.parquet": pa.table({"image": [{"bytes": make_image()} for _ in range(12)]})})
    Path("tables/labels.csv").touch()
    assert message not in rr("init", "tables").out


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv"])
def test_labels_of_a_csv_file_are_added(params_file: Path, rr: RunRr, name: str) -> None:
    save_images(Path("photos"), {"": 40}, (40, 40))
    rows = [f"{path.name},{'robin' if number % 2 else 'wren'}" for number, path in enumerate(Path("photos").iterdir())]
    Path(name).write_text("\n".join(["file,label", *rows]))
    assert rr("init", "photos", "--labels", name).code == 0
    params = load_params(params_file)
    source = params.datasets["photos"].source
    assert isinstance(source, FolderSource)
    assert source.labels == name
    assert params.grid[0].protocol == ["linear", "knn", "retrieval", "embedding"]


def test_labels_option_requires_a_folder_and_a_csv_file(params_file: Path, rr: RunRr) -> None:
    save_images(Path("photos"), {"": 12}, (40, 40))
    save_tables(Path("tables"), {"x.parquet": make_table([0, 1] * 6)})
    text = params_file.read_text()
    for arguments, message in (
        (("photos", "--labels", "labels.csv", "--no-labels"), "--labels and --no-labels exclude each other"),
        (("photos", "--labels", "labels.txt"), "--labels must be the path of a CSV file (.csv or .tsv)"),
        (("photos", "--labels", "none"), "--labels must be the path of a CSV file (.csv or .tsv)"),
        (
            ("photos", "--labels", "\udcff.csv"),
            "\\xff.csv: the path is not valid UTF-8",
        ),
        (("photos", "--labels", "labels.csv"), "labels: labels.csv cannot be read"),
        (("tables", "--labels", "labels.csv"), "--labels applies only to folders of images"),
    ):
        outcome = rr("init", *arguments)
        assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert params_file.read_text() == text


def test_run_continues_after_an_earlier_init(params_file: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --run, images that are already in the grid cause no error, unless the options contradict their source."""
    save_tree(Path("birds.v2"), {"a": 20, "b": 20})
    monkeypatch.setattr(commands, "check_can_run", lambda params_file: None)
    monkeypatch.setattr(commands, "run_pipeline", lambda: "pipeline")
    assert rr("init", "birds.v2", "--run").out.endswith("pipeline\n")
    text = params_file.read_text()
    assert "birds-v2" in load_params(params_file).datasets
    again = rr("init", "birds.v2", "--run")
    assert again.out.startswith("data/raw/birds-v2/images.parquet: 32 train, 8 test, 2 classes\n")
    assert again.out.endswith("\nthe grid in params.yaml already trains on birds-v2\npipeline\n")
    for options in ((), ("--run", "--no-labels"), ("--run", "--skip-unreadable")):
        outcome = rr("init", "birds.v2", *options)
        assert (outcome.code, outcome.out) == (2, "")
        assert "params.yaml already defines birds-v2" in outcome.err
    save_tree(Path("birds.v2"), {"a": 30})
    assert "40 train, 10 test" in rr("init", "birds.v2", "--run").out
    assert params_file.read_text() == text
