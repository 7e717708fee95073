"""Tests of `rr fetch` on the paper's datasets, each as a small copy in the official format."""

import hashlib
import io
import json
import pickle
import shutil
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from archives import write_cifar10
from helpers import ROOT, Malicious, RunRr, add_dataset, open_fetched
from PIL import Image

from rr.data import download, raw
from rr.data.image_decoding import decode_image
from rr.data.sources import slimagenet, stl10, tiny_imagenet
from rr.params import Stl10Source, load_params
from rr.workflow.dataset_labels import find_dataset_labels

FETCH = ("fetch", "--dataset", "mine")


@pytest.fixture
def web_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Serve a folder over local HTTP; return the folder and its URL."""
    folder = tmp_path_factory.mktemp("web")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def decode_all(data: raw.RawFile) -> np.ndarray:
    return np.stack([decode_image(content) for _, content in data.iter_images()])


def is_nothing_written(project: Path) -> bool:
    return not list((project / "data").rglob("images.parquet"))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def make_archive(folder: Path, archive: Path) -> Path:
    """Pack a folder into a zip, tar.gz or tar.bz2 archive, depending on the suffix of `archive`."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(folder.parent))
    else:
        with tarfile.open(archive, "w:bz2" if archive.suffix == ".bz2" else "w:gz") as tar:
            tar.add(folder, folder.name)
    return archive


@pytest.fixture
def stl(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an STL-10 folder with a few random images, and set torchvision's MD5s to those of the new files."""
    from torchvision.datasets import STL10

    folder = tmp_path_factory.mktemp("stl") / STL10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 12), ("unlabeled", 15), ("test", 8)):
        rng.integers(0, 256, (count, 3, 96, 96), np.uint8).tofile(folder / f"{name}_X.bin")
        (np.arange(count, dtype=np.uint8) * 7 % 10 + 1).tofile(folder / f"{name}_y.bin")
    (folder / "unlabeled_y.bin").unlink()
    (folder / "class_names.txt").write_text("".join(f"class{i}\n" for i in range(10)))
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(STL10, part, [[name, md5(folder / name)] for name, _ in getattr(STL10, part)])
    return folder


