"""One's own pictures and CIFAR: through `rr fetch`, with every mistake a user can make."""

import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import cifar_like
from helpers import Rr, fetched, use
from PIL import Image

from rr.data import raw


def draw(path: Path, colour: str = "red", size: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


class TestImageFolder:
    def test_train_and_test_folders(self, project: Path, rr: Rr) -> None:
        for split, count in (("train", 3), ("val", 2)):
            for kind in ("b cat", "a;dog"):
                for i in range(count):
                    draw(project / "pictures" / split / kind / f"{i} x.png")
        use(project, {"kind": "imagefolder", "path": "pictures"})
        assert rr("fetch", "--dataset", "mine").code == 0
        data = fetched(project)
        assert data.class_names == ["a;dog", "b cat"]
        assert data.splits.tolist() == ["train"] * 6 + ["test"] * 4
        assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
        assert rr("convert", "--dataset", "mine").code == 0

    def test_one_folder_is_split_by_share_of_each_class(self, project: Path, rr: Rr) -> None:
        for kind, count in (("cat", 20), ("dog", 10)):
            for i in range(count):
                draw(project / "pictures" / kind / f"{i}.png", f"#{i:02}{count:02}00")
        use(project, {"kind": "imagefolder", "path": "pictures", "test_share": 0.2})
        assert rr("fetch", "--dataset", "mine").code == 0
        first = fetched(project)
        test = first.labels[first.splits == "test"]
        assert ((test == 0).sum(), (test == 1).sum()) == (4, 2)
        names = dict(zip((name for name, _ in first.pictures()), first.splits, strict=True))
        for copy in ("a.png", "b.png", "c.png"):
            shutil.copy(project / "pictures/cat/0.png", project / "pictures/cat" / copy)
        rr("fetch", "--dataset", "mine")
        again = fetched(project)
        kept = dict(zip((name for name, _ in again.pictures()), again.splits, strict=True))
        assert sum(kept[name] != split for name, split in names.items()) == 0
        assert len({str(kept[f"cat/{name}.png"]) for name in ("0", "a", "b", "c")}) == 1, "a copy stands on both sides"

    def test_a_train_folder_alone_is_split(self, project: Path, rr: Rr) -> None:
        for kind in ("cat", "dog"):
            for i in range(5):
                draw(project / "pictures/train" / kind / f"{i}.png", f"#{i:02}0000")
        use(project, {"kind": "imagefolder", "path": "pictures", "test_share": 0.95})
        assert rr("fetch", "--dataset", "mine").code == 0
        data = fetched(project)
        assert data.class_names == ["cat", "dog"]
        assert sorted(data.labels[data.splits == "train"]) == [0, 1]  # each class keeps one to learn from

    def test_a_name_that_is_no_text_is_escaped(self, project: Path, rr: Rr) -> None:
        for i in range(4):
            draw(project / "pictures/cat" / f"{i}.png", f"#{i:02}0000")
        os.rename(project / "pictures/cat/0.png", os.fsencode(project / "pictures/cat") + b"/\xff.png")
        use(project, {"kind": "imagefolder", "path": "pictures"})
        assert rr("fetch", "--dataset", "mine").code == 0
        assert "cat/\\xff.png" in [name for name, _ in fetched(project).pictures()]

    def test_pictures_without_class_folders_are_unlabelled(self, project: Path, rr: Rr) -> None:
        for i in range(10):
            draw(project / "pictures" / f"{i}.png", f"#{i:02}0000")
        use(project, {"kind": "imagefolder", "path": "pictures"})
        assert rr("fetch", "--dataset", "mine").code == 0
        assert (fetched(project).labels == raw.UNLABELLED).all()
        assert fetched(project).class_names == []

    def test_from_names_another_folder(self, project: Path, rr: Rr) -> None:
        for i in range(10):
            draw(project / "elsewhere/cat" / f"{i}.png", f"#{i:02}0000")
        use(project, {"kind": "imagefolder", "path": "/nowhere"})
        assert rr("fetch", "--dataset", "mine", "--from", "elsewhere").code == 0

    @pytest.mark.parametrize(
        ("prepare", "expected"),
        [
            (lambda place: None, "pictures is not a folder: correct the source's path"),
            (lambda place: place.mkdir(), "pictures holds no picture"),
            (lambda place: (draw(place / "cat/1.png"), (place / "dog").mkdir()), "dog holds no picture"),
            (lambda place: (draw(place / "cat/1.png"), draw(place / "2.png")), "2.png lies beside class folders"),
            (lambda place: (draw(place / "train/cat/1.png"), draw(place / "test/dog/1.png")), "differ: cat, dog"),
        ],
    )
    def test_a_missing_or_empty_folder(self, project: Path, rr: Rr, prepare: Callable, expected: str) -> None:
        prepare(project / "pictures")
        use(project, {"kind": "imagefolder", "path": "pictures"})
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 2
        assert expected in outcome.err
        assert "Traceback" not in outcome.err
        assert not list((project / "data").rglob("*.parquet"))

    @pytest.mark.parametrize(
        "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"GIF89a" + data]
    )
    def test_an_unreadable_picture_is_named_or_skipped(self, project: Path, rr: Rr, damage: Callable) -> None:
        for i in range(10):
            draw(project / "pictures/cat" / f"{i}.png", f"#{i:02}0000", size=(90, 90))
        broken = draw(project / "pictures/cat/broken.png", size=(90, 90))
        broken.write_bytes(damage(broken.read_bytes()))
        use(project, {"kind": "imagefolder", "path": "pictures"})
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 2
        assert "broken.png: not a readable picture" in outcome.err
        assert not list((project / "data").rglob("*.parquet*"))
        use(project, {"kind": "imagefolder", "path": "pictures", "unreadable": "skip"})
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 0
        assert "skipped" in outcome.err
        assert len(fetched(project).labels) == 10
        assert json.loads((project / "data/raw/mine/run.json").read_text())["skipped"] == 1


def table(count: int = 10, **columns: object) -> pa.Table:
    data = raw.encode(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    content = {
        "image": [{"bytes": data + bytes([i]), "path": f"{i}.png"} for i in range(count)],
        "label": [i % 2 for i in range(count)],
    }
    return pa.table({**content, **columns})


class TestParquet:
    def test_a_folder_with_splits_and_class_names(self, project: Path, rr: Rr) -> None:
        names = json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}})
        (project / "set").mkdir()
        for name, count in (("train-00000-of-00002", 6), ("train-00001-of-00002", 4), ("test", 3)):
            pq.write_table(
                table(count).replace_schema_metadata({"huggingface": names}), project / "set" / f"{name}.parquet"
            )
        use(project, {"kind": "parquet", "path": "set"})
        assert rr("fetch", "--dataset", "mine").code == 0
        assert fetched(project).class_names == ["cat", "dog"]
        assert fetched(project).splits.tolist() == ["train"] * 10 + ["test"] * 3

    def test_a_single_file_is_split_by_share(self, project: Path, rr: Rr) -> None:
        pq.write_table(table(200), project / "all.parquet")
        use(project, {"kind": "parquet", "path": "all.parquet", "test_share": 0.3})
        assert rr("fetch", "--dataset", "mine").code == 0
        assert 40 <= (fetched(project).splits == "test").sum() <= 80
        assert len(fetched(project).labels) == 200

    @pytest.mark.parametrize(
        "wrong",
        [
            pa.table({"picture": [1], "label": [0]}),
            pa.table({"image": [b"x"], "label": [0]}),
            pa.table({"image": [{"bytes": b"x"}]}),
            pa.table({"image": [{"bytes": b"x"}], "label": ["cat"]}),
        ],
    )
    def test_other_columns_are_refused(self, project: Path, rr: Rr, wrong: pa.Table) -> None:
        pq.write_table(wrong, project / "all.parquet")
        use(project, {"kind": "parquet", "path": "all.parquet"})
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 2
        assert "the Hugging Face convention is" in outcome.err

    @pytest.mark.parametrize("label", [-2, 2**40])
    def test_a_label_that_is_none_is_refused(self, project: Path, rr: Rr, label: int) -> None:
        pq.write_table(table(20, label=[0] * 19 + [label]), project / "all.parquet")
        use(project, {"kind": "parquet", "path": "all.parquet"})
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 2
        assert f"the label {label} is none" in outcome.err

    def test_no_file_and_no_parquet(self, project: Path, rr: Rr) -> None:
        use(project, {"kind": "parquet", "path": "nothing"})
        assert "no Parquet file there" in rr("fetch", "--dataset", "mine").err
        (project / "x.parquet").write_bytes(b"PAR1 no")
        use(project, {"kind": "parquet", "path": "x.parquet"})
        outcome = rr("fetch", "--dataset", "mine")
        assert outcome.code == 2
        assert "is damaged, or no Parquet file" in outcome.err


