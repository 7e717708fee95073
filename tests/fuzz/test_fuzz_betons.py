"""Betons that somebody, or an accident, has altered: refused, or read as they are; the process never dies of them.

FFCV maps files into memory and runs machine code over them, so each batch of files is read by a child process.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corruption import COUNT, SEED, damaged, flipped, rounds

from rr.data import beton
from rr.errors import UserError

IMAGES, SIDE = 12, 8
_TABLES = 4000  # bytes: header, fields and samples of so small a file lie before
_COUNTS = ("<u2", "<u4", "<u8")
_NUMBERS = (0, 1, 2, 7, SIDE * SIDE * 3, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)


def places(content: bytes) -> list[tuple[int, str]]:
    """Offset and type of every number that FFCV goes by."""
    header, fields = beton._HEADER, beton._FIELD
    found = [(offset, str(kind)) for kind, offset in header.fields.values()]
    found += [(header.itemsize + n * fields.itemsize, "<u1") for n in range(3)]
    table = int(np.frombuffer(content, header, 1)[0]["allocation"])
    for start, kind in ((header.itemsize + 3 * fields.itemsize, beton._SAMPLE), (table, beton._ALLOCATION)):
        for row in range(IMAGES):
            for part, offset in kind.fields.values():
                inner = part.fields.values() if part.fields else [(part, 0)]
                found += [(start + row * kind.itemsize + offset + deep, str(leaf)) for leaf, deep in inner]
    return found


def hostile(content: bytes, chance: random.Random) -> bytes:
    """One of: numbers of the tables replaced, bits of the tables flipped, pixels changed, any accident at all."""
    match chance.randrange(4):
        case 0 | 1:
            data = bytearray(content)
            for offset, kind in chance.sample(places(content), chance.randint(1, 3)):
                size = np.dtype(kind).itemsize
                old = int.from_bytes(data[offset : offset + size], "little")
                number = chance.choice([*_NUMBERS, old + 1, old - 1, old + SIDE, old * 2, old + (1 << 21)])
                data[offset : offset + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
            return bytes(data)
        case 2:
            start = chance.choice([0, _TABLES, len(content) - IMAGES * 24])
            return flipped(content, chance, start)
        case _:
            return damaged(content, chance)


# Reads the files of a folder one after the other, and says of each what came of it; its death would show.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
from rr.data import beton
from rr.errors import UserError

for number in map(int, sys.argv[2:]):
    path = Path(sys.argv[1], f"{number}.beton")
    try:
        data = beton.Beton(path, threads=1, resident_bytes=0)
        order = np.random.default_rng(number).permutation(len(data))
        shown = np.concatenate([images.copy() for images, _ in data.batches(order, 5)])
        content, facts = np.fromfile(path, np.uint8), beton.check(path)
        pointers = np.frombuffer(content, beton._SAMPLE, len(data), offset=beton._HEADER.itemsize
            + 3 * beton._FIELD.itemsize)["image"]["pointer"]
        size = data.side ** 2 * 3
        same = all(np.array_equal(shown[k].ravel(), content[pointers[i] :][:size]) for k, i in enumerate(order))
        print(json.dumps([number, "read" if same and shown.shape[1] == data.side else "wrong"]), flush=True)
    except UserError as error:
        print(json.dumps([number, str(error)]), flush=True)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("beton") / "x.beton"
    beton.write(path, pictures(), np.arange(IMAGES), np.arange(IMAGES))
    return path.read_bytes()


def test_a_child_reads_each_or_says_what_is_wrong(whole: bytes, tmp_path: Path) -> None:
    outcomes: dict[int, str] = {}
    pending = list(rounds("betons"))
    for start in range(0, COUNT, 20):
        part = pending[start : start + 20]
        for number, chance in part:
            (tmp_path / f"{number}.beton").write_bytes(hostile(whole, chance))
        numbers = [str(number) for number, _ in part]
        done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), *numbers], capture_output=True, text=True)
        found = dict(json.loads(line) for line in done.stdout.splitlines())
        assert done.returncode == 0, f"seed {SEED}, after {found}: {done.returncode} {done.stderr[-2000:]}"
        outcomes |= found
        for path in tmp_path.iterdir():
            path.unlink()
    assert len(outcomes) == COUNT
    assert "wrong" not in outcomes.values()
    assert all(text == "read" or "run rr convert again" in text for text in outcomes.values())
    assert 0 < list(outcomes.values()).count("read") < COUNT, outcomes


def test_pictures_without_a_pixel_are_refused(whole: bytes, tmp_path: Path) -> None:
    data = bytearray(whole)
    table = int(np.frombuffer(whole, beton._HEADER, 1)[0]["allocation"])
    start = beton._HEADER.itemsize + 3 * beton._FIELD.itemsize
    samples = np.frombuffer(data, beton._SAMPLE, IMAGES, offset=start)
    samples["image"]["width"] = samples["image"]["height"] = 0
    np.frombuffer(data, beton._ALLOCATION, IMAGES, offset=table)["size"] = 0
    (tmp_path / "x.beton").write_bytes(data)
    with pytest.raises(UserError, match="is not a beton of this project"):
        beton.check(tmp_path / "x.beton")
