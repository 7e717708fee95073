"""Tests that a folder's files are listed completely: each one is either used or reported."""

import errno
import os
import socket
from pathlib import Path

import pytest
from own_images import make_image, save_file, save_tree

from rr.data import folder_listing
from rr.data.folder_listing import FolderListing, image_kind, image_suffixes, list_folder


def list_images(root: Path) -> FolderListing:
    return list_folder(root, image_kind())


def reasons(listing: FolderListing) -> dict[str, str]:
    return {file.name: file.reason for file in [*listing.skipped, *listing.damaged]}


def test_files_are_sorted_by_the_parts_of_their_paths(tmp_path: Path) -> None:
    save_tree(tmp_path, {"b": 1, "a/b": 1, "a-c": 1, "": 2})
    listing = list_images(tmp_path)
    assert listing.files == ["0.png", "1.png", "a/b/0.png", "a-c/0.png", "b/0.png"]
    assert listing.folders == ["a", "a/b", "a-c", "b"]


def test_only_suffixes_that_pillow_can_decode_are_images() -> None:
    assert {
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".tif",
        ".bmp",
        ".gif",
        ".mpo",
        ".jp2",
        ".ppm",
        ".heic",
    } <= image_suffixes()
    assert image_suffixes().isdisjoint(
        {".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".eps", ".wmf", ".dng", ".txt"}
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".hidden.png", folder_listing.HIDDEN),
        (".git/a/b/x.png", folder_listing.HIDDEN),
        (".ipynb_checkpoints/x.png", folder_listing.FROM_PROGRAM),
        (".Trash-1000/files/x.png", folder_listing.FROM_PROGRAM),
        ("@eaDir/x.jpg/SYNOPHOTO_THUMB_M.jpg", folder_listing.FROM_PROGRAM),
        ("__MACOSX/cat/._x.png", folder_listing.FROM_PROGRAM),
        ("._x.png", folder_listing.FROM_PROGRAM),
        ("$RECYCLE.BIN/x.png", folder_listing.FROM_PROGRAM),
        ("#recycle/x.png", folder_listing.FROM_PROGRAM),
        ("RECYCLER/x.png", folder_listing.FROM_PROGRAM),
        ("System Volume Information/x.png", folder_listing.FROM_PROGRAM),
        ("lost+found/x.png", folder_listing.FROM_PROGRAM),
        ("~snapshot/daily.0/x.png", folder_listing.FROM_PROGRAM),
        ("THUMBS.DB", folder_listing.FROM_PROGRAM),
        ("desktop.ini", folder_listing.FROM_PROGRAM),
        ("x.jxl", folder_listing.UNSUPPORTED_FORMAT),
        ("x.DNG", folder_listing.UNSUPPORTED_FORMAT),
        ("x.nef", folder_listing.UNSUPPORTED_FORMAT),
        ("x.svg", folder_listing.UNSUPPORTED_FORMAT),
        ("x.pdf", folder_listing.UNSUPPORTED_FORMAT),
        ("x.mpg", folder_listing.UNSUPPORTED_FORMAT),
        ("x.h5", folder_listing.UNSUPPORTED_FORMAT),
        ("x.txt", folder_listing.OTHER_SUFFIX),
        ("x.mp4", folder_listing.OTHER_SUFFIX),
        ("x.ZIP", folder_listing.ARCHIVE),
        ("README", folder_listing.OTHER_SUFFIX),
        ("x.pcd", folder_listing.OTHER_SUFFIX),  # a point cloud; the suffix is also that of PhotoCD images
    ],
)
def test_file_of_another_kind_is_reported(tmp_path: Path, name: str, reason: str) -> None:
    save_tree(tmp_path, {"cat": 1})
    save_file(tmp_path / "cat" / name, b"contents")
    listing = list_images(tmp_path)
    assert listing.files == ["cat/0.png"]
    assert reasons(listing) == {f"cat/{name}": reason}
    assert listing.damaged == []


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("name", ["image", "image.jpg_1", "image.bak"])
def test_image_with_an_unusual_suffix_is_recognized_by_its_contents(
    tmp_path: Path, name: str, image_format: str
) -> None:
    save_file(tmp_path / name, make_image(image_format))
    assert reasons(list_images(tmp_path)) == {name: folder_listing.MISNAMED_IMAGE}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("x.png.part", "an unfinished download; complete or delete it"),
        ("x.jpg.aria2", "an unfinished download; complete or delete it"),
        ("x.jpg.!qB", "an unfinished download; complete or delete it"),
        ("x.jpg.crdownload", "an unfinished download; complete or delete it"),
        ("x.jpg.3f2a1b4c.partial", "an unfinished download; complete or delete it"),
        (".syncthing.x.jpg.tmp", "an unfinished download; complete or delete it"),
        ("~syncthing~x.jpg.tmp", "an unfinished download; complete or delete it"),
        ("x.jpg.nextcloud", "not downloaded from Nextcloud; make it available locally"),
        ("x.JPG.owncloud", "not downloaded from ownCloud; make it available locally"),
        (".x.jpg.icloud", "not downloaded from iCloud"),
        ("x.jpg.dvc", "its data (x.jpg) is missing; run `dvc pull`"),
        ("cats.dvc", "its data (cats) is missing; run `dvc pull`"),
    ],
)
def test_placeholder_of_a_missing_image_is_damage(tmp_path: Path, name: str, problem: str) -> None:
    save_file(tmp_path / name, b"")
    (damaged,) = list_images(tmp_path).damaged
    assert damaged.name == name
    assert problem in damaged.problem


