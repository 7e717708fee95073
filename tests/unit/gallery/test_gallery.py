"""`rr embed` and `rr retrieve`: one's own pictures as vectors, and the nearest of them; and what is refused."""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import Rr, write_params
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network as trained
from PIL import Image
from safetensors import safe_open

from rr.backbones.weights import load_backbone, write_backbone
from rr.data import raw
from rr.evaluate.features import extract
from rr.gallery import index, network, pictures
from rr.gallery.search import nearest
from rr.params import Dataset, ShapesSource
from rr.runtime.hashing import sha256

SIDE, MEAN, STD = 32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
DATASET = Dataset(source=ShapesSource(kind="shapes", train=10, test=10, seed=0), side=SIDE, mean=MEAN, std=STD)


def draw(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A picture of a few large coloured patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `w` (weights) and `g`, a gallery of six pictures; it is the current one and has no params.yaml."""
    monkeypatch.chdir(tmp_path)
    write_backbone("conv4", trained("conv4"), tmp_path / "w", DATASET)
    (tmp_path / "g/deep/er").mkdir(parents=True)
    for seed, name in enumerate(["b.png", "a.PNG", "deep/c.png", "deep/er/d.png", "deep/e.bmp", "f.webp"]):
        draw(seed).save(tmp_path / "g" / name, lossless=True)
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def vectors(table: Any) -> np.ndarray:
    return np.array(table["vector"].to_pylist(), np.float32)


class Pixels:
    """What `extract` asks of a beton."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, order: range, size: int) -> Iterator[tuple[np.ndarray, None]]:
        yield self.images[np.asarray(order)], None


def extracted(weights: Path, paths: list[Path]) -> np.ndarray:
    """The features as the evaluation computes them."""
    images = np.stack([raw.decode(path.read_bytes(), SIDE) for path in paths])
    return extract(load_backbone(weights), Pixels(images), DATASET, "cpu").numpy()  # type: ignore[arg-type]


def test_embed_writes_the_features_of_the_evaluation(place: Path, rr: Rr) -> None:
    for name in ("g/.hidden.png", "g/.folder/x.png", "g/notes.txt", "g/paper.pdf"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"no picture")
    Path("g/nowhere.png").symlink_to("missing.png")
    outcome = rr("embed", "g", "-o", "f.parquet", "--weights", "w")
    assert outcome.code == 0
    assert outcome.out == "f.parquet: 6 pictures, 64 features\n"
    table = pq.read_table("f.parquet")
    names = table["path"].to_pylist()
    assert names == ["a.PNG", "b.png", "deep/c.png", "deep/e.bmp", "deep/er/d.png", "f.webp"]
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
    assert table["vector"].type.list_size == 64
    expected = extracted(Path("w"), [Path("g", name) for name in names])
    assert np.abs(vectors(table) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert table["size"].to_pylist() == [Path("g", name).stat().st_size for name in names]
    assert table["modified"].to_pylist() == [Path("g", name).stat().st_mtime_ns for name in names]
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about.pop("absolute_folder") == str((place / "g").resolve())
    assert about == {
        "weights": sha256(Path("w")), "backbone": "conv4", "side": "32", "mean": "[0.5, 0.4, 0.3]",
        "std": "[0.25, 0.2, 0.3]", "folder": "g",
    }  # fmt: skip


def kinds(folder: Path) -> None:
    """One picture of every mode, as `rr.data.raw` is to understand them."""
    base = draw(1, (48, 40))
    base.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    base.convert("L").save(folder / "grey.png")
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


def test_pictures_of_every_mode(place: Path, rr: Rr) -> None:
    Path("m").mkdir()
    kinds(Path("m"))
    assert rr("embed", "m", "-o", "f.parquet", "--weights", "w").out.startswith("f.parquet: 8 pictures")
    table = pq.read_table("f.parquet")
    names = table["path"].to_pylist()
    found = dict(zip(names, vectors(table), strict=True))
    expected = extracted(Path("w"), [Path("m", name) for name in names])
    assert np.abs(vectors(table) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.allclose(found["rotated.png"], found["turned.png"], atol=1e-6)
    assert len({vector.tobytes() for vector in found.values()}) == 7  # all others differ


def test_batches_and_order_change_nothing(place: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch) -> None:
    rr("embed", "g", "-o", "one.parquet", "--weights", "w")
    monkeypatch.setattr(network, "_PICTURES", 4)
    outcome = rr("embed", "g", "-o", "two.parquet", "--weights", "w")
    assert "6 pictures" in outcome.out
    assert "embed: 100 %" in outcome.err
    one, two = pq.read_table("one.parquet"), pq.read_table("two.parquet")
    assert pq.ParquetFile("two.parquet").num_row_groups == 2
    assert one["path"] == two["path"]
    assert np.allclose(vectors(one), vectors(two), rtol=0, atol=1e-6 * np.abs(vectors(one)).max())


def test_an_unreadable_picture_stops_or_is_skipped(place: Path, rr: Rr) -> None:
    Path("g/deep/bad.jpg").write_bytes(b"not a picture")
    before = files(place)
    outcome = rr("embed", "g", "-o", "f.parquet", "--weights", "w")
    assert outcome.code == 2
    assert outcome.err.startswith("rr: g/deep/bad.jpg: not a readable picture (no picture format that Pillow knows); ")
    assert rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "w").code == 2
    assert files(place) == before
    outcome = rr("embed", "g", "-o", "f.parquet", "--weights", "w", "--unreadable", "skip")
    assert outcome.out == "f.parquet: 6 pictures, 64 features, 1 skipped\n"
    assert "skipped g/deep/bad.jpg: not a readable picture" in outcome.err
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "w", "--unreadable", "skip")
    assert "6 embedded, 1 skipped" in rr(*ask).out
    assert "0 embedded, 1 skipped" in rr(*ask).out
    draw(9).save("g/deep/bad.jpg")
    assert "1 embedded\n" in rr(*ask).out


def listing(out: str) -> dict[str, list[tuple[int, float, str]]]:
    """The tables that `rr retrieve` prints, by query."""
    found = {}
    for block in out.split("\n\n")[:-1]:
        query, heading, *lines = block.split("\n")
        assert heading.split() == ["rank", "similarity", "path"]
        found[query] = [(int(r), float(s), name) for r, s, name in (line.split(None, 2) for line in lines)]
    return found


def embedded(out: str) -> int:
    found = re.search(r"^\d+\.\d{3} s for .* ([\d,]+) embedded", out, re.MULTILINE)
    assert found, out
    return int(found[1])


def test_the_nearest_are_those_of_scikit_learn(place: Path, rr: Rr) -> None:
    from sklearn.neighbors import NearestNeighbors

    draw(20, (90, 50)).save("q.png")
    outcome = rr("retrieve", "q.png", "g/deep/c.png", "--gallery", "g", "--weights", "w", "--top", 4)
    assert outcome.code == 0
    names = [picture.name for picture in pictures.listed(Path("g"))]
    gallery = extracted(Path("w"), [Path("g", name) for name in names])
    fitted = NearestNeighbors(n_neighbors=4, metric="cosine").fit(gallery)
    distances, places = fitted.kneighbors(extracted(Path("w"), [Path("q.png"), Path("g/deep/c.png")]))
    found = listing(outcome.out)
    assert list(found) == ["q.png", "g/deep/c.png"]
    for rows, far, near in zip(found.values(), distances, places, strict=True):
        assert [row[0] for row in rows] == [1, 2, 3, 4]
        assert [row[2] for row in rows] == [names[i] for i in near]
        assert [row[1] for row in rows] == pytest.approx(list(1 - far), abs=1e-4)
    assert found["g/deep/c.png"][0] == (1, 1.0, "deep/c.png")


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(1, 4), size=st.integers(1, 30), top=st.integers(1, 40))
def test_search_agrees_with_scikit_learn(seed: int, queries: int, size: int, top: int) -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(seed)
    gallery, asked = (rng.integers(-3, 4, (n, 3)).astype(np.float32) for n in (size, queries))  # with ties and zeros
    places, similarities = nearest(asked, gallery, top)
    fitted = NearestNeighbors(n_neighbors=min(top, size), metric="cosine", algorithm="brute").fit(gallery)
    assert np.allclose(similarities, 1 - fitted.kneighbors(asked)[0], atol=1e-6)
    every = np.nan_to_num(gallery / np.linalg.norm(gallery, axis=1, keepdims=True).clip(1e-9))
    for row, query, values in zip(places, asked, similarities, strict=True):
        assert len(set(row)) == len(row)
        assert np.allclose(every[row] @ query / max(np.linalg.norm(query), 1e-9), values, atol=1e-6)


