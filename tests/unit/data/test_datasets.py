"""The paper's data sets, each from a small copy in its exact format, through `rr fetch`."""

import hashlib
import io
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
from archives import cifar_like
from helpers import ROOT, Rr, fetched, use
from PIL import Image

from rr.data import raw
from rr.data.sources import slimagenet, stl10, tiny_imagenet, torchvision_archive
from rr.params import Stl10Source, load

FETCH = ("fetch", "--dataset", "mine")


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which a server on this machine gives its files."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def pixels(data: raw.RawFile) -> np.ndarray:
    return np.stack([raw.decode(content) for _, content in data.pictures()])


def nothing_written(project: Path) -> bool:
    return not list((project / "data").rglob("images.parquet"))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def packed(folder: Path, archive: Path) -> Path:
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
    """STL-10's folder with few random pictures, and the md5 sums that torchvision then lists."""
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
            ("stl10_unlabelled", ("unlabeled", "test"), []),
        ],
    )
    def test_pictures_and_labels_are_torchvisions(
        self, project: Path, rr: Rr, stl: Path, kind: str, parts: tuple, names: list
    ) -> None:
        from torchvision.datasets import STL10

        use(project, {"kind": kind}, side=96)
        assert rr(*FETCH, "--from", stl).code == 0
        train, test = (STL10(stl.parent, split=part) for part in parts)
        data = fetched(project)
        expected = [np.asarray(image) for part in (train, test) for image, _ in part]
        assert np.array_equal(pixels(data), np.stack(expected))
        assert data.splits.tolist() == ["train"] * len(train) + ["test"] * 8
        labels = [-1] * 23 if kind == "stl10_unlabelled" else [*train.labels, *test.labels]
        assert data.labels.tolist() == labels
        assert data.class_names == names
        assert rr("convert", "--dataset", "mine").code == 0

    def test_it_is_downloaded_once(
        self, project: Path, rr: Rr, stl: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torchvision.datasets import STL10

        folder, address = served
        archive = packed(stl, folder / STL10.filename)
        monkeypatch.setattr(STL10, "url", f"{address}/{STL10.filename}")
        use(project, {"kind": "stl10"}, side=96)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "stl10_binary.tar.gz.part: wrong checksum, md5 91f7769df0f17e558f3565bffb0c7dfb expected" in outcome.err
        assert nothing_written(project)
        monkeypatch.setattr(STL10, "tgz_md5", md5(archive))
        assert rr(*FETCH).code == 0
        first = pixels(fetched(project))
        archive.unlink()
        assert rr(*FETCH).code == 0
        # The other data set of the same archive, and an unpacked file that has been damaged since.
        use(project, {"kind": "stl10_unlabelled", "path": "data/download/mine"}, side=96)
        assert rr(*FETCH).code == 0
        use(project, {"kind": "stl10"}, side=96)
        (project / "data/download/mine/unpacked/stl10_binary/train_X.bin").write_bytes(b"")
        assert rr(*FETCH).code == 0
        assert np.array_equal(pixels(fetched(project)), first)

    def test_a_damaged_copy(self, project: Path, rr: Rr, stl: Path) -> None:
        use(project, {"kind": "stl10", "path": str(stl.parent)}, side=96)
        whole = (stl / "test_X.bin").read_bytes()
        content = bytearray(whole)
        content[1000] ^= 1
        (stl / "test_X.bin").write_bytes(content)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "test_X.bin: its checksum is wrong" in outcome.err
        (stl / "test_X.bin").unlink()
        assert "test_X.bin is missing" in rr(*FETCH).err
        use(project, {"kind": "stl10_unlabelled", "path": str(stl)}, side=96)
        assert "test_X.bin is missing" in rr(*FETCH).err
        (stl / "test_X.bin").write_bytes(whole)
        (stl / "class_names.txt").write_text("cat\ndog\n")
        use(project, {"kind": "stl10", "path": str(stl)}, side=96)
        assert "class_names.txt does not list 10 classes" in rr(*FETCH).err
        assert nothing_written(project)

    def test_only_one_picture_is_in_memory(self, stl: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from torchvision.datasets import STL10

        with open(stl / "unlabeled_X.bin", "wb") as file:
            file.truncate(100_000 * 3 * 96 * 96)
        listed = {stl / name: value for name, value in STL10.train_list + STL10.test_list}
        monkeypatch.setattr(torchvision_archive, "md5_of", lambda path: listed[path])
        tracemalloc.start()
        try:
            rows = iter(stl10.pictures(Stl10Source(kind="stl10_unlabelled"), tmp_path, stl).rows)
            assert [next(rows).path for _ in range(3)] == [f"unlabeled/{i}.png" for i in range(3)]
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


def jpeg(seed: int, side: int = 64) -> bytes:
    buffer = io.BytesIO()
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(colours).resize((side, side)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny-ImageNet's folder with 4 classes of 3 pictures and 6 of validation."""
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 4)
    monkeypatch.setattr(tiny_imagenet, "TRAIN_PER_CLASS", 3)
    monkeypatch.setattr(tiny_imagenet, "TEST", 6)
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    numbers = ["n02", "n01", "n04", "n03"]
    for place in (f"train/{number}/images" for number in numbers):
        (root / place).mkdir(parents=True)
    for place in ("val/images", "test/images"):
        (root / place).mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(numbers))
    words = ["n00\tentity", "n01\tgoldfish, Carassius auratus", "n02\tcrane", "n03\tcrane, wading bird", "n04\tbeacon"]
    (root / "words.txt").write_text("".join(f"{line}\n" for line in words))
    for position, number in enumerate(sorted(numbers)):
        (root / f"train/{number}/{number}_boxes.txt").write_text(f"{number}_0.JPEG\t0\t0\t62\t62\n")
        for i in range(3):
            (root / f"train/{number}/images/{number}_{i}.JPEG").write_bytes(jpeg(10 * position + i))
    lines = []
    for i, number in enumerate(["n03", "n01", "n02", "n04", "n01", "n03"]):
        (root / f"val/images/val_{i}.JPEG").write_bytes(jpeg(100 + i))
        (root / f"test/images/test_{i}.JPEG").write_bytes(jpeg(200 + i))
        lines.append(f"val_{i}.JPEG\t{number}\t0\t32\t44\t62\n")
    (root / "val/val_annotations.txt").write_text("".join(lines))
    return root


class TestTinyImageNet:
    def check(self, data: raw.RawFile, root: Path) -> None:
        train = [root / f"train/n0{number}/images/n0{number}_{i}.JPEG" for number in range(1, 5) for i in range(3)]
        expected = [*train, *(root / f"val/images/val_{i}.JPEG" for i in range(6))]
        assert [content for _, content in data.pictures()] == [path.read_bytes() for path in expected]
        assert [name for name, _ in data.pictures()] == [path.relative_to(root).as_posix() for path in expected]
        assert data.splits.tolist() == ["train"] * 12 + ["test"] * 6
        assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 2, 0, 1, 3, 0, 2]
        assert data.class_names == ["goldfish", "crane (n02)", "crane (n03)", "beacon"]

    @pytest.mark.parametrize("form", ["folder", "above", "zip", "flat zip"])
    def test_a_local_copy(self, project: Path, rr: Rr, tiny: Path, form: str) -> None:
        local = tiny if form == "folder" else tiny.parent
        if form.endswith("zip"):
            local = packed(tiny, tiny.parent / "any.zip")
        if form == "flat zip":
            shutil.make_archive(str(local.with_suffix("")), "zip", tiny)
        use(project, {"kind": "tiny_imagenet"}, side=64)
        assert rr(*FETCH, "--from", local).code == 0
        self.check(fetched(project), tiny)
        assert not (project / "data/download").exists()

    def test_it_is_downloaded_and_read_where_it_lies(
        self, project: Path, rr: Rr, tiny: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, address = served
        packed(tiny, folder / "tiny-imagenet-200.zip")
        monkeypatch.setattr(tiny_imagenet, "URL", f"{address}/tiny-imagenet-200.zip")
        use(project, {"kind": "tiny_imagenet"}, side=64)
        assert rr(*FETCH).code == 0
        self.check(fetched(project), tiny)
        assert [path.name for path in (project / "data/download").rglob("*")] == ["mine", "tiny-imagenet-200.zip"]
        assert rr(*FETCH, "--from", "data/download/mine").code == 0
        monkeypatch.setattr(tiny_imagenet, "URL", f"{address}/gone.zip")
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert f"rr: cannot download {address}/gone.zip (the server answers 404" in outcome.err
        assert "Traceback" not in outcome.err

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda root: (root / "train/n02/images/n02_1.JPEG").unlink(), "train/n02 has 2 pictures in place of 3"),
            (
                lambda root: (root / "train/n02/images/x.JPEG").write_bytes(b""),
                "train/n02 has 4 pictures in place of 3",
            ),
            (lambda root: (root / "val/images/val_3.JPEG").unlink(), "val_annotations.txt, line 4: no such picture"),
            (lambda root: (root / "wnids.txt").write_text("n01\nn02\nn03\n"), "lists 3 classes in place of 4"),
            (lambda root: (root / "wnids.txt").write_text("n01\nn02\nn03\nn09\n"), "train/n09 has 0 pictures"),
            (lambda root: (root / "wnids.txt").unlink(), "holds no wnids.txt"),
            (lambda root: (root / "words.txt").unlink(), "words.txt: get it again"),
            (
                lambda root: (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t9\t9\n"),
                "val has 1 annotated pictures in place of 6",
            ),
            (
                lambda root: (root / "val/val_annotations.txt").write_text("val_0.JPEG\tn77\t0\t0\t9\t9\n"),
                "line 1: no such picture or class",
            ),
            (
                lambda root: (root / "train/n01/images/n01_0.JPEG").write_bytes(jpeg(1)[:400]),
                "n01_0.JPEG: not a readable picture",
            ),
        ],
    )
    def test_what_is_missing_is_named(self, project: Path, rr: Rr, tiny: Path, change: Callable, expected: str) -> None:
        change(tiny)
        use(project, {"kind": "tiny_imagenet", "path": str(tiny)}, side=64)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert expected in outcome.err
        assert "Traceback" not in outcome.err
        assert nothing_written(project)

    def test_a_damaged_member_of_the_zip(self, project: Path, rr: Rr, tiny: Path) -> None:
        archive = tiny.parent / "tiny.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for path in tiny.rglob("*.*"):
                file.write(path, path.relative_to(tiny))
        content = archive.read_bytes()
        picture = (tiny / "val/images/val_2.JPEG").read_bytes()
        archive.write_bytes(content.replace(picture, picture[:-1] + b"\0"))
        use(project, {"kind": "tiny_imagenet"}, side=64)
        outcome = rr(*FETCH, "--from", archive)
        assert outcome.code == 2
        assert "is damaged (val/images/val_2.JPEG: Bad CRC-32" in outcome.err
        assert nothing_written(project)


