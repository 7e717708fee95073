"""Test the comparison with the paper: published results, matching runs, deviations, and verdicts."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers import ROOT
from pydantic_core import to_jsonable_python
from report_files import (
    LABELS,
    PREDICTIONS,
    ParsedPage,
    check_latex,
    normalized_rows,
    read_markdown,
    read_page,
    write_png,
    write_predictions,
    write_record,
)
from ruamel.yaml import YAML
from scipy.stats import ttest_ind_from_stats

from rr import paths
from rr.params import Params, load_params
from rr.paths import REPORT_FILES
from rr.report.inputs.collect import EvaluationResult, GridResults, PretrainResult, collect_results
from rr.report.inputs.files import Machine, RunRecord
from rr.report.latex import escape_latex
from rr.report.page import escape_markdown
from rr.report.paper.averages import BASELINES, mean_margin_of_first_row
from rr.report.paper.match import Match, find_match, is_comparable
from rr.report.paper.published import PAPER_CSV, PublishedResult, load_published
from rr.report.paper.settings import (
    KNOWN_DEVIATIONS,
    Deviation,
    find_deviations,
    paper_preprocessing,
    recorded_datasets,
)
from rr.report.paper.tables import comparison_table
from rr.report.paper.verdict import Verdict, decide_verdict, describe_chance_differences
from rr.report.sections.paper_comparison import build_comparison
from rr.report.sections.view_counts import build_accuracy_by_view_count
from rr.report.stage import write_report
from rr.report.statistics import MeanStd
from rr.report.welch import welch_interval
from rr.workflow import suites
from rr.workflow.grid import evaluations, extractions, pretrainings
from rr.workflow.stage_runs import stage_params

TABLE_1 = ("L5", "L6", "T1", "T2", "G1", "F1")


def find_published(experiment: str, method: str, table: str | None = None, **fields: Any) -> PublishedResult:
    """Return the only result in the paper with these fields."""
    results = [
        result
        for result in load_published()
        if (result.experiment, result.method) == (experiment, method)
        and table in (None, result.table)
        and all(getattr(result, key) == value for key, value in fields.items())
    ]
    assert len(results) == 1, results
    return results[0]


def load_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> Params:
    """Return the project's params.yaml, merged with suites as Snakemake merges them, and change to a new folder."""
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        chosen = {name: suites.load_suite(name) for name in names}
    monkeypatch.chdir(tmp_path)
    content = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    for suite in chosen.values():
        for name in suite["grid"]["data"]:  # the source of a dataset is irrelevant here
            content["datasets"].setdefault(name, content["datasets"]["shapes"])
    Path("params.yaml").write_text(json.dumps(content))
    return load_params(suites.merge_suites(chosen, Path("params.yaml")))


def test_every_published_result_occurs_once() -> None:
    assert Counter(result.table for result in load_published()) == {
        "Table 1": 42, "Table 2": 42, "Table 3": 5, "Heads": 15, "Figure 2a": 9, "Figure 2b": 15, "Figure 2c": 24,
        "Appendix B": 25, "lightly": 3,
    }  # fmt: skip
    assert Counter(result.experiment for result in load_published()) == {
        "L1": 7, "L2": 7, "L3": 7, "L4": 10, "L5": 17, "L6": 14, "L7": 5, "T1": 8, "T2": 8, "G1": 8, "F1": 7,
        "A1": 5, "A2": 5, "D1": 9, "K1": 5, "K2": 5, "K3": 5, "S1": 10, "S2": 10, "T3": 14, "G2": 7, "D2": 4,
        "O1": 3,
    }  # fmt: skip
    assert len({result.key for result in load_published()}) == len(load_published())


def test_published_values() -> None:
    values = {
        ("L1", "relational", "Table 2"): (61.03, 0.23),
        ("L4", "simclr", "Table 2"): (77.02, 0.64),
        ("L6", "simclr", "Table 1"): (25.79, 0.35),
        ("L6", "simclr", "Table 2"): (25.79, 0.40),
        ("L7", "random", "Table 3"): (0.79, 0.09),
        ("F1", "supervised", "Table 1"): (69.82, 3.36),
        ("F1", "random", "Table 1"): (None, None),
        ("G1", "infomax", "Table 1"): (33.92, 0.34),
        ("T2", "relational", "Heads"): (67.81, 0.42),
    }
    for key, expected in values.items():
        result = find_published(*key)
        assert (result.mean, result.std) == expected, key
    assert find_published("A2", "encoder-dot", target="cifar100-20").mean == 36.94
    assert find_published("K2", "rotation", views=4).mean == -0.07
    assert find_published("S2", "relational", label_fraction=0.25, status="digitized").mean == 54.3
    assert find_published("S2", "relational", label_fraction=0.25, status="unconfirmed").mean == 54.44


def test_unknown_results_have_no_value() -> None:
    for result in load_published():
        assert (result.mean is None) == (result.status in ("not recovered", "not given"))
        if result.status in ("not recovered", "not given", "digitized") and result.table != "Figure 2b":
            assert result.std is None
        if result.experiment in ("T3", "G2", "D2"):
            assert result.status == "not recovered"