class TestStl10:
    @pytest.mark.parametrize(
        ("kind", "parts", "names"),
        [
            ("stl10", ("train", "test"), [f"class{i}" for i in range(10)]),
            ("stl10_unlabeled", ("unlabeled", "test"), []),
        ],
    )
    def test_images_and_labels_match_torchvision(
        self, project: Path, rr: RunRr, stl: Path, kind: str, parts: tuple, names: list
    ) -> None:
        from torchvision.datasets import STL10

        add_dataset(project, {"kind": kind}, image_size=96)
        assert rr(*FETCH, "--from", stl).code == 0
        train, test = (STL10(stl.parent, split=part) for part in parts)
        data = open_fetched(project)
        expected = [np.asarray(image) for part in (train, test) for image, _ in part]
        assert np.array_equal(decode_all(data), np.stack(expected))
        assert data.splits.tolist() == ["train"] * len(train) + ["test"] * 8
        labels = [-1] * 23 if kind == "stl10_unlabeled" else [*train.labels, *test.labels]
        assert data.labels.tolist() == labels
        assert data.class_names == names
        assert rr("convert", "--dataset", "mine").code == 0

    def test_archive_is_downloaded_once(
        self, project: Path, rr: RunRr, stl: Path, web_folder: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torchvision.datasets import STL10

        folder, url = web_folder
        archive = make_archive(stl, folder / STL10.filename)
        monkeypatch.setattr(STL10, "url", f"{url}/{STL10.filename}")
        add_dataset(project, {"kind": "stl10"}, image_size=96)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "stl10_binary.tar.gz.part: wrong checksum: expected md5 91f7769df0f17e558f3565bffb0c7dfb" in outcome.err
        assert is_nothing_written(project)
        monkeypatch.setattr(STL10, "tgz_md5", md5(archive))
        assert rr(*FETCH).code == 0
        first = decode_all(open_fetched(project))
        archive.unlink()
        assert rr(*FETCH).code == 0
        # The other dataset is read from the same archive. An extracted file that was damaged is extracted again.
        add_dataset(project, {"kind": "stl10_unlabeled", "path": "data/download/mine"}, image_size=96)
        assert rr(*FETCH).code == 0
        add_dataset(project, {"kind": "stl10"}, image_size=96)
        (project / "data/download/mine/unpacked/stl10_binary/train_X.bin").write_bytes(b"")
        assert rr(*FETCH).code == 0
        assert np.array_equal(decode_all(open_fetched(project)), first)

    def test_damaged_copy_raises(self, project: Path, rr: RunRr, stl: Path) -> None:
        add_dataset(project, {"kind": "stl10", "path": str(stl.parent)}, image_size=96)
        original = (stl / "test_X.bin").read_bytes()
        content = bytearray(original)
        content[1000] ^= 1
        (stl / "test_X.bin").write_bytes(content)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "test_X.bin: wrong checksum" in outcome.err
        (stl / "test_X.bin").unlink()
        assert "test_X.bin is missing" in rr(*FETCH).err
        add_dataset(project, {"kind": "stl10_unlabeled", "path": str(stl)}, image_size=96)
        assert "test_X.bin is missing" in rr(*FETCH).err
        (stl / "test_X.bin").write_bytes(original)
        (stl / "class_names.txt").write_bytes(b"\xff" * 20)
        add_dataset(project, {"kind": "stl10", "path": str(stl)}, image_size=96)
        assert "class_names.txt: expected 10 distinct class names, found 1 (1 of them distinct)" in rr(*FETCH).err
        (stl / "class_names.txt").write_text("cat\ndog\n" * 5)
        add_dataset(project, {"kind": "stl10", "path": str(stl)}, image_size=96)
        assert "class_names.txt: expected 10 distinct class names, found 10 (2 of them distinct)" in rr(*FETCH).err
        assert is_nothing_written(project)

    def test_images_are_read_one_by_one(self, stl: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from torchvision.datasets import STL10

        with open(stl / "unlabeled_X.bin", "wb") as file:
            file.truncate(100_000 * 3 * 96 * 96)
        md5s = {stl / name: value for name, value in STL10.train_list + STL10.test_list}
        monkeypatch.setattr(download, "file_md5", lambda path: md5s[path])
        tracemalloc.start()
        try:
            rows = iter(stl10.read_dataset(Stl10Source(kind="stl10_unlabeled"), tmp_path, stl).images)
            assert [next(rows).name for _ in range(3)] == [f"unlabeled/{i}.png" for i in range(3)]
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


def make_jpeg(seed: int, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    colors = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(colors).resize((side, side)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a Tiny-ImageNet folder with 4 classes of 3 training images, and 6 validation images."""
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 4)
    monkeypatch.setattr(tiny_imagenet, "TRAIN_PER_CLASS", 3)
    monkeypatch.setattr(tiny_imagenet, "TEST", 6)
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    wnids = ["n02", "n01", "n04", "n03"]
    for folder in (*(f"train/{wnid}/images" for wnid in wnids), "val/images", "test/images"):
        (root / folder).mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(wnids))
    words = ["n00\tentity", "n01\tgoldfish, Carassius auratus", "n02\tcrane", "n03\tcrane, wading bird", "n04\tbeacon"]
    (root / "words.txt").write_text("".join(f"{line}\n" for line in words))
    for position, wnid in enumerate(sorted(wnids)):
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
        for i in range(3):
            (root / f"train/{wnid}/images/{wnid}_{i}.JPEG").write_bytes(make_jpeg(10 * position + i))
    lines = []
    for i, wnid in enumerate(["n03", "n01", "n02", "n04", "n01", "n03"]):
        (root / f"val/images/val_{i}.JPEG").write_bytes(make_jpeg(100 + i))
        (root / f"test/images/test_{i}.JPEG").write_bytes(make_jpeg(200 + i))
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    return root


class TestTinyImageNet:
    def check_images(self, data: raw.RawFile, root: Path) -> None:
        train = [root / f"train/n0{number}/images/n0{number}_{i}.JPEG" for number in range(1, 5) for i in range(3)]
        expected = [*train, *(root / f"val/images/val_{i}.JPEG" for i in range(6))]
        assert [content for _, content in data.iter_images()] == [path.read_bytes() for path in expected]
        assert [name for name, _ in data.iter_images()] == [path.relative_to(root).as_posix() for path in expected]
        assert data.splits.tolist() == ["train"] * 12 + ["test"] * 6
        assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 2, 0, 1, 3, 0, 2]
        assert data.class_names == ["goldfish", "crane (n02)", "crane (n03)", "beacon"]

    @pytest.mark.parametrize("form", ["folder", "parent folder", "zip", "flat zip"])
    def test_local_copy_is_fetched(self, project: Path, rr: RunRr, tiny: Path, form: str) -> None:
        local = tiny if form == "folder" else tiny.parent
        if form.endswith("zip"):
            local = make_archive(tiny, tiny.parent / "any.zip")
        if form == "flat zip":
            shutil.make_archive(str(local.with_suffix("")), "zip", tiny)
        add_dataset(project, {"kind": "tiny_imagenet"}, image_size=64)
        assert rr(*FETCH, "--from", local).code == 0
        self.check_images(open_fetched(project), tiny)
        assert not (project / "data/download").exists()

    def test_downloaded_zip_is_read_in_place(
        self, project: Path, rr: RunRr, tiny: Path, web_folder: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, url = web_folder
        archive = make_archive(tiny, folder / "tiny-imagenet-200.zip")
        monkeypatch.setattr(tiny_imagenet, "URL", f"{url}/tiny-imagenet-200.zip")
        add_dataset(project, {"kind": "tiny_imagenet"}, image_size=64)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "wrong checksum" in outcome.err
        monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
        assert rr(*FETCH).code == 0
        self.check_images(open_fetched(project), tiny)
        assert [path.name for path in (project / "data/download").rglob("*")] == ["mine", "tiny-imagenet-200.zip"]
        assert rr(*FETCH, "--from", "data/download/mine").code == 0
        shutil.rmtree(project / "data/raw")  # without a record, the local copy is not read again
        monkeypatch.setattr(tiny_imagenet, "URL", f"{url}/gone.zip")
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert f"rr: cannot download {url}/gone.zip (the server returned 404" in outcome.err
        assert "Traceback" not in outcome.err

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda root: (root / "train/n02/images/n02_1.JPEG").unlink(), "expected 3 images in train/n02, found 2"),
            (
                lambda root: (root / "train/n02/images/x.JPEG").write_bytes(b""),
                "expected 3 images in train/n02, found 4",
            ),
            (
                lambda root: (root / "val/images/val_3.JPEG").unlink(),
                "val_annotations.txt, line 4: the image 'val_3.JPEG' or the class 'n04' does not exist",
            ),
            (lambda root: (root / "wnids.txt").write_text("n01\nn02\nn03\n"), "expected 4 classes, found 3"),
            (
                lambda root: (root / "wnids.txt").write_text("n01\nn02\nn03\nn09\n"),
                "expected 3 images in train/n09, found 0",
            ),
            (lambda root: (root / "wnids.txt").unlink(), "contains no wnids.txt"),
            (
                lambda root: (root / "words.txt").unlink(),
                "contains no words.txt: delete this copy and download",
            ),
            (
                lambda root: (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t9\t9\n"),
                "expected 6 annotated images in val, found 1",
            ),
            (
                lambda root: (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn77\t0\t0\t9\t9\n"),
                "line 1: the image 'val_0.JPEG' or the class 'n77' does not exist",
            ),
            (
                lambda root: (root / "train/n01/images/n01_0.JPEG").write_bytes(make_jpeg(1)[:400]),
                "n01_0.JPEG: not a readable image",
            ),
        ],
    )
    def test_incomplete_copy_raises(
        self, project: Path, rr: RunRr, tiny: Path, change: Callable, expected: str
    ) -> None:
        change(tiny)
        add_dataset(project, {"kind": "tiny_imagenet", "path": str(tiny)}, image_size=64)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert expected in outcome.err
        assert "Traceback" not in outcome.err
        assert is_nothing_written(project)

    def test_damaged_zip_member_raises(self, project: Path, rr: RunRr, tiny: Path) -> None:
        archive = tiny.parent / "tiny.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for path in tiny.rglob("*.*"):
                file.write(path, path.relative_to(tiny))
        content = archive.read_bytes()
        image = (tiny / "val/images/val_2.JPEG").read_bytes()
        archive.write_bytes(content.replace(image, image[:-1] + b"\0"))
        add_dataset(project, {"kind": "tiny_imagenet"}, image_size=64)
        outcome = rr(*FETCH, "--from", archive)
        assert outcome.code == 2
        assert "is damaged (val/images/val_2.JPEG: Bad CRC-32" in outcome.err
        assert is_nothing_written(project)


@pytest.fixture
def slim(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a SlimageNet64 folder with 3 classes of 10 images."""
    for name, value in (("CLASSES", 3), ("PER_CLASS", 10), ("TRAIN_PER_CLASS", 8)):
        monkeypatch.setattr(slimagenet, name, value)
    root = tmp_path_factory.mktemp("slim") / "SlimageNet64"
    for class_name in ("n03", "n01", "n02"):
        (root / class_name).mkdir(parents=True)
        for i in range(10):
            (root / class_name / f"{class_name}_{i}.png").write_bytes(
                raw.encode_png(np.full((64, 64, 3), 25 * i, np.uint8))
            )
    (root / "README.txt").write_text("not an image")
    return root


def splits_and_labels(data: raw.RawFile) -> dict[str, tuple[str, int]]:
    """Map the class and file name of each image to its split and label."""
    names = ["/".join(name.split("/")[-2:]) for name, _ in data.iter_images()]
    return dict(zip(names, zip(data.splits.tolist(), data.labels.tolist(), strict=True), strict=True))


def replace_with_broken_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("missing")


class TestSlimageNet:
    @pytest.mark.parametrize("form", ["folder", "zip", "tar.gz", "tar.bz2", "few-shot"])
    def test_random_split_depends_only_on_file_names(self, project: Path, rr: RunRr, slim: Path, form: str) -> None:
        expected = {}
        for label, class_name in enumerate(("n01", "n02", "n03")):
            files = sorted(f"{class_name}/{class_name}_{i}.png" for i in range(10))
            chosen = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())[:8]
            expected |= {name: ("train" if name in chosen else "test", label) for name in files}
        bytes_of = {name: (slim / name).read_bytes() for name in expected}
        local = slim
        if form == "few-shot":  # as in the published archive, each folder has different classes
            for part, class_name in (("train", "n01"), ("val", "n02"), ("test", "n03")):
                (slim / part).mkdir()
                (slim / class_name).rename(slim / part / class_name)
        elif form != "folder":
            local = make_archive(slim, slim.parent / f"any.{form}")
        add_dataset(project, {"kind": "slimagenet64", "path": str(local)}, image_size=64)
        assert rr(*FETCH).code == 0
        data = open_fetched(project)
        assert splits_and_labels(data) == expected
        assert data.class_names == ["n01", "n02", "n03"]
        assert {"/".join(name.split("/")[-2:]): content for name, content in data.iter_images()} == bytes_of

    def test_train_and_test_folders_are_the_splits(self, project: Path, rr: RunRr, slim: Path) -> None:
        for class_name in ("n01", "n02", "n03"):
            for i in range(10):
                target = slim / ("test" if i < 2 else "train") / class_name / f"{class_name}_{i}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                (slim / class_name / target.name).rename(target)
        add_dataset(project, {"kind": "slimagenet64"}, image_size=64)
        assert rr(*FETCH, "--from", slim).code == 0
        entries = splits_and_labels(open_fetched(project))
        assert {name for name, (split, _) in entries.items() if split == "test"} == {
            f"{class_name}/{class_name}_{i}.png" for class_name in ("n01", "n02", "n03") for i in range(2)
        }
        (slim / "test/n02/n02_1.png").rename(slim / "train/n02/n02_1.png")
        outcome = rr(*FETCH, "--from", slim)
        assert outcome.code == 2
        assert "expected 8 training images of class n02, found 9: use a copy with one folder per class" in outcome.err
        (slim / "train/n02/n02_1.png").rename(slim / "test/n02/n02_1.png")
        shutil.copytree(slim / "train/n01", slim / "train/n09")
        outcome = rr(*FETCH, "--from", slim)
        assert outcome.code == 2
        assert "train and test must contain the same classes, but these are in only one of them: n09." in outcome.err
        shutil.rmtree(slim / "train/n09")
        (slim / "test/n02/n02_0.png").unlink()
        outcome = rr(*FETCH, "--from", slim)
        assert outcome.code == 2
        assert "expected 10 images of class n02, found 9" in outcome.err

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda root: (root / "n02/n02_4.png").unlink(), "expected 10 images of class n02, found 9"),
            (
                lambda root: shutil.copy(root / "n02/n02_4.png", root / "n02/more.png"),
                "expected 10 images of class n02, found 11",
            ),
            (lambda root: shutil.rmtree(root / "n03"), "expected 3 classes, found 2"),
            (
                lambda root: replace_with_broken_link(root / "n02/n02_4.png"),
                "is incomplete (n02/n02_4.png: a broken link",
            ),
            (lambda root: shutil.rmtree(root), "does not exist"),
            (lambda root: (root / "n02/n02_4.png").write_bytes(b"?"), "n02/n02_4.png: not a readable image"),
        ],
    )
    def test_incomplete_copy_raises(
        self, project: Path, rr: RunRr, slim: Path, change: Callable, expected: str
    ) -> None:
        change(slim)
        add_dataset(project, {"kind": "slimagenet64"}, image_size=64)
        outcome = rr(*FETCH, "--from", slim)
        assert outcome.code == 2
        assert expected in outcome.err
        assert "Traceback" not in outcome.err
        assert is_nothing_written(project)

    def test_missing_copy_raises_with_url(self, project: Path, rr: RunRr) -> None:
        add_dataset(project, {"kind": "slimagenet64"}, image_size=64)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "get it from https://zenodo.org/record/3672132, then pass the archive or folder to --from" in outcome.err


