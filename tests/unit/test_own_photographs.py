"""Run all stages on a folder of photographs of many sizes, without a mean and std in params.yaml."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import RunRr, write_params
from PIL import Image
from safetensors import safe_open

from rr.backbones.weights import load_backbone
from rr.data.dataset_index import read_preprocessing
from rr.data.photograph_beton import PhotographBeton
from rr.evaluate.feature_extraction import extract_features
from rr.workflow.records import load_record

SIZES = [(90, 60), (60, 90), (50, 50), (30, 41), (200, 70)]
RUN = ("--dataset", "mine", "--backbone", "conv4", "--method", "relational", "--seed", "1")


def write_photographs(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("bird", "fish"):
        for split, count in (("train", 20), ("test", 6)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                colors = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
                image = colors.resize(SIZES[number % len(SIZES)], Image.Resampling.BICUBIC)
                image.save(folder / split / label / f"{number}.jpg", quality=95)


def use_photographs(params: dict) -> None:
    source = {"kind": "imagefolder", "path": "photographs"}
    params["datasets"] = {"mine": {"source": source, "image_size": 24, "stored_size": 48, "quality": "raw"}}
    params["grid"].update(data=["mine"], dataset=["mine"], target=["mine"], method=["relational"], protocol=["knn"])
    params["dynamics"].update(every_n_epochs=1, images=50)
    params["methods"]["relational"].update(epochs=2, views=3)
    params["protocols"]["embedding"].update(images=12, perplexity=2.0)


@pytest.mark.slow
def test_all_stages_succeed_and_agree_on_the_preprocessing(project: Path, rr: RunRr) -> None:
    write_photographs(project / "photographs")
    write_params(project, use_photographs)
    for command in (
        ("fetch", "--dataset", "mine"),
        ("convert", "--dataset", "mine"),
        ("pretrain", *RUN),
        ("extract", *RUN, "--target", "mine"),
        ("evaluate", *RUN, "--target", "mine", "--protocol", "knn"),
        ("evaluate", *RUN, "--target", "mine", "--protocol", "embedding"),
        ("report",),
        ("verify", "--recompute"),
    ):
        outcome = rr(*command)
        assert outcome.code == 0, outcome.err
    assert "bit for bit" in outcome.out

    # The computed mean and std are in the index, the records, the weights and the report.
    preprocessing = read_preprocessing(project / "data/beton/mine/index.parquet")
    assert (preprocessing.image_size, preprocessing.stored_size) == (24, 48)
    run = Path("runs/pretrain/mine/conv4/relational/1")
    assert load_record(run)["preprocessing"]["datasets.mine"]["mean"] == list(preprocessing.mean)
    with safe_open(run / "backbone.safetensors", "np") as file:
        metadata = json.loads(file.metadata()["rr"])
    assert (metadata["side"], metadata["stored_size"]) == (24, 48)
    assert (metadata["mean"], metadata["std"]) == ([*preprocessing.mean], [*preprocessing.std])
    assert f"{preprocessing.mean[0]:.6g}" in Path("report/index.html").read_text()

    # The gallery resizes images as the evaluation does.
    outcome = rr("embed", "photographs/test", "--weights", run / "backbone.safetensors", "--output", "vectors.parquet")
    assert outcome.code == 0, outcome.err
    table = pq.read_table("vectors.parquet")
    test = PhotographBeton(project / "data/beton/mine/test.beton", 24, threads=1)
    features = extract_features(load_backbone(run / "backbone.safetensors"), test, preprocessing, "cpu").numpy()
    raw_names = pq.read_table("data/raw/mine/images.parquet")["image"].combine_chunks().field("path").to_pylist()
    positions = [raw_names.index(f"test/{name}") - int(test.index[0]) for name in table["path"].to_pylist()]
    vectors, features = np.stack(table["vector"].to_numpy(zero_copy_only=False)), features[positions]
    cosines = (vectors * features).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(features, axis=1)
    assert cosines.min() > 0.99999

    # `rr classify` uses the classifiers that the evaluations tested.
    rows = pq.read_table("data/raw/mine/images.parquet", columns=["image"])["image"].combine_chunks()
    names = rows.field("path").to_pylist()
    assert rr("evaluate", *RUN, "--target", "mine", "--protocol", "linear").code == 0
    for protocol in ("knn", "linear"):
        arguments = (*RUN, "--target", "mine", "--protocol", protocol, "-o", "predictions.csv")
        outcome = rr("classify", "photographs/test", *arguments)
        assert outcome.code == 0, outcome.err
        folder = Path("runs/evaluate/mine/conv4/relational/1/mine", protocol)
        accuracy = json.loads((folder / "metrics.json").read_text())["accuracy"]
        assert outcome.out.startswith("predictions.csv: 12 images (")
        assert outcome.out.endswith(f"accuracy of this classifier on the 12 test images of mine: {accuracy:.4f}\n")
        tested = pq.read_table(folder / "predictions.parquet")
        expected = {
            names[index]: (["bird", "fish"][prediction], confidence)
            for index, prediction, confidence in zip(
                *(tested[name].to_pylist() for name in ("index", "prediction", "confidence")), strict=True
            )
        }
        with open("predictions.csv", newline="") as file:
            predicted = list(csv.DictReader(file))
        assert len(predicted) == len(expected) == 12
        for row in predicted:
            name, confidence = expected[f"test/{row['path']}"]
            assert row["class"] == name
            assert float(row["probability"]) == pytest.approx(confidence, abs=1e-3)

    # Unreadable images are reported or skipped. Only the command's own files are replaced.
    (project / "new").mkdir()
    Image.new("RGB", (40, 30)).save("new/good\r1.png")
    Path("new/bad.png").write_bytes(b"x")
    arguments = ("classify", "new", *RUN, "--target", "mine", "-o")
    before = Path("predictions.csv").read_bytes()
    assert "new/bad.png" in rr(*arguments, "predictions.csv").err
    assert Path("predictions.csv").read_bytes() == before
    outcome = rr(*arguments, "predictions.csv", "--on-unreadable", "skip")
    assert outcome.code == 0, outcome.err
    with open("predictions.csv", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["good\r1.png"]
    assert "skipped 1 file" in outcome.out
    Path("labels.csv").write_text("name,label\n")
    assert "was not written by rr classify" in rr(*arguments, "labels.csv").err

    # In case of an error, nothing is written.
    Path("predictions.csv").unlink()
    for protocol, message in (("embedding", "use a protocol of the kind linear or knn"), ("none", "unknown")):
        outcome = rr(*arguments, "p.csv", "--protocol", protocol)
        assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert "does not end in .csv" in rr(*arguments, "p.txt").err
    features = Path("runs/features/mine/conv4/relational/1/mine/features.safetensors")
    content, record = features.read_bytes(), features.with_name("run.json")
    changes = {
        "features.safetensors has changed since": lambda: features.write_bytes(content + b"x"),
        "features.safetensors is missing": features.unlink,
        "is missing, or was computed with other parameters": record.unlink,
    }
    for message, change in changes.items():
        change()
        outcome = rr(*arguments, "p.csv", "--on-unreadable", "skip")
        assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert not list(Path().glob("p*.csv"))