def test_averages_of_the_abstract_follow_from_published_results() -> None:
    rows = {
        method: [find_published(experiment, method, "Table 1").mean for experiment in TABLE_1]
        for method in ("relational", *BASELINES)
    }
    assert round(mean_margin_of_first_row(list(rows.values())), 2) == 14.08
    assert round(mean_margin_of_first_row([rows["relational"], rows["simclr"]]), 2) == 2.87


def test_gains_of_resnet_32_are_differences_of_table_2() -> None:
    pairs = {"cifar10": ("L1", "L4"), "cifar100": ("L2", "L5"), "tiny-imagenet": ("L3", "L6")}
    for result in load_published():
        if result.experiment == "D1":
            small, large = (find_published(name, result.method, "Table 2").mean for name in pairs[result.dataset])
            assert result.mean == pytest.approx(large - small)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("L5,Table 1,supervised", "L5,Table 1,supervized", "line 2, method"),
        ("L5,Table 1,supervised", "L5,Table 9,supervised", "line 2, table"),
        ("65.32,0.22,percent", "65.32,0.22,per cent", "line 2, unit"),
        ("65.32,0.22,percent", "65.32,-0.22,percent", "line 2, std"),
        ("65.32,0.22,percent,confirmed", ",,percent,confirmed",
         "line 2: a result with the status 'confirmed' needs a mean"),
        ("65.32,0.22,percent,confirmed", "65.32,,percent,not recovered",
         "line 2: a result with the status 'not recovered' must have neither a mean nor a std"),
        ("L6,Table 1,random,resnet32,tiny-imagenet,tiny-imagenet", "L5,Table 1,random,resnet32,cifar100,cifar100",
         "line 9: repeats the result in line 8"),
    ],
)  # fmt: skip
def test_invalid_row_raises(tmp_path: Path, old: str, new: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAPER_CSV.read_text(encoding="utf-8")
    assert old in text
    invalid = tmp_path / "paper.csv"
    invalid.write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr("rr.report.paper.published.PAPER_CSV", invalid)
    with pytest.raises(ValueError, match=message):
        load_published.__wrapped__()  # without the cache


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((61.2, 0.4, 3), (61.03, 0.23, 3)), ((60.1, 0.3, 3), (61.03, 0.23, 3)), ((50.0, 5.0, 2), (61.03, 0.23, 3))],
)
def test_interval_agrees_with_scipy(ours: tuple[float, float, int], theirs: tuple[float, float, int]) -> None:
    low, high = welch_interval(MeanStd(*ours), MeanStd(*theirs))
    test = ttest_ind_from_stats(*ours, *theirs, equal_var=False)
    assert (low <= 0 <= high) == (test.pvalue >= 0.05)
    if hasattr(test, "confidence_interval"):
        interval = test.confidence_interval(0.95)
        assert (low, high) == pytest.approx((interval.low, interval.high))
    # If one end of the interval is exactly 0, the p-value is 5%.
    shifted = (theirs[0] + (high - low) / 2, *ours[1:])
    assert ttest_ind_from_stats(*shifted, *theirs, equal_var=False).pvalue == pytest.approx(0.05)


def test_interval_by_hand() -> None:
    # If the standard deviations and seed counts are the same, there are four degrees of freedom. The quantile is
    # 2.7764, and the standard error is √(2 × 0.09 / 3) = 0.24495.
    low, high = welch_interval(MeanStd(62.0, 0.3, 3), MeanStd(61.0, 0.3, 3))
    assert (low, high) == pytest.approx((1 - 0.68008, 1 + 0.68008), abs=1e-4)
    # If one side has no variance, the degrees of freedom are the other side's n − 1 = 1. The quantile is 12.706.
    low, high = welch_interval(MeanStd(62.0, 1.0, 2), MeanStd(61.0, 0.0, 3))
    assert high - 1 == pytest.approx(12.7062 / math.sqrt(2), abs=1e-3)
    assert welch_interval(MeanStd(62.0, 0.0, 3), MeanStd(61.5, 0.0, 3)) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no standard deviation"):
        welch_interval(MeanStd(62.0, None, 1), MeanStd(61.0, 0.3, 3))


def test_verdicts() -> None:
    published = find_published("L1", "relational", "Table 2")  # 61.03 ± 0.23

    def judge_value(
        mean: float, std: float | None, count: int, deviations: tuple[str, ...] = (), is_reduced: bool = False
    ) -> Verdict:
        match = Match("r", "linear", MeanStd(mean, std, count), 200, list(deviations), is_reduced)
        return decide_verdict(published, match)

    assert judge_value(61.3, 0.3, 3) == "agrees"
    assert judge_value(62.5, 0.3, 3) == "above"
    assert judge_value(59.0, 0.3, 3) == "below"
    assert judge_value(61.03, 0.0, 3) == "agrees"
    assert judge_value(60.2, 0.3, 3) == "below"
    assert judge_value(60.2, 0.3, 2) == "agrees", "two seeds give a wide interval"
    assert judge_value(61.3, None, 1) == "too few seeds"
    assert judge_value(61.3, 0.3, 3, ("5 of 200 epochs",), True) == "reduced budget"
    assert judge_value(61.3, 0.3, 3, ("different augmentation",)) == "other settings"
    assert decide_verdict(published, None) == "not run"
    match = Match("r", "linear", MeanStd(61.3, 0.3, 3), 200, [], False)
    assert decide_verdict(find_published("F1", "random"), match) == "not given"
    assert decide_verdict(find_published("G2", "relational"), match) == "not recovered"
    for status in ("digitized", "unconfirmed"):
        published = find_published("S1", "relational", label_fraction=0.1, status=status)
        assert decide_verdict(published, match) == "not confirmed"
    assert published.std is not None