class TestCifar:
    def test_fetch_from_folder_and_from_archive(
        self, project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torchvision.datasets import CIFAR10

        folder = write_cifar10(project / "copy", monkeypatch)
        add_dataset(project, {"kind": "cifar10"}, image_size=32)
        assert rr(*FETCH, "--from", folder).code == 0
        data = open_fetched(project)
        assert data.splits.tolist() == ["train"] * 100 + ["test"] * 20
        assert data.class_names[3] == "class 3"
        first = decode_image(next(data.iter_images())[1])
        official = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0].reshape(3, 32, 32)
        assert np.array_equal(first.transpose(2, 0, 1), official)

        archive = project / CIFAR10.filename
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, CIFAR10.base_folder)
        outcome = rr(*FETCH, "--from", archive)
        assert outcome.code == 2
        assert "wrong checksum" in outcome.err
        for pointer in (archive.with_name("pointer.tar.gz"), folder / "batches.meta"):
            content = pointer.read_bytes() if pointer.exists() else b""
            pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
            outcome = rr(*FETCH, "--from", pointer if pointer.suffix == ".gz" else folder)
            assert f"{pointer} is a Git LFS pointer instead of the file: run `git lfs pull`" in outcome.err
            pointer.write_bytes(content)
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
        assert rr(*FETCH, "--from", archive).code == 0
        add_dataset(project, {"kind": "cifar10", "path": str(archive)}, image_size=32)
        assert rr(*FETCH).code == 0

    @pytest.mark.parametrize(("fraction", "per_class"), [(0.1, 1), (0.25, 2), (0.5, 5)])
    def test_validation_images_replace_the_test_images(
        self, project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, fraction: float, per_class: int
    ) -> None:
        """Every class has ten training images; round(2.5) is 2."""
        folder = write_cifar10(project / "copy", monkeypatch)
        add_dataset(project, {"kind": "cifar10"}, image_size=32)
        assert rr(*FETCH, "--from", folder).code == 0
        official = open_fetched(project)
        train = dict(zip([name for name, _ in official.iter_images()], official.labels, strict=True))
        train = {name: label for name, label in train.items() if name.startswith("train")}
        add_dataset(project, {"kind": "cifar10", "validation_fraction": fraction}, image_size=32)
        outcome = rr(*FETCH, "--from", folder)
        held_out = f"test: {fraction:g} of the training images of each class, held out"
        assert f"train: the other training images; {held_out}" in outcome.out
        data = open_fetched(project)
        names = [name for name, _ in data.iter_images()]
        assert dict(zip(names, data.labels, strict=True)) == train  # all training images, and no official test image
        is_test = data.splits == "test"
        assert np.bincount(data.labels[is_test]).tolist() == [per_class] * 10
        assert np.bincount(data.labels[~is_test]).tolist() == [10 - per_class] * 10

    def test_validation_split_without_images_raises(
        self, project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_cifar10(project / "copy", monkeypatch)
        add_dataset(project, {"kind": "cifar10", "validation_fraction": 0.05}, image_size=32)  # round(0.05 * 10) is 0
        outcome = rr(*FETCH, "--from", folder)
        assert (outcome.code, is_nothing_written(project)) == (2, True)
        assert "validation_fraction 0.05 selects no training images: raise it in params.yaml" in outcome.err

    def test_sizes_with_a_validation_split_are_known_before_the_download(self, project: Path) -> None:
        for kind, fraction, sizes in (
            ("cifar10", 0.1, (45_000, 5_000)),
            ("cifar100", 0.01, (49_500, 500)),
            ("stl10_unlabeled", 0.25, (75_000, 25_000)),
        ):
            add_dataset(project, {"kind": kind, "validation_fraction": fraction})
            labels = find_dataset_labels(load_params(project / "params.yaml"), "mine")
            assert labels is not None
            assert (len(labels.train_labels), len(labels.test_labels)) == sizes

    def test_coarse_labels_of_cifar100(self, project: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision.datasets import CIFAR100

        folder = project / "copy" / CIFAR100.base_folder
        folder.mkdir(parents=True)
        contents = {
            split: {
                "data": np.random.default_rng(1).integers(0, 256, (40, 3072), np.uint8),
                "fine_labels": [i % 100 for i in range(40)],
                "coarse_labels": [(7 * i) % 20 for i in range(40)],
            }
            for split in ("train", "test")
        } | {"meta": {"fine_label_names": list("f" * 100), "coarse_label_names": [f"coarse {i}" for i in range(20)]}}
        md5s = {}
        for name, content in contents.items():
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
            md5s[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setattr(CIFAR100, "train_list", [["train", md5s["train"]]])
        monkeypatch.setattr(CIFAR100, "test_list", [["test", md5s["test"]]])
        monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5s["meta"]})
        add_dataset(project, {"kind": "cifar100_20"}, image_size=32)
        assert rr(*FETCH, "--from", folder).code == 0
        data = open_fetched(project)
        assert data.labels.tolist() == 2 * contents["train"]["coarse_labels"]
        assert data.class_names == contents["meta"]["coarse_label_names"]
        add_dataset(project, {"kind": "cifar100"}, image_size=32)
        assert rr(*FETCH, "--from", folder).code == 0
        assert open_fetched(project).labels.tolist() == 2 * contents["train"]["fine_labels"]

    def test_missing_copy_raises(self, project: Path, rr: RunRr) -> None:
        add_dataset(project, {"kind": "cifar10"})
        assert "does not exist" in rr(*FETCH, "--from", project / "nothing").err
        (project / "empty").mkdir()
        outcome = rr(*FETCH, "--from", project / "empty")
        assert outcome.code == 2
        assert "contains neither cifar-10-python.tar.gz nor" in outcome.err

    def test_download_is_verified_before_unpickling(
        self, project: Path, rr: RunRr, web_folder: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torchvision.datasets import CIFAR10

        folder, url = web_folder
        batches = write_cifar10(folder, monkeypatch)
        good = make_archive(batches, folder / "good.tar.gz")

        (batches / "data_batch_1").write_bytes(pickle.dumps(Malicious()))
        make_archive(batches, folder / "bad.tar.gz")
        add_dataset(project, {"kind": "cifar10"}, image_size=32)
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(good))
        monkeypatch.setattr(CIFAR10, "url", f"{url}/bad.tar.gz")
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "wrong checksum" in outcome.err
        # A file with a wrong MD5 is not unpickled, even if the MD5 of the archive is correct.
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(folder / "bad.tar.gz"))
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "data_batch_1: wrong checksum" in outcome.err
        assert not (project / "executed").exists()
        assert is_nothing_written(project)
        shutil.rmtree(project / "data/download")
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(good))
        monkeypatch.setattr(CIFAR10, "url", f"{url}/good.tar.gz")
        assert rr(*FETCH).code == 0
        assert len(open_fetched(project).labels) == 120
        good.unlink()
        assert rr(*FETCH).code == 0


