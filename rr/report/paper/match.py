"""Find the grid's results that correspond to a result in the paper.

Methods and protocols are matched by the settings that the runs recorded. Backbones, datasets and targets are matched by
name. Dataset settings that differ from the paper's are deviations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rr.report.grouping import group_by, unique
from rr.report.inputs.collect import TRAINED_CLASSIFIER, EvaluationResult, GridResults
from rr.report.paper.published import LIGHTLY, PublishedResult
from rr.report.paper.settings import Deviation, find_deviations, recorded_datasets
from rr.report.statistics import MeanStd, mean_std


@dataclass(frozen=True)
class Match:
    """Our result that corresponds to a result in the paper.

    Attributes:
        method: the method's name in params.yaml.
        protocol: the protocol's name in params.yaml.
        value: mean and standard deviation of the accuracy over seeds, in percent.
        epochs: number of pretraining epochs.
        deviations: deviations from the paper's settings, as text.
        has_reduced_budget: whether our runs used fewer epochs or views than the paper's runs.
        color: number of our method's color, from 1.
    """

    method: str
    protocol: str
    value: MeanStd
    epochs: int
    deviations: list[str]
    has_reduced_budget: bool
    color: int = 1


def find_match(results: GridResults, published: PublishedResult) -> Match | None:
    """Return our result that corresponds to a result in the paper, or None if the grid has no such result.

    If several methods or protocols qualify, return the one with the fewest deviations from the paper's settings, then
    the one with the most epochs, then the first one in the grid.
    """
    candidates = [
        run
        for run in results.evaluations
        if has_same_data_and_backbone(published, run)
        and is_comparable(published, run.pretraining.settings, run.settings)
    ]
    groups = group_by(candidates, lambda run: (run.paths.pretraining.method, run.paths.protocol))
    matches = [make_match(published, runs) for runs in groups.values()]
    return min(matches, key=lambda match: (len(match.deviations), -match.epochs), default=None)


def has_same_data_and_backbone(published: PublishedResult, evaluation: EvaluationResult) -> bool:
    """Return whether an evaluation has the same dataset, backbone and target as a result in the paper."""
    run = evaluation.paths.pretraining
    ours = (run.dataset, run.backbone, evaluation.paths.target)
    return ours == (published.dataset, published.backbone, published.target)


def is_comparable(
    published: PublishedResult, method_settings: dict[str, Any], protocol_settings: dict[str, Any]
) -> bool:
    """Return whether a run with these settings measures the same quantity as a paper result, at any budget."""
    # If `images_per_class` is set, `label_fraction` is None, and the run is not comparable either.
    if protocol_settings["kind"] != published.protocol or protocol_settings.get("label_fraction", 1) != 1:
        return False
    kind, head = published.method, "relation"
    if kind in ("dot", "encoder-dot"):
        kind, head = "relational", kind
    if method_settings["kind"] != kind:
        return False
    required: dict[str, Any] = {}
    if kind == "relational":
        label_fraction = published.label_fraction or 0.0
        required = {"head": head, "aggregation": "cat", "loss": "focal", "label_fraction": label_fraction}
    elif kind == "simclr":
        required = {"loss": "nt-xent" if published.table == LIGHTLY else "log-mean-prob"}
    return all(method_settings[key] == value for key, value in required.items())


def comparable_accuracy(published: PublishedResult, evaluation: EvaluationResult) -> float:
    """Return the accuracy (a fraction) that corresponds to a result in the paper."""
    return evaluation.metrics[_comparable_metric(published, [evaluation])]


def _comparable_metric(published: PublishedResult, evaluations: Sequence[EvaluationResult]) -> str:
    """Return the name of the metric to compare. Networks trained with earlier versions have no saved classifier."""
    has_classifiers = all(TRAINED_CLASSIFIER in run.metrics for run in evaluations)
    return TRAINED_CLASSIFIER if published.is_trained_classifier_accuracy and has_classifiers else "accuracy"


def find_run_deviations(published: PublishedResult, run: EvaluationResult) -> list[Deviation]:
    """Return the deviations of an evaluation and its pretraining from a paper result."""
    pretraining = run.pretraining
    preprocessing = (record.preprocessing for record in (pretraining.record, run.record))
    datasets = recorded_datasets(preprocessing, run.paths.target, run.metrics)
    return find_deviations(published, pretraining.settings, run.settings, pretraining.precision, datasets)


def make_match(published: PublishedResult, evaluations: Sequence[EvaluationResult]) -> Match:
    """Combine evaluations that differ only in the seed into a match. It lists the deviations of all of them."""
    first, pretraining = evaluations[0], evaluations[0].pretraining
    metric = _comparable_metric(published, evaluations)
    deviations = unique(deviation for run in evaluations for deviation in find_run_deviations(published, run))
    if published.is_trained_classifier_accuracy and metric == "accuracy":
        deviations.append(Deviation("new linear layer on the frozen backbone (paper: the trained network)", False))
    return Match(
        method=pretraining.paths.method,
        protocol=first.paths.protocol,
        value=mean_std([100 * run.metrics[metric] for run in evaluations]),
        epochs=pretraining.settings.get("epochs", 0),
        deviations=[deviation.text for deviation in deviations],
        has_reduced_budget=any(deviation.reduces_budget for deviation in deviations),
        color=pretraining.color,
    )