def method_settings(params: Params, method: str) -> dict[str, Any]:
    """Return a method's settings as they appear in a record."""
    return to_jsonable_python(params.methods[method])


def deviations_from(
    published: PublishedResult, method: dict[str, Any], protocol: dict[str, Any], precision: str = "float32"
) -> list[Deviation]:
    """Return the deviations of a run on the paper's own datasets."""
    return find_deviations(published, method, protocol, precision, {})


def test_deviations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "cifar-conv4-short", "cifar")
    linear, short = (to_jsonable_python(params.protocols[name]) for name in ("linear", "linear-notebook"))
    ours, full = method_settings(params, "relational-3"), method_settings(params, "relational-paper")
    published = find_published("L1", "relational", "Table 2")
    assert deviations_from(published, full, linear) == []
    assert deviations_from(published, full, linear, "bfloat16") == [("mixed precision", False)]
    assert deviations_from(published, ours, short) == [
        ("3 of 200 epochs", True),
        ("K = 8 (paper: 32)", True),
        ("10 of 100 linear epochs", True),
    ]
    assert any(deviation.reduces_budget for deviation in deviations_from(published, ours, linear))
    # The paper's K is 16 here. K = 32 is a different setting, but not a reduced budget.
    tiny = find_published("L6", "relational", "Table 2")
    assert deviations_from(tiny, full, linear) == [("K = 32 (paper: 16)", False)]
    for change, text in (
        ({"batch_size": 128}, "M = 128 (paper: 64)"),
        ({"learning_rate": 0.01}, "learning rate = 0.01 (paper: 0.001)"),
        ({"gamma": 1.0}, "gamma = 1 (paper: 2)"),
        ({"augmentation": full["augmentation"] | {"hue": 0.1}}, "different augmentation"),
        ({"augmentation": full["augmentation"] | {"erase": 0.5}}, "different augmentation"),
        ({"augmentation": full["augmentation"] | {"scale": [0.2, 1.0]}}, "different augmentation"),
        ({"augmentation": full["augmentation"] | {"ratio": [1.0, 1.0]}}, "different augmentation"),
        ({"negatives": "random"}, "negatives = random (paper: roll)"),
    ):
        assert deviations_from(published, full | change, linear) == [(text, False)]
    # The settings of a disabled operation have no effect.
    disabled = {"padding": 0.5, "zoom": [0.5, 2.0], "erase_area": 0.5}
    assert deviations_from(published, full | {"augmentation": full["augmentation"] | disabled}, linear) == []
    clusters = method_settings(params, "deepcluster-paper") | {"clusters_per": "dataset"}
    deviations = deviations_from(find_published("L1", "deepcluster", "Table 2"), clusters, linear)
    assert deviations[0] == ("clusters per = dataset (paper: class)", False)
    longer = deviations_from(published, full | {"epochs": 400}, linear)
    assert longer == [("epochs = 400 (paper: 200)", False)]
    # The accuracy of the trained network does not depend on the protocol.
    supervised = find_published("L1", "supervised", "Table 2")
    assert deviations_from(supervised, method_settings(params, "supervised-paper"), short) == []


def test_deviations_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "cifar")
    random, linear = {"kind": "random"}, to_jsonable_python(params.protocols["linear"])
    published = find_published("T1", "random")  # ResNet-32, CIFAR-10 → CIFAR-100
    metrics = {"accuracy": 0.1, "train_images": 50_000, "test_images": 10_000}

    def find_data_deviations(metrics: dict[str, float], **changes: Any) -> list[str]:
        datasets = {
            f"datasets.{name}": stage_params(params, "convert", dataset=name)[f"datasets.{name}"]
            for name in ("cifar10", "cifar100")
        }
        datasets["datasets.cifar10"] |= changes
        recorded = recorded_datasets([datasets], "cifar100", metrics)
        return [deviation.text for deviation in find_deviations(published, random, linear, "float32", recorded)]

    assert find_data_deviations(metrics) == []
    assert find_data_deviations(metrics, image_size=64) == ["CIFAR-10: image size = 64 (paper: 32)"]
    assert find_data_deviations(metrics, stored_size=40) == ["CIFAR-10: stored size = 40 (paper: none)"]
    assert find_data_deviations(metrics, std=[0.25, 0.25, 0.25]) == [
        "CIFAR-10: std = 0.25, 0.25, 0.25 (paper: 0.247, 0.243, 0.262)"
    ]
    assert find_data_deviations(metrics | {"train_images": 500, "test_images": 100}) == [
        "CIFAR-100: train images = 500 (paper: 50,000)",
        "CIFAR-100: test images = 100 (paper: 10,000)",
    ]