def test_unknown_dataset_raises(project: Path, rr: RunRr) -> None:
    outcome = rr("fetch", "--dataset", "shape")
    assert outcome.code == 2
    assert outcome.err.strip() == "rr: --dataset: unknown 'shape'; did you mean 'shapes'?"


def test_class_counts_of_a_built_in_dataset_are_recorded(project: Path, rr: RunRr) -> None:
    assert "classes (train + test images): disc (" in rr("fetch", "--dataset", "shapes").out
    record = json.loads((project / "data/raw/shapes/run.json").read_text())
    assert sum(record["images_per_class"]["train"].values()) == 200
    assert record["skipped"] == {}


def test_local_copy_of_generated_images_raises(project: Path, rr: RunRr) -> None:
    outcome = rr("fetch", "--dataset", "shapes", "--from", ".")
    assert (outcome.code, outcome.err) == (
        2,
        "rr: --from .: the source of shapes does not support a local copy: omit --from\n",
    )


def test_params_yaml_has_all_datasets_of_the_paper() -> None:
    datasets = {
        name: (data.source.kind, data.image_size) for name, data in load_params(ROOT / "params.yaml").datasets.items()
    }
    assert datasets == {
        "shapes": ("shapes", 32),
        "digits": ("digits", 32),
        "cifar10": ("cifar10", 32),
        "cifar100": ("cifar100", 32),
        "cifar100-20": ("cifar100_20", 32),
        "stl10": ("stl10", 96),
        "stl10-unlabeled": ("stl10_unlabeled", 96),
        "tiny-imagenet": ("tiny_imagenet", 64),
        "slimagenet64": ("slimagenet64", 64),
    }
