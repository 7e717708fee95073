"""Tests of `rr embed` and `rr retrieve`: vectors, search results, index, page and error messages."""

import base64
import errno
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import ROOT, RunRr, write_params
from hypothesis import given
from hypothesis import strategies as st
from networks import random_backbone
from PIL import Image
from safetensors import safe_open

from rr import paths
from rr.backbones.weights import load_backbone, save_backbone
from rr.data import image_decoding
from rr.data.image_decoding import decode_image
from rr.data.printable_names import display_name
from rr.data.skipped_files import SkippedFiles
from rr.evaluate.feature_extraction import extract_features
from rr.evaluate.relation_head import load_relation_head
from rr.gallery import feature_extractor, index_file, map_page
from rr.gallery import images as gallery_images
from rr.gallery.feature_extractor import FeatureExtractor, load_feature_extractor
from rr.gallery.images import ImageFile
from rr.gallery.pair_scorer import load_pair_scorer
from rr.methods.relation import RelationHead
from rr.params import DatasetConfig, ShapesSource
from rr.runtime.hashing import code_sha256, file_sha256
from rr.runtime.weights_lookup import FOLDER as RELEASED

IMAGE_SIZE, MEAN, STD = 32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
DATASET = DatasetConfig(
    source=ShapesSource(kind="shapes", train=10, test=10, seed=0), image_size=IMAGE_SIZE, mean=MEAN, std=STD
)

pytestmark = pytest.mark.usefixtures("single_torch_thread")


def make_image(seed: int, size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE)) -> Image.Image:
    """Return an image of 16 random colors, blended into each other."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with weights `w` and a gallery `g` of six images, but without params.yaml."""
    monkeypatch.chdir(tmp_path)
    save_backbone(random_backbone("conv4"), tmp_path / "w", DATASET)
    (tmp_path / "g/deep/er").mkdir(parents=True)
    for seed, name in enumerate(["b.png", "a.PNG", "deep/c.png", "deep/er/d.png", "deep/e.bmp", "f.webp"]):
        make_image(seed).save(tmp_path / "g" / name, lossless=True)
    return tmp_path


def list_images(folder: Path) -> list[ImageFile]:
    return gallery_images.list_images(folder, SkippedFiles("raise", ""))


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_vectors(table: Any) -> np.ndarray:
    return np.array(table["vector"].to_pylist(), np.float32)


