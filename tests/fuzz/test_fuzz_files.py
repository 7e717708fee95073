"""Fuzz test with corrupted weights, Parquet files, archives and images: each is read, or a UserError is raised.

Some readers are compiled code that may crash, so child processes read the files.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from corruption import DEFAULT_ROUNDS, SEED, damage, rounds
from PIL import Image

from rr import backbones
from rr.backbones.weights import load_backbone, save_backbone
from rr.data import dataset_index, raw
from rr.data.archive import ArchiveLimits, open_tree
from rr.data.image_decoding import decode_image
from rr.data.preprocessing import Preprocessing
from rr.errors import UserError
from rr.exchange.import_weights import import_backbone
from rr.fetch import fetch
from rr.gallery.feature_extractor import load_feature_extractor
from rr.params import DatasetConfig, ParquetSource
from rr.report.inputs.predictions import read_predictions

pytestmark = pytest.mark.slow


def read_weights(path: Path) -> None:
    load_backbone(path)(torch.zeros(1, 3, 32, 32))


def read_feature_extractor(path: Path) -> None:
    extractor = load_feature_extractor(path, None, "cpu")
    images = np.zeros((1, extractor.image_size, extractor.image_size, 3), np.uint8)
    assert np.isfinite(extractor.extract(images)).all()


def read_raw_file(path: Path) -> None:
    raw_file = raw.RawFile(path)
    sum(len(data) for _, data in raw_file.iter_images())
    assert all(isinstance(name, str) for name in raw_file.class_names)
    assert len(raw_file.labels) == len(raw_file.splits)


def read_index(path: Path) -> None:
    assert all(isinstance(name, str) for name in dataset_index.read_class_names(path))
    assert len(dataset_index.read_preprocessing(path).mean) == 3


def fetch_parquet(path: Path) -> None:
    source = ParquetSource(kind="parquet", path=str(path), test_fraction=0.3, on_unreadable="skip")
    fetch(source, path.with_suffix(".out"), path)


def read_archive(path: Path) -> None:
    tree = open_tree(path, path.with_suffix(".out"), ArchiveLimits(100_000, 20))
    for name in tree.names:
        tree.read(name)


def read_image(path: Path) -> None:
    try:
        assert decode_image(path.read_bytes(), 16).shape == (16, 16, 3)
    except ValueError as error:
        raise UserError(str(error)) from error


READERS: dict[str, Callable[[Path], object]] = {
    "weights": read_weights,
    "search": read_feature_extractor,
    "import": lambda path: import_backbone(path, "conv4", path.with_suffix(".out.safetensors")),
    "raw": read_raw_file,
    "index": read_index,
    "predictions": read_predictions,
    "parquet": fetch_parquet,
    "zip": read_archive,
    "tar.gz": read_archive,
    "image": read_image,
}


def read_files(kind: str, paths: Iterable[Path]) -> None:
    """Read files and print each one's name, "read" or the message, and the temporary files left in the folder."""
    for path in paths:
        try:
            READERS[kind](path)
            outcome = "read"
        except UserError as error:
            outcome = str(error)
        leftovers = [file.name for file in path.parent.iterdir() if ".tmp" in file.name]
        for output in path.parent.glob("*.out*"):
            if outcome != "read":
                leftovers.append(output.name)
            shutil.rmtree(output) if output.is_dir() else output.unlink()
        print(json.dumps([path.stem, outcome, leftovers]), flush=True)


