"""Fuzz test with Parquet layouts: every row and file is used or reported, or one UserError is raised.

The generator knows the correct result. It remembers the contents and the class of each row, the order of the class
names in each file, and which files of a numbered set it left out.
"""

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from corruption import DEFAULT_ROUNDS, rounds
from own_images import fetch_parquet, fetched_labels, make_image, make_table, raw_file, save_tables

from rr.data import raw
from rr.data.sources.split_names import UNUSED, find_split
from rr.errors import UserError

CLASSES = ["cat", "dog", "owl"]
# The second field stands for the name of the split.
FORMS = ["{0}{1}.parquet", "{0}{1}/0000.parquet", "{0}data/{1}.parquet", "{0}{1}-{2:05}-of-{3:05}.parquet"]
FORMS += ["{0}{1}/{2:04}.parquet", "{0}{1}_{2}.parquet", "{0}part-{2}-of-{3}.parquet"]
SPLITS = [["train", "test"], ["train", "validation"], ["Train", "TEST", "val"], ["train"], ["all"], ["test"]]
OTHER_FILES = ["README.md", ".gitattributes", ".cache/train.parquet", "x.json", "__MACOSX/._a.parquet"]


class RandomFiles:
    """Random Parquet files, in most cases with a common layout.

    Attributes:
        root: folder of the files.
        classes: the class (None if unlabeled) of each readable image, by the image's contents.
        origins: the name of each image's file, by the image's contents.
        num_rows: number of rows of each Parquet file that should be considered.
        num_other_files: number of files that should be reported.
        must_raise: whether the files contain a mistake that cannot be fixed by guessing.
    """

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng = root, rng
        self.classes: dict[bytes, str | None] = {}
        self.origins: dict[bytes, str] = {}
        self.num_rows: dict[str, int] = {}
        self.must_raise = False
        self._kind = rng.choice(["integers", "names", "names", "texts"])
        self._columns = rng.choice([{}, {"image": "img", "label": "fine_label"}, {"label": "class", "number": True}])
        form, prefix = rng.choice(FORMS), rng.choice(["", "", "", "default/"])
        tables = {}
        splits = rng.choice(SPLITS)
        for split in splits:
            count = rng.choice([1, 2, 3]) if "{2" in form else 1
            missing = rng.choice([None] * 12 + [*range(count)]) if count > 1 and "{3" in form else None
            for index in range(count):
                name = form.format(prefix, split, index, count)
                if index == missing:
                    self.must_raise |= "{1}" in form and find_split(split) in (None, "train")
                elif name not in tables:
                    tables[name] = self._make_table(name)
        for name in rng.sample(["train_old.parquet", "b/train.parquet"], rng.choice([0, 0, 0, 0, 0, 1])):
            if name not in tables and len(tables) > 0:
                tables[name] = self._make_table(name)
                self.must_raise = True
        others = dict.fromkeys(rng.sample(OTHER_FILES, rng.randint(0, 3)), b"")
        self.num_other_files = len(others)
        save_tables(root, tables | others)

    def _make_table(self, name: str) -> pa.Table:
        rng = self.rng
        count = rng.randint(6, 12)
        labels = [rng.choice([*range(3), *range(3), -1 if rng.random() < 0.1 else 0]) for _ in range(count)]
        labels[:3] = range(3)
        names = None
        if self._kind == "names":
            names = CLASSES if rng.random() < 0.95 else rng.sample(CLASSES, 3)
        class_names = names or (["0", "1", "2"] if self._kind == "integers" else CLASSES)
        classes = [class_names[label] if label >= 0 else None for label in labels]
        columns = dict(self._columns)
        if columns.pop("number", None):
            columns["number"] = list(range(count))
        values = classes if self._kind == "texts" else labels
        table = make_table(values, names, **columns)
        position = table.column_names.index(columns.get("image", "image"))
        images = table.column(position).to_pylist()
        if rng.random() < 0.05:
            images[rng.randrange(count)] = rng.choice([None, {"bytes": None, "path": "x"}, {"bytes": b"x", "path": ""}])
        for image, class_name in zip(images, classes, strict=True):
            if image and image["bytes"] and image["bytes"] != b"x":
                self.classes[image["bytes"]] = class_name
                self.origins[image["bytes"]] = name
        self.num_rows[name] = count
        return table.set_column(position, table.schema.names[position], pa.array(images, table.schema.types[position]))