class FakeBeton:
    """The part of `Beton` that `extract_features` uses."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: range, size: int) -> Iterator[np.ndarray]:
        yield self.images[np.asarray(order)]


def expected_vectors(weights: Path, paths: list[Path]) -> np.ndarray:
    """Return the features as `rr evaluate` computes them."""
    images = np.stack([decode_image(path.read_bytes(), IMAGE_SIZE) for path in paths])
    return extract_features(load_backbone(weights), FakeBeton(images), DATASET, "cpu").numpy()  # type: ignore[arg-type]


def test_equal_features_of_all_images_cause_a_warning(folder: Path, rr: RunRr) -> None:
    backbone = random_backbone("conv4")
    backbone.load_state_dict({key: torch.zeros_like(value) for key, value in backbone.state_dict().items()})
    save_backbone(backbone, folder / "zero", DATASET)
    warning = "all 6 images have the same features: if the images differ, the weights are unusable (zero); use other"
    for _ in range(2):  # the second time, the features are in the index
        assert warning in rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "zero").err
    assert warning in rr("embed", "g", "-o", "f.parquet", "--weights", "zero").err
    assert "same features" not in rr("embed", "g", "-o", "f2.parquet", "--weights", "w").err


def test_embed_writes_the_features_of_evaluate(folder: Path, rr: RunRr) -> None:
    for name in ("g/.hidden.png", "g/.folder/x.png", "g/notes.txt", "g/paper.pdf"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"not an image")
    outcome = rr("embed", "g", "-o", "f.parquet", "--weights", "w")
    assert outcome.code == 0
    assert outcome.out.splitlines() == [
        "f.parquet: 6 images, 64 features",
        "skipped 2 files: hidden (.png 2)",
        "skipped 1 file: in a format that Pillow cannot read (.pdf 1); convert photographs to JPEG to use them",
        "skipped 1 file: not an image (.txt 1)",
    ]
    table = pq.read_table("f.parquet")
    names = table["path"].to_pylist()
    assert names == ["a.PNG", "b.png", "deep/c.png", "deep/e.bmp", "deep/er/d.png", "f.webp"]
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
    assert table["vector"].type.list_size == 64
    expected = expected_vectors(Path("w"), [Path("g", name) for name in names])
    assert np.abs(read_vectors(table) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert table["size"].to_pylist() == [Path("g", name).stat().st_size for name in names]
    assert table["modified"].to_pylist() == [Path("g", name).stat().st_mtime_ns for name in names]
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata.pop("absolute_folder") == str((folder / "g").resolve())
    assert metadata == {
        "weights": file_sha256(Path("w")), "backbone": "conv4", "side": "32", "mean": "[0.5, 0.4, 0.3]",
        "std": "[0.25, 0.2, 0.3]", "folder": "g", "decoding_code": code_sha256(Path(image_decoding.__file__)),
    }  # fmt: skip


def save_every_mode(folder: Path) -> None:
    """Save an image of every mode that `rr.data.image_decoding` supports."""
    base = make_image(1, (48, 40))
    base.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    base.convert("L").save(folder / "gray.png")
    base.convert("1").save(folder / "bits.png")
    base.convert("CMYK").save(folder / "cmyk.jpg")
    alpha = base.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(base.size))
    alpha.save(folder / "alpha.png")
    Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48) * 30).save(folder / "wide.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    base.save(folder / "rotated.png", exif=exif)
    base.rotate(-90, expand=True).save(folder / "turned.png")


def test_images_of_every_mode_are_embedded(folder: Path, rr: RunRr) -> None:
    Path("m").mkdir()
    save_every_mode(Path("m"))
    assert rr("embed", "m", "-o", "f.parquet", "--weights", "w").out.startswith("f.parquet: 8 images")
    table = pq.read_table("f.parquet")
    names = table["path"].to_pylist()
    vector_by_name = dict(zip(names, read_vectors(table), strict=True))
    expected = expected_vectors(Path("w"), [Path("m", name) for name in names])
    assert np.abs(read_vectors(table) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.allclose(vector_by_name["rotated.png"], vector_by_name["turned.png"], atol=1e-6)
    assert len({vector.tobytes() for vector in vector_by_name.values()}) == 7  # the other images differ


def test_batch_size_does_not_change_the_vectors(folder: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    rr("embed", "g", "-o", "one.parquet", "--weights", "w")
    monkeypatch.setattr(feature_extractor, "_MAX_BATCH_IMAGES", 4)
    outcome = rr("embed", "g", "-o", "two.parquet", "--weights", "w")
    assert "6 images" in outcome.out
    one, two = pq.read_table("one.parquet"), pq.read_table("two.parquet")
    assert pq.ParquetFile("two.parquet").num_row_groups == 2
    assert one["path"] == two["path"]
    assert np.allclose(read_vectors(one), read_vectors(two), rtol=0, atol=1e-6 * np.abs(read_vectors(one)).max())


def test_unreadable_images_raise_in_one_error_or_are_skipped(folder: Path, rr: RunRr) -> None:
    Path("g/deep/bad.jpg").write_bytes(b"not an image")
    outcome = rr("embed", "g", "-o", "f.parquet", "--weights", "w")
    assert outcome.code == 2
    assert outcome.err.startswith(
        "rr: g/deep/bad.jpg: not a readable image (Pillow does not recognize its format): "
        "repair or remove it, or add --on-unreadable skip"
    )
    for number in range(12):
        Path(f"g/bad{number}.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    Path("g/nowhere.png").symlink_to("../.git/annex/objects/xy")
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "w")
    for arguments in (("embed", "g", "-o", "f.parquet", "--weights", "w"), ask):
        outcome = rr(*arguments)
        assert outcome.code == 2
        assert outcome.err.startswith("rr: 14 images cannot be read:\n  g/nowhere.png: a broken link; run ")
        assert (
            "g/bad0.jpg: not a readable image (a Git LFS pointer instead of the file; run `git lfs pull`)"
            in outcome.err
        )
        assert outcome.err.endswith("and 4 more\nrepair or remove them, or add --on-unreadable skip\n")
        assert not Path("f.parquet").exists()
        assert not list(Path().rglob("*.tmp*"))
    outcome = rr("embed", "g", "-o", "f.parquet", "--weights", "w", "--on-unreadable", "skip")
    assert outcome.out.splitlines() == [
        "f.parquet: 6 images, 64 features",
        "skipped 12 files: a Git LFS pointer (.jpg 12)",
        "skipped 1 file: a broken link (.png 1)",
        "skipped 1 file: an image that cannot be decoded (.jpg 1)",
    ]
    assert "skipped g/deep/bad.jpg: not a readable image" in outcome.err


def test_index_is_kept_if_images_cannot_be_read(folder: Path, rr: RunRr) -> None:
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "w")
    for number, command in enumerate((("embed", "g", "-o", "f.parquet", "--weights", "w"), ask)):
        make_image(40 + number).save("g/new.png")
        Path("g/bad.jpg").write_bytes(b"")
        assert "rr: g/bad.jpg: not a readable image (the file is empty)" in rr(*command).err
        outcome = rr(*ask, "--on-unreadable", "skip")
        assert num_embedded(outcome.out) == 0
        assert outcome.out.endswith("skipped 1 file: an empty file (.jpg 1)\n")
        Path("g/bad.jpg").unlink()
        assert len(parse_tables(rr(*ask).out)["g/b.png"]) == 6
    make_image(9).save("g/bad.jpg")
    assert num_embedded(rr(*ask).out) == 1


@pytest.mark.parametrize("command", ["embed", "retrieve"])
def test_vectors_are_kept_after_an_interruption(
    folder: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The second attempt computes only the vectors that are missing, and the others do not change."""
    output = ["-o", "f.parquet"] if command == "embed" else ["g/b.png", "--index", "f.parquet", "--gallery"]
    arguments = (command, *output, "g", "--weights", "w")
    num_queries = int(command == "retrieve")  # their features are extracted first
    assert rr(*arguments).code == 0
    expected = pq.read_table("f.parquet")
    for name in ("f.png", "z.png"):
        make_image(50).save(f"g/{name}")
    extract = FeatureExtractor.extract
    sizes: list[int] = []

    def interrupted_extract(self: FeatureExtractor, images: np.ndarray) -> np.ndarray:
        if len(sizes) == num_queries + 1:
            raise KeyboardInterrupt
        sizes.append(len(images))
        return extract(self, images)

    with monkeypatch.context() as context:
        context.setattr(feature_extractor, "_MAX_BATCH_IMAGES", 1)
        context.setattr(FeatureExtractor, "extract", interrupted_extract)
        assert rr(*arguments).code == 130
    sizes.clear()
    monkeypatch.setattr(
        FeatureExtractor, "extract", lambda self, images: sizes.append(len(images)) or extract(self, images)
    )
    assert rr(*arguments).code == 0
    assert sum(sizes) == num_queries + 1
    table = pq.read_table("f.parquet")
    names = table["path"].to_pylist()
    assert names == sorted([*expected["path"].to_pylist(), "f.png", "z.png"])
    assert table.filter(~np.isin(names, ["f.png", "z.png"])).equals(expected)
    assert not list(Path().rglob("*.tmp*"))


@pytest.mark.parametrize("command", ["embed", "retrieve"])
def test_embed_uses_the_vectors_of_an_earlier_command(
    folder: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    rr("embed", "g", "-o", "before.parquet", "--weights", "w")
    if command == "retrieve":
        shutil.rmtree(".rr")
        rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "w")
    make_image(40).save("g/c.png")
    sizes = []
    extract = feature_extractor.FeatureExtractor.extract
    monkeypatch.setattr(
        feature_extractor.FeatureExtractor,
        "extract",
        lambda self, images: sizes.append(len(images)) or extract(self, images),
    )
    assert "7 images" in rr("embed", "g", "-o", "after.parquet", "--weights", "w").out
    assert sizes == [1]
    before, after = pq.read_table("before.parquet"), pq.read_table("after.parquet")
    assert after["path"].to_pylist() == sorted([*before["path"].to_pylist(), "c.png"])
    assert after.filter(np.array(after["path"].to_pylist()) != "c.png").equals(before)


def test_several_queries_that_cannot_be_read_are_all_reported(folder: Path, rr: RunRr) -> None:
    for name in ("q1.png", "q2.png"):
        Path(name).write_bytes(b"")
    outcome = rr("retrieve", "q1.png", "q2.png", "--gallery", "g", "--weights", "w")
    assert outcome.err.startswith("rr: 2 images cannot be read:\n  q1.png: not a readable image (the file is empty)\n")
    outcome = rr("retrieve", "none1.png", "none2.png", "--gallery", "g", "--weights", "w")
    assert outcome.err.startswith("rr: none1.png, none2.png do not exist or are not files")


def parse_tables(out: str) -> dict[str, list[tuple[int, float, str]]]:
    """Return the rows (rank, similarity, path) of the tables that `rr retrieve` prints, by query."""
    tables = {}
    for block in out.split("\n\n")[:-1]:
        query, heading, *lines = block.split("\n")
        assert heading.split() == ["rank", "similarity", "percentile", "path"]
        rows = [line.split(None, 3) for line in lines]
        assert all(0 <= float(percentile.replace("–", "0")) <= 100 for _, _, percentile, _ in rows)
        tables[query] = [(int(rank), float(similarity), name) for rank, similarity, _, name in rows]
    return tables


