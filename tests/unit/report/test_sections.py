"""Compare classes, retrieval, embedding, dynamics and efficiency with values computed by hand."""

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image
from report_files import (
    CLASS_NAMES,
    CLASSIFICATION,
    CONFIDENCE,
    LABELS,
    METHODS,
    PREDICTIONS,
    PROTOCOLS,
    RELATIONAL,
    ParsedPage,
    change_record,
    make_params,
    normalized_rows,
    read_markdown,
    read_page,
    write_dynamics,
    write_grid_files,
    write_predictions,
)
from sklearn import metrics

from rr import paths
from rr.params import Params
from rr.paths import REPORT_FILES
from rr.report.formatting import format_any_number, shorten_middle
from rr.report.inputs.collect import collect_results
from rr.report.inputs.predictions import Predictions
from rr.report.page import build_sections, escape_markdown, render_html
from rr.report.plots.curves import Curve, set_log_ticks
from rr.report.plots.image import MAX_WEBP_SIDE, ByteBudget, encode_image, image_panel
from rr.report.sections.classes import calibration_curve, class_accuracies, confusion_fractions, top_confusions
from rr.report.sections.efficiency import accuracy_at
from rr.report.sections.own_protocols import build_own_protocols
from rr.report.sections.retrieval import build_retrieval
from rr.report.stage import write_report
from rr.report.statistics import accuracy_confidence_interval
from rr.workflow.grid import evaluations


def make_predictions(class_names: list[str]) -> Predictions:
    """Return the predictions in the test files."""
    values = (np.array(values) for values in (LABELS, PREDICTIONS, CONFIDENCE, range(len(LABELS))))
    return Predictions(class_names, *values)


def test_worst_and_best_class(params: Params) -> None:
    write_report(params)
    page = read_page()
    # The predictions are correct for 3 of 4 cats, 1 of 4 dogs and both images of the last class. The calibration errors
    # are 0.1 and 0.2 for the two seeds.
    expected = ["dog", "25.00", "$a$ & <b>", "100.00", "75.00", "15.00 ± 7.07", "images"]
    for method in ("random", "supervised", "relational"):
        for protocol in CLASSIFICATION:
            assert [method, protocol, *expected] in page.rows
    assert ["cat", "75.00", "75.00", "75.00"] in page.rows
    sentence = (
        "A high mean does not guarantee unbiased predictions: relational (linear) classifies 61.50% of the test "
        "images of shapes correctly, but 100.00% of $a$ & <b> and 25.00% of dog, a gap of 75.00 percentage points. "
        "Means are over 2 seeds."
    )
    assert sentence in page.text
    markdown = read_markdown()
    assert escape_markdown(sentence) in markdown
    assert r"| relational | linear | dog | 25.00 | \$a\$ &amp; &lt;b&gt; | 100.00 | 75.00 | 15.00 ± 7.07 |" in markdown


def test_confusions() -> None:
    fractions = confusion_fractions(make_predictions(CLASS_NAMES))
    assert fractions.tolist() == [[0.75, 0.25, 0], [0.5, 0.25, 0.25], [0, 0, 1]]
    expected = ["dog as cat: 50.00", "cat as dog: 25.00", "dog as $a$ & <b>: 25.00"]
    assert top_confusions(make_predictions(CLASS_NAMES)) == expected
    assert np.isnan(confusion_fractions(make_predictions([*CLASS_NAMES, "bird"]))[3]).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_confusion_fractions_match_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = (np.array(side) for side in zip(*pairs, strict=True))
    fractions = confusion_fractions(Predictions(list("abcde"), labels, predictions, np.ones(len(labels)), labels))
    # scikit-learn returns 0 for a class without images.
    expected = metrics.confusion_matrix(labels, predictions, labels=range(5), normalize="true")
    np.testing.assert_allclose(np.nan_to_num(fractions), expected)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_class_accuracies_and_top_confusions_follow_from_the_matrix(pairs: list[tuple[int, int]]) -> None:
    labels, classes = (np.array(side) for side in zip(*pairs, strict=True))
    predictions = Predictions(list("abcde"), labels, classes, np.ones(len(labels)), labels)
    fractions = confusion_fractions(predictions)
    np.testing.assert_array_equal(class_accuracies(predictions), fractions.diagonal())
    wrong = [(fractions[i, j], i, j) for i in range(5) for j in range(5) if i != j and fractions[i, j] > 0]
    wrong.sort(key=lambda confusion: -confusion[0])
    assert top_confusions(predictions) == [f"{'abcde'[i]} as {'abcde'[j]}: {100 * x:.2f}" for x, i, j in wrong[:10]]