def test_equal_ones_keep_the_order_of_the_gallery() -> None:
    gallery = np.array([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    places, _ = nearest(np.array([[2, 0]], np.float32), gallery, 9)
    assert places.tolist() == [[1, 2, 3, 0]]


def test_an_index_is_reused_while_it_is_true(place: Path, rr: Rr) -> None:
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "w")
    first = rr(*ask)
    assert embedded(first.out) == 6
    (made,) = Path(".rr/gallery").iterdir()
    written = made.stat().st_mtime_ns
    again = rr(*ask)
    assert embedded(again.out) == 0
    assert listing(again.out) == listing(first.out)
    assert made.stat().st_mtime_ns == written

    draw(30).save("g/new.png")
    assert embedded(rr(*ask).out) == 1
    draw(31).save("g/b.png")  # changed
    found = rr(*ask)
    assert embedded(found.out) == 1
    assert listing(found.out)["g/b.png"][0] == (1, 1.0, "b.png")
    facts = Path("g/b.png").stat()
    os.utime("g/b.png", ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))  # a nanosecond is a change
    assert embedded(rr(*ask).out) == 1
    Path("g/deep/c.png").unlink()
    found = rr(*ask)
    assert embedded(found.out) == 0
    assert len(listing(found.out)["g/b.png"]) == 6
    assert "deep/c.png" not in found.out
    assert "deep/c.png" not in pq.read_table(made)["path"].to_pylist()
    Path("g/deep/e.bmp").rename("g/deep/moved.bmp")
    assert embedded(rr(*ask).out) == 1

    rr("embed", "g", "-o", "fresh.parquet", "--weights", "w")
    fresh, kept = pq.read_table("fresh.parquet"), pq.read_table(made)
    assert fresh.drop_columns("vector").equals(kept.drop_columns("vector"))
    assert np.allclose(vectors(fresh), vectors(kept), rtol=0, atol=1e-5)
    assert len(list(Path(".rr/gallery").iterdir())) == 1


