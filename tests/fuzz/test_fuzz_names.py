"""Test unusual names and images: no program runs a name as a command, and every image is read or raises an error."""

import json
import os
import shlex
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_calls import call
from helpers import (
    RunRr,
    add_dataset,
    copy_project,
    evaluate_command,
    extract_command,
    open_fetched,
    pretrain_command,
    write_params,
)
from PIL import Image

from rr.data import raw
from rr.errors import UserError
from rr.workflow import suites

pytestmark = pytest.mark.slow

SHELL_NAME = "a b;$(touch x)`touch x`'\"&|>x"


def write_images(folder: Path) -> None:
    """Write a folder of images in which every name contains a shell command."""
    for class_name in ("cat;touch x", "$(touch x)"):
        (folder / class_name).mkdir(parents=True)
        for k in range(5):
            pixels = np.full((8, 8, 3), 20 * k, np.uint8)
            Image.fromarray(pixels).save(folder / class_name / f"{k} `touch x`'\".png")


def created_files(folder: Path) -> list[Path]:
    """Return the files, all called `x`, that the commands in the names would have created."""
    return [path for path in folder.rglob("x") if ".git" not in path.parts]


@pytest.mark.engine
def test_engines_run_in_folder_with_shell_characters(tmp_path: Path) -> None:
    folder = tmp_path / SHELL_NAME
    folder.mkdir()
    copy_project(folder)
    write_images(folder / SHELL_NAME)

    def change(params: dict) -> None:
        params["datasets"]["mine"] = {
            **params["datasets"]["shapes"],
            "source": {"kind": "imagefolder", "path": str(folder / SHELL_NAME)},
        }
        params["grid"].update(data=["mine"], dataset=["mine"], target=["mine"])

    write_params(folder, change)
    call(folder, "dvc", "repro", "--dry", "fetch@mine")
    call(folder, "dvc", "repro", "fetch@mine")
    dvc_bytes = (folder / "data/raw/mine/images.parquet").read_bytes()
    call(folder, "snakemake", "--dry-run")
    call(folder, "snakemake", "--cores", "1", "--forcerun", "fetch", "--", "data/raw/mine/images.parquet")
    assert (folder / "data/raw/mine/images.parquet").read_bytes() == dvc_bytes
    assert created_files(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["a b", "a;b", "$(touch x)", "`x`", "../x", "/x", "", "-x", "a\n", "é", "a/b", "{x}", "${x}", "a'b", '"']
)
@pytest.mark.parametrize("section", ["datasets", "methods", "protocols"])
def test_unsafe_name_in_params_raises(project: Path, rr: RunRr, section: str, name: str) -> None:
    def change(params: dict) -> None:
        params[section][name] = next(iter(params[section].values()))

    write_params(project, change)
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 2
    assert "invalid name; use letters, digits, - and _" in outcome.err
    assert created_files(project) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "a b", "", "$(touch x)"])
def test_unsafe_suite_name_raises_and_writes_nothing(params_file: Path, name: str) -> None:
    grid = suites.load_suite("quick")["grid"]
    with pytest.raises(UserError, match="invalid suite name"):
        suites.merge_suites({name: {"grid": grid}}, params_file)
    assert not (params_file.parent / ".rr").exists()
    assert created_files(params_file.parent) == []