def test_analysis_of_many_classes_needs_no_matrix() -> None:
    """With a million classes, a matrix would have a trillion entries."""
    labels, classes = np.array([0, 999_999, 999_999]), np.array([0, 999_999, 7])
    names = [str(number) for number in range(1_000_000)]
    predictions = Predictions(names, labels, classes, np.ones(3), np.arange(3))
    assert class_accuracies(predictions)[[0, 999_999]].tolist() == [1, 0.5]
    assert top_confusions(predictions) == ["999999 as 7: 50.00"]


def test_calibration_curve() -> None:
    # The first bin contains the confidence 0, (7/15, 8/15] contains 0.5, (8/15, 9/15] contains 0.55, (13/15, 14/15]
    # contains 0.9, and (14/15, 1] contains 0.97, 0.99 and 1.
    expected = [(0, 1), (0.5, 0.5), (0.55, 0.5), (0.9, 0), ((0.97 + 0.99 + 1) / 3, 1)]
    curve = calibration_curve(make_predictions(CLASS_NAMES))
    np.testing.assert_allclose(curve, expected, rtol=1e-6, atol=1e-12)


def test_class_without_test_images_is_neither_worst_nor_best(params: Params) -> None:
    for evaluation in evaluations(params):
        write_predictions(evaluation, pq.read_table(evaluation.predictions), [*CLASS_NAMES, "bird"])
    write_report(params)
    assert ["bird", "–", "–", "–"] in read_page().rows
    assert "25.00% of dog" in read_page().text


def test_many_classes_have_a_list_of_confusions_instead_of_a_matrix(params: Params) -> None:
    names = [*CLASS_NAMES, *(f"more {i}" for i in range(18))]
    for evaluation in evaluations(params):
        write_predictions(evaluation, pq.read_table(evaluation.predictions), names)
    write_report(params)
    page = read_page()
    assert ["relational", "dog as cat: 50.00; cat as dog: 25.00; dog as $a$ & <b>: 25.00"] in page.rows
    assert page.elements["svg"] == 10 - 3
    assert "| relational | dog as cat: 50.00; cat" in read_markdown()


@pytest.mark.parametrize(("accuracy", "num_images"), [(0.75, 24), (1.0, 10), (0.0, 10), (0.6189, 10_000)])
def test_accuracy_interval_matches_wilsons_formula(accuracy: float, num_images: int) -> None:
    z = 1.959963984540054
    center = (accuracy + z**2 / (2 * num_images)) / (1 + z**2 / num_images)
    half = z * math.sqrt(accuracy * (1 - accuracy) / num_images + z**2 / (4 * num_images**2)) / (1 + z**2 / num_images)
    assert accuracy_confidence_interval(accuracy, num_images) == pytest.approx(
        (center - half, center + half), abs=1e-12
    )


def test_interval_of_the_highest_accuracy_is_stated(full_report: tuple[str, str]) -> None:
    _, markdown = full_report
    section = markdown[markdown.index("## Accuracies") :]
    sentence = re.search(
        r"interval \(Wilson\) of the highest accuracy, ([\d.]+), is ([\d.]+) to ([\d.]+)\. It", section
    )
    assert sentence
    accuracy, low, high = map(float, sentence.groups())
    expected = accuracy_confidence_interval(accuracy / 100, 1000)
    assert (low, high) == pytest.approx([100 * limit for limit in expected], abs=0.06)  # the accuracy is rounded
    table = section[sentence.end() :].partition("\n\n")[2].partition("\n\n")[0]
    assert accuracy == max(map(float, re.findall(r"\d+\.\d\d", table)))  # standard deviations are smaller