def test_another_folder_weights_or_side_has_another_index(place: Path, rr: Rr) -> None:
    write_backbone("conv4", trained("conv4"), place / "w64", DATASET.model_copy(update={"side": 64}))
    Path("other").symlink_to("g/deep")
    ask = ("retrieve", "g/b.png", "--gallery")
    made = [embedded(rr(*ask, *rest).out) for rest in (("g", "--weights", "w"), ("g", "--weights", "w64"))]
    made += [embedded(rr(*ask, name, "--weights", "w").out) for name in ("other", "g/deep", f"{place}/g")]
    assert made == [6, 6, 3, 0, 0]  # a link and an absolute path lead to the same folder
    assert len(list(Path(".rr/gallery").iterdir())) == 3


def test_a_file_of_embed_is_an_index(place: Path, rr: Rr) -> None:
    rr("embed", "g", "-o", "f.parquet", "--weights", "w")
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--index", "f.parquet", "--weights")
    assert embedded(rr(*ask, "w").out) == 0
    assert not Path(".rr").exists()
    write_backbone("conv4", trained("conv4"), place / "w64", DATASET.model_copy(update={"side": 64}))
    outcome = rr(*ask, "w64")
    assert embedded(outcome.out) == 6
    assert "f.parquet was made with other values of weights, side: making it again" in outcome.err
    # The same names, sizes and times elsewhere are other pictures.
    outcome = rr("retrieve", "g/b.png", "--gallery", "g/deep", "--index", "f.parquet", "--weights", "w64")
    assert "other values of absolute_folder" in outcome.err