def test_paper_preprocessing_is_that_of_params_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "cifar")
    names = {name for result in load_published() for name in (result.dataset, result.target)}
    for name in names:
        ours = stage_params(params, "convert", dataset=name)[f"datasets.{name}"]
        assert paper_preprocessing(name) == {key: ours[key] for key in paper_preprocessing(name)}
    assert paper_preprocessing("shapes") == {}


def test_is_comparable_depends_on_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "heads")
    linear = to_jsonable_python(params.protocols["linear"])
    relational = find_published("L4", "relational", "Table 2")
    full = method_settings(params, "relational-paper")
    assert is_comparable(relational, full, linear)
    for other in ("dot-paper", "relational-sum", "relational-max", "relational-bce", "simclr-paper"):
        assert not is_comparable(relational, method_settings(params, other), linear)
    assert not is_comparable(relational, full | {"label_fraction": 0.1}, linear)
    assert not is_comparable(relational, full, linear | {"label_fraction": 0.1})
    assert not is_comparable(relational, full, linear | {"label_fraction": None, "images_per_class": 10})
    assert not is_comparable(relational, full, {"kind": "knn", "neighbors": 20, "temperature": 0.1})
    dot = find_published("A1", "dot", target="cifar10", dataset="cifar10")
    assert is_comparable(dot, method_settings(params, "dot-paper"), linear)
    with_labels = find_published("S1", "relational", label_fraction=0.1, status="digitized")
    assert is_comparable(with_labels, full | {"label_fraction": 0.1}, linear)
    simclr = find_published("L4", "simclr", "Table 2")
    assert is_comparable(simclr, method_settings(params, "simclr-paper"), linear)
    assert not is_comparable(simclr, method_settings(params, "simclr-nt-xent"), linear)


SUITES = (
    "cifar",
    "tiny-conv4",
    "tiny-resnet32",
    "slim",
    "stl10",
    "stl10-supervised",
    "heads",
    "labels",
    "views",
    "outside",
)


def collect_suites(params: Params) -> GridResults:
    """Return results for all runs in a grid, as if every accuracy were one half, without writing files."""

    def make_record(values: dict[str, Any]) -> RunRecord:
        return RunRecord("", "", "", 0.0, 0.0, Machine("", 1, "", "", {}), values, {})

    pretrain_results = {
        run: PretrainResult(
            run, make_record(stage_params(params, "pretrain", backbone=run.backbone, method=run.method)), {}, b""
        )
        for run in pretrainings(params)
    }
    evaluation_results = [
        EvaluationResult(
            run,
            pretrain_results[run.pretraining],
            make_record(stage_params(params, "evaluate", target=run.target, protocol=run.protocol)),
            {"accuracy": 0.5, "trained_classifier_accuracy": 0.5},
            None,
            b"",
        )
        for run in evaluations(params)
    ]
    return GridResults(list(pretrain_results.values()), [], evaluation_results)


@pytest.fixture(scope="module")
def suite_results(tmp_path_factory: pytest.TempPathFactory) -> GridResults:
    """Return results for all runs in the paper's suites. Tests must not change them."""
    with pytest.MonkeyPatch.context() as patch:
        return collect_suites(load_suites(tmp_path_factory.mktemp("suites"), patch, *SUITES))


def test_suites_of_the_paper_match_every_result(suite_results: GridResults) -> None:
    """Only deviations listed in docs/deviations.md remain, and no result that they affect is compared."""
    for published in load_published():
        if published.experiment == "D2" or published.status == "not given":
            continue
        match = find_match(suite_results, published)
        assert match is not None, published
        assert match.value.count == 3
        assert not match.has_reduced_budget
        is_deviating = (
            published.method in ("deepcluster", "infomax", "dot", "encoder-dot")
            or published.target == "stl10"
            or published.dataset == "slimagenet64"
            or published.table == "lightly"
            or (published.method == "supervised" and published.target == "cifar100-20")
            or (published.table == "Figure 2b" and published.method != "relational")
        )
        assert bool(match.deviations) == is_deviating, (published, match)
        if published.mean is not None:
            verdict = decide_verdict(published, match)
            assert (verdict == "other settings") == is_deviating, published
            assert verdict in ("other settings", "not confirmed", "agrees", "above", "below")