def test_retrieval_and_embedding_tables(full_report: tuple[str, str]) -> None:
    html, markdown = full_report
    rows = normalized_rows(ParsedPage(html))
    at_k = [f"{name} at {k}" for name in ("precision", "recall", "hit rate") for k in (1, 5)]
    assert ["Method", "linear", "knn", "trained classifier"] in rows
    assert ["Method", "mAP", *at_k] in rows
    values = ["10.00 ± 0.00", "50.00 ± 0.00"] * 3
    assert ["relational", "51.50 ± 0.71", *values] in rows
    assert ["supervised upper bound", "61.50 ± 0.71", *values] in rows
    assert ["Method", "silhouette", "RankMe", "effective rank", "alignment", "uniformity"] in rows
    embedding = ["−0.250 ± 0.000", "5.000 ± 0.707", "9.000 ± 0.707", "0.500 ± 0.000", "−2.000 ± 0.000"]
    assert ["relational", *embedding] in rows
    bold = re.findall(r"<td[^>]*><strong>([\d.−]+)", html)
    assert "51.50" in bold
    assert not {"61.50", "9.000"} & set(bold[2:])
    assert "| relational | **51.50 ± 0.71** | **10.00 ± 0.00** |" in markdown
    assert f"| relational | {' | '.join(embedding)} |" in markdown


def change_metrics(run: paths.EvaluationPaths, removed: tuple[str, ...] = (), **values: float) -> None:
    metrics = json.loads(run.metrics.read_text())
    metrics = {name: value for name, value in metrics.items() if name not in removed}
    run.metrics.write_text(json.dumps(metrics | values))


def write_unlabeled_grid() -> Params:
    params = make_params(protocols=("embedding",), methods=("random", "relational"))
    write_grid_files(params)
    for run in evaluations(params):
        table = pq.read_table(run.predictions)
        unlabeled = table.set_column(1, "label", pa.array([-1] * 10, pa.int64()))
        write_predictions(run, unlabeled, [])
        change_metrics(run, removed=("silhouette",))
    return params


def test_unlabeled_images_are_colored_by_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = write_unlabeled_grid()
    write_report(params)
    page, markdown = read_page(), read_markdown()
    for text in (page.text, " ".join(markdown.split())):
        assert "use (RankMe) is 5.00 ± 0.71 for random and 5.00 ± 0.71 for relational. The “Embedding” section" in text
        assert "None of them is an accuracy." in text
        assert "collapsed: for" not in text
    rows = normalized_rows(page)
    assert ["Method", "RankMe", "effective rank", "alignment", "uniformity"] in rows
    assert ["random lower bound", "5.000 ± 0.707", "9.000 ± 0.707", "0.500 ± 0.000", "−2.000 ± 0.000"] in rows
    assert "each color is a cluster (k-means; cluster 1 is the largest)." in page.text
    html = paths.REPORT_FILES[0].read_text()
    maps = re.findall(r'<figure class="image-map"[^>]*><script[^>]*>(.*?)</script>', html, re.DOTALL)
    assert len(maps) == 2  # one for each method, because their clusters differ
    assert all(f"cluster {number}" in data for data in maps for number in (1, 2, 3))
    assert page.elements["img"] == 2 + 2  # similar images and views of two methods


def test_collapsed_features_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = write_unlabeled_grid()  # RankMe is 4.5 and 5.5 for random weights
    for run in evaluations(params):
        if run.pretraining.method == "relational":
            change_metrics(run, rankme=4.49 if run.pretraining.seed == 2 else 4.51)
    write_report(params)
    warning = (
        "The features of relational, seed 2, may have collapsed: for shapes, RankMe is 4.49, less than with random "
        "weights (4.50)."
    )
    for text in (read_page().text, " ".join(read_markdown().split())):
        assert warning in text
        assert text.count("may have collapsed") == 1  # not for random weights


@pytest.mark.parametrize(("rank", "count"), [(1.99, 2), (2.01, 0)])
def test_limit_of_rankme_without_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: float, count: int
) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(protocols=("embedding",), methods=("supervised", "relational"))
    write_grid_files(params)
    for run in evaluations(params):
        change_metrics(run, rankme=rank)
    write_report(params)
    assert read_page().text.count(f"RankMe is {rank}, less than 2.00.") == count


def test_large_images_are_embedded_as_webp(full_grid: Params) -> None:
    run = paths.EvaluationPaths(RELATIONAL, "shapes", "embedding")
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(pixels).save(run.examples)
    write_report(full_grid)
    (uri,) = re.findall(r'<img[^>]*src="data:image/webp;base64,([^"]*)', paths.REPORT_FILES[0].read_text())
    content = base64.b64decode(uri)
    assert len(content) < run.examples.stat().st_size / 3
    assert Image.open(io.BytesIO(content)).size == (400, 400)