def test_a_damaged_index_is_made_again(place: Path, rr: Rr) -> None:
    ask = ("retrieve", "g/b.png", "--gallery", "g", "--weights", "w", "--index", "i.parquet")
    first = listing(rr(*ask).out)
    whole = Path("i.parquet").read_bytes()
    flipped = bytearray(whole)
    vector = pq.ParquetFile("i.parquet").metadata.row_group(0).column(1)
    flipped[vector.data_page_offset + vector.total_compressed_size // 2] ^= 4
    for damaged in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1], bytes(flipped)):
        Path("i.parquet").write_bytes(damaged)
        outcome = rr(*ask)
        assert outcome.code == 0
        assert "i.parquet is damaged" in outcome.err
        assert "making it again" in outcome.err
        assert embedded(outcome.out) == 6
        assert listing(outcome.out) == first
        assert embedded(rr(*ask).out) == 0


def test_an_index_does_not_replace_something_else(place: Path, rr: Rr) -> None:
    Path("letter").write_text("dear all")
    pq.write_table(pa.table({"a": [1, 2]}), "x.parquet")
    before = files(place)
    for name in ("letter", "x.parquet", "g", "w", "g/b.png"):
        outcome = rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "w", "--index", name)
        assert outcome.code == 2
        assert f"--index {name}" in outcome.err
    assert files(place) == before


