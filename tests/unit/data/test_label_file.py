"""Tests of labels that are read from a CSV file."""

from pathlib import Path

import pytest
from own_images import fetch_folder, fetched_labels, raw_file, save_file, save_tree

from rr.data.sources import imagefolder
from rr.errors import UserError
from rr.fetch import format_fetch_facts
from rr.runtime.hashing import file_sha256

NAMES = [f"{folder}/{number}.png" for folder in ("2024", "2025") for number in range(5)]
LABELS = ["robin", "wren"] * 5


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images in two folders that are not classes."""
    return save_tree(tmp_path / "photos", {"2024": 5, "2025": 5})


def write_labels(root: Path, lines: list[str], name: str = "labels.csv", encoding: str = "utf-8") -> str:
    path = root / name
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return str(path)


def format_rows(names: list[str] = NAMES, labels: list[str] = LABELS) -> list[str]:
    return [f"{name},{label}" for name, label in zip(names, labels, strict=True)]


def check_raises(root: Path, lines: list[str], *parts: str, **keys: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch_folder(root, **{"labels": write_labels(root, lines)} | keys)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert not raw_file(root).exists()


def test_column_of_measurements_raises(photos: Path) -> None:
    check_raises(
        photos,
        ["file,weight", *format_rows(labels=[f"{number}.5" for number in range(10)])],
        "because the labels have 10 different values for 10 images: use classes that several images share",
    )


def test_labels_are_read_instead_of_the_folder_names(photos: Path) -> None:
    (photos / "2024/labels.csv").symlink_to("labels.csv")  # refers to itself
    facts = fetch_folder(photos, labels=write_labels(photos, ["file,label", *format_rows()]))
    labels = fetched_labels(photos)
    assert {name: class_name for name, (_, class_name) in labels.items()} == dict(zip(NAMES, LABELS, strict=True))
    assert facts["images_per_class"] == {"train": {"robin": 4, "wren": 4}, "test": {"robin": 1, "wren": 1}}
    assert facts["skipped"] == {"a broken link": {".csv": 1}}  # but not labels.csv itself, which is used
    path = photos / "labels.csv"
    assert f"labels: column 'label' of {path}, for the images in 'file'" in format_fetch_facts(facts).splitlines()


@pytest.mark.parametrize(
    "shorten",
    [
        str,
        lambda n: f"./{n}",
        lambda n: n.replace("/", "\\"),
        lambda n: n.removesuffix(".png"),
        lambda n: f"photos/{n}",
        lambda n: f"/home/me/photos/{n}",
        lambda n: f"C:\\photos\\{n.replace('/', chr(92))}",
        lambda n: f"././photos/old/photos/{n}",
    ],
    ids=["path", "dot", "backslash", "without-suffix", "from-parent", "absolute", "windows", "repeated"],
)
@pytest.mark.parametrize("header", ["file,label", "id,breed", "\N{BYTE ORDER MARK}Image Name,Bird Class"])
def test_images_are_found_by_their_paths(photos: Path, shorten, header: str) -> None:
    fetch_folder(photos, labels=write_labels(photos, [header, *format_rows([shorten(name) for name in NAMES])]))
    assert [class_name for _, (_, class_name) in sorted(fetched_labels(photos).items())] == LABELS


def test_images_are_found_by_their_file_names(tmp_path: Path) -> None:
    for name in ("a/Zoë.png", "b/2.jpg", "b/3.png"):
        save_file(tmp_path / "photos" / name)
    rows = ["name;x;label", "Zoe\N{COMBINING DIAERESIS};9;cat", "2;9;cat", "", "3;9;dog"]
    fetch_folder(tmp_path / "photos", labels=write_labels(tmp_path, rows))
    classes = {name: class_name for name, (_, class_name) in fetched_labels(tmp_path / "photos").items()}
    assert classes == {"a/Zoë.png": "cat", "b/2.jpg": "cat", "b/3.png": "dog"}


def test_images_without_a_label_are_unlabeled(photos: Path) -> None:
    rows = ["file,label", *format_rows()[:-2], f"{NAMES[-2]},"]
    facts = fetch_folder(photos, labels=write_labels(photos, rows))
    assert {name for name, (_, class_name) in fetched_labels(photos).items() if not class_name} == set(NAMES[-2:])
    assert "unlabeled images: 1 train, 1 test" in format_fetch_facts(facts)


def test_numbers_are_sorted_by_value(photos: Path) -> None:
    facts = fetch_folder(photos, labels=write_labels(photos, ["file,label", *format_rows(labels=["10", "9"] * 5)]))
    assert list(facts["images_per_class"]["train"]) == ["9", "10"]


def test_folders_of_splits_are_used(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "photos", {"train/a": 3, "train/b": 3, "test": 2})
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"))]
    rows = ["file,label", *format_rows(names, ["robin", "wren"] * 4)]
    facts = fetch_folder(root, labels=write_labels(tmp_path, rows))
    assert facts["images_per_class"] == {"train": {"robin": 3, "wren": 3}, "test": {"robin": 1, "wren": 1}}
    without_test = [row for row in rows if not row.startswith("test")]
    hint = "To hold out test_fraction of the training images instead, set `splits: {train: train}`"
    with pytest.raises(UserError, match=r"for any of the test images \(folder test\): add labels") as caught:
        fetch_folder(root, labels=write_labels(tmp_path, without_test))
    assert hint in str(caught.value)
    assert fetch_folder(root, labels=str(tmp_path / "labels.csv"), splits={"train": "train"})["images"]["test"] == 2


def format_split_rows(splits: list[str]) -> list[str]:
    return [f"{row},{split}" for row, split in zip(format_rows(), splits, strict=True)]


def test_a_column_of_splits_is_used(photos: Path) -> None:
    """The validation images are not used, because there are labeled test images."""
    splits = ["train"] * 5 + ["Validation", "valid", "test", "test", "TRAIN"]
    rows = ["file,breed,image set", *format_split_rows(splits)]
    facts = fetch_folder(photos, labels=write_labels(photos, rows))
    labels = fetched_labels(photos)
    assert {name: split for name, (split, _) in labels.items()} == {
        name: split.lower() for name, split in zip(NAMES, splits, strict=True) if not split.lower().startswith("valid")
    }
    assert all(class_name == LABELS[NAMES.index(name)] for name, (_, class_name) in labels.items())
    assert facts["splits"] == {
        "train": "column 'image set'",
        "test": "test in the column 'image set'",
        "not used": "other splits (2 images)",
    }
    assert facts["skipped"]["outside the splits that are used"] == {".png": 2}


def test_validation_images_become_the_test_split_if_no_test_image_has_a_label(photos: Path) -> None:
    """Images that are not in the file belong to the training split."""
    rows = [f"{row},train" for row in format_rows()[:4]]
    rows += [f"{NAMES[4]},,test", f"{NAMES[5]},wren,val", f"{NAMES[6]},robin,val"]
    facts = fetch_folder(photos, labels=write_labels(photos, ["file,label,split", *rows]))
    splits = {name: split for name, (split, _) in fetched_labels(photos).items()}
    assert splits == {name: "test" if name in NAMES[5:7] else "train" for name in NAMES if name != NAMES[4]}
    assert facts["splits"]["test"] == "val in the column 'split' (test has no labels)"


@pytest.mark.parametrize(("title", "train"), [("is_training_image", "1 True yes"), ("isTest", "0 false NO")])
def test_a_column_of_splits_may_contain_booleans(photos: Path, title: str, train: str) -> None:
    values = [*train.split(), "0", "1"] * 2
    facts = fetch_folder(photos, labels=write_labels(photos, [f"file,breed,{title}", *format_split_rows(values)]))
    is_train = [value in train.split() for value in values]
    splits = {name: split for name, (split, _) in fetched_labels(photos).items()}
    assert splits == {name: "train" if kept else "test" for name, kept in zip(NAMES, is_train, strict=True)}
    assert facts["splits"]["train"] == f"column '{title}'"


def test_a_damaged_image_of_an_unused_split_is_ignored(photos: Path) -> None:
    (photos / NAMES[9]).write_bytes(b"no image")
    rows = format_split_rows(["train"] * 6 + ["test"] * 3 + ["val"])
    fetch_folder(photos, labels=write_labels(photos, ["file,label,split", *rows]))
    assert set(fetched_labels(photos)) == set(NAMES[:9])


@pytest.mark.parametrize("splits", ["auto", "none"])
def test_images_are_held_out_without_test_images(photos: Path, splits: str) -> None:
    """A column of splits that only names training images, or that is to be ignored, changes nothing."""
    rows = format_split_rows(["train"] * 10 if splits == "auto" else ["train", "fold 2"] * 5)
    path = write_labels(photos, ["file,breed,split", *rows])
    facts = fetch_folder(photos, labels=path, splits=splits)
    assert facts["images_per_class"] == {"train": {"robin": 4, "wren": 4}, "test": {"robin": 1, "wren": 1}}


@pytest.mark.parametrize("title", ["eval_score", "valid", "test", "not_train", "is_valid", "train_test", "use"])
def test_other_columns_of_booleans_do_not_assign_splits(photos: Path, title: str) -> None:
    rows = [f"{row},{i % 2}" for i, row in enumerate(format_rows())]
    facts = fetch_folder(photos, labels=write_labels(photos, [f"file,label,{title}", *rows]))
    assert "held out" in facts["splits"]["test"]


@pytest.mark.parametrize("title", ["test_result", "train_label", "Test Class", "development_stage"])
def test_only_other_column_contains_the_labels(photos: Path, title: str) -> None:
    facts = fetch_folder(photos, labels=write_labels(photos, [f"file,{title}", *format_rows()]))
    assert list(facts["images_per_class"]["train"]) == ["robin", "wren"]


def test_folders_of_splits_have_priority_over_a_column_of_splits(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "photos", {"train": 2, "test": 2})
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"))]
    rows = [f"{name},{label},{split}" for name, label, split in zip(names, "abab", ["train", "val"] * 2, strict=True)]
    facts = fetch_folder(root, labels=write_labels(tmp_path, ["file,label,split", *rows]))
    assert facts["splits"] == {"train": "folder train", "test": "folder test"}


def test_excluded_and_damaged_images_may_have_labels(photos: Path) -> None:
    (photos / "exclude.txt").write_text(f"{NAMES[0]}\n")
    (photos / NAMES[1]).write_bytes((photos / NAMES[1]).read_bytes()[:50])
    fetch_folder(
        photos,
        labels=write_labels(photos, ["file,label", *format_rows()]),
        exclude=str(photos / "exclude.txt"),
        on_unreadable="skip",
    )
    assert set(fetched_labels(photos)) == set(NAMES[2:])


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ([], ["needs a line of column names"]),
        (["file,label"], ["needs a line of column names"]),
        (format_rows(), ["must contain column names, such as file,label; it contains 2024/0.png"]),
        ([f"photos/{row}" for row in format_rows()], ["must contain column names", "it contains photos/2024/0.png"]),
        ([row.replace(".png", "") for row in format_rows()], ["must contain column names", "it contains 2024/0"]),
        (["file,label", "x.png,robin"],
         ["no column of", "such as 2024/0.png. Its columns are 'file' (x.png, …), 'label' (robin, …)"]),
        (["file,label", *(f"others/{row}" for row in format_rows())], ["no column of", "such as 2024/0.png"]),
        (["file", *NAMES], ["exactly one column of labels besides 'file'"]),
        (["file,size,color", f"{NAMES[0]},1,red"], ["exactly one column of labels besides 'file'"]),
        (["file,class,kind,category", f"{NAMES[0]},a,b,c"], ["exactly one column of labels besides 'file'"]),
        (["file,Label,label", f"{NAMES[0]},a,b"],
         ["has 2 columns named 'label': rename or remove all but one of them. Its columns are 'file', 'Label', "]),
        (["file,label", *format_rows(), "9.png,wren", "x/1.png,wren"], ["9.png (line 12), x/1.png (line 13)"]),
        (["file,label", *format_rows(), ",wren"], ["photos: an empty field (line 12)"]),
        ([",label", *format_rows()[:4], *(f"{i}.png,wren" for i in range(5, 10))],
         ["labels: 5 of 9 names in the column '' of", "match no image in", "5.png (line 6), 6.png (line 7), 7.png"]),
        (["id,file,label", *(f"{i},{row}" for i, row in enumerate([*format_rows()[:4], *["x.png,wren"] * 5]))],
         ["labels: 5 of 9 names in the column 'file' of", "x.png (line 6), x.png (line 7)"]),
        (["file,label", *(f"{i}.png,robin" for i in range(5))], ["match several images in", "0.png (line 2), 1.png"]),
        (["file,label", *format_rows(), "2024/0.png,wren"], ["line 12: 2024/0.png has two labels, 'robin' and 'wren'"]),
        (["file,label", "2024/0.png"], ["line 2: 1 field, but the first line has 2"]),
        (["file,label", "2024/0.png,robin,wren"], ["line 2: 3 fields, but the first line has 2"]),
        (["file,label", "2024/0.png,NaN"], ["line 2: the label is 'NaN'; leave it empty for unlabeled images"]),
        (["file,label", "2024/0.png,NA"], ["line 2: the label is 'NA'; leave it empty for unlabeled images"]),
        (["file,label", "2024/0.png,"], ["has no labels in the column 'label'"]),
        (["file,label", "2024/0.png,robin", "2024/1.png,-1.0"], ["line 3: the label is '-1.0'; leave it empty"]),
        (["file,label", "2024/0.png,robin", "2024/1.png,\u200b"], ["line 3: the label is '\\u200b'; leave it empty"]),
        (["file,label", *format_rows(labels=["robin", "Robin"] * 5)],
         ["the labels 'Robin' (line 3) and 'robin' (line 2) in", "seem to be the same class"]),
        (["file,label", *format_rows(labels=["1", "2", "1.0", "2", "1"] * 2)], ["'1' (line 2) and '1.0' (line 4) in"]),
        (["file,label,split", "2024/0.png,robin,train", "2024/1.png,wren,3"],
         ["line 3: '3' is not the name of a split in the column 'split'", "`splits: none`"]),
        (["file,label,Split", "2024/0.png,robin,"], ["line 2: there is no split in the column 'Split'"]),
        (["file,label,fold", "2024/0.png,robin,1"], ["'1' is not the name of a split in the column 'fold'"]),
        (["file,label,split", *(f"{row},part {i + 1}" for i, row in enumerate(format_rows() + format_rows()))],
         ["line 2: 'part 1' is not the name of a split in the column 'split'"]),
        (["file,label,split", "2024/0.png,robin,train", "2024/0.png,robin,val"],
         ["line 3: 2024/0.png has two splits, 'train' and 'val'"]),
        (["file,label,a,b", "2024/0.png,robin,train,test", "2024/1.png,wren,test,train"],
         ["the columns 'a', 'b' of", "all seem to assign images to splits"]),
        (["file,label,split", "2024/0.png,,train", "2024/1.png,wren,test"],
         ["has no label for any of the training images (column 'split')", "add labels"]),
        (["file,label,split", "2024/0.png,robin,train", "2024/1.png,,test"],
         ["has no label for any of the test images (test in the column 'split')", "`splits: none`"]),
        (["file,split", "2024/0.png,train", "2024/1.png,test"],
         ["exactly one column of labels besides 'file', 'split'"]),
    ],
)  # fmt: skip
def test_invalid_files_raise(photos: Path, lines: list[str], parts: list[str]) -> None:
    check_raises(photos, lines, "labels: ", "labels.csv", *parts)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({2: '2024/2.png,"robin,', 5: '2025/0.png,wren",'}, "line 4: a quotation mark in this line opens a field that "
         "ends only in line 7: remove stray quotation marks or, if these lines are one field, write it in a single"),
        ({2: '2024/2.png,"robin', 5: '2025/0.png",wren,'}, "line 4: a quotation mark in this line opens a field"),
        ({2: '"2024/2.png,robin,', 5: '2025/0.png",wren,'}, "line 4: a quotation mark in this line opens a field"),
        ({2: '2024/2.png,robin,"a', 3: '2024/3.png,wren,b"'}, "line 4: a quotation mark in this line opens a field"),
        ({1: '2024/1.png,"robin\n",', 4: '2024/4.png,"do\ng",'}, "line 7: a quotation mark in this line opens a field"),
        ({2: '2024/2.png,"robin,'}, "line 4: a quotation mark in this line is not closed, or is closed in the middle "
         "of a field (unexpected end of data, line 11): remove or move it; within a quoted field, write quotation"),
        ({2: '2024/2.png,"robin,', 5: '2025/0.png,"wren",'}, "line 4: a quotation mark in this line is not closed, or"),
        ({-1: 'file,"label,note', 5: '2025/0.png,"wren",'}, "line 1: a quotation mark in this line is not closed, or"),
        ({-1: 'file,label,"note', 5: '2025/0.png,wren,"'}, "line 1: a quotation mark in this line opens a field that"),
        ({2: '2024/2.png,rob"in,'}, None),
        ({2: '2024/2.png,robin,"2024/3.png,\n""wren"""'}, None),
        ({-1: '"file\nname",label,"n\no"'}, None),
    ],
)  # fmt: skip
def test_lines_that_a_quotation_mark_joins_raise(photos: Path, changes: dict[int, str], problem: str | None) -> None:
    lines = [changes.get(i, line) for i, line in enumerate(["file,label,note", *(f"{r}," for r in format_rows())], -1)]
    if problem:
        check_raises(photos, lines, f"labels.csv, {problem}")
    else:
        assert fetch_folder(photos, labels=write_labels(photos, lines))["images"] == {"train": 8, "test": 2}