def test_image_that_is_too_tall_for_webp_is_only_linked() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (MAX_WEBP_SIDE + 1, 8, 3), np.uint8)
    png, file, budget = encode_image(Image.fromarray(pixels), "png"), Path("examples.png"), ByteBudget(0)
    assert image_panel("title", "caption", png, file, budget, max_scale=3).uri == ""
    assert budget.take(1)  # an image that is not embedded takes up nothing
    png = encode_image(Image.fromarray(pixels[1:]), "png")
    assert image_panel("title", "caption", png, file, ByteBudget(0), max_scale=3).uri.startswith("data:image/webp")


def test_own_protocol_may_return_different_metrics(full_grid: Params) -> None:
    results = collect_results(full_grid)
    own = [run for run in results.evaluations if run.kind == "knn"]
    for run in own:
        method = run.paths.pretraining.method
        run.settings["kind"] = "mine:Mine"
        run.metrics.clear()
        run.metrics.update({"classes": 10.0, method: 0.5} if method != "random" else {"classes": 10.0})
    (table,) = build_own_protocols(results)
    assert table.titles == ["supervised", "relational", "simclr"]
    rows = {row.method: (row.color, list(row.cells)) for row in table.rows}
    assert rows == {
        "random": (1, []), "supervised": (2, ["supervised"]), "relational": (3, ["relational"]),
        "simclr": (4, ["simclr"]),
    }  # fmt: skip
    assert [cell.text for cell in table.as_table.rows[0]] == ["random", "–", "–", "–"]


def test_balanced_and_top_5_accuracy_are_shown_if_they_add_something(params: Params) -> None:
    write_report(params)
    header = ["Worst class", "Accuracy", "Best class", "Accuracy", "Gap", "Calibration error", "Mistakes"]
    assert ["Method", "Protocol", *header] in normalized_rows(read_page())
    for run in evaluations(params):
        accuracy = json.loads(run.metrics.read_text())["accuracy"]
        change_metrics(run, balanced_accuracy=accuracy, top_5_accuracy=0.9)
    write_report(params)
    assert ["Method", "Protocol", "Top 5", *header] in normalized_rows(read_page())
    for run in evaluations(params):
        change_metrics(run, removed=("top_5_accuracy",) if run.protocol == "knn" else (), balanced_accuracy=0.25)
    write_report(params)
    rows = normalized_rows(read_page())
    assert ["Method", "Protocol", "Class mean", "Top 5", *header] in rows
    assert ["random", "linear", "25.00", "90.00", "dog"] in [row[:5] for row in rows]
    assert ["random", "knn", "25.00", "–", "dog"] in [row[:5] for row in rows]


def test_chosen_learning_rates_are_shown_by_seed(params: Params) -> None:
    for run in evaluations(params):
        if run.protocol == "linear":
            settings = {**PROTOCOLS["linear"], "label_fraction": None, "images_per_class": 5}
            settings["learning_rate"] = [0.001, 0.01]
            change_record(run.folder, params={"protocols.linear": settings, "threads": 1})
            counts = {"validation_images": 20, "train_images": 40} if run.pretraining.seed == 1 else {}
            change_metrics(run, learning_rate=0.01 if run.pretraining.seed == 1 else 0.001, **counts)
    write_report(params)
    assert ["relational", "linear, chosen learning rate", "0.01", "0.001"] in normalized_rows(read_page())
    for text in (read_page().text, read_markdown()):
        assert (
            "a linear layer is trained on the frozen features, with 5 labels per class; the learning rate is "
            "chosen from 0.001, 0.01 on 20 of the 40 labeled images"
        ) in text