class TestCifar:
    def test_from_the_unpacked_folder_and_from_the_archive(
        self, project: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torchvision.datasets import CIFAR10

        folder = cifar_like(project / "copy", monkeypatch)
        use(project, {"kind": "cifar10"}, side=32)
        assert rr("fetch", "--dataset", "mine", "--from", folder).code == 0
        data = fetched(project)
        assert data.splits.tolist() == ["train"] * 100 + ["test"] * 20
        assert data.class_names[3] == "class 3"
        first = raw.decode(next(data.pictures())[1])
        official = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0].reshape(3, 32, 32)
        assert np.array_equal(first.transpose(2, 0, 1), official)

        archive = project / CIFAR10.filename
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(folder, CIFAR10.base_folder)
        outcome = rr("fetch", "--dataset", "mine", "--from", archive)
        assert outcome.code == 2
        assert "wrong checksum" in outcome.err
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
        assert rr("fetch", "--dataset", "mine", "--from", archive).code == 0
        use(project, {"kind": "cifar10", "path": str(archive)}, side=32)
        assert rr("fetch", "--dataset", "mine").code == 0

    def test_the_coarse_labels_of_cifar100_and_their_names(
        self, project: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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
        sums = {}
        for name, content in contents.items():
            (folder / name).write_bytes(pickle.dumps(content, protocol=2))
            sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
        monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
        monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
        use(project, {"kind": "cifar100_20"}, side=32)
        assert rr("fetch", "--dataset", "mine", "--from", folder).code == 0
        found = fetched(project)
        assert found.labels.tolist() == 2 * contents["train"]["coarse_labels"]
        assert found.class_names == contents["meta"]["coarse_label_names"]
        use(project, {"kind": "cifar100"}, side=32)
        assert rr("fetch", "--dataset", "mine", "--from", folder).code == 0
        assert fetched(project).labels.tolist() == 2 * contents["train"]["fine_labels"]

    def test_a_changed_batch_is_refused_and_never_unpickled(
        self, project: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = cifar_like(project / "copy", monkeypatch)
        use(project, {"kind": "cifar10"}, side=32)

        class Malicious:
            def __reduce__(self) -> tuple:
                return Path.touch, (project / "executed",)

        (folder / "data_batch_2").write_bytes(pickle.dumps(Malicious()))
        outcome = rr("fetch", "--dataset", "mine", "--from", folder)
        assert outcome.code == 2
        assert "checksum is wrong" in outcome.err
        assert not (project / "executed").exists()

    def test_a_copy_that_is_not_there(self, project: Path, rr: Rr) -> None:
        use(project, {"kind": "cifar10"})
        assert "does not exist" in rr("fetch", "--dataset", "mine", "--from", project / "nothing").err
        (project / "empty").mkdir()
        outcome = rr("fetch", "--dataset", "mine", "--from", project / "empty")
        assert outcome.code == 2
        assert "holds neither cifar-10-python.tar.gz nor" in outcome.err


def test_an_unknown_dataset_is_named(project: Path, rr: Rr) -> None:
    outcome = rr("fetch", "--dataset", "shape")
    assert outcome.code == 2
    assert outcome.err.strip() == "rr: --dataset shape: unknown in params.yaml; did you mean 'shapes'?"


def test_decoding_needs_no_trust_in_the_file_name() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    assert raw.decode(buffer.getvalue()).shape == (8, 8, 3)