def num_embedded(out: str) -> int:
    match = re.search(r"^\d+\.\d{3} s to search .*; computed the features of ([\d,]+) ", out, re.MULTILINE)
    assert match, out
    return int(match[1])


def test_retrieve_matches_scikit_learn(folder: Path, rr: RunRr) -> None:
    from sklearn.neighbors import NearestNeighbors

    make_image(20, (90, 50)).save("q.png")
    shutil.copy("g/deep/c.png", "copy.png")  # a query is not among its own results, but a copy of it is
    outcome = rr("retrieve", "q.png", "copy.png", "--gallery", "g", "--weights", "w", "--top", 4)
    assert outcome.code == 0
    names = [image.name for image in list_images(Path("g"))]
    gallery = expected_vectors(Path("w"), [Path("g", name) for name in names])
    fitted = NearestNeighbors(n_neighbors=4, metric="cosine").fit(gallery)
    distances, positions = fitted.kneighbors(expected_vectors(Path("w"), [Path("q.png"), Path("g/deep/c.png")]))
    tables = parse_tables(outcome.out)
    assert list(tables) == ["q.png", "copy.png"]
    for rows, row_distances, row_positions in zip(tables.values(), distances, positions, strict=True):
        assert [row[0] for row in rows] == [1, 2, 3, 4]
        assert [row[2] for row in rows] == [names[i] for i in row_positions]
        assert [row[1] for row in rows] == pytest.approx(list(1 - row_distances), abs=1e-4)
    assert tables["copy.png"][0] == (1, 1.0, "deep/c.png")


def test_index_is_reused_and_updated(folder: Path, rr: RunRr) -> None:
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "w")
    first = rr(*ask)
    assert num_embedded(first.out) == 6
    (index_path,) = Path(".rr/gallery").iterdir()
    modified = index_path.stat().st_mtime_ns
    again = rr(*ask)
    assert num_embedded(again.out) == 0
    assert parse_tables(again.out) == parse_tables(first.out)
    assert index_path.stat().st_mtime_ns == modified

    make_image(30).save("g/new.png")
    assert num_embedded(rr(*ask).out) == 1
    make_image(31).save("g/b.png")  # changed
    outcome = rr(*ask)
    assert num_embedded(outcome.out) == 1
    shutil.copy("g/b.png", "copy.png")
    copied = rr("retrieve", "copy.png", *ask[2:]).out
    assert parse_tables(copied)["copy.png"][0] == (1, 1.0, "b.png")
    info = Path("g/b.png").stat()
    os.utime("g/b.png", ns=(info.st_atime_ns, info.st_mtime_ns + 1))  # a change of 1 ns is detected
    assert num_embedded(rr(*ask).out) == 1
    Path("g/deep/c.png").unlink()
    outcome = rr(*ask)
    assert num_embedded(outcome.out) == 0
    assert len(parse_tables(outcome.out)["g/b.png"]) == 5
    assert "deep/c.png" not in outcome.out
    assert "deep/c.png" not in pq.read_table(index_path)["path"].to_pylist()
    Path("g/deep/e.bmp").rename("g/deep/moved.bmp")
    assert num_embedded(rr(*ask).out) == 1

    assert len(list(Path(".rr/gallery").iterdir())) == 1
    updated = pq.read_table(index_path)
    index_path.unlink()  # rr embed would use its vectors
    rr("embed", "g", "-o", "fresh.parquet", "--weights", "w")
    fresh = pq.read_table("fresh.parquet")
    assert fresh.drop_columns("vector").equals(updated.drop_columns("vector"))
    assert np.allclose(read_vectors(fresh), read_vectors(updated), rtol=0, atol=1e-5)


def test_other_folder_weights_or_image_size_has_another_index(folder: Path, rr: RunRr) -> None:
    save_backbone(random_backbone("conv4"), folder / "w64", DATASET.model_copy(update={"image_size": 64}))
    Path("other").symlink_to("g/deep")
    ask = ("retrieve", "g/b.png", "--gallery")
    counts = [num_embedded(rr(*ask, *rest).out) for rest in (("g", "--weights", "w"), ("g", "--weights", "w64"))]
    counts += [num_embedded(rr(*ask, name, "--weights", "w").out) for name in ("other", "g/deep", f"{folder}/g")]
    assert counts == [6, 6, 3, 0, 0]  # a link and an absolute path lead to the same folder
    assert len(list(Path(".rr/gallery").iterdir())) == 3


def test_output_of_embed_is_a_valid_index(folder: Path, rr: RunRr) -> None:
    rr("embed", "g", "-o", "f.parquet", "--weights", "w")
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--index", "f.parquet", "--weights")
    assert num_embedded(rr(*ask, "w").out) == 0
    save_backbone(random_backbone("conv4"), folder / "w64", DATASET.model_copy(update={"image_size": 64}))
    outcome = rr(*ask, "w64")
    assert num_embedded(outcome.out) == 6
    assert (
        "the index f.parquet was written with different settings (weights, image size) and will be rebuilt"
        in outcome.err
    )
    # Files with the same name, size and time in a different folder are different images.
    outcome = rr("retrieve", "g/b.png", "--gallery", "g/deep", "--index", "f.parquet", "--weights", "w64")
    assert "different settings (folder)" in outcome.err