def test_retrieval_shows_whether_the_relation_head_helps(full_report: tuple[str, str]) -> None:
    html, markdown = full_report
    page = ParsedPage(html)
    titles = ["mAP", "mAP, head", "precision at 1", "precision at 1, head", "precision at 5", "precision at 5, head"]
    rows = normalized_rows(page)
    assert rows[rows.index(["Method", *titles]) + 1] == [
        "relational", "51.50 ± 0.71", "53.50 ± 0.85", "10.00 ± 0.00", "20.00 ± 0.00", "50.00 ± 0.00", "50.00 ± 0.00",
    ]  # fmt: skip
    # The mean of the changes is 2.00 and their standard error is 0.1; t with one degree of freedom is 12.71.
    sentence = (
        "relational: reordering changes the mAP by +2.00 percentage points (95% interval over seeds +0.73 to +3.27): "
        "it helps."
    )
    assert sentence in page.text
    assert sentence in markdown


@pytest.mark.parametrize(
    ("changes", "end"),
    [([0.02, -0.03], "the effect is inconclusive."), ([-0.01, -0.011], "it makes retrieval worse.")],
)
def test_relation_head_that_does_not_help(full_grid: Params, changes: list[float], end: str) -> None:
    for seed, change in enumerate(changes, 1):
        run = paths.EvaluationPaths(paths.PretrainPaths("shapes", "conv4", "relational", seed), "shapes", "retrieval")
        values = json.loads(run.metrics.read_text())
        values["reranked_mean_average_precision"] = values["mean_average_precision"] + change
        run.metrics.write_text(json.dumps(values))
    (table,) = build_retrieval(collect_results(full_grid))
    assert table.head_sentences[0].endswith(end)


def test_dynamics_plot_the_history(full_report: tuple[str, str]) -> None:
    html, _ = full_report
    labels = re.findall(r'aria-label="([^"]*)"', html)
    assert (
        "Accuracy in percent by epoch, mean over seeds: kNN on frozen features from 35 to 75, pairs classified "
        "correctly from 50 to 70." in labels
    )
    assert "Information in bits by epoch, mean over seeds: information from -0.1 to 0.3." in labels
    assert "Gradient norm by epoch, mean over seeds: backbone from 1 to 0.1, head from 0.2 to 0.2." in labels
    assert "Relational task and quality of the features" in html
    assert "Effective rank by epoch, mean over seeds: centered features from 3 to 5." in labels


PAIRS_SENTENCE = (
    "At the largest cost that both methods reach, the kNN accuracy, interpolated between epochs, is 65.00% for "
    "relational and 50.00% for simclr (2,500 pairs)"
)


def test_efficiency_at_equal_cost(full_report: tuple[str, str]) -> None:
    html, markdown = full_report
    # Relational reaches 35% at 1000 pairs (10 s) and 75% at 3000 pairs (32 s). SimCLR reaches 30% at 1500 pairs
    # (16 s) and 50% at 2500 pairs (40 s). At 2500 pairs, they have 35 + 40 × 3/4 = 65 and 50. At 32 s, they have 75
    # and 30 + 20 × 16/24 = 43.33.
    expected = (
        f"{PAIRS_SENTENCE}, and 75.00% for relational and 43.33% for simclr (32.0 seconds of training). "
        "Means are over 2 seeds."
    )
    assert expected in ParsedPage(html).text
    assert expected in markdown
    assert "four rotations" not in html  # no method is RotationNet


def test_rotations_are_mentioned(full_grid: Params) -> None:
    results = collect_results(full_grid)
    for run in results.pretrainings:
        if run.paths.method == "simclr":
            run.record.params["methods.simclr"]["kind"] = "rotation"
    page = ParsedPage(render_html(build_sections(results)))
    assert "RotationNet passes each view through the network in four rotations." in page.text


def test_accuracy_at_is_linear_and_does_not_extrapolate() -> None:
    points = [(10.0, 20.0), (20.0, 40.0)]
    assert accuracy_at(points, 15) == 30
    assert accuracy_at(points, 20) == 40
    assert accuracy_at(points, 9.9) is None
    assert accuracy_at(points, 20.1) is None