def test_two_writers_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one begins and ends while the first is writing: both succeed, and the file is whole all the time."""
    found, loaded = pictures.listed(Path("g")), network.load(Path("w"), None, Path("none"), "cpu")
    rows, target, mine = index.Rows(found, np.zeros((6, 64), np.float32)), place / "i.parquet", os.getpid()

    def first() -> Iterator[index.Rows]:
        yield rows
        monkeypatch.setattr(os, "getpid", lambda: mine + 1)
        assert index.write(target, loaded, Path("g"), [rows]) == 6
        assert len(index.read(target, loaded, Path("g")).vectors) == 6
        monkeypatch.setattr(os, "getpid", lambda: mine)
        yield rows

    assert index.write(target, loaded, Path("g"), first()) == 12
    assert len(index.read(target, loaded, Path("g")).vectors) == 12
    assert sorted(entry.name for entry in place.iterdir()) == ["g", "i.parquet", "w"]


STRANGE = ["two words.png", 'it\'s "quoted".png', "<b>bold.png", '"><img alt=x>.png', "new\nline.png", "bär.png"]
STRANGE += ["\x1b[31mred.png"]


def strange(folder: Path) -> list[str]:
    """Pictures with awkward names; returned as the column `path` is to hold them."""
    folder.mkdir()
    for seed, name in enumerate(STRANGE):
        draw(seed).save(folder / name)
    draw(70).save(folder / os.fsdecode(b"caf\xe9.png"))
    return sorted([*STRANGE, "caf\\xe9.png"])


def test_strange_names(place: Path, rr: Rr) -> None:
    names = strange(Path("s"))
    rr("embed", "s", "-o", "f.parquet", "--weights", "w")
    assert pq.read_table("f.parquet")["path"].to_pylist() == names
    odd = Path("s", os.fsdecode(b"caf\xe9.png"))
    ask = ("retrieve", odd, "s/new\nline.png", "--gallery", "s", "--weights", "w")
    outcome = rr(*ask)
    assert outcome.code == 0, outcome.err
    found = listing(outcome.out)
    assert found["s/caf\\xe9.png"][0] == (1, 1.0, "caf\\xe9.png")
    assert found["s/new\\nline.png"][0] == (1, 1.0, "new\\nline.png")
    assert "\x1b" not in outcome.out
    assert embedded(rr(*ask).out) == 0


def test_files_that_are_shown_alike_are_told_apart(place: Path, rr: Rr) -> None:
    Path("s").mkdir()
    for seed, name in enumerate([b"a\xff.bmp", b"a\\xff.bmp"]):
        draw(seed).save(Path("s", os.fsdecode(name)))
        os.utime(os.path.join(b"s", name), ns=(0, 0))
    for query in (b"a\xff.bmp", b"a\\xff.bmp"):
        ask = ("retrieve", Path("s", os.fsdecode(query)), "--gallery", "s", "--weights", "w")
        for _ in range(2):
            (rows,) = listing(rr(*ask).out).values()
            assert rows[0][1] == 1.0
            assert rows[1][1] < 1.0


class Page(HTMLParser):
    """The alternative texts, captions and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.alts: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.add(tag)
        self.alts += [known["alt"] or ""] if tag == "img" else []
        self.addresses += [known[key] or "" for key in ("src", "href") if key in known]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_needs_nothing_else_and_escapes_names(place: Path, rr: Rr) -> None:
    names = [pictures.printable(name) for name in strange(Path("s"))]
    draw(90, (900, 300)).save("q.jpg")
    outcome = rr("retrieve", "q.jpg", "--gallery", "s", "--weights", "w", "--output", "page.html")
    assert outcome.code == 0
    assert "; page.html" in outcome.out
    html = Path("page.html").read_text()
    page = Page()
    page.feed(html)
    assert page.alts[0] == "q.jpg"
    assert page.alts[1:] == [row[2] for row in listing(outcome.out)["q.jpg"]]
    assert sorted(page.alts[1:]) == sorted(names)
    assert all(name in page.words for name in names)
    assert all(address.startswith("data:") for address in page.addresses)
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r'"data:[^"]*"', "", html))
    assert "b" not in page.tags
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


def test_top_above_the_size_lists_all(place: Path, rr: Rr) -> None:
    outcome = rr("retrieve", "g/b.png", "--gallery", "g", "--weights", "w", "--top", 1000)
    assert outcome.code == 0
    assert len(listing(outcome.out)["g/b.png"]) == 6


ASK = ["retrieve", "g/b.png", "--gallery", "g", "--weights", "w"]
EMBED = ["embed", "g", "-o", "out.parquet", "--weights", "w"]