@pytest.fixture
def slim(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SlimageNet64's folder with 3 classes of 10 pictures."""
    for name, value in (("CLASSES", 3), ("PER_CLASS", 10), ("TRAIN_PER_CLASS", 8)):
        monkeypatch.setattr(slimagenet, name, value)
    root = tmp_path_factory.mktemp("slim") / "SlimageNet64"
    for kind in ("n03", "n01", "n02"):
        (root / kind).mkdir(parents=True)
        for i in range(10):
            (root / kind / f"{kind}_{i}.png").write_bytes(raw.encode(np.full((64, 64, 3), 25 * i, np.uint8)))
    (root / "README.txt").write_text("not a picture")
    return root


def split_of(data: raw.RawFile) -> dict[str, tuple[str, int]]:
    """Split and label of each picture, by its class and file."""
    names = ["/".join(name.split("/")[-2:]) for name, _ in data.pictures()]
    return dict(zip(names, zip(data.splits.tolist(), data.labels.tolist(), strict=True), strict=True))


class TestSlimageNet:
    @pytest.mark.parametrize("form", ["folder", "zip", "tar.gz", "tar.bz2", "few-shot"])
    def test_the_split_follows_from_the_names(self, project: Path, rr: Rr, slim: Path, form: str) -> None:
        expected = {}
        for label, kind in enumerate(("n01", "n02", "n03")):
            files = sorted(f"{kind}/{kind}_{i}.png" for i in range(10))
            chosen = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())[:8]
            expected |= {name: ("train" if name in chosen else "test", label) for name in files}
        bytes_of = {name: (slim / name).read_bytes() for name in expected}
        local = slim
        if form == "few-shot":  # the published archive has other classes in each of these
            for part, kind in (("train", "n01"), ("val", "n02"), ("test", "n03")):
                (slim / part).mkdir()
                (slim / kind).rename(slim / part / kind)
        elif form != "folder":
            local = packed(slim, slim.parent / f"any.{form}")
        use(project, {"kind": "slimagenet64", "path": str(local)}, side=64)
        assert rr(*FETCH).code == 0
        data = fetched(project)
        assert split_of(data) == expected
        assert data.class_names == ["n01", "n02", "n03"]
        assert {"/".join(name.split("/")[-2:]): content for name, content in data.pictures()} == bytes_of

    def test_train_and_test_folders_are_used_as_they_are(self, project: Path, rr: Rr, slim: Path) -> None:
        for kind in ("n01", "n02", "n03"):
            for i in range(10):
                target = slim / ("test" if i < 4 else "train") / kind / f"{kind}_{i}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                (slim / kind / target.name).rename(target)
        use(project, {"kind": "slimagenet64"}, side=64)
        assert rr(*FETCH, "--from", slim).code == 0
        found = split_of(fetched(project))
        assert {name for name, (split, _) in found.items() if split == "test"} == {
            f"{kind}/{kind}_{i}.png" for kind in ("n01", "n02", "n03") for i in range(4)
        }
        shutil.copytree(slim / "train/n01", slim / "train/n09")
        outcome = rr(*FETCH, "--from", slim)
        assert outcome.code == 2
        assert "train and test have different classes (n09" in outcome.err

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda root: (root / "n02/n02_4.png").unlink(), "class n02 has 9 pictures in place of 10"),
            (lambda root: shutil.copy(root / "n02/n02_4.png", root / "n02/more.png"), "class n02 has 11 pictures"),
            (lambda root: shutil.rmtree(root / "n03"), "has 2 classes in place of 3"),
            (lambda root: shutil.rmtree(root), "does not exist"),
            (lambda root: (root / "n02/n02_4.png").write_bytes(b"?"), "n02/n02_4.png: not a readable picture"),
        ],
    )
    def test_what_is_missing_is_named(self, project: Path, rr: Rr, slim: Path, change: Callable, expected: str) -> None:
        change(slim)
        use(project, {"kind": "slimagenet64"}, side=64)
        outcome = rr(*FETCH, "--from", slim)
        assert outcome.code == 2
        assert expected in outcome.err
        assert "Traceback" not in outcome.err
        assert nothing_written(project)

    def test_without_a_copy_it_says_where_to_get_one(self, project: Path, rr: Rr) -> None:
        use(project, {"kind": "slimagenet64"}, side=64)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert (
            "get it from https://zenodo.org/record/3672132, then name the archive or folder with --from" in outcome.err
        )