def test_known_deviations_are_documented() -> None:
    document = (ROOT / "docs/deviations.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].removeprefix("| ") for line in document.splitlines() if line.startswith("| ")}
    assert {known.documented_as for known in KNOWN_DEVIATIONS} <= rows
    for known in KNOWN_DEVIATIONS:
        fields = known.applies_to.items()
        assert any(all(getattr(r, key) == value for key, value in fields) for r in load_published()), known


@pytest.mark.parametrize(
    ("experiment", "method", "dataset", "text"),
    [
        (
            "L4",
            "deepcluster",
            "cifar10",
            "k-means on unaugmented images (the paper’s code uses augmented images, corrupted by a bug)",
        ),
        (
            "L4",
            "infomax",
            "cifar10",
            "encoder trained against the prior’s discriminator (the paper’s code trains it to help the discriminator)",
        ),
        ("F1", "simclr", "stl10-unlabeled", "assumed number of finetuning epochs (the paper’s is unknown)"),
        ("F1", "supervised", "stl10", "assumed number of epochs (the paper’s is unknown)"),
        ("L7", "random", "slimagenet64", "different split into training and test images (the paper’s is unknown)"),
    ],
)
def test_known_deviation_is_reported(
    suite_results: GridResults, experiment: str, method: str, dataset: str, text: str
) -> None:
    published = next(r for r in load_published() if (r.experiment, r.method) == (experiment, method))
    match = find_match(suite_results, published)
    assert match is not None
    assert text in match.deviations


def test_columns_of_a_deviation_are_listed_if_it_does_not_affect_the_whole_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = collect_suites(load_suites(tmp_path, monkeypatch, "cifar"))
    assert comparison_table(results, "Table 1").deviations == [
        "[a] Supervised (supervised-paper, linear) in grain CIFAR-100-20: new linear layer on the network trained on "
        "the fine classes (how the paper got its result is unknown)",
        "[b] DeepCluster (deepcluster-paper, linear): k-means on unaugmented images (the paper’s code uses augmented "
        "images, corrupted by a bug)",
        "[c] Deep InfoMax (infomax-paper, linear): encoder trained against the prior’s discriminator (the paper’s "
        "code trains it to help the discriminator)",
    ]


def test_network_without_saved_classifier_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = collect_suites(load_suites(tmp_path, monkeypatch, "cifar"))
    published = find_published("L1", "supervised", "Table 2")
    for evaluation in results.evaluations:
        evaluation.metrics.update(accuracy=0.7, trained_classifier_accuracy=0.8)
    match = find_match(results, published)
    assert match is not None
    assert (match.value.mean, match.deviations) == (80, [])
    # Only the backbone is transferred to a different dataset.
    transfer = find_match(results, find_published("T1", "supervised"))
    assert transfer is not None
    assert transfer.value.mean == 70
    for evaluation in results.evaluations:
        evaluation.metrics.pop("trained_classifier_accuracy")
    match = find_match(results, published)
    assert match is not None
    assert match.value.mean == 70
    assert match.deviations == ["new linear layer on the frozen backbone (paper: the trained network)"]


def test_every_verdict_that_a_table_shows_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "stl10")
    comparison = build_comparison(collect_suites(params))
    assert comparison is not None
    assert "not given" not in comparison.verdicts
    # Table 1 has no result for random weights after finetuning.
    grid = params.grid[0].model_copy(update={"method": ["random"]})
    comparison = build_comparison(collect_suites(params.model_copy(update={"grid": [grid]})))
    assert comparison is not None
    assert {str(cell.verdict) for table in comparison.tables for cell in table.matched_cells} == {"not given"}
    assert comparison.verdicts["not given"] == "the paper does not report a value."


def test_chance_differences() -> None:
    assert describe_chance_differences([Verdict.NOT_RUN, Verdict.REDUCED_BUDGET, Verdict.OTHER_SETTINGS]) == ""
    verdicts = [*[Verdict.AGREES] * 38, Verdict.ABOVE, Verdict.BELOW, Verdict.OTHER_SETTINGS, Verdict.TOO_FEW_SEEDS]
    assert describe_chance_differences(verdicts) == (
        "40 results were compared using a confidence interval. If all our results truly agreed with the paper’s, about "
        "5% of the compared results (on average 2) would still be “above” or “below” by chance."
    )
    assert "1 result was compared" in describe_chance_differences([Verdict.ABOVE])


def write_runs(params: Params, accuracy: Callable[[paths.EvaluationPaths], float]) -> None:
    """Write the files of all runs. The function `accuracy` returns the accuracy of an evaluation."""
    for run in pretrainings(params):
        run.folder.mkdir(parents=True)
        run.history.parent.mkdir(parents=True, exist_ok=True)
        run.history.write_text("epoch,loss\n")
        write_png(run.views, 1)
        write_record(run.folder, stage_params(params, "pretrain", backbone=run.backbone, method=run.method))
    for extraction in extractions(params):
        extraction.folder.mkdir(parents=True)
        write_record(extraction.folder, stage_params(params, "extract", target=extraction.target))
    for run in evaluations(params):
        run.folder.mkdir(parents=True)
        names = ["accuracy", *(f"{name}_at_{k}" for name in ("precision", "recall", "hit_rate") for k in (1, 5, 10))]
        metrics = dict.fromkeys([*names, "mean_average_precision"], accuracy(run)) | {"calibration_error": 0.1}
        if run.pretraining.method.startswith("supervised") and run.target == run.pretraining.dataset:
            metrics |= {"trained_classifier_accuracy": accuracy(run), "accuracy": accuracy(run) - 0.02}
        run.metrics.write_text(json.dumps(metrics))
        columns = {"index": list(range(10)), "label": LABELS, "prediction": PREDICTIONS, "confidence": [0.5] * 10}
        write_predictions(run, pa.table(columns), ["cat", "dog", "bird"])
        write_png(run.examples, 1)
        write_record(run.folder, stage_params(params, "evaluate", target=run.target, protocol=run.protocol))