def test_index_is_rebuilt_if_the_decoding_code_changes(
    folder: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--index", "i.parquet", "--weights", "w")
    assert num_embedded(rr(*ask).out) == 6
    code = Path(image_decoding.__file__).read_text()
    changed = Path("image_decoding.py")
    monkeypatch.setattr(image_decoding, "__file__", str(changed))
    changed.write_text(f"{code}\n# a comment\n")
    assert num_embedded(rr(*ask).out) == 0
    changed.write_text(code.replace("BICUBIC", "LANCZOS"))
    outcome = rr(*ask)
    assert "the index i.parquet was written with different settings (decoding code) and will be rebuilt" in outcome.err
    assert num_embedded(outcome.out) == 6


@pytest.mark.parametrize("modified", [0, 10**19 // 2])
def test_files_that_swap_their_names_are_embedded_again(folder: Path, rr: RunRr, modified: int) -> None:
    """Both have the same size and modification time."""
    Path("b").mkdir()
    for number in range(2):
        make_image(number).resize((8, 8)).save(f"b/{number}.bmp")
        os.utime(f"b/{number}.bmp", ns=(modified, modified))
    rr("embed", "b", "-o", "before.parquet", "--weights", "w")
    for old, new in (("0.bmp", "t"), ("1.bmp", "0.bmp"), ("t", "1.bmp")):
        os.rename(f"b/{old}", f"b/{new}")
    rr("embed", "b", "-o", "after.parquet", "--weights", "w")
    before, after = (read_vectors(pq.read_table(f"{name}.parquet")) for name in ("before", "after"))
    assert np.array_equal(after, before[::-1])
    assert not np.array_equal(after, before)


def test_damaged_index_is_rebuilt(folder: Path, rr: RunRr) -> None:
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "w", "--index", "i.parquet")
    first = parse_tables(rr(*ask).out)
    content = Path("i.parquet").read_bytes()
    flipped = bytearray(content)
    vector = pq.ParquetFile("i.parquet").metadata.row_group(0).column(1)
    flipped[vector.data_page_offset + vector.total_compressed_size // 2] ^= 4
    for damaged in (b"", content[:4], content[: len(content) // 2], content[:-1], bytes(flipped)):
        Path("i.parquet").write_bytes(damaged)
        outcome = rr(*ask)
        assert outcome.code == 0
        assert "the index i.parquet is damaged" in outcome.err
        assert "and will be rebuilt" in outcome.err
        assert num_embedded(outcome.out) == 6
        assert parse_tables(outcome.out) == first
        assert num_embedded(rr(*ask).out) == 0


def test_index_does_not_overwrite_other_files(folder: Path, rr: RunRr) -> None:
    Path("letter").write_text("dear all")
    shutil.copy("letter", "letter.parquet")
    pq.write_table(pa.table({"a": [1, 2]}), "x.parquet")
    before = read_files(folder)
    for name in ("letter", "letter.parquet", "x.parquet", "g", "w", "g/b.png"):
        outcome = rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "w", "--index", name)
        assert outcome.code == 2
        assert f"--index {name}" in outcome.err
    assert read_files(folder) == before


def test_index_in_a_read_only_folder_is_used(folder: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message says that new features are not stored."""
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "w")
    expected = rr(*ask).out
    before = read_files(folder)

    def touch(path: Path, **_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(Path, "touch", touch)
    outcome = rr(*ask)
    assert (parse_tables(outcome.out), outcome.err) == (parse_tables(expected), "")
    make_image(40).save("g/new.png")
    outcome = rr(*ask)
    assert (outcome.code, num_embedded(outcome.out)) == (0, 1)
    assert "the folder that contains the index .rr/gallery/" in outcome.err
    assert ".parquet is read-only, so new features are not stored" in outcome.err
    Path("g/new.png").unlink()
    assert read_files(folder) == before


def test_two_processes_can_write_an_index_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start and end a second writer while the first is writing; the file is complete at all times."""
    extractor = load_feature_extractor(Path("w"), None, "cpu")
    batch = index_file.ImageVectors(list_images(Path("g")), np.zeros((6, 64), np.float32))
    target, pid = folder / "i.parquet", os.getpid()
    skipped = SkippedFiles("raise", "")

    def batches_of_first_process() -> Iterator[index_file.ImageVectors]:
        yield batch
        monkeypatch.setattr(os, "getpid", lambda: pid + 1)
        assert index_file.write_index(target, extractor, Path("g"), [batch], skipped) == 6
        assert len(index_file.read_index(target, extractor, Path("g")).vectors) == 6
        monkeypatch.setattr(os, "getpid", lambda: pid)
        yield batch

    assert index_file.write_index(target, extractor, Path("g"), batches_of_first_process(), skipped) == 12
    assert len(index_file.read_index(target, extractor, Path("g")).vectors) == 12
    assert sorted(entry.name for entry in folder.iterdir()) == ["g", "i.parquet", "w"]


UNUSUAL_NAMES = ["two words.png", 'it\'s "quoted".png', "<b>bold.png", '"><img alt=x>.png', "new\nline.png", "bär.png"]
UNUSUAL_NAMES += ["\x1b[31mred.png"]


def save_unusual_names(folder: Path) -> list[str]:
    """Save images with unusual names; return the names as the `path` column should contain them."""
    folder.mkdir()
    for seed, name in enumerate(UNUSUAL_NAMES):
        make_image(seed).save(folder / name)
    make_image(70).save(folder / os.fsdecode(b"caf\xe9.png"))
    return sorted([*UNUSUAL_NAMES, "caf\\xe9.png"])


def test_unusual_names_are_escaped(folder: Path, rr: RunRr) -> None:
    names = save_unusual_names(Path("s"))
    rr("embed", "s", "-o", "f.parquet", "--weights", "w")
    assert pq.read_table("f.parquet")["path"].to_pylist() == names
    odd = Path("s", os.fsdecode(b"caf\xe9.png"))
    ask = ("retrieve", odd, "s/new\nline.png", "--gallery", "s", "--weights", "w")
    outcome = rr(*ask)
    assert outcome.code == 0, outcome.err
    tables = parse_tables(outcome.out)
    assert tables.keys() == {"s/caf\\xe9.png", "s/new\\nline.png"}
    for query, rows in tables.items():
        assert {row[2] for row in rows} == {*map(display_name, names)} - {query.removeprefix("s/")}
    assert "\x1b" not in outcome.out
    assert num_embedded(rr(*ask).out) == 0


def test_files_with_the_same_displayed_name_are_distinguished(folder: Path, rr: RunRr) -> None:
    Path("s").mkdir()
    names = {b"a\xff.bmp": r"a\xff.bmp", b"a\\xff.bmp": r"a\x5cxff.bmp", b"a\\x5cxff.bmp": r"a\x5cx5cxff.bmp"}
    names |= {b"a\\\xff.bmp": r"a\\xff.bmp", b"a\\xyz.bmp": r"a\xyz.bmp"}
    for seed, name in enumerate(names):
        make_image(seed).save(Path("s", os.fsdecode(name)))
        os.utime(os.path.join(b"s", name), ns=(0, 0))
    assert {os.fsencode(image.path.name): image.name for image in list_images(Path("s"))} == names
    for query in names:
        shutil.copy(Path("s", os.fsdecode(query)), "copy.bmp")
        ask = ("retrieve", "copy.bmp", "--gallery", "s", "--weights", "w")
        for _ in range(2):
            (rows,) = parse_tables(rr(*ask).out).values()
            assert rows[0][1] == 1.0
            assert rows[1][1] < 1.0


class PageParser(HTMLParser):
    """Collect the alt texts, URLs, tags and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.alts: list[str] = []
        self.urls: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.add(tag)
        self.alts += [attributes["alt"] or ""] if tag == "img" else []
        self.urls += [attributes[key] or "" for key in ("src", "href") if key in attributes]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_self_contained_and_escapes_names(folder: Path, rr: RunRr) -> None:
    names = [display_name(name) for name in save_unusual_names(Path("s"))]
    make_image(90, (900, 300)).save("q.jpg")
    outcome = rr("retrieve", "q.jpg", "--gallery", "s", "--weights", "w", "--output", "page.html")
    assert outcome.code == 0
    assert "; page written to page.html" in outcome.out
    html = Path("page.html").read_text()
    page = PageParser()
    page.feed(html)
    assert page.alts[0] == "q.jpg"
    assert page.alts[1:] == [row[2] for row in parse_tables(outcome.out)["q.jpg"]]
    assert sorted(page.alts[1:]) == sorted(names)
    assert all(name in page.text for name in names)
    assert all(url.startswith("data:") for url in page.urls)
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r'"data:[^"]*"', "", html))
    assert "b" not in page.tags
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


def test_top_above_gallery_size_lists_all_images(folder: Path, rr: RunRr) -> None:
    outcome = rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "w", "--top", 1000)
    assert outcome.code == 0
    assert sorted(row[2] for row in parse_tables(outcome.out)["g/b.png"]) == [
        "a.PNG", "deep/c.png", "deep/e.bmp", "deep/er/d.png", "f.webp",
    ]  # fmt: skip


def test_query_is_not_among_its_own_results(folder: Path, rr: RunRr) -> None:
    Path("link.png").symlink_to("g/b.png")
    shutil.copy2("g/b.png", "g/copy.png")  # has the size and the time of the original
    for query in ("g/b.png", folder / "g/b.png", "link.png"):
        (rows,) = parse_tables(rr("retrieve", query, "--gallery", "g", "--weights", "w", "--top", 1).out).values()
        assert rows == [(1, 1.0, "copy.png")]


@pytest.mark.parametrize(("count", "is_known"), [(1, False), (4, False), (5, True)])
def test_few_images_have_no_percentiles(folder: Path, rr: RunRr, count: int, is_known: bool) -> None:
    Path("few").mkdir()
    for seed in range(count):
        make_image(seed).save(f"few/{seed}.png")
    ask = ("retrieve", "g/b.png", "--gallery", "few", "--weights", "w")
    outcome = rr(*ask, "--output", "page.html")
    assert (outcome.out.split("\n")[2].split()[2] == "–") is not is_known
    assert "with a lower similarity (– if there are fewer than 10 pairs)" in outcome.out
    assert (" · –</span>" in Path("page.html").read_text()) is not is_known
    assert ("%</span>" in Path("page.html").read_text()) is is_known
    percentiles = [hit["percentile"] for hit in json.loads(rr(*ask, "--json").out)["queries"][0]["hits"]]
    assert [value is not None for value in percentiles] == [is_known] * count


def test_folder_with_only_the_query_is_reported(folder: Path, rr: RunRr) -> None:
    Path("one").mkdir()
    make_image(0).save("one/x.png")
    outcome = rr("retrieve", "one/x.png", "--gallery", "one", "--weights", "w", "--output", "page.html")
    assert outcome.out.startswith("one/x.png\nthe folder contains no other images\n")
    assert "<li>The folder contains no other images.</li>" in Path("page.html").read_text()


def save_head(path: Path) -> None:
    """Save weights with a relation head, and an evaluation that calibrates it, in the current folder."""
    torch.manual_seed(0)
    save_backbone(random_backbone("conv4"), path, DATASET, {"relation_head": RelationHead(64)}, "cat")
    run = paths.EvaluationPaths(paths.PretrainPaths("shapes", "conv4", "relational", 1), "shapes", "embedding")
    run.folder.mkdir(parents=True)
    record = {"inputs": {"features": "0", "runs/backbone.safetensors": file_sha256(path)}}
    paths.record_file(run.folder).write_text(json.dumps(record))
    run.metrics.write_text(
        json.dumps(
            {
                "relation_slope": 2.0, "relation_intercept": -0.5, "relation_pairs": 40, "relation_accuracy": 0.9,
                "relation_calibration_error": 0.02,
            }
        )
    )  # fmt: skip


def expected_logit(weights: Path, first: str, second: str) -> float:
    head = load_relation_head(weights)
    assert head
    vectors = expected_vectors(weights, [Path(first), Path(second)])
    return float(head.logits(vectors[:1], vectors[1:])[0])


def test_compare_prints_the_calibrated_probability(folder: Path, rr: RunRr) -> None:
    save_head(Path("h"))
    pair = ("g/b.png", "g/f.webp")
    outcome = rr("compare", *pair, "--weights", "h")
    assert outcome.code == 0
    first_line, calibration = outcome.out.splitlines()
    probability = 1 / (1 + np.exp(0.5 - 2 * expected_logit(Path("h"), *pair)))
    assert first_line == f"g/b.png and g/f.webp are views of the same image with probability {probability:.4f}"
    assert calibration.startswith("calibrated (Platt scaling) on 40 pairs of augmented test images of shapes")
    assert "the accuracy is 90.0% and the calibration error is 2.0%" in calibration
    assert rr("compare", *pair[::-1], "--weights", "h").out.splitlines()[0].endswith(f" {probability:.4f}")
    facts = json.loads(rr("compare", *pair, "--weights", "h", "--json").out)
    assert (facts["first"], facts["second"], facts["calibration"]) == (*pair, calibration)
    assert facts["probability"] == pytest.approx(probability, abs=1e-6)
    shutil.copy(pair[0], os.fsdecode(b"caf\xe9.png"))
    facts = json.loads(rr("compare", os.fsdecode(b"caf\xe9.png"), pair[1], "--weights", "h", "--json").out)
    assert facts["first"] == r"caf\xe9.png"
    shutil.move("runs", "others")
    outcome = rr("compare", *pair, "--weights", "h")
    assert f"{1 / (1 + np.exp(-expected_logit(Path('h'), *pair))):.4f}\nnot calibrated" in outcome.out
    outcome = rr("compare", *pair, "--weights", "w")
    assert outcome.code == 2
    assert "rr: w has no relation head: use the backbone.safetensors from a run" in outcome.err
    assert rr("compare", "g/b.png", "none.png", "--weights", "h").code == 2


def test_released_weights_are_found_by_name(folder: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    save_head(Path("h"))
    metrics = next(Path("runs").rglob("metrics.json"))
    released = Path("released")
    released.mkdir()
    shutil.copy("h", released / "tiny.safetensors")
    (released / "tiny.json").write_text(json.dumps(json.loads(metrics.read_text()) | {"target": "cifar10"}))
    shutil.rmtree("runs")
    monkeypatch.setattr("rr.runtime.weights_lookup.FOLDER", released)
    monkeypatch.setattr("rr.gallery.pair_scorer.RELEASED", released)

    extractor = load_feature_extractor("tiny")
    assert extractor.weights == released / "tiny.safetensors"
    assert (
        "40 pairs of augmented test images of cifar10" in rr("compare", "g/b.png", "g/f.webp", "--weights", "tiny").out
    )
    # The same file, by its path.
    monkeypatch.setattr("rr.gallery.pair_scorer.RELEASED", released.absolute())
    Path("link").symlink_to("released/tiny.safetensors")
    for path in ("released/tiny.safetensors", folder / "released/tiny.safetensors", "link"):
        out = rr("compare", "g/b.png", "g/f.webp", "--weights", path).out
        assert "40 pairs of augmented test images of cifar10" in out
    assert rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "tiny").code == 0
    assert rr("export", "tiny", "--format", "state-dict", "--output", "out.pt").code == 0
    outcome = rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "tinny")
    assert outcome.code == 2
    assert "rr: tinny does not exist and is not the name of released weights (tiny): use" in outcome.err
    shutil.copy("w", "tiny")  # a file in the current folder takes precedence
    assert load_feature_extractor("tiny").weights == Path("tiny")


DOCUMENTED_WEIGHTS = dict(
    re.findall(
        r"^\| `(\S+)` \| .* \| (\d+\.\d\d)% \|", (ROOT / "docs/guides/weights.md").read_text(encoding="utf-8"), re.M
    )
)


def test_all_released_weights_are_documented() -> None:
    names = {file.stem for file in RELEASED.glob("*.safetensors")}
    assert names == DOCUMENTED_WEIGHTS.keys()
    assert names


@pytest.mark.parametrize(("name", "accuracy"), DOCUMENTED_WEIGHTS.items())
def test_released_weights_are_those_of_a_published_run_and_match_their_card(name: str, accuracy: str) -> None:
    file, dataset = RELEASED / f"{name}.safetensors", name.split("-")[1]
    published = (ROOT / "docs/results").glob(f"*/runs/pretrain/{dataset}/conv4/*/1/backbone.safetensors")
    assert file_sha256(file) in map(file_sha256, published)
    card = file.with_name(f"{file.name}.md").read_text()
    assert card.count(file_sha256(file)) == 2  # of the file, and of the run's backbone.safetensors
    assert f"| {dataset} | linear | accuracy | {float(accuracy) / 100:.4f} |" in card
    backbone = load_feature_extractor(name)
    assert np.isfinite(backbone.extract(np.zeros((2, 32, 32, 3), np.uint8))).all()
    if load_relation_head(file):
        metrics = json.loads(file.with_suffix(".json").read_text())
        assert metrics["relation_accuracy"] > 0.8
        assert metrics["relation_slope"] > 0
        assert metrics["target"] == dataset


def test_weights_are_downloaded_from_the_hugging_face_hub(folder: Path) -> None:
    content = Path("w").read_bytes()

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            repository, _, rest = self.path[1:].partition("/resolve/")
            if error := {"me/nett": "RepoNotFound", "me/empty": "EntryNotFound"}.get(repository) or (
                "RevisionNotFound" if rest.startswith("v2/") else ""
            ):
                self.send_response(404)
                self.send_header("X-Error-Code", error)
                return self.end_headers()
            self.send_response(200)
            for name, value in (("Content-Length", len(content)), ("ETag", '"1"'), ("X-Repo-Commit", "0" * 40)):
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content if repository == "me/net" else content[:100])

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    def embed(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": "cache", **environment}
        command = [sys.executable, "-m", "rr", "embed", "g", "--output", "f.parquet", "--weights", name]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    expected = {
        "hf-hub:me/nett": "no such repository",
        "hf-hub:me/empty": "the repository contains no backbone.safetensors",
        "hf-hub:me/net@v2": "no such revision: replace v2",
        "hf-hub:me/net/x/y": "not the name of a repository",
        "hf-hub:net": "not the name of a repository: use hf-hub:OWNER/NAME",
        "hf-hub:me/cut": "cannot download backbone.safetensors (",
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        url = f"http://127.0.0.1:{hub.server_port}"
        threading.Thread(target=hub.serve_forever, args=(0.01,)).start()
        try:
            downloaded = embed("hf-hub:me/net")
            failed = {name: embed(name) for name in expected}
        finally:
            hub.shutdown()
    assert (downloaded.returncode, pq.read_table("f.parquet").num_rows) == (0, 6), downloaded.stderr
    assert embed("hf-hub:me/net", HF_HUB_OFFLINE="1").returncode == 0  # from the cache
    failed["hf-hub:me/new"] = embed("hf-hub:me/new", HF_HUB_OFFLINE="1")
    expected["hf-hub:me/new"] = "backbone.safetensors is not in the cache, and the Hugging Face Hub cannot be reached"
    for name, process in failed.items():
        assert (process.returncode, process.stderr.count(f"rr: {name}: {expected[name]}")) == (2, 1), process.stderr


def test_calibration_that_reverses_the_scores_is_not_used(folder: Path, rr: RunRr) -> None:
    """Another evaluation of the same weights may have a usable calibration."""
    save_head(Path("h"))
    good = paths.EvaluationPaths(paths.PretrainPaths("shapes", "conv4", "relational", 1), "shapes", "embedding")
    bad = replace(good, protocol="a")
    shutil.copytree(good.folder, bad.folder)
    bad.metrics.write_text(json.dumps(json.loads(good.metrics.read_text()) | {"relation_slope": -8.9}))
    assert load_pair_scorer(Path("h"), file_sha256(Path("h"))).calibration == (2.0, -0.5)
    shutil.rmtree(good.folder)
    assert load_pair_scorer(Path("h"), file_sha256(Path("h"))).calibration is None
    out = rr("compare", "g/b.png", "g/f.webp", "--weights", "h").out
    assert f"not calibrated, because on the 40 pairs of images in {bad.metrics}, the head did not" in out


def test_calibration_of_other_weights_or_with_a_damaged_record_is_not_used(folder: Path, rr: RunRr) -> None:
    save_head(Path("h"))
    backbone = random_backbone("conv4")
    torch.manual_seed(1)
    save_backbone(backbone, Path("other"), DATASET, {"relation_head": RelationHead(64)}, "cat")
    pair = ("g/b.png", "g/f.webp")
    expected = "\nnot calibrated, because this folder contains no evaluation that calibrates these weights"
    assert expected in rr("compare", *pair, "--weights", "other").out
    assert expected not in rr("compare", *pair, "--weights", "h").out
    (record_file,) = Path("runs").rglob("run.json")
    for text in ("{", "[]", "{}", '{"inputs": 1}', '{"inputs": {}}', '{"inputs": {"backbone.safetensors": 1}}'):
        record_file.write_text(text)
        assert expected in rr("compare", *pair, "--weights", "h").out
    record_file.unlink()
    assert expected in rr("compare", *pair, "--weights", "h").out


def test_rerank_orders_the_nearest_by_probability(folder: Path, rr: RunRr) -> None:
    save_head(Path("h"))
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "h", "--top", 3)
    nearest = [row[2] for row in parse_tables(rr(*ask).out)["g/b.png"]]
    outcome = rr(*ask, "--rerank", 3, "--output", "page.html")
    query, heading, *lines = outcome.out.split("\n\n")[0].split("\n")
    assert (query, heading.split()) == ("g/b.png", ["rank", "similarity", "probability", "percentile", "path"])
    names = [line.split()[-1] for line in lines]
    assert sorted(names) == sorted(nearest)
    logits = [expected_logit(Path("h"), "g/b.png", f"g/{name}") for name in names]
    assert logits == sorted(logits, reverse=True)
    assert [float(line.split()[2]) for line in lines] == pytest.approx(
        [1 / (1 + np.exp(0.5 - 2 * logit)) for logit in logits], abs=1e-4
    )
    assert "probability: calibrated (Platt scaling)" in outcome.out
    facts = json.loads(rr(*ask, "--rerank", 3, "--json").out)
    (result,) = facts["queries"]
    assert result["query"] == "g/b.png"
    keys = ("rank", "similarity", "probability", "percentile", "path")
    assert [f"{h['rank']:>4}  {h['similarity']:>10.4f}  {h['probability']:>11.4f}" for h in result["hits"]] == [
        line[:29] for line in lines
    ]
    assert [h["path"] for h in result["hits"]] == names
    assert tuple(sorted(result["hits"][0])) == tuple(sorted(keys))
    assert (facts["embedded"], facts["page"], facts["skipped"]) == (0, None, {})
    assert rr(*ask, "--json").out.count('"probability": null') == 3
    assert "ranked by the probability that both are views of the same image" in Path("page.html").read_text()
    for arguments, message in (
        ((*ask[:-1], 3, "--rerank", 2), "--rerank 2: must be at least the number of results (--top 3)"),
        ((*ask[:5], "w", "--rerank", 9), "--rerank 9: must be at least the number of results (--top 10)"),
        ((*ask[:5], "w", "--rerank", 10), "w has no relation head"),
    ):
        outcome = rr(*arguments)
        assert outcome.code == 2
        assert message in outcome.err


def test_reranking_may_select_another_image_than_the_nearest(folder: Path, rr: RunRr) -> None:
    save_head(Path("h"))
    gallery = [f"g/{image.name}" for image in list_images(Path("g"))]
    reference = [expected_logit(Path("h"), *pair) for pair in itertools.combinations(gallery, 2)]
    ranks = set()
    for seed in range(20, 26):
        make_image(seed).save("q.png")
        ask = ("retrieve", "q.png", "--gallery", "g", "--weights", "h", "--json", "--top")
        nearest = [hit["path"] for hit in json.loads(rr(*ask, 5).out)["queries"][0]["hits"]]
        (best,) = json.loads(rr(*ask, 1, "--rerank", 5).out)["queries"][0]["hits"]
        logits = [expected_logit(Path("h"), "q.png", f"g/{name}") for name in nearest]
        assert best["path"] == nearest[np.argmax(logits)]
        assert best["percentile"] == pytest.approx(100 * np.mean(np.array(reference) < max(logits)))
        ranks.add(nearest.index(best["path"]))
    assert len(ranks) > 1, ranks


ASK = ["retrieve", "g/b.png", "--gallery", "g", "--weights", "w"]
EMBED = ["embed", "g", "-o", "out.parquet", "--weights", "w"]


def replace_arguments(arguments: list[str], **replacements: str) -> list[str]:
    defaults = {"image": "g/b.png", "gallery": "g", "weights": "w"}
    changes = {defaults[key]: value for key, value in replacements.items()}
    return [changes.get(argument, argument) for argument in arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (replace_arguments(ASK, image="none.png"), "none.png does not exist or is not a file"),
        (replace_arguments(ASK, image="g"), "g is a folder: use the path of an image"),
        (["compare", "g/b.png", "none.png", "--weights", "w"], "none.png does not exist or is not a file"),
        (["compare", "g/b.png", "g", "--weights", "w"], "g is a folder: use the path of an image"),
        (replace_arguments(ASK, image="text.png"), "text.png: not a readable image"),
        (replace_arguments(ASK, gallery="none"), "none does not exist or is not a folder"),
        (replace_arguments(ASK, gallery="empty"), "empty contains no images: add some"),
        (replace_arguments(EMBED, gallery="p"), r"p contains no images \(skipped 1 file: not an image \(.yaml 1\)\)"),
        (replace_arguments(EMBED, weights="g"), "g is a folder: use the backbone.safetensors from a run"),
        (replace_arguments(EMBED, weights="~nobody-here/w"), "~nobody-here/w: the home folder ~nobody-here cannot"),
        (replace_arguments(ASK, weights="none"), "none does not exist"),
        (replace_arguments(ASK, weights="text.png"), "text.png is damaged or not a safetensors file"),
        (
            replace_arguments(ASK, weights="bare"),
            "bare: its metadata lacks the image size, mean or std: add --dataset NAME",
        ),
        ([*ASK, "--dataset", "shapes"], "params.yaml not found"),
        (
            [*ASK, "--dataset", "shape", "--params", "p/params.yaml"],
            "--dataset: unknown 'shape'; did you mean 'shapes'",
        ),
        ([*ASK, "--device", "tpu"], "--device tpu: unknown"),
        ([*ASK, "--top", "0"], "--top"),
        ([*ASK, "--output", "g"], "--output g is a folder: use the path of a file"),
        ([*ASK, "--output", "w"], "--output w is the input file"),
        ([*ASK, "--output", "g/b.png"], "--output g/b.png does not end in .html or .htm: use a name that does"),
        ([*ASK, "--output", "p/params.yaml"], "--output p/params.yaml does not end in .html"),
        ([*ASK, "--output", "x.html", "--index", "x.html"], "--index x.html does not end in .parquet"),
        ([*ASK, "--output", "text.png/x.html"], "text.png, which is not a folder: use a different path"),
        (ASK[:1] + ASK[2:], "IMAGE"),
        (
            replace_arguments(EMBED, gallery="g/b.png"),
            r"g/b.png does not exist or is not a folder \(it is an image; use its folder\)",
        ),
        (replace_arguments(EMBED, gallery="s3://a/b"), "s3://a/b is a URL: download the files"),
        (replace_arguments(EMBED, gallery="broken"), "broken/x.png: not a readable image"),
        (
            [*replace_arguments(EMBED, gallery="broken"), "--on-unreadable", "skip"],
            "none of the images in broken can be read: repair them or use a different folder",
        ),
        (replace_arguments(EMBED, weights="bare"), "bare: its metadata lacks the image size, mean or std"),
        ([*EMBED, "-o", "w"], "--output w is the input file"),
        ([*EMBED, "-o", "x.csv"], "--output x.csv does not end in .parquet: use a name that does"),
        ([*EMBED, "-o", "table.parquet"], "--output table.parquet: this file exists"),
        ([*EMBED, "--map", "out.parquet"], "--map out.parquet does not end in .html"),
    ],
)
def test_invalid_input_prints_one_message_and_writes_nothing(
    folder: Path, rr: RunRr, arguments: list[str], message: str
) -> None:
    save_backbone(random_backbone("conv4"), folder / "bare")
    for name in ("empty", "broken", "p"):
        Path(name).mkdir()
    write_params(Path("p"))
    Path("text.png").write_text("not an image")
    pq.write_table(pa.table({"a": [1, 2]}), "table.parquet")
    Path("broken/x.png").write_text("not an image")
    before = sorted(folder.rglob("*")), read_files(folder)
    outcome = rr(*arguments)
    assert outcome.code == 2
    assert re.search(message, " ".join(outcome.err.split()))
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert (sorted(folder.rglob("*")), read_files(folder)) == before


def test_subfolder_without_permission_raises(folder: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def scandir_without_permission(path: str) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_without_permission)
    outcome = rr(*EMBED)
    assert outcome.code == 2
    assert "rr: g/deep: a folder that cannot be listed (Permission denied): repair or remove it" in outcome.err
    assert not Path("out.parquet").exists()


@given(name=st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_display_name_is_printable(name: bytes) -> None:
    text = display_name(os.fsdecode(name))
    assert text.isprintable()
    assert text.encode()


def test_weights_file_contains_the_preprocessing(folder: Path, rr: RunRr) -> None:
    backbone = random_backbone("conv4")
    save_backbone(backbone, folder / "again", DATASET)
    assert Path("again").read_bytes() == Path("w").read_bytes()
    with safe_open("w", "np") as file:
        assert json.loads(file.metadata().pop("rr")) == {
            "backbone": "conv4", "features": 64, "side": IMAGE_SIZE, "mean": [*MEAN], "std": [*STD],
        }  # fmt: skip
        assert list(file.metadata()) == ["rr"]
    assert torch.equal(load_backbone(Path("w")).blocks[0][0].weight, backbone.blocks[0][0].weight)


def test_dataset_option_overrides_the_metadata_of_the_weights(folder: Path, rr: RunRr) -> None:
    def change(params: dict) -> None:
        params["datasets"]["shapes"] |= {"image_size": 16, "mean": [0.1, 0.2, 0.3]}

    write_params(folder, change)
    save_backbone(random_backbone("conv4"), folder / "bare")
    for weights in ("w", "bare"):
        assert rr("embed", "g", "-o", f"{weights}.parquet", "--weights", weights, "--dataset", "shapes").code == 0
    one, two = pq.read_table("w.parquet"), pq.read_table("bare.parquet")
    assert one.schema.metadata[b"side"] == b"16"
    assert one.schema.metadata[b"mean"] == b"[0.1, 0.2, 0.3]"
    assert read_vectors(one).tolist() == read_vectors(two).tolist()
    rr("embed", "g", "-o", "own.parquet", "--weights", "w")
    assert read_vectors(pq.read_table("own.parquet")).tolist() != read_vectors(one).tolist()


def test_search_does_not_import_slow_libraries(folder: Path) -> None:
    # pandas is not listed, because pyarrow imports it (if installed) when it builds an array.
    slow = ["numba", "torchvision", "ffcv", "sklearn", "scipy", "matplotlib", "jinja2", "pyarrow.dataset"]
    code = (
        f"import sys; sys.argv = {['rr', *ASK]!r}\n"
        "from rr.cli import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        f"sys.exit(str([name for name in [*{slow}, 'rr.params', 'torch._dynamo'] if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert num_embedded(done.stdout) == 6
    assert done.stderr.splitlines()[-1] == "[]"


def test_output_whose_name_is_not_utf8_can_be_read(folder: Path, rr: RunRr) -> None:
    name = os.fsdecode(b"\xe9.parquet")
    assert rr("embed", "g", "-o", name, "--weights", "w").code == 0
    assert (folder / name).stat().st_size
    assert not index_file.is_foreign_file(folder / name)
    assert index_file.read_index(folder / name, load_feature_extractor(Path("w"), None, "cpu"), Path("g")).rows


def test_embed_writes_a_map(folder: Path, rr: RunRr) -> None:
    outcome = rr("embed", "g", "-o", "f.parquet", "--weights", "w", "--map", "m.html")
    assert outcome.out.splitlines()[0] == "f.parquet: 6 images, 64 features; map written to m.html"
    page = Path("m.html").read_text(encoding="utf-8")
    data = json.loads(re.findall(r'<figure.*?<script type="application/json">(.*?)</script>', page)[0])
    assert data["names"] == ["a.PNG", "b.png", "deep/c.png", "deep/e.bmp", "deep/er/d.png", "f.webp"]
    assert data["classes"] == ["deep"]
    assert np.frombuffer(base64.b64decode(data["labels"]), "<u2").tolist() == [65535, 65535, 0, 0, 0, 65535]
    assert data["layers"][0]["predictions"] == ""  # with a single class there is nothing to predict
    assert "Copyright 2010-2026 Mike Bostock" in page
    assert "http-equiv" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_map_of_many_images_shows_a_random_sample(folder: Path, rr: RunRr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_page, "MAX_IMAGES", 4)
    assert rr("embed", "g", "-o", "f.parquet", "--weights", "w", "--map", "m.html").code == 0
    page = Path("m.html").read_text(encoding="utf-8")
    assert "a random sample of the 6 images in the folder" in page
    data = json.loads(re.findall(r'<figure.*?<script type="application/json">(.*?)</script>', page)[0])
    rows = np.sort(np.random.default_rng(0).permutation(6)[:4])
    assert data["names"] == [list_images(Path("g"))[row].name for row in rows]


def test_map_needs_images_and_another_file(folder: Path, rr: RunRr) -> None:
    outcome = rr("embed", "g", "-o", "f.parquet", "--weights", "w", "--map", "w")
    assert outcome.code == 2
    assert "--map w is the input file" in outcome.err
    Path("few").mkdir()
    shutil.copy("g/a.PNG", "few")
    outcome = rr("embed", "few", "-o", "f.parquet", "--weights", "w", "--map", "m.html")
    assert outcome.code == 2
    assert "a map needs at least 4 images, but few has 1" in outcome.err
    assert not Path("f.parquet").exists()
    # The limit is the smallest number of images for which the perplexity, a third of the other images, is 1.
    for number in (2, 3):
        shutil.copy("g/a.PNG", f"few/{number}.png")
    assert rr("embed", "few", "-o", "f.parquet", "--weights", "w", "--map", "m.html").code == 2
    Path("few/damaged.png").write_bytes(Path("g/a.PNG").read_bytes()[:50])
    outcome = rr("embed", "few", "-o", "f.parquet", "--weights", "w", "--map", "m.html", "--on-unreadable", "skip")
    assert outcome.code == 2
    assert "a map needs at least 4 images, but few has 3" in outcome.err
    assert not Path("f.parquet").exists()
    shutil.copy("g/b.png", "few/damaged.png")
    assert rr("embed", "few", "-o", "f.parquet", "--weights", "w", "--map", "m.html").code == 0


def test_prediction_is_the_most_frequent_class_of_the_nearest_images() -> None:
    labels = np.array([[0, 1, 1], [2, 1, -1], [-1, -1, 2], [-1, -1, -1]])
    assert map_page._vote(labels).tolist() == [1, 2, 2, -1]