class TestCifar:
    def test_a_download_is_compared_before_it_is_unpickled(
        self, project: Path, rr: Rr, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torchvision.datasets import CIFAR10

        folder, address = served
        batches = cifar_like(folder, monkeypatch)
        good = packed(batches, folder / "good.tar.gz")

        class Malicious:
            def __reduce__(self) -> tuple:
                return Path.touch, (project / "executed",)

        (batches / "data_batch_1").write_bytes(pickle.dumps(Malicious()))
        packed(batches, folder / "bad.tar.gz")
        use(project, {"kind": "cifar10"}, side=32)
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(good))
        monkeypatch.setattr(CIFAR10, "url", f"{address}/bad.tar.gz")
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "wrong checksum" in outcome.err
        # Even an archive of the right md5 is no reason to unpickle a file of a wrong one.
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(folder / "bad.tar.gz"))
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert "data_batch_1: its checksum is wrong" in outcome.err
        assert not (project / "executed").exists()
        assert nothing_written(project)
        shutil.rmtree(project / "data/download")
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(good))
        monkeypatch.setattr(CIFAR10, "url", f"{address}/good.tar.gz")
        assert rr(*FETCH).code == 0
        assert len(fetched(project).labels) == 120
        good.unlink()
        assert rr(*FETCH).code == 0

    def test_a_network_that_stays_away(self, project: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch) -> None:
        from torchvision.datasets import CIFAR10

        from rr.data import download

        monkeypatch.setattr(download, "WAITS", ())
        monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
        use(project, {"kind": "cifar10"}, side=32)
        outcome = rr(*FETCH)
        assert outcome.code == 2
        assert outcome.err.startswith("rr: cannot download http://127.0.0.1:9/cifar-10-python.tar.gz (")
        assert "check the network" in outcome.err


def test_params_yaml_has_all_data_sets_of_the_paper() -> None:
    found = {name: (data.source.kind, data.side) for name, data in load(ROOT / "params.yaml").datasets.items()}
    assert found == {
        "shapes": ("shapes", 32),
        "cifar10": ("cifar10", 32),
        "cifar100": ("cifar100", 32),
        "cifar100-20": ("cifar100_20", 32),
        "stl10": ("stl10", 96),
        "stl10-unlabelled": ("stl10_unlabelled", 96),
        "tiny-imagenet": ("tiny_imagenet", 64),
        "slimagenet64": ("slimagenet64", 64),
    }