@pytest.mark.parametrize("lines", [["\tlabel"], ["file\tlabel, or class"]])
def test_tabs_separate_the_fields_of_a_tsv_file(photos: Path, lines: list[str]) -> None:
    lines = [*lines, *(row.replace(",", "\t") for row in format_rows())]
    fetch_folder(photos, labels=write_labels(photos, lines, "labels.TSV"))
    assert [class_name for _, (_, class_name) in sorted(fetched_labels(photos).items())] == LABELS


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Thirty images whose names are numbers."""
    return save_tree(tmp_path / "numbered", {"": 30})


def numbered_labels() -> dict[str, str]:
    """Return the label of each image in the order of the rows. The number of an image differs from that of its row."""
    return {f"{(7 * row + 5) % 30}.png": "robin" if row < 15 else "wren" for row in range(30)}


@pytest.mark.parametrize("suffix", [".png", ""])
def test_numbers_of_the_rows_are_not_the_names(numbered: Path, suffix: str) -> None:
    """pandas writes the row numbers into a column without a name."""
    labels = numbered_labels()
    rows = [f"{row},{name.removesuffix('.png')}{suffix},{label}" for row, (name, label) in enumerate(labels.items())]
    facts = fetch_folder(numbered, labels=write_labels(numbered, [",file,label", *rows]))
    assert {name: class_name for name, (_, class_name) in fetched_labels(numbered).items()} == labels
    assert facts["labels"].endswith("for the images in 'file'")


@pytest.mark.parametrize(
    ("ending", "message"),
    [("26.png", "match no image in"), (".png", "no column of")],
    ids=["one", "all"],
)
@pytest.mark.parametrize("title", ["", "id"])
def test_wrong_name_does_not_make_another_column_the_names(
    numbered: Path, title: str, ending: str, message: str
) -> None:
    labels = numbered_labels()
    names = [f"{name[:-4]}.JPG" if name.endswith(ending) else name for name in labels]
    rows = [f"{row},{name},{label}" for row, (name, label) in enumerate(zip(names, labels.values(), strict=True))]
    check_raises(numbered, [f"{title},file,label", *rows], message, ".JPG")


def test_file_name_in_another_column_does_not_exclude_the_names(numbered: Path) -> None:
    labels = numbered_labels()
    rows = [
        f"{name.removesuffix('.png')},cam/{row == 3 and 7}.jpg,{label}"
        for row, (name, label) in enumerate(labels.items())
    ]
    fetch_folder(numbered, labels=write_labels(numbered, ["id,original,label", *rows]))
    assert {name: class_name for name, (_, class_name) in fetched_labels(numbered).items()} == labels


def test_column_of_labels_is_not_the_names_because_of_one_image(photos: Path) -> None:
    save_tree(photos, {"": 1})
    (photos / "0.png").rename(photos / "wren.png")
    check_raises(
        photos, ["file,label", *(f"x{row},{'wren' if row < 4 else 'robin'}" for row in range(10))], "no column of"
    )


def test_long_fields_are_read(photos: Path) -> None:
    """Some files contain masks."""
    rows = [f"{row},{'0 1 ' * 50_000}" for row in format_rows()]
    assert fetch_folder(photos, labels=write_labels(photos, ["file,label,mask", *rows]))["images_per_class"]


def test_labels_that_are_numbers_are_not_the_names(numbered: Path) -> None:
    check_raises(numbered, ["mass,id,label", *(f"{29 - i},{i},a" for i in range(30))], "the columns 'mass' and 'id'")
    rows = [f"{number % 3},{number}" for number in range(30)]
    fetch_folder(numbered, labels=write_labels(numbered, ["label,id", *rows]))
    assert fetched_labels(numbered)["14.png"][1] == "2"


def test_long_numbers_and_unusual_files_are_read(photos: Path) -> None:
    numbers = ["9" * 5000, "10"]
    facts = fetch_folder(photos, labels=write_labels(photos, ["file,label", *format_rows(labels=numbers * 5)]))
    assert list(facts["images_per_class"]["train"]) == ["10", "9" * 5000]
    rows = [row.replace(",", '; "') + '"' for row in format_rows()]
    fetch_folder(photos, labels=write_labels(photos, ["sep=;", "file; label", " ; ", *rows]))
    assert fetched_labels(photos)["2024/1.png"][1] == "wren"


def test_splits_none_ignores_a_column_of_splits(photos: Path) -> None:
    rows = [f"{row},{'train' if number else 'test'}" for number, row in enumerate(format_rows())]
    facts = fetch_folder(photos, labels=write_labels(photos, ["file,label,split", *rows]), splits="none")
    assert facts["images"] == {"train": 8, "test": 2}


def test_partial_downloads_are_reported_before_missing_images(photos: Path) -> None:
    (photos / "2024/9.png.part").write_bytes(b"x")
    check_raises(photos, ["file,label", *format_rows(), "2024/9.png,robin"], "2024/9.png.part: ")


def test_labels_that_only_test_images_have_raise(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "photos", {"train": 4, "test": 2})
    rows = [*(f"train/{i}.png,{'ab'[i % 2]}" for i in range(4)), "test/0.png,a", "test/1.png,z"]
    check_raises(root, ["file,label", *rows], "only test images have these labels: z")


def test_unlabeled_test_folder_next_to_training_images_raises(tmp_path: Path) -> None:
    root = save_tree(tmp_path / "photos", {"": 4, "test": 2})
    check_raises(root, ["file,label", *(f"{i}.png,{'ab'[i % 2]}" for i in range(4))], "or move these images elsewhere")


def test_hash_is_that_of_the_labels_that_were_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(write_labels(photos, ["file,label", *format_rows()]))
    before, read = file_sha256(path), imagefolder.read_label_file

    def read_and_delete(*arguments, **keywords):
        labels = read(*arguments, **keywords)
        path.unlink()
        return labels

    monkeypatch.setattr(imagefolder, "read_label_file", read_and_delete)
    assert fetch_folder(photos, labels=str(path))["labels_sha256"] == before


def test_missing_file_and_other_encodings_raise(photos: Path) -> None:
    with pytest.raises(UserError, match=r"labels: none\.csv cannot be read .*No such file"):
        fetch_folder(photos, labels="none.csv")
    with pytest.raises(UserError, match="cannot be read as CSV in UTF-8"):
        fetch_folder(photos, labels="a\0b.csv")
    path = write_labels(photos, ["file,label", *format_rows(labels=["Käfer", "Igel"] * 5)], encoding="latin-1")
    with pytest.raises(UserError, match="cannot be read as CSV in UTF-8"):
        fetch_folder(photos, labels=path)