def test_match_has_the_fewest_deviations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "methods-cifar10", "cifar-conv4-short", "views")
    write_runs(params, lambda run: 0.5)
    results = collect_results(params)
    match = find_match(results, find_published("L1", "relational", "Table 2"))
    assert match is not None
    assert (match.method, match.protocol, match.deviations) == ("relational-k32", "linear", [])
    # The runs with two and three epochs have the same number of deviations, so the longer run is chosen.
    match = find_match(results, find_published("L1", "deepcluster", "Table 2"))
    assert match is not None
    assert match.method == "deepcluster-3"
    # The paper uses K = 1 for RotationNet. The run with three epochs has two deviations, and the run with K = 2 has
    # one.
    match = find_match(results, find_published("L1", "rotation", "Table 2"))
    assert match is not None
    assert (match.method, match.deviations) == ("rotation-k2", ["K = 2 (paper: 1)"])
    assert find_match(results, find_published("L4", "relational", "Table 2")) is None


CONV4_PERCENT = {
    "supervised": 80.4, "random": 33.0, "deepcluster": 50.0, "rotation": 52.0, "infomax": 44.6, "simclr": 62.4,
    "relational": 61.0,
}  # fmt: skip


def conv4_accuracy(run: paths.EvaluationPaths) -> float:
    """Return an accuracy that depends on the kind of method. Seeds 1 and 3 differ by 0.1 points from seed 2."""
    return (CONV4_PERCENT[run.pretraining.method.split("-")[0]] + (run.pretraining.seed - 2) / 10) / 100


def test_page_compares_with_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "cifar")
    axes = {"dataset": ["cifar10"], "backbone": ["conv4"], "target": ["cifar10"], "protocol": ["linear"]}
    params = params.model_copy(update={"grid": [params.grid[0].model_copy(update=axes)]})
    write_runs(params, conv4_accuracy)
    write_report(params)
    html, latex = (paths.REPORT_FILES[index].read_text(encoding="utf-8") for index in (0, 3))
    page = ParsedPage(html)
    assert page.ids[:2] == ["content", "paper_comparison"]
    assert not page.unclosed
    assert len(page.ids) == len(set(page.ids))
    assert page.elements["caption"] == page.elements["table"]
    rows = normalized_rows(page)
    not_run = ["– published 33.38 ± 1.02", "– published 22.31 ± 0.19"]
    expected = ["Relational", "61.00 ± 0.10 (3) published 61.03 ± 0.23 −0.03, agrees", *not_run]
    assert [row for row in rows if row[:4] == expected]
    first_column = [row[:2] for row in rows]
    assert ["SimCLR", "62.40 ± 0.10 (3) published 60.43 ± 0.26 +1.97, above"] in first_column
    assert ["DeepCluster", "50.00 ± 0.10 (3) published 42.88 ± 0.21 +7.12, other settings [a]"] in first_column
    assert ["Deep InfoMax", "44.60 ± 0.10 (3) published 44.60 ± 0.27 +0.00, other settings [b]"] in first_column
    # The trained network is compared. The `accuracies` section also shows a new linear layer on its backbone.
    assert ["Supervised", "80.40 ± 0.10 (3) published 80.46 ± 0.39 −0.06, agrees"] in first_column
    assert ["supervised-paper upper bound", "78.40 ± 0.10", "80.40 ± 0.10"] in rows
    assert ["RotationNet", "52.00 ± 0.10 (3) published 56.73 ± 1.71 −4.73, below"] in [row[:2] for row in rows]
    sentence = "Runs in this grid correspond to 7 results in the paper: "
    sentence += "3 “agrees”, 1 “above”, 1 “below”, 2 “other settings”."
    notes = [
        sentence,
        "5 results were compared using a confidence interval.",
        "(on average 0.25) would still be “above” or “below” by chance.",
        "DeepCluster (deepcluster-paper, linear): k-means on unaugmented images (the paper’s code uses augmented "
        "images, corrupted by a bug)",
        "prints this accuracy at the end of supervised training, so the paper most likely reports it.",
    ]
    markdown = read_markdown()
    plain_latex = " ".join(latex.split())
    for note in notes:
        assert note in page.text
        assert escape_markdown(note) in markdown
        assert escape_latex(note) in plain_latex or note == sentence
    assert "Not run: Conv-4: CIFAR-100, Conv-4: tiny-ImageNet, ResNet-32: CIFAR-10," in page.text
    assert "No run in this grid corresponds to Table 1, Table 3 or the head ablation." in page.text
    assert "unknown here. Missing: Relational and SimCLR (all columns)." in page.text
    assert "| Relational | 61.00 ± 0.10 (3) / 61.03 ± 0.23 / −0.03, agrees | – / 33.38 ± 1.02 |" in markdown
    # Only one of the eight columns was run, and only this column is printed.
    assert r"Relational & 61.00 $\pm$ 0.10 (3) \\" in latex
    assert r"\quad difference & $-$0.03 \\" in latex
    assert r"\quad verdict & agrees \\" in latex
    check_latex(latex)


