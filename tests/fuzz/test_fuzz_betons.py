"""Fuzz test with corrupted betons: each one raises a UserError or is read as it is, and none crashes the process.

FFCV maps files into memory and processes them with compiled code that may crash, so child processes read the files.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corruption import DEFAULT_ROUNDS, SEED, damage, flip_bit, rounds

from rr.data import beton
from rr.data.photograph_beton import PhotographBeton
from rr.errors import UserError

pytestmark = pytest.mark.slow

NUM_IMAGES, SIZE = 12, 8
_TABLES_END = 4000  # bytes; the header, fields and samples of this small file come before this offset
_VALUES = (0, 1, 2, 7, SIZE * SIZE * 3, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def make_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), np.uint8)


def write_photographs(path: Path) -> None:
    """Write color gradients of several sizes, every second one as JPEG."""
    sizes = [(40 + 9 * n, 110 - 5 * n) for n in range(NUM_IMAGES)]
    gradients = (np.arange(h)[:, None, None] + np.arange(w)[:, None] * [0, 1, 1.5] for h, w in sizes)
    stored = (
        beton.encode_photograph(pixels.clip(0, 255).astype(np.uint8), 80 if n % 2 else "raw")
        for n, pixels in enumerate(gradients)
    )
    rows = np.arange(NUM_IMAGES)
    beton.write_stored(path, stored, rows, rows, beton.max_photograph_bytes(2 * SIZE))


def table_entries(content: bytes) -> list[tuple[int, str]]:
    """Return the offset and the type of every number that FFCV uses."""
    header, fields = beton._HEADER, beton._FIELD
    entries = [(offset, str(dtype)) for dtype, offset in header.fields.values()]
    entries += [(header.itemsize + n * fields.itemsize, "<u1") for n in range(3)]
    table_start = int(np.frombuffer(content, header, 1)[0]["allocation"])
    samples_start = header.itemsize + 3 * fields.itemsize
    for start, row_dtype in ((samples_start, beton._SAMPLE), (table_start, beton._ALLOCATION)):
        for row in range(NUM_IMAGES):
            for dtype, offset in row_dtype.fields.values():
                members = dtype.fields.values() if dtype.fields else [(dtype, 0)]
                entries += [(start + row * row_dtype.itemsize + offset + inner, str(leaf)) for leaf, inner in members]
    return entries


def corrupt(content: bytes, rng: random.Random) -> bytes:
    """Replace numbers in the tables, flip a bit, or damage any part of the file."""
    match rng.randrange(4):
        case 0 | 1:
            data = bytearray(content)
            for offset, dtype in rng.sample(table_entries(content), rng.randint(1, 3)):
                size = np.dtype(dtype).itemsize
                old = int.from_bytes(data[offset : offset + size], "little")
                number = rng.choice([*_VALUES, old + 1, old - 1, old + SIZE, old * 2, old + (1 << 21)])
                data[offset : offset + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
            return bytes(data)
        case 2:
            start = rng.choice([0, _TABLES_END, len(content) - NUM_IMAGES * 24])
            return flip_bit(content, rng, start)
        case _:
            return damage(content, rng)


def read_squares(path: Path, number: int) -> bool:
    """Return whether FFCV and a resident split return the file's bytes."""
    data = beton.Beton(path, threads=1, max_resident_bytes=0)
    order = np.random.default_rng(number).permutation(len(data))
    images = np.concatenate([batch.copy() for batch in data.batches(order, 5)])
    resident = beton.Beton(path, threads=1).images
    content = np.fromfile(path, np.uint8)
    samples_start = beton._HEADER.itemsize + 3 * beton._FIELD.itemsize
    pointers = np.frombuffer(content, beton._SAMPLE, len(data), offset=samples_start)["image"]["pointer"]
    image_bytes = data.image_size**2 * 3
    is_same = resident is not None and np.array_equal(resident[order], images)
    is_same &= all(np.array_equal(images[k].ravel(), content[pointers[i] :][:image_bytes]) for k, i in enumerate(order))
    return is_same and images.shape[1] == data.image_size


def read_photographs(path: Path, number: int) -> bool:
    """Return whether FFCV decodes the photographs twice to the same images. FFCV does not notice a damaged JPEG."""
    data = PhotographBeton(path, SIZE, threads=1)
    order = np.random.default_rng(number).permutation(len(data))
    first, second = (np.concatenate([batch.copy() for batch in data.batches(order, 5)]) for _ in range(2))
    return np.array_equal(first, second) and first.shape == (len(data), SIZE, SIZE, 3)


READERS = {"squares": read_squares, "photographs": read_photographs}


def read_file(kind: str, path: Path, number: int) -> str:
    """Return "read" if the images of a file are as expected, "wrong" if not, or a UserError's message."""
    try:
        return "read" if READERS[kind](path, number) else "wrong"
    except UserError as error:
        return str(error)


@pytest.fixture(scope="module")
def valid_betons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder, rows = tmp_path_factory.mktemp("beton"), np.arange(NUM_IMAGES)
    beton.write(folder / "squares", make_images(), rows, rows)
    write_photographs(folder / "photographs")
    return {kind: (folder / kind).read_bytes() for kind in READERS}


@pytest.mark.parametrize("kind", READERS)
def test_corrupted_beton_is_read_or_raises(valid_betons: dict[str, bytes], kind: str, tmp_path: Path) -> None:
    outcomes: dict[int, str] = {}
    pending = list(rounds(f"betons of {kind}"))
    for start in range(0, DEFAULT_ROUNDS, 20):
        batch = pending[start : start + 20]
        for number, rng in batch:
            (tmp_path / f"{number}.beton").write_bytes(corrupt(valid_betons[kind], rng))
        arguments = [kind, str(tmp_path), *(str(number) for number, _ in batch)]
        child = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, timeout=300)
        batch_outcomes = dict(json.loads(line) for line in child.stdout.splitlines())
        assert child.returncode == 0, f"seed {SEED}, after {batch_outcomes}: {child.returncode} {child.stderr[-2000:]}"
        outcomes |= batch_outcomes
        for path in tmp_path.iterdir():
            path.unlink()
    assert len(outcomes) == DEFAULT_ROUNDS
    assert "wrong" not in outcomes.values()
    assert all(text == "read" or "run rr convert again" in text for text in outcomes.values())
    assert 0 < list(outcomes.values()).count("read") < DEFAULT_ROUNDS, outcomes


def test_images_without_pixels_raise(valid_betons: dict[str, bytes], tmp_path: Path) -> None:
    data = bytearray(valid_betons["squares"])
    table_start = int(np.frombuffer(data, beton._HEADER, 1)[0]["allocation"])
    samples_start = beton._HEADER.itemsize + 3 * beton._FIELD.itemsize
    samples = np.frombuffer(data, beton._SAMPLE, NUM_IMAGES, offset=samples_start)
    samples["image"]["width"] = samples["image"]["height"] = 0
    np.frombuffer(data, beton._ALLOCATION, NUM_IMAGES, offset=table_start)["size"] = 0
    (tmp_path / "x.beton").write_bytes(data)
    with pytest.raises(UserError, match="is not a valid beton of this project"):
        beton.validate(tmp_path / "x.beton")


if __name__ == "__main__":
    kind, folder, *numbers = sys.argv[1:]
    for number in map(int, numbers):
        print(json.dumps([number, read_file(kind, Path(folder, f"{number}.beton"), number)]), flush=True)