def test_mean_of_a_curve_is_over_the_seeds_that_have_a_point() -> None:
    seeds = [{1: (1.0, 10.0), 2: (2.0, 20.0)}, {2: (4.0, 40.0), 3: (6.0, 60.0)}]
    for points in (seeds, seeds[::-1]):
        assert Curve("mine", 1, points).mean_points == [(1, 10), (3, 30), (6, 60)]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1, 30), [1, 2, 5, 10, 20]),
        ((100, 10_000), [100, 200, 500, 1000, 2000, 5000, 10_000]),
        ((1e5, 1e10), [1e5, 1e6, 1e7, 1e8, 1e9, 1e10]),
        ((1e-5, 15), [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10]),
    ],
)
def test_ticks_of_a_logarithmic_axis(limits: tuple[float, float], expected: list[float]) -> None:
    axes = Figure().subplots()
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    set_log_ticks(axes.yaxis, EngFormatter())
    ticks = [tick for tick in axes.get_yticks() if limits[0] <= tick <= limits[1]]
    assert len(ticks) >= 3
    assert {*np.round(np.log10(ticks), 9)} <= {*np.round(np.log10(expected), 9)}


def test_numbers_and_long_names_are_shortened() -> None:
    numbers = [0, 4.7e-4, -2.6e-5, 0.0012, 12.5, 123_456_789_012.0]
    assert [format_any_number(number) for number in numbers] == [
        "0.000", "0.00047", "−2.6e−05", "0.001", "12.500", "1.235e+11",
    ]  # fmt: skip
    assert shorten_middle("Corn_(maize)___healthy", 14) == "Corn_(m…ealthy"
    assert len(shorten_middle("Corn_(maize)___Common_rust_", 14)) == 14
    assert shorten_middle("relational", 10) == "relational"


def test_efficiency_without_common_cost_has_no_sentence(full_grid: Params) -> None:
    for seed in (1, 2):
        write_dynamics("simclr", seed, {"accuracy": [0.1], "knn_accuracy": [0.3], "views": [9], "pairs": [0]}, [1.0])
    write_report(full_grid)
    assert "efficiency" in read_page().ids
    assert "interpolated between epochs" not in read_page().text


def test_seconds_of_different_devices_are_not_compared(full_grid: Params) -> None:
    change_record(RELATIONAL.folder, device="NVIDIA H100")
    write_report(full_grid)
    assert f"{PAIRS_SENTENCE}. Means" in read_page().text


def test_seconds_are_not_compared_if_an_earlier_session_used_a_different_machine(full_grid: Params) -> None:
    record = json.loads(paths.record_file(RELATIONAL.folder).read_text())
    session = {"machine": record["machine"] | {"processor": "Slide rule"}, "device": record["device"]}
    change_record(RELATIONAL.folder, earlier_sessions=[session])
    write_report(full_grid)
    assert f"{PAIRS_SENTENCE}. Means" in read_page().text


def test_records_without_epoch_times_have_no_plot_of_seconds(full_grid: Params) -> None:
    for seed in (1, 2):
        for method in ("relational", "simclr"):
            change_record(paths.PretrainPaths("shapes", "conv4", method, seed).folder, epoch_seconds=[])
    write_report(full_grid)
    text = read_page().text
    assert "against pairs compared" in text
    assert "against seconds of training" not in text
    assert f"{PAIRS_SENTENCE}. Means" in text


def test_every_plot_has_its_data(full_report: tuple[str, str]) -> None:
    html, _ = full_report
    files = {
        name: unquote(data)
        for data, name in re.findall(r'href="data:text/csv;charset=utf-8,([^"]*)" download="(\S*)"', html)
    }
    assert len(files) == html.count('class="panel"') > 20
    assert files["accuracy-shapes-conv4-shapes-linear.csv"].splitlines()[:3] == [
        "method,seed,accuracy (%)", "random,1,40", "random,2,42",
    ]  # fmt: skip
    assert files["relational-shapes-conv4-loss.csv"].splitlines()[:3] == [
        "epoch,loss (seed 1),loss (seed 2)", "1,1,1", "2,1,1",
    ]  # fmt: skip


def test_a_method_has_the_same_color_everywhere(full_report: tuple[str, str]) -> None:
    html, _ = full_report
    colors = re.findall(r'--series-(\d+)\)"></span>(\w+)', html) + re.findall(
        r'--series-(\d+)\)">(relational|simclr)<', html
    )
    assert set(colors) == {("1", "random"), ("2", "supervised"), ("3", "relational"), ("4", "simclr")}
    assert len(colors) > 20
    for method, color in (("relational", "3"), ("simclr", "4")):
        (plot,) = re.findall(
            rf'<div class="panel">(?:(?!<div).)*download="{method}-shapes-conv4-loss.csv"', html, re.DOTALL
        )
        assert set(re.findall(r"--series-(\d+)", plot)) == {color}