@pytest.mark.slow
def test_reduced_budget_gets_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "cifar-conv4-short")
    write_runs(params, lambda run: 0.5)
    write_report(params)
    page = read_page()
    rows = normalized_rows(page)
    assert ["Relational", "50.00 (1) published 61.03 ± 0.23 −11.03, reduced budget [g]"] in [row[:2] for row in rows]
    deviations = "3 of 200 epochs, K = 8 (paper: 32), 10 of 100 linear epochs"
    assert f"Relational (relational-3, linear-notebook): {deviations}" in page.text
    assert not re.search(r"\d “(agrees|above|below)”", page.text)
    assert ["Relational", *["50.00 (1)"] * 3] in rows
    latex = paths.REPORT_FILES[3].read_text(encoding="utf-8")
    assert r"Relational & 50.00 (1) & 50.00 (1) & 50.00 (1) \\" in latex
    assert r"& not recovered" not in latex


def test_grid_without_matching_runs_has_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "quick")
    axes = {"protocol": ["linear", "knn"]}
    params = params.model_copy(update={"grid": [params.grid[0].model_copy(update=axes)]})
    write_runs(params, lambda run: 0.5)
    assert build_comparison(collect_results(params)) is None
    write_report(params)
    for path in paths.REPORT_FILES[:2]:
        assert "Comparison with the paper" not in path.read_text(encoding="utf-8")


def table_1_accuracy(run: paths.EvaluationPaths) -> float:
    """Return the paper's mean in Table 1, plus two points for relational reasoning; 0.5 for other runs."""
    kind = run.pretraining.method.split("-")[0]
    data = (run.pretraining.dataset, run.pretraining.backbone, run.target)
    for published in load_published():
        their_data = (published.dataset, published.backbone, published.target)
        if (published.table, published.method) == ("Table 1", kind) and data == their_data:
            return ((published.mean or 0) + 2 * (kind == "relational")) / 100
    return 0.5


def test_averages_of_our_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "cifar", "tiny-resnet32", "stl10")
    grids = [
        grid.model_copy(
            update={
                "backbone": [name for name in grid.backbone if name != "conv4"],
                "protocol": [name for name in grid.protocol if name.startswith(("linear", "fine"))],
                "seed": [1],
            }
        )
        for grid in params.grid
    ]
    params = params.model_copy(update={"grid": grids})
    write_runs(params, table_1_accuracy)
    comparison = build_comparison(collect_results(params))
    assert comparison is not None
    baselines, simclr = comparison.averages
    start = "Margin of relational reasoning over the mean of the four self-supervised baselines, averaged over the"
    values = "+16.08 points in our runs (with settings that differ from the paper’s), +14.08 in the paper."
    assert baselines == f"{start} 6 columns of Table 1: {values}"
    assert "over SimCLR, averaged over the 6 columns of Table 1: +4.87 points in our runs" in simclr
    assert "+2.87 in the paper" in simclr
    without_stl10 = build_comparison(collect_results(params.model_copy(update={"grid": grids[:2]})))
    assert without_stl10 is not None
    assert without_stl10.averages[1] == (
        "Margin of relational reasoning over SimCLR, averaged over the 6 columns of Table 1: +2.87 points in the "
        "paper, unknown here. Missing: Relational and SimCLR (finetuning on STL-10)."
    )