def test_placeholder_next_to_its_file_is_not_damage(tmp_path: Path) -> None:
    save_tree(tmp_path, {"cats": 1})
    save_file(tmp_path / "cats.dvc", b"")
    save_file(tmp_path / "x.txt.part", b"")
    assert list_images(tmp_path).damaged == []


@pytest.mark.parametrize(
    "name",
    [
        "0.jpg_original", "0.png~", "0.png@SynoEAStream", "Thumbs.db:encryptable", "_vti_cnf/0.png", "@__thumb/s0.jpg",
        "Thumbnails/0.png", "Previews.lrdata/0/0.png", "Photos.photoslibrary/originals/0.png",
    ],
)  # fmt: skip
def test_files_of_other_programs_are_skipped(tmp_path: Path, name: str) -> None:
    save_tree(tmp_path, {"cat": 1, "recycled": 1, "v1.0_original": 1, "van_gogh_original": 1})
    save_file(tmp_path / "cat" / name)
    listing = list_images(tmp_path)
    assert listing.files == ["cat/0.png", "recycled/0.png", "v1.0_original/0.png", "van_gogh_original/0.png"]
    assert reasons(listing) == {f"cat/{name}": folder_listing.FROM_PROGRAM}


def test_thumbnails_are_skipped_only_next_to_images(tmp_path: Path) -> None:
    counts = {"cat": 1, "cat/thumbs": 1, "cat/Thumb": 1, "thumb": 1, "fist": 1, "cat/PaxHeaders.12": 1, "PaxHeader": 1}
    listing = list_images(save_tree(tmp_path, counts))
    assert listing.files == ["cat/0.png", "fist/0.png", "thumb/0.png"]
    skipped = ["PaxHeader/0.png", "cat/PaxHeaders.12/0.png", "cat/Thumb/0.png", "cat/thumbs/0.png"]
    assert reasons(listing) == dict.fromkeys(skipped, folder_listing.FROM_PROGRAM)


def test_link_named_like_a_thumbnail_folder_may_be_broken(tmp_path: Path) -> None:
    root = save_tree(tmp_path, {"cat": 1})
    (root / "cat/thumb").symlink_to("thumb")  # to itself
    (root / "cat/thumbs").symlink_to("missing")
    assert list_images(root).files == ["cat/0.png"]


def test_link_that_is_deleted_while_it_is_listed_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_missing(*args: object) -> str:
        raise FileNotFoundError

    (tmp_path / "x.png").symlink_to("nowhere")
    monkeypatch.setattr(os, "readlink", raise_missing)
    monkeypatch.setattr(os.path, "realpath", str)  # the original calls readlink
    assert [file.problem for file in list_images(tmp_path).damaged] == [folder_listing.BROKEN_LINK]


