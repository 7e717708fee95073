"""Weights, Parquet files, archives and pictures that an accident has altered: one message or a right result.

Some of the readers are machine code, so a child process reads, many files each: its death would show.
"""

import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corruption import COUNT, SEED, damaged, rounds
from PIL import Image

from rr import backbones
from rr.backbones.weights import write_backbone
from rr.data import index, raw
from rr.params import Dataset

_TREE = "t = open_tree(path, path.with_suffix('.out'), Limits(100_000, 20)); n = [len(t.read(x)) for x in t.names]"
# What reads each kind of file, all of it. "right" where nothing complains: only a checksum could know better.
READERS = {
    "weights": "import torch; from rr.features import load_backbone as r; r(path)(torch.zeros(1, 3, 32, 32))",
    "search": "import numpy as np; from rr.gallery.network import load as r\n"
    "n = r(path, None, Path('params.yaml'), 'cpu')\n"
    "assert np.isfinite(n.embed(np.zeros((1, n.side, n.side, 3), np.uint8))).all()",
    "import": "from rr.exchange.importing import import_backbone as r; r(path, 'conv4', path.with_suffix('.out'))",
    "raw": "from rr.data.raw import RawFile as R; f = R(path); n = sum(len(d) for _, d in f.pictures())\n"
    "assert all(isinstance(name, str) for name in f.class_names) and len(f.labels) == len(f.splits)",
    "index": "from rr.data.index import class_names as r; assert all(isinstance(name, str) for name in r(path))",
    "predictions": "from rr.report.predictions import guesses as r; r(path)",
    "parquet": "from rr.params import ParquetSource as S; from rr.fetch import fetch as r\n"
    "r(S(kind='parquet', path=str(path), test_share=0.3, unreadable='skip'), path.with_suffix('.out'), path)",
    "zip": _TREE,
    "tar.gz": _TREE,
    "picture": "from rr.data.raw import decode as r\ntry: assert r(path.read_bytes(), 16).shape == (16, 16, 3)\n"
    "except ValueError as error: raise UserError(str(error))",
}
CHILD = """
import json, shutil, sys
from pathlib import Path
from rr.data.archive import Limits, open_tree
from rr.errors import UserError, explain_os_error

reader = compile(sys.argv[2], "reader", "exec")
for path in map(Path, sys.argv[3:]):
    try:
        exec(reader, {"path": path, **globals()})
        said = "right"
    except UserError as error:
        said = str(error)
    left = [p.name for p in path.parent.iterdir() if ".tmp" in p.name]
    if path.with_suffix(".out").exists() and said != "right":
        left.append(path.name)
    for made in path.parent.glob("*.out"):
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    print(json.dumps([path.stem, said, left]), flush=True)
"""


def png(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (20, 14)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(mode)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def samples(kind: str, folder: Path) -> list[bytes]:
    """Whole files of a kind, which accidents then befall."""
    path = folder / "whole"
    names = ["cat", "dog"]
    labels = np.arange(20) % 2
    match kind:
        case "weights" | "search" | "import":
            torch.manual_seed(0)
            data = Dataset.model_construct(side=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
            write_backbone("conv4", backbones.build("conv4"), path, data)
            if kind == "import":
                torch.save(backbones.build("conv4").state_dict(), folder / "second")
                return [path.read_bytes(), (folder / "second").read_bytes()]
        case "raw":
            rows = [raw.Picture("train" if k < 15 else "test", f"{k}.png", saved(png(k), "PNG"), k % 2) for k in labels]
            rows[-5:] = [row._replace(split="test") for row in rows[-5:]]
            raw.write(path, raw.Pictures(names, rows))
        case "index":
            index.write(path, np.array(["train"] * 20), labels, ["ab" * 32] * 20, names)
        case "predictions":
            found = {"label": labels, "prediction": labels, "confidence": np.full(20, 0.5)}
            pq.write_table(pa.table(found).replace_schema_metadata({"class_names": json.dumps(names)}), path)
        case "parquet":
            images = [{"bytes": saved(png(k), "PNG"), "path": f"{k}"} for k in range(20)]
            for compression in ("snappy", "zstd", "none"):
                pq.write_table(
                    pa.table({"image": images, "label": labels}), folder / compression, compression=compression
                )
            return [(folder / name).read_bytes() for name in ("snappy", "zstd", "none")]
        case "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for k in range(8):
                    archive.writestr(f"a/{k}.png", saved(png(k), "PNG") * 3)
        case "tar.gz":
            found_bytes = []
            for mode in ("w:gz", "w:bz2", "w:xz", "w"):
                with tarfile.open(path, mode) as tar:
                    for k in range(8):
                        entry = tarfile.TarInfo(f"a/{k}.png")
                        entry.size = len(content := saved(png(k), "PNG") * 3)
                        tar.addfile(entry, io.BytesIO(content))
                found_bytes.append(path.read_bytes())
            return found_bytes
        case "picture":
            kinds = {
                "PNG": ("RGB", "P", "LA", "I;16"), "JPEG": ("RGB", "CMYK", "L"), "GIF": ("P",), "BMP": ("RGB",),
                "TIFF": ("RGB",), "WEBP": ("RGB",), "PPM": ("RGB",), "ICO": ("RGBA",), "TGA": ("RGB",),
            }  # fmt: skip
            return [saved(png(0, mode), form) for form, modes in kinds.items() for mode in modes]
    return [path.read_bytes()]


@pytest.mark.parametrize("kind", READERS)
def test_altered_files(kind: str, tmp_path: Path) -> None:
    whole = samples(kind, tmp_path)
    place = tmp_path / "files"
    place.mkdir()
    said: dict[str, str] = {}
    pending = list(rounds(kind))
    for start in range(0, COUNT, 200):
        files = []
        for number, chance in pending[start : start + 200]:
            files.append(place / f"{number}.x")
            files[-1].write_bytes(damaged(whole[number % len(whole)], chance))
        code = READERS[kind]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD, kind, code, *files], capture_output=True, text=True
        )
        for line in done.stdout.splitlines():
            name, text, left = json.loads(line)
            assert not left, f"seed {SEED}, round {name}: left behind: {left}"
            said[name] = text
        assert done.returncode == 0, f"seed {SEED}, round {len(said)}: {done.returncode} {done.stderr[-3000:]}"
        for file in files:
            file.unlink()
    assert len(said) == COUNT
    assert any(text != "right" for text in said.values())