def read_map() -> dict[str, Any]:
    """Return the data of the only map on the page in the current folder."""
    html = REPORT_FILES[0].read_text(encoding="utf-8")
    (data,) = re.findall(r'<figure class="image-map"[^>]*><script[^>]*>(.*?)</script>', html, re.DOTALL)
    return json.loads(data)


def decode(numbers: str) -> list[int]:
    return np.frombuffer(base64.b64decode(numbers), "<u2").tolist()


def test_map_joins_the_files_by_the_number_of_the_image(full_grid: Params) -> None:
    write_report(full_grid)
    data = read_map()
    assert decode(data["labels"]) == LABELS
    assert [layer["title"] for layer in data["layers"]] == [f"{method}, seed 1" for method in METHODS]
    for layer in data["layers"]:
        assert decode(layer["predictions"]) == PREDICTIONS
        assert decode(layer["neighbors"]) == [(row + step) % 10 for row in range(10) for step in (1, 2)]


def test_map_has_no_layer_for_a_different_sample(full_grid: Params) -> None:
    run = paths.EvaluationPaths(paths.PretrainPaths("shapes", "conv4", "simclr", 1), "shapes", "embedding")
    table = pq.read_table(run.predictions)
    index = table["index"].to_pylist()
    assert index.pop(0) == 7
    neighbors = [[8 if number == 7 else number for number in row] for row in table["neighbors"].to_pylist()]
    for name, values in (("index", [8, *index]), ("neighbors", neighbors)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    write_predictions(run, table, CLASS_NAMES)
    write_report(full_grid)
    titles = [layer["title"] for layer in read_map()["layers"]]
    assert titles == ["random, seed 1", "supervised, seed 1", "relational, seed 1"]


def test_map_names_the_files_of_images(full_grid: Params) -> None:
    write_report(full_grid)
    assert '"names":["image 7 of shapes","image 3 of shapes"' in REPORT_FILES[0].read_text(encoding="utf-8")
    raw_file = paths.DatasetPaths("shapes").images
    raw_file.parent.mkdir(parents=True)
    images = [{"bytes": b"", "path": f"birds/<{number}>.jpg"} for number in range(32)]
    pq.write_table(pa.table({"image": images}), raw_file)
    write_report(full_grid)
    assert '"names":["birds/\\u003c7>.jpg","birds/\\u003c3>.jpg"' in REPORT_FILES[0].read_text(encoding="utf-8")
    raw_file.write_bytes(b"damaged")
    write_report(full_grid)
    assert '"names":["image 7 of shapes"' in REPORT_FILES[0].read_text(encoding="utf-8")


def test_page_does_not_mention_standard_deviations_of_single_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(methods=("relational",), seeds=(1,))
    other = make_params(methods=("simclr",), seeds=(2,))
    params = params.model_copy(update={"grid": [*params.grid, *other.grid]})
    write_grid_files(params)
    write_report(params)
    for text in (read_page().text, read_markdown()):
        assert "Each value is from a single seed, so there is no standard deviation." in text
        assert "over 1 seed" not in text
        assert "Thin lines" not in text


def test_positive_pairs_may_share_only_a_class_if_labels_are_used(params: Params) -> None:
    for folder in (RELATIONAL.folder, RELATIONAL.folder.with_name("2")):
        settings = METHODS["relational"] | {"label_fraction": 0.1}
        change_record(folder, params={"methods.relational": settings, "threads": 1})
    write_report(params)
    assert "two views of one image or class" in read_page().text


def test_trained_classifier_may_be_that_of_an_own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(methods=("random", "relational"))
    write_grid_files(params)
    own = {"kind": "mine:Mine", "label_fraction": 1.0}
    for run in evaluations(params):
        if run.pretraining.method == "relational":
            change_record(run.pretraining.folder, params={"methods.relational": own, "threads": 1})
            if run.protocol == "linear":
                change_metrics(run, trained_classifier_accuracy=0.7)
    write_report(params)
    row = ["relational trained with labels", "61.50 ± 2.12", "50.00 ± 0.00", "70.00 ± 0.00"]
    assert row in normalized_rows(read_page())
    text = "trained classifier: the linear layer that was trained together with the backbone is tested"
    assert text in read_page().text
    assert text in read_markdown()