@pytest.mark.parametrize("keys", [{}, {"labels": "none"}, {"splits": "none"}, {"on_unreadable": "skip"}], ids=str)
def test_random_files_are_fetched_completely_or_raise(tmp_path: Path, keys: dict) -> None:
    num_fetched = 0
    for number, rng in rounds(f"parquet {keys}"):
        files = RandomFiles(tmp_path / "set", rng)
        try:
            facts = fetch_parquet(files.root, **keys)
        except UserError:
            assert not raw_file(files.root).parent.exists() or not list(raw_file(files.root).parent.iterdir())
        else:
            num_fetched += 1
            assert not files.must_raise or "splits" in keys, f"round {number}"
            check_fetched(files, facts, f"round {number}", "labels" not in keys)
            shutil.rmtree(raw_file(files.root).parent)
        shutil.rmtree(files.root)
    assert DEFAULT_ROUNDS // 4 < num_fetched < DEFAULT_ROUNDS


def check_fetched(files: RandomFiles, facts: dict, where: str, is_labeled: bool) -> None:
    """Check that all rows of the selected files were used or reported, with their classes and splits."""
    used = [name for names in facts["files"].values() for name in names]
    skipped = {reason: sum(by_suffix.values()) for reason, by_suffix in facts["skipped"].items()}
    num_unused = len(files.num_rows) - len(used)
    assert skipped.get(UNUSED, 0) == num_unused, where
    num_bad_rows = skipped.get("without an image", 0) + skipped.get("an image that cannot be decoded", 0)
    assert sum(skipped.values()) == num_unused + num_bad_rows + files.num_other_files, where
    assert sum(facts["images"].values()) + num_bad_rows == sum(files.num_rows[name] for name in used), where
    contents = [data for _, data in raw.RawFile(raw_file(files.root)).iter_images()]
    assert len(set(contents)) == len(contents), where
    assert {*contents} == {data for data, name in files.origins.items() if name in used}, where
    for data, (split, class_name) in zip(contents, fetched_labels(files.root).values(), strict=True):
        assert class_name == ((is_labeled and files.classes[data]) or ""), where
        assert files.origins[data] in facts["files"]["train" if "test" not in facts["files"] else split], where


def test_images_are_never_left_out_of_a_random_pool(tmp_path: Path) -> None:
    for number, rng in rounds("pool"):
        images = [make_image() for _ in range(rng.randint(1, 12))]
        images += rng.choices(images, k=rng.randint(0, 3))
        labels = [rng.randint(-1, 2) for _ in images]
        table = pa.table({"image": [{"bytes": data, "path": None} for data in images], "label": labels})
        root = save_tables(tmp_path / "set", {"all.parquet": table})
        message = None
        try:
            facts = fetch_parquet(root, test_fraction=rng.choice([0.01, 0.2, 0.5, 0.99]))
        except UserError as error:
            message = str(error)
        if message:
            assert "no test image can be held out, because" in message, f"round {number}"
            last = {next(iter(distinct)) for distinct in group_by_label(images, labels) if len(distinct) == 1}
            assert last == {*images}, f"round {number}"
        else:
            train, test = (set(facts["images_per_class"][split]) for split in ("train", "test"))
            assert test <= train, f"round {number}"
            assert sum(facts["images"].values()) == len(images), f"round {number}"
            splits: dict[bytes, set[str]] = {}
            data = raw.RawFile(raw_file(root))
            for (_, content), split in zip(data.iter_images(), data.splits.tolist(), strict=True):
                splits.setdefault(content, set()).add(split)
            assert all(len(found) == 1 for found in splits.values()), f"round {number}"


def group_by_label(images: list[bytes], labels: list[int]) -> list[set[bytes]]:
    """Return the distinct images with each label."""
    return [{image for image, other in zip(images, labels, strict=True) if other == label} for label in {*labels}]
