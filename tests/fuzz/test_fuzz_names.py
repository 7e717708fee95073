"""No name and no path is ever read as a command: of folders, sources, pictures, suites; by neither engine."""

import json
import os
import shlex
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from engine_calls import call
from helpers import Rr, copy_project, fetched, use, write_params
from PIL import Image

from rr.errors import UserError
from rr.workflow import suites

EVIL = "a b;$(touch x)`touch x`'\"&|>x"


def pictures(folder: Path) -> None:
    for kind in ("cat;touch x", "$(touch x)"):
        (folder / kind).mkdir(parents=True)
        for k in range(5):
            pixels = np.full((8, 8, 3), 20 * k, np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{k} `touch x`'\".png")


def traces(folder: Path) -> list[Path]:
    """What any of the commands would have left: the names are full of `touch x` and `> x`."""
    return [path for path in folder.rglob("x") if ".git" not in path.parts]


@pytest.mark.engine
def test_both_engines_in_a_folder_with_any_name(tmp_path: Path) -> None:
    folder = tmp_path / EVIL
    folder.mkdir()
    copy_project(folder)
    pictures(folder / EVIL)

    def change(params: dict) -> None:
        params["datasets"]["mine"] = {
            **params["datasets"]["shapes"],
            "source": {"kind": "imagefolder", "path": str(folder / EVIL), "test_share": 0.2, "unreadable": "stop"},
        }
        params["grid"].update(data=["mine"], dataset=["mine"], target=["mine"])

    write_params(folder, change)
    call(folder, "dvc", "repro", "--dry", "fetch@mine")
    call(folder, "dvc", "repro", "fetch@mine")
    by_dvc = (folder / "data/raw/mine/images.parquet").read_bytes()
    call(folder, "snakemake", "--dry-run")
    call(folder, "snakemake", "--cores", "1", "--forcerun", "fetch", "--", "data/raw/mine/images.parquet")
    assert (folder / "data/raw/mine/images.parquet").read_bytes() == by_dvc
    assert traces(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["a b", "a;b", "$(touch x)", "`x`", "../x", "/x", "", "-x", "a\n", "é", "a/b", "{x}", "${x}", "a'b", '"']
)
@pytest.mark.parametrize("section", ["datasets", "methods", "protocols"])
def test_names_in_params_are_words_of_any_shell(project: Path, rr: Rr, section: str, name: str) -> None:
    def change(params: dict) -> None:
        params[section][name] = next(iter(params[section].values()))

    write_params(project, change)
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 2
    assert "string should match pattern" in outcome.err
    assert traces(project) == []


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "a b", "", "$(touch x)"])
def test_a_suite_with_such_a_name_writes_nowhere(place: Path, name: str) -> None:
    grid = suites.read("quick")["grid"]
    with pytest.raises(UserError, match="is no name of a suite"):
        suites.overlay({name: {"grid": grid}}, place)
    assert not (place.parent / ".rr").exists()
    assert traces(place.parent) == []


def test_pictures_of_any_name_and_kind(project: Path, rr: Rr) -> None:
    """Spaces, newlines, no text at all; CMYK, 16 bits, one pixel wide, moving."""
    folder = project / "my pictures\n;"
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = ["a b.png", "a\nb.png", "-rf.png", "$(touch x).png", "é\u202e.png", "q'\".png", "k" * 200 + ".png"]
    raw_names = [os.fsencode(name) for name in names] + [b"\xff\xfe.png"]
    for name in raw_names:
        noise = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8))
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            noise.save(file, "PNG")
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 2**16, (9, 7), np.uint16)).save(folder / "deep.png")
    noise.resize((1, 3000)).save(folder / "line.png")
    frames = [Image.fromarray(rng.integers(0, 256, (9, 7), np.uint8)) for _ in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    use(project, {"kind": "imagefolder", "path": str(folder)})
    assert rr("fetch", "--dataset", "mine").code == 0
    assert len(fetched(project).labels) == len(raw_names) + 4
    assert rr("convert", "--dataset", "mine").code == 0
    assert traces(project) == []


def bomb(path: Path) -> None:
    """A picture of 40,000 × 40,000 pixels in 200 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(5001 * 40_000), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def truncated(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-900])


def without_a_pixel(path: Path) -> None:
    path.write_bytes(b"P6\n0 0\n255\n")


@pytest.mark.parametrize("make", [bomb, truncated, without_a_pixel, Path.touch, Path.mkdir])
def test_pictures_that_are_none(project: Path, rr: Rr, make: object) -> None:
    folder = project / "pictures"
    folder.mkdir()
    for k in range(5):
        Image.new("RGB", (8, 8), (40 * k, 0, 0)).save(folder / f"{k}.png")
    make(folder / "evil.png")  # type: ignore[operator]
    is_picture = (folder / "evil.png").is_file()
    if not is_picture:
        (folder / "evil.png").rmdir()
        (folder / "evil.png").symlink_to("/dev/zero")  # no file, and without an end
    use(project, {"kind": "imagefolder", "path": "pictures"})
    outcome = rr("fetch", "--dataset", "mine")
    assert outcome.code == (2 if is_picture else 0)
    if is_picture:
        assert "evil.png: not a readable picture" in outcome.err
        assert not list((project / "data").rglob("images*"))


def test_a_command_line_is_recorded_so_that_it_can_be_pasted(project: Path, rr: Rr) -> None:
    source = project / EVIL
    pictures(source)
    use(project, {"kind": "imagefolder", "path": "elsewhere"})
    assert rr("fetch", "--dataset", "mine", "--from", source).code == 0
    command = json.loads((project / "data/raw/mine/run.json").read_text())["command"]
    assert shlex.split(command) == ["rr", "fetch", "--dataset", "mine", "--from", str(source)]
    words = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, cwd=project)
    assert words.stdout.splitlines()[-1] == str(source)
    assert traces(project) == []