def test_links_to_files_and_folders_outside_are_followed(tmp_path: Path) -> None:
    outside = save_tree(tmp_path / "outside", {"cat": 2})
    root = save_tree(tmp_path / "root", {"dog": 1})
    (root / "cat").symlink_to(outside / "cat")
    (root / "dog/link.png").symlink_to(outside / "cat/0.png")
    (root / "z again").symlink_to(outside / "cat")
    listing = list_images(root)
    assert listing.files == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/link.png"]
    assert reasons(listing) == {"z again": folder_listing.LISTED_FOLDER}


def test_link_to_a_folder_of_the_tree_is_reported(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "root", {"cat": 1, "dog": 1})
    for name, target in (("cat/up", ".."), ("cat/above", "../.."), ("all", "."), ("a", "dog"), ("cat/x", "../dog")):
        (root / name).symlink_to(target)
    listing = list_images(root)
    assert listing.files == ["cat/0.png", "dog/0.png"]
    assert reasons(listing) == dict.fromkeys(["cat/up", "cat/above", "all", "a", "cat/x"], folder_listing.LISTED_FOLDER)


def test_links_that_contain_each_other_list_each_folder_once(tmp_path: Path) -> None:
    outside = save_tree(tmp_path / "outside", {"cat": 1, "dog": 1})
    root = save_tree(tmp_path / "root", {"bird": 1})
    (root / "a").symlink_to(outside / "cat")
    (root / "b").symlink_to(outside)
    (outside / "loop").symlink_to(outside)
    listing = list_images(root)
    assert listing.files == ["a/0.png", "b/dog/0.png", "bird/0.png"]
    assert reasons(listing) == dict.fromkeys(["b/cat", "b/loop"], folder_listing.LISTED_FOLDER)


def test_link_to_a_folder_in_a_hidden_folder_of_the_tree_is_followed(tmp_path: Path) -> None:
    save_tree(tmp_path, {".store/cat": 2})
    (tmp_path / "cat").symlink_to(".store/cat")
    listing = list_images(tmp_path)
    assert listing.files == ["cat/0.png", "cat/1.png"]
    assert len(listing.skipped) == 2


def test_broken_link_is_damage_if_it_could_be_an_image(tmp_path: Path) -> None:
    for name, target in {
        "a.jpg": "nowhere", "b": "/no/folder", "loop.png": "loop.png", "c.txt": "nowhere",
        "annex.jpg": "../.git/annex/objects/x/y",
    }.items():  # fmt: skip
        (tmp_path / name).symlink_to(target)
    listing = list_images(tmp_path)
    assert [file.name for file in listing.damaged] == ["a.jpg", "annex.jpg", "b", "loop.png"]
    assert listing.damaged[1].problem == "a broken link; run `git annex get` or `datalad get` in this folder"
    assert listing.skipped == [folder_listing.SkippedFile("c.txt", folder_listing.BROKEN_LINK)]


def test_special_files_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may have at most 107 bytes
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        listing = list_images(tmp_path)
    assert reasons(listing) == dict.fromkeys(["pipe.png", "zero.png", "s.png"], folder_listing.NOT_REGULAR)


def test_folder_that_cannot_be_listed_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tree(tmp_path, {"cat/private": 1, "dog": 1, ".hidden": 1})
    scandir = os.scandir

    def scandir_without_permission(path: str) -> object:
        if str(path).endswith(("private", ".hidden")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_without_permission)
    listing = list_images(tmp_path)
    assert listing.files == ["dog/0.png"]
    assert [(file.name, file.problem) for file in listing.damaged] == [
        ("cat/private", "a folder that cannot be listed (Permission denied)")
    ]
    assert reasons(listing)[".hidden"] == folder_listing.HIDDEN
    monkeypatch.setattr(os, "scandir", lambda path: scandir_without_permission("private"))
    with pytest.raises(PermissionError):
        list_images(tmp_path)


def test_names_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9/\xff.png")
    save_file(tmp_path / name)
    assert list_images(tmp_path).files == [name]