def test_images_with_unusual_names_and_modes_are_read(project: Path, rr: RunRr) -> None:
    """Use names with spaces, newlines and invalid UTF-8, and CMYK, 16-bit, animated and one-pixel-wide images."""
    folder = project / "my images\n;"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = ["a b.png", "a\nb.png", "-rf.png", "$(touch x).png", "é\u202e.png", "q'\".png", "k" * 200 + ".png"]
    encoded_names = [os.fsencode(name) for name in names] + [b"\xff\xfe.png"]
    for name in encoded_names:
        noise = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            noise.save(file, "PNG")
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 2**16, (9, 7), np.uint16)).save(folder / "16-bit.png")
    noise.resize((1, 3000)).save(folder / "narrow.png")
    frames = [Image.fromarray(rng.integers(0, 256, (9, 7), np.uint8)) for _ in range(3)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    add_dataset(project, {"kind": "imagefolder", "path": str(folder)})
    assert rr("fetch", "--dataset", "mine").code == 0
    assert len(open_fetched(project).labels) == len(encoded_names) + 4
    assert rr("convert", "--dataset", "mine").code == 0
    assert created_files(project) == []


@pytest.mark.slow
def test_class_names_that_are_not_utf8_or_ascii_reach_every_stage(project: Path) -> None:
    """Run all stages in the POSIX locale, whose encoding is ASCII."""
    folder = os.fsencode(project / "Völkl")
    for class_name in (b"caf\xe9", "bär".encode(), "日本".encode()):
        os.makedirs(folder + b"/" + class_name)
        for k in range(5):
            pixels = np.random.default_rng([k, *class_name]).integers(0, 256, (8, 8, 3), np.uint8)
            with open(folder + b"/" + class_name + b"/\xff%d.png" % k, "wb") as file:
                Image.fromarray(pixels).save(file, "PNG")

    def change(params: dict) -> None:
        source = {"kind": "imagefolder", "path": "Völkl"}
        params["datasets"]["shapes"].update(source=source, image_size=16)
        params["grid"].update(method=["random"], protocol=["knn"])
        params["protocols"]["knn"]["neighbors"] = 2

    write_params(project, change)
    weights = "runs/pretrain/shapes/conv4/random/1/backbone.safetensors"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    outputs = []
    for command in (
        ("fetch", "--dataset", "shapes"), ("convert", "--dataset", "shapes"), pretrain_command("random"),
        extract_command("random"), evaluate_command("knn", "random"), ("report",), ("verify",),
        ("embed", "Völkl", "-o", "x.parquet", "--weights", weights),
    ):  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "rr", *command], env=environment, capture_output=True, cwd=project)
        assert done.returncode == 0, done.stderr.decode()
        outputs.append(done.stdout.decode())
    assert "(4 + 1), caf\\xe9 (4 + 1), " in outputs[0]
    assert outputs[-1] == "x.parquet: 15 images, 64 features\n"
    raw_file = raw.RawFile(project / "data/raw/shapes/images.parquet")
    assert raw_file.class_names == ["bär", "caf\\xe9", "日本"]
    assert "bär" in (project / "report/index.html").read_text(encoding="utf-8")


def write_decompression_bomb(path: Path) -> None:
    """Write an image of 40,000 × 40,000 pixels in 200 kB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(5001 * 40_000), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def write_truncated_image(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-900])


def write_image_without_pixels(path: Path) -> None:
    path.write_bytes(b"P6\n0 0\n255\n")


def write_images_with_odd_file(project: Path, write: Callable[[Path], object]) -> None:
    """Add a dataset of five images and the file that `write` writes."""
    folder = project / "images"
    folder.mkdir()
    for k in range(5):
        Image.new("RGB", (8, 8), (40 * k, 0, 0)).save(folder / f"{k}.png")
    write(folder / "odd.png")
    add_dataset(project, {"kind": "imagefolder", "path": "images"})


@pytest.mark.parametrize(
    "write", [write_decompression_bomb, write_truncated_image, write_image_without_pixels, Path.touch]
)
def test_invalid_image_raises(project: Path, rr: RunRr, write: Callable[[Path], object]) -> None:
    write_images_with_odd_file(project, write)
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 2
    assert "odd.png: not a readable image" in outcome.err
    assert not list((project / "data").rglob("images*"))


def test_link_to_a_device_is_skipped(project: Path, rr: RunRr) -> None:
    """The device has unlimited size."""
    write_images_with_odd_file(project, lambda path: path.symlink_to("/dev/zero"))
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == 0, outcome.err
    assert len(open_fetched(project).labels) == 5


def test_recorded_command_is_quoted_for_shell(project: Path, rr: RunRr) -> None:
    source = project / SHELL_NAME
    write_images(source)
    add_dataset(project, {"kind": "imagefolder", "path": "elsewhere"})
    assert rr("fetch", "--dataset", "mine", "--from", source).code == 0
    command = json.loads((project / "data/raw/mine/run.json").read_text())["command"]
    assert shlex.split(command) == ["rr", "fetch", "--dataset", "mine", "--from", str(source)]
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, cwd=project)
    assert words.stdout.splitlines()[-1] == str(source)
    assert created_files(project) == []