def make_image(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (20, 14)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(mode)


def encode(image: Image.Image, image_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


def make_valid_files(kind: str, folder: Path) -> list[bytes]:
    """Return the contents of several valid files of the given kind."""
    path = folder / "valid"
    names = ["cat", "dog"]
    labels = np.arange(20) % 2
    match kind:
        case "weights" | "search" | "import":
            torch.manual_seed(0)
            dataset = DatasetConfig.model_construct(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
            save_backbone(backbones.build("conv4"), path, dataset)
            if kind == "import":
                torch.save(backbones.build("conv4").state_dict(), folder / "state_dict")
                return [path.read_bytes(), (folder / "state_dict").read_bytes()]
        case "raw":
            splits = ["train"] * 15 + ["test"] * 5
            images = [
                raw.EncodedImage(split, f"{label}.png", encode(make_image(label)), label)
                for split, label in zip(splits, labels, strict=True)
            ]
            raw.write(path, raw.RawDataset(names, images))
        case "index":
            preprocessing = Preprocessing(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
            dataset_index.write_index(
                path, ["x"] * 20, np.array(["train"] * 20), labels, ["ab" * 32] * 20, names, preprocessing
            )
        case "predictions":
            columns = {"label": labels, "prediction": labels, "confidence": np.full(20, 0.5), "index": np.arange(20)}
            pq.write_table(pa.table(columns).replace_schema_metadata({"class_names": json.dumps(names)}), path)
        case "parquet":
            table = pa.table(
                {"image": [{"bytes": encode(make_image(k)), "path": f"{k}"} for k in range(20)], "label": labels}
            )
            contents = []
            for compression in ("snappy", "zstd", "none"):
                pq.write_table(table, path, compression=compression)
                contents.append(path.read_bytes())
            return contents
        case "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for k in range(8):
                    archive.writestr(f"a/{k}.png", encode(make_image(k)) * 3)
        case "tar.gz":
            contents = []
            for mode in ("w:gz", "w:bz2", "w:xz", "w"):
                with tarfile.open(path, mode) as tar:
                    for k in range(8):
                        entry = tarfile.TarInfo(f"a/{k}.png")
                        entry.size = len(content := encode(make_image(k)) * 3)
                        tar.addfile(entry, io.BytesIO(content))
                contents.append(path.read_bytes())
            return contents
        case "image":
            modes_by_format = {
                "PNG": ("RGB", "P", "LA", "I;16"), "JPEG": ("RGB", "CMYK", "L"), "GIF": ("P",), "BMP": ("RGB",),
                "TIFF": ("RGB",), "WEBP": ("RGB",), "PPM": ("RGB",), "ICO": ("RGBA",), "TGA": ("RGB",),
                "HEIF": ("RGB", "RGBA", "L"),
            }  # fmt: skip
            return [
                encode(make_image(0, mode), image_format)
                for image_format, modes in modes_by_format.items()
                for mode in modes
            ]
    return [path.read_bytes()]


@pytest.mark.parametrize("kind", READERS)
def test_damaged_file_is_read_or_raises(kind: str, tmp_path: Path) -> None:
    contents = make_valid_files(kind, tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    intact = {f"intact {number}": data for number, data in enumerate(contents)}
    outcomes: dict[str, str] = {}
    pending = list(rounds(kind))
    for start in range(0, DEFAULT_ROUNDS, 200):
        files = []
        batch = {f"{number}": damage(contents[number % len(contents)], rng) for number, rng in pending[start:][:200]}
        for name, data in (batch if start else intact | batch).items():
            files.append(folder / f"{name}.x")
            files[-1].write_bytes(data)
        child = subprocess.run([sys.executable, "-W", "ignore", __file__, kind, *files], capture_output=True, text=True)
        for line in child.stdout.splitlines():
            name, outcome, leftovers = json.loads(line)
            assert not leftovers, f"seed {SEED}, round {name}: left over: {leftovers}"
            outcomes[name] = outcome
        last = list(outcomes)[-1:]
        assert child.returncode == 0, f"seed {SEED}, after round {last}: {child.returncode} {child.stderr[-3000:]}"
        for file in files:
            file.unlink()
    assert {name: outcomes.pop(name) for name in intact} == dict.fromkeys(intact, "read")
    assert len(outcomes) == DEFAULT_ROUNDS
    assert any(outcome != "read" for outcome in outcomes.values())


if __name__ == "__main__":
    read_files(sys.argv[1], map(Path, sys.argv[2:]))
    sys.stdout.flush()
    # Exit as `rr` does: a thread of pyarrow may still be reading a damaged file, and would abort the process.
    os._exit(0)
