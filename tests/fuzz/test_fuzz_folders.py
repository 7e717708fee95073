"""Fuzz test with image folders: every file is used or reported, or one UserError is raised and nothing is written.

The tree generator knows the correct result. It counts the files, links and special files that it writes, and remembers
the contents of each readable image.
"""

import os
import random
import shutil
from pathlib import Path

import pytest
from corruption import DEFAULT_ROUNDS, rounds
from own_images import fetch_folder, fetched_labels, make_image, raw_file

from rr.data import raw
from rr.data.folder_listing import image_kind, list_folder
from rr.data.printable_names import normalize_unicode, path_to_text
from rr.data.skipped_files import SkippedFiles
from rr.data.sources.split_names import UNUSED
from rr.errors import UserError
from rr.gallery.images import list_images

SPLITS = [
    ["train", "test"],
    ["Training", "Test_Set", "val"],
    ["images/train", "images/dev"],
    ["train"],
    ["test"],
    ["a"],
]
CLASSES = ["cat", "dog", "b\xe4r", "ba\u0308r", os.fsdecode(b"caf\xe9"), "a\nb", "test"]
IGNORED = [".git", "@eaDir", "__MACOSX", ".ipynb_checkpoints", ".Trash-0", "_vti_cnf", "x.lrdata"]
IMAGE_NAMES = ["{}.png", "{}.JPG", "{} x.jpeg", "{}.webp", os.fsdecode(b"\xff{}.png")]
OTHER_NAMES = [
    ".{}.png", "._{}.png", "{}.dng", "{}.txt", "{}", "{}.jpg_1", "{}.pdf", "Thumbs.db{}", "{}.json", "{}.jpg_original"
]  # fmt: skip
DAMAGED = [
    b"", b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html>", b"junk", bytes(99), b"\x89PNG\r\n\x1a\n"
]  # fmt: skip


class RandomTree:
    """A random tree of folders, in most cases with a common layout.

    Attributes:
        root: root of the tree.
        num_entries: number of entries that are not folders.
        images: the path of each readable image, by the image's contents.
        is_damaged: whether a file that could be an image is damaged.
    """

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng = root, rng
        self.num_entries = 0
        self.images: dict[bytes, Path] = {}
        self.is_damaged = False
        parents = [root / name for name in rng.choice([[""], [""], *SPLITS])]
        classes = rng.sample(CLASSES, rng.randint(0, 3))
        leaves = [parent / name for parent in parents for name in classes if rng.random() < 0.98] or parents
        strays = [root, *parents, root / "extra", *(rng.choice(leaves) / name for name in [*IGNORED, "sub"])]
        for folder in [root, *leaves]:
            folder.mkdir(parents=True, exist_ok=True)
        for leaf in leaves:
            for _ in range(rng.choice([2, 2, 3])):
                self._add_entry(leaf, "image")
        for _ in range(rng.randint(0, 8)):
            kind = rng.choices(["image", "other", "link", "damaged", "fifo"], [6, 6, 1, 0.7, 1])[0]
            self._add_entry(rng.choice(leaves) if rng.random() < 0.9 else rng.choice(strays), kind)

    def _add_entry(self, folder: Path, kind: str) -> None:
        rng, number = self.rng, self.num_entries
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / rng.choice(OTHER_NAMES if kind == "other" else IMAGE_NAMES).format(number)
        is_ignored = not {*IGNORED}.isdisjoint(path.parts)
        if kind in ("image", "other"):
            data = make_image()
            path.write_bytes(data)
            if kind == "image" and not is_ignored:
                self.images[data] = path
        elif kind == "damaged":
            path.write_bytes(rng.choice(DAMAGED))
            self.is_damaged |= not is_ignored
        elif kind == "link":
            path = folder / rng.choice([f"{number}.png", f"{number}", f"{number}.txt"])
            target = rng.choice([self.root, self.root.parent, folder, Path("nowhere"), Path("../.git/annex/objects/x")])
            if is_ignored and target == folder:
                target = self.root  # a link to an ignored folder would make the folder's images visible
            path.symlink_to(target)
            self.is_damaged |= not (target.is_absolute() or path.suffix == ".txt" or is_ignored)
        else:
            os.mkfifo(path)
        self.num_entries += 1


def count_entries(root: Path) -> int:
    """Return the number of entries that are not folders, without following links."""
    return sum(path.is_symlink() or not path.is_dir() for path in root.rglob("*"))


def num_skipped(counts: dict[str, dict[str, int]]) -> int:
    return sum(count for by_suffix in counts.values() for count in by_suffix.values())


def test_every_entry_of_a_random_tree_is_listed_once(tmp_path: Path) -> None:
    for number, rng in rounds("folders"):
        tree = RandomTree(tmp_path / "images", rng)
        listing = list_folder(tree.root, image_kind())
        names = [*listing.files, *(file.name for file in [*listing.skipped, *listing.damaged])]
        assert len(names) == len(set(names)) == tree.num_entries == count_entries(tree.root), f"round {number}"
        files = {(tree.root / name).read_bytes() for name in listing.files}
        assert tree.images.keys() <= files, f"round {number}"
        assert files - tree.images.keys() <= {*DAMAGED}, f"round {number}"
        skipped = SkippedFiles("skip", "")
        assert len(list_images(tree.root, skipped)) + num_skipped(skipped.counts) == tree.num_entries
        shutil.rmtree(tree.root)


@pytest.mark.parametrize("keys", [{}, {"labels": "none"}, {"splits": "none"}, {"on_unreadable": "skip"}], ids=str)
def test_random_tree_is_fetched_completely_or_raises(tmp_path: Path, keys: dict) -> None:
    num_fetched = 0
    for number, rng in rounds(f"fetch {keys}"):
        tree = RandomTree(tmp_path / "images", rng)
        try:
            facts = fetch_folder(tree.root, **keys)
        except UserError:
            assert not list(tmp_path.rglob("*.parquet")), f"round {number}"
        else:
            num_fetched += 1
            check_fetched(tree, facts, f"round {number}")
            if "on_unreadable" not in keys and UNUSED not in facts["skipped"]:
                assert not tree.is_damaged, f"round {number}"
            shutil.rmtree(raw_file(tree.root).parent)
        shutil.rmtree(tree.root)
    assert DEFAULT_ROUNDS // 4 < num_fetched < DEFAULT_ROUNDS


def check_fetched(tree: RandomTree, facts: dict, where: str) -> None:
    """Check that all images were used or reported, and that each one has the class and the split of its folders."""
    taken = sum(facts["images"].values())
    assert taken + num_skipped(facts["skipped"]) == tree.num_entries, where
    contents = [data for _, data in raw.RawFile(raw_file(tree.root)).iter_images()]
    assert len(contents) == len(set(contents)) == taken, where
    assert tree.images.keys() >= {*contents}, where
    assert len(tree.images) - taken <= sum(facts["skipped"].get(UNUSED, {}).values()), where
    for data, (split, class_name) in zip(contents, fetched_labels(tree.root).values(), strict=True):
        folder = normalize_unicode(path_to_text(tree.images[data].parent.relative_to(tree.root)))
        assert not class_name or class_name in folder.split("/"), where
        if facts["splits"]["test"].startswith("folder "):
            test_folder, origin = facts["splits"]["test"].split()[1], facts["splits"][split]
            is_test = f"{folder}/".startswith(f"{test_folder}/")
            if origin == "all other folders":
                assert not is_test, where
            else:
                assert f"{folder}/".startswith(origin.split()[1] + "/"), where