def swapped(arguments: list[str], **other: str) -> list[str]:
    words = {"image": "g/b.png", "gallery": "g", "weights": "w"}
    changed = {words[key]: value for key, value in other.items()}
    return [changed.get(argument, argument) for argument in arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (swapped(ASK, image="none.png"), "none.png: no such file"),
        (swapped(ASK, image="g"), "g: no such file"),
        (swapped(ASK, image="text.png"), "text.png: not a readable picture"),
        (swapped(ASK, gallery="none"), "none is not a folder"),
        (swapped(ASK, gallery="empty"), "empty holds no picture"),
        (swapped(ASK, weights="none"), "none is missing or no backbone"),
        (swapped(ASK, weights="text.png"), "text.png is missing or no backbone"),
        (swapped(ASK, weights="bare"), "bare does not say which side, mean and std .* --dataset"),
        ([*ASK, "--dataset", "shapes"], "no params.yaml here"),
        (
            [*ASK, "--dataset", "shape", "--params", "p/params.yaml"],
            "shape: unknown .* did you mean 'shapes'",
        ),
        ([*ASK, "--device", "tpu"], "--device tpu: unknown"),
        ([*ASK, "--top", "0"], "--top"),
        ([*ASK, "--output", "g"], "--output g: that is a folder"),
        ([*ASK, "--output", "w"], "--output w: that is a folder, the weights"),
        ([*ASK, "--output", "g/b.png"], "--output g/b.png: .* a picture's name"),
        (ASK[:1] + ASK[2:], "IMAGE"),
        (swapped(EMBED, gallery="g/b.png"), "g/b.png is not a folder"),
        (swapped(EMBED, gallery="broken"), "broken/x.png: not a readable picture"),
        ([*swapped(EMBED, gallery="broken"), "--unreadable", "skip"], "broken: not one of its pictures can be read"),
        (swapped(EMBED, weights="bare"), "bare does not say"),
        ([*EMBED, "-o", "w"], "--output w"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(place: Path, rr: Rr, arguments: list[str], message: str) -> None:
    write_backbone("conv4", trained("conv4"), place / "bare")
    for folder in ("empty", "broken", "p"):
        Path(folder).mkdir()
    write_params(Path("p"))
    Path("text.png").write_text("no picture")
    Path("broken/x.png").write_text("no picture")
    before = sorted(place.rglob("*")), files(place)
    outcome = rr(*arguments)
    assert outcome.code == 2
    assert re.search(message, " ".join(outcome.err.split()))
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert (sorted(place.rglob("*")), files(place)) == before


def test_a_folder_that_may_not_be_read_is_no_empty_one(place: Path, rr: Rr, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    outcome = rr(*EMBED)
    assert outcome.code == 2
    assert "not allowed to write or read at g/deep" in outcome.err
    assert not Path("out.parquet").exists()


@given(name=st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_any_name_is_shown_in_one_printable_line(name: bytes) -> None:
    shown = pictures.printable(pictures.text(os.fsdecode(name)))
    assert shown.isprintable()
    assert shown.encode()


def test_a_file_says_what_its_pictures_were_like(place: Path, rr: Rr) -> None:
    backbone = trained("conv4")
    write_backbone("conv4", backbone, place / "again", DATASET)
    assert Path("again").read_bytes() == Path("w").read_bytes()
    with safe_open("w", "np") as file:
        assert json.loads(file.metadata().pop("rr")) == {
            "backbone": "conv4", "features": 64, "side": SIDE, "mean": [*MEAN], "std": [*STD],
        }  # fmt: skip
        assert list(file.metadata()) == ["rr"]
    assert torch.equal(load_backbone(Path("w")).blocks[0][0].weight, backbone.blocks[0][0].weight)


def test_a_data_set_that_is_named_decides(place: Path, rr: Rr) -> None:
    def other(params: dict) -> None:
        params["datasets"]["shapes"] |= {"side": 16, "mean": [0.1, 0.2, 0.3]}

    write_params(place, other)
    write_backbone("conv4", trained("conv4"), place / "bare")
    for weights in ("w", "bare"):
        assert rr("embed", "g", "-o", f"{weights}.parquet", "--weights", weights, "--dataset", "shapes").code == 0
    one, two = pq.read_table("w.parquet"), pq.read_table("bare.parquet")
    assert one.schema.metadata[b"side"] == b"16"
    assert one.schema.metadata[b"mean"] == b"[0.1, 0.2, 0.3]"
    assert vectors(one).tolist() == vectors(two).tolist()
    rr("embed", "g", "-o", "own.parquet", "--weights", "w")
    assert vectors(pq.read_table("own.parquet")).tolist() != vectors(one).tolist()


def test_a_search_loads_no_library_that_it_does_without(place: Path) -> None:
    # Not pandas: pyarrow loads it, where it is installed, to make any array.
    heavy = ["numba", "torchvision", "ffcv", "sklearn", "scipy", "matplotlib", "jinja2", "pyarrow.dataset"]
    code = (
        f"import sys; sys.argv = {['rr', *ASK]!r}\n"
        "from rr.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"sys.exit(str([name for name in [*{heavy}, 'rr.params', 'torch._dynamo'] if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert embedded(done.stdout) == 6
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.fixture(scope="module", autouse=True)
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
