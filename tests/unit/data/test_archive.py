"""Tests of untrusted archives: limits, unsafe members and damage."""

import bz2
import gzip
import io
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import error_of

from rr.data import archive
from rr.data.archive import ArchiveLimits, extract_tar, open_tree

DATA = np.random.default_rng(0).bytes(1_000_000)
LIMITS = ArchiveLimits(max_bytes=20_000, max_members=5)


def make_tar(path: Path, *members: tuple[str, object]) -> Path:
    """Write a tar archive of members (name, bytes) or (name, (type of link, target))."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = content
                tar.addfile(entry)
    return path


def make_zip(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


UNSAFE_MEMBERS = [
    ((("../out", b"x"),), "../out lies outside"),
    ((("a/../../out", b"x"),), "a/../../out lies outside"),
    ((("/tmp/out", b"x"),), "/tmp/out lies outside"),
    ((("ok", b"x"), ("zeros", bytes(20_000))), "it expands to more than 20,000 bytes; limit reached at zeros"),
    (tuple((f"{i}", b"") for i in range(6)), "it has more than 5 members; limit reached at 5"),
]


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_visible_files_are_listed_and_read(tmp_path: Path, make: Callable) -> None:
    path = make(tmp_path / "set", ("b/2", b"two"), ("a/1", b"one"), ("a/.DS_Store", b"?"), ("__MACOSX/a/1", b"?"))
    tree = open_tree(path, tmp_path / "extracted", LIMITS)
    assert [(name, tree.read(name)) for name in tree.names] == [("a/1", b"one"), ("b/2", b"two")]
    assert (tmp_path / "extracted").exists() == (make is make_tar)
    if make is make_tar:
        assert open_tree(tmp_path / "extracted", tmp_path / "unused", LIMITS).names == tree.names


@pytest.mark.parametrize(("members", "expected"), UNSAFE_MEMBERS)
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_unsafe_member_raises_and_leaves_no_files(
    tmp_path: Path, make: Callable, members: tuple, expected: str
) -> None:
    path = make(tmp_path / "set", *members)
    message = error_of(lambda: open_tree(path, tmp_path / "deep/extracted", LIMITS), expected)
    assert "was rejected, because it is not the expected dataset" in message
    assert [item.name for item in tmp_path.rglob("*") if item.is_file()] == ["set"]


def test_zip_bomb_raises(tmp_path: Path) -> None:
    limits = ArchiveLimits(max_bytes=1 << 20, max_members=10)
    path = make_zip(tmp_path / "set", ("zeros", bytes(20 << 20)))
    assert path.stat().st_size < 100_000
    error_of(lambda: open_tree(path, tmp_path / "extracted", limits), "more than 1,048,576 bytes")


def test_zip_member_larger_than_declared_raises(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "set", ("zeros", bytes(1_000_000)))
    true_size = (1_000_000).to_bytes(4, "little")
    assert path.read_bytes().count(true_size) == 2
    path.write_bytes(path.read_bytes().replace(true_size, (1000).to_bytes(4, "little")))
    tree = open_tree(path, tmp_path / "extracted", LIMITS)
    error_of(lambda: tree.read("zeros"), "is damaged (zeros: Bad CRC-32")


@pytest.mark.parametrize(
    "link",
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../out"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_pipes_raise(tmp_path: Path, link: tuple) -> None:
    path = make_tar(tmp_path / "set", ("a", b"x"), ("odd", link))
    error_of(lambda: extract_tar(path, tmp_path / "extracted", LIMITS), "odd is neither a file nor a folder")
    assert not (tmp_path / "extracted").exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: make_zip(path, ("a", DATA)),
        lambda path: make_tar(path, ("a", DATA)),
        lambda path: path.write_bytes(bz2.compress(make_tar(path, ("a", DATA)).read_bytes())) and path,
    ],
)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_archive_raises(tmp_path: Path, make: Callable, keep: float) -> None:
    path = make(tmp_path / "set")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    error_of(
        lambda: open_tree(path, tmp_path / "extracted", ArchiveLimits(1 << 30, 10)),
        f"{path} is damaged or not a zip or tar archive (",
    )
    assert not (tmp_path / "extracted").exists()


@pytest.mark.parametrize("content", [b"", b"Rar!\x1a\x07\x01\x00", b"<html>not found</html>"])
def test_file_that_is_not_an_archive_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set").write_bytes(content)
    expected = f"{tmp_path / 'set'} is damaged or not a zip or tar archive (it cannot be opened): replace this file"
    message = error_of(lambda: open_tree(tmp_path / "set", tmp_path / "extracted", LIMITS), expected)
    assert message.endswith("with a new download of the official archive, or use another copy with --from")


def test_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    expected = "set.zip is a Git LFS pointer instead of the file: run `git lfs pull`"
    error_of(lambda: open_tree(tmp_path / "set.zip", tmp_path / "extracted", LIMITS), expected)


def test_changed_byte_in_zip_raises(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set", "w") as file:
        file.writestr("good", b"untouched")
        file.writestr("bad", b"content")
    path = tmp_path / "set"
    path.write_bytes(path.read_bytes().replace(b"content", b"conteNt"))
    tree = open_tree(path, tmp_path / "extracted", LIMITS)
    assert tree.read("good") == b"untouched"
    error_of(lambda: tree.read("bad"), "is damaged (bad: Bad CRC-32")


def test_changed_byte_in_tar_raises(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "set", ("a", DATA))
    content = bytearray(path.read_bytes())
    content[500_000] ^= 0xFF
    path.write_bytes(content)
    error_of(lambda: extract_tar(path, tmp_path / "extracted", ArchiveLimits(1 << 30, 10)), "is damaged")


def test_data_after_the_last_member_counts_towards_the_limit(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "set", ("a", b"x"))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100_000)))
    error_of(
        lambda: extract_tar(path, tmp_path / "extracted", LIMITS),
        "it expands to more than 20,000 bytes; limit reached at data after the last member",
    )
    assert not (tmp_path / "extracted").exists()


def test_tar_is_extracted_without_extraction_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.0 to 3.11.3 have no extraction filters."""
    monkeypatch.setattr(archive, "_EXTRACTION_FILTER", {})
    extract_tar(make_tar(tmp_path / "set", ("a", DATA)), tmp_path / "extracted", ArchiveLimits(1 << 30, 10))
    assert (tmp_path / "extracted/a").read_bytes() == DATA


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_huge_header_of_a_tar_is_not_read(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("long")
    header.type, header.size = kind, 200 << 20
    with gzip.open(tmp_path / "set", "wb", compresslevel=1) as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(200):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    error_of(
        lambda: extract_tar(tmp_path / "set", tmp_path / "extracted", ArchiveLimits(1 << 20, 10)),
        "is damaged or not a zip or tar archive",
    )
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_archive_inside_target_folder_is_not_deleted(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "set", ("a", b"x"))
    error_of(lambda: extract_tar(path, tmp_path, LIMITS), "move this archive to another folder")
    assert path.exists()