def test_gain_by_a_deeper_backbone_is_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-32 gains 7 points over Conv-4 with SimCLR and 9 with the others; DeepCluster is not in the figure."""
    params = load_suites(tmp_path, monkeypatch, "cifar")
    axes = {"method": ["relational-paper", "simclr-paper", "deepcluster-paper"], "protocol": ["linear"]}
    params = params.model_copy(update={"grid": [params.grid[0].model_copy(update=axes)]})

    def accuracy(run: paths.EvaluationPaths) -> float:
        gain = 0.07 if run.pretraining.method == "simclr-paper" else 0.09
        return 0.5 + run.pretraining.seed / 100 + gain * (run.pretraining.backbone == "resnet32")

    write_runs(params, accuracy)
    comparison = build_comparison(collect_results(params))
    assert comparison is not None
    (study,) = comparison.studies
    assert [panel.title for panel in study.panels] == ["CIFAR-10, points", "CIFAR-100, points"]
    for panel, relational, simclr in zip(study.panels, ("+13.96", "+12.79"), ("+16.59", "+11.68"), strict=True):
        assert f"Relational +9.00 (paper {relational}), SimCLR +7.00 (paper {simclr})." in panel.svg
    assert study.notes == []
    conv4 = params.grid[0].model_copy(update={"backbone": ["conv4"]})
    single = build_comparison(collect_results(params.model_copy(update={"grid": [conv4]})))
    assert single is not None
    assert single.studies == []


def test_accuracy_is_plotted_against_the_number_of_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "views")

    def accuracy(run: paths.EvaluationPaths) -> float:
        return 0.5 + run.pretraining.seed / 100 + int(run.pretraining.method.split("-k")[1]) / 1000

    write_runs(params, accuracy)
    (panel,) = build_accuracy_by_view_count(collect_results(params))
    assert panel.title == "cifar10, conv4 → cifar10, linear, %"
    kinds = ("relational", "rotation", "supervised")
    assert panel.series == {
        f"{kind}-k2 to {kind}-k32": (color, 0) for color, kind in zip((1, 6, 11), kinds, strict=True)
    }
    assert "relational-k2 to relational-k32 from 52.2 to 55.2" in panel.svg  # the mean seed adds two points
    header, first, *_ = panel.csv.splitlines()
    assert header.startswith("views,relational-k2 to relational-k32 (seed 1),relational-k2 to relational-k32 (seed 2),")
    assert first.startswith("2,51.2,52.2,53.2,")
    grid = params.grid[0].model_copy(update={"method": ["relational-k2", "relational-k8", "rotation-k4"]})
    (panel,) = build_accuracy_by_view_count(collect_results(params.model_copy(update={"grid": [grid]})))
    assert panel.title == "relational-k2 to relational-k8: cifar10, conv4 → cifar10, linear, %"
    grid = params.grid[0].model_copy(update={"method": ["relational-k2", "rotation-k4"]})
    assert build_accuracy_by_view_count(collect_results(params.model_copy(update={"grid": [grid]}))) == []


def test_page_has_the_plots_of_the_suite_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "views")
    methods = [f"{kind}-k{views}" for kind in ("relational", "rotation") for views in (2, 32)]
    params = params.model_copy(update={"grid": [params.grid[0].model_copy(update={"method": methods})]})
    write_runs(params, lambda run: 0.5)
    write_report(params)
    html, markdown = (path.read_text(encoding="utf-8") for path in REPORT_FILES[:2])
    assert re.search(r'<h2 id="view_counts">.*Number of views', html)
    panels = re.findall(r'<p class="panel-title">(.*?)</p>', html)
    assert {"cifar10, conv4 → cifar10, linear, %", "Relational", "RotationNet"} <= set(panels)
    assert "<h3>Number of views</h3>" in html
    assert "## Number of views" in markdown
    series = "relational-k2 to relational-k32, rotation-k2 to rotation-k32"
    assert f"- cifar10, conv4 → cifar10, linear, % ({series})" in markdown
    assert "- Number of views (plotted on the page): Linear evaluation" in markdown


def test_studies_plot_differences_from_two_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "views", "labels", "cifar")
    # The grid also contains K = 1, which is not part of the paper's study.
    grids = [params.grid[0].model_copy(update={"method": ["rotation-paper", *params.grid[0].method]}), params.grid[1]]
    params = params.model_copy(update={"grid": grids})

    def accuracy(run: paths.EvaluationPaths) -> float:
        suffix = run.pretraining.method.split("-")[-1].replace("paper", "1")
        return 0.5 + run.pretraining.seed / 100 + int(suffix.lstrip("k")) / 1000

    write_runs(params, accuracy)
    comparison = build_comparison(collect_results(params))
    assert comparison is not None
    views, labels = comparison.studies
    assert [panel.title for panel in views.panels] == ["Relational", "RotationNet", "Supervised"]
    # Each view adds a thousandth, so 32 views instead of 2 add three points for every seed.
    assert "ours from 0 to 3, the paper (digitized) from 0 to 5." in views.panels[0].svg
    assert "ours from 0 to 3, the paper (digitized) from 0 to 0.66." in views.panels[1].svg
    assert [panel.title for panel in labels.panels] == ["CIFAR-10, %", "CIFAR-100, %"]
    assert "ours from 52.1 to 62, the paper (digitized) from 74.99 to 90.7." in labels.panels[0].svg
    runs = "ours (seed 1),ours (seed 2),ours (seed 3),the paper (digitized)"
    assert views.panels[0].csv.startswith(f"views,{runs}\n2,0,0,0,0\n")
    # The plot shows the fractions at equal distances. The file contains the fractions, not these positions.
    assert labels.panels[0].csv.startswith(f"label fraction,{runs}\n0,")
    assert [line.partition(",")[0] for line in labels.panels[0].csv.splitlines()][1:3] == ["0", "0.01"]
    assert views.notes == [
        f"{method}, our runs: K views of each image in a mini-batch (the paper gives no details)."
        for method in ("RotationNet", "Supervised")
    ]
    assert labels.notes == []
    few = params.grid[0].model_copy(update={"method": ["relational-k4", "relational-k8", "rotation-k2"]})
    incomplete = build_comparison(collect_results(params.model_copy(update={"grid": [few]})))
    assert incomplete is not None
    assert [(study.panels, study.notes) for study in incomplete.studies] == [
        ([], ["Relational: this grid has no run with K = 2 to compare with."])
    ]


def test_deviations_are_marked_at_the_cell_in_all_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_suites(tmp_path, monkeypatch, "cifar-conv4-short")
    write_runs(params, lambda run: 0.5)
    write_report(params)
    html, markdown, latex = (REPORT_FILES[i].read_text(encoding="utf-8") for i in (0, 1, 3))
    for text in (html, markdown, latex):
        # Markdown escapes brackets.
        text = text.replace("\\[", "[").replace("\\]", "]")
        assert "reduced budget [g]" in text
        assert "[g] Relational (relational-3, linear-notebook): 3 of 200 epochs" in text
    assert re.search(r'--series-\d+\)"></span>Relational</th>', html)
