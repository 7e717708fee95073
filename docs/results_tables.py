"""Write the tables in README.md and results.md from the results in docs/results. `make docs` runs this script."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rr.paths import EvaluationPaths, PretrainPaths
from rr.report.formatting import format_difference, format_mean_std, format_two_decimals
from rr.report.inputs.collect import EvaluationResult, PretrainResult
from rr.report.inputs.files import read_metrics, read_run_record
from rr.report.paper.match import Match, make_match
from rr.report.paper.published import PublishedResult, load_published, name_in_paper
from rr.report.paper.tables import ComparisonCell
from rr.report.paper.verdict import COMPARED, Verdict, decide_verdict
from rr.report.statistics import mean_std
from rr.report.welch import welch_interval

DOCS = Path(__file__).parent
PAGES = (DOCS / "results.md", DOCS.parent / "README.md")
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# For each method, its names in params.yaml, in paper.csv and in the tables, in the order of the rows.
METHODS = {
    "random": ("random", "random weights"),
    "supervised-paper": ("supervised", "supervised"),
    "deepcluster-paper": ("deepcluster", "DeepCluster"),
    "rotation-paper": ("rotation", "RotationNet"),
    "infomax-paper": ("infomax", "Deep InfoMax"),
    "simclr-paper": ("simclr", "SimCLR"),
    "simclr-400": (None, "SimCLR, 400 epochs"),
    "relational-k2": (None, "relational, K = 2"),
    "relational-k4": (None, "relational, K = 4"),
    "relational-paper": ("relational", "relational, K = 32"),
}
TASKS = (("cifar10", "cifar10"), ("cifar100", "cifar100"), ("cifar10", "cifar100"), ("cifar100", "cifar10"),
         ("cifar100", "cifar100-20"))  # fmt: skip
# The protocols in the few-labels table, with their column headings.
FEW_LABELS = {
    "linear-1": "linear, 1%",
    "linear-10": "10%",
    "linear-25": "25%",
    "linear": "100%",
    "finetune-1": "finetuning, 1%",
    "finetune-10": "10%",
}


class Experiment(NamedTuple):
    """The runs behind a row of an accuracy table, one per seed. The names are those in params.yaml."""

    backbone: str
    dataset: str
    target: str
    method: str


def comparison_table() -> str:
    """Return our accuracies next to the paper's, with a link to the metrics of each of our seeds."""
    lines = [
        "| data | method | paper, % | ours, % | seeds | difference | verdict |",
        "| :-- | :-- | --: | --: | :-- | --: | :-- |",
    ]
    for experiment in _experiments():
        files, cell = _metrics_files(experiment), _compare(experiment)
        # Of the experiments that we have not run, list only those with Conv-4.
        if cell.published_value is None or (not files and experiment.backbone != "conv4"):
            continue
        method = METHODS[experiment.method][1]
        if experiment.backbone != "conv4":
            method += f", {name_in_paper(experiment.backbone)}"
        difference = cell.difference_text + _interval_text(cell)
        columns = (cell.published_text, _our_text(cell), _links(files), difference, cell.verdict)
        lines.append(_format_row(_data_name(experiment), method, *columns))
    return "\n".join(lines)


def other_accuracy_table() -> str:
    """Return the accuracies with Conv-4 for which the paper's value is unknown, with a link to each seed's metrics."""
    lines = ["| data | method | accuracy, % | seeds |", "| :-- | :-- | --: | :-- |"]
    for experiment in _experiments():
        files, cell = _metrics_files(experiment), _compare(experiment)
        if files and cell.published_value is None:
            method = METHODS[experiment.method][1]
            lines.append(_format_row(_data_name(experiment), method, _our_text(cell), _links(files)))
    return "\n".join(lines)


def summary_table() -> str:
    """Return the accuracies of Conv-4 on the pretraining dataset, one row per method."""
    lines = [
        "| Conv-4, linear evaluation, % | CIFAR-10, ours | paper | CIFAR-100, ours | paper |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for method, (_, label) in METHODS.items():
        columns = [label]
        for dataset in ("cifar10", "cifar100"):
            cell = _compare(Experiment("conv4", dataset, dataset, method))
            columns += [_our_text(cell), cell.published_text]
        if any(column != "–" for column in columns[1::2]):
            lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def few_labels_table() -> str:
    """Return the accuracies of Conv-4 with a fraction of the labels (seed 1), each with a link to its metrics."""
    headings = ["data", "method", *FEW_LABELS.values()]
    lines = ["| " + " | ".join(headings) + " |", "| :-- | :-- |" + " --: |" * len(FEW_LABELS)]
    for dataset in ("cifar10", "cifar100"):
        for method, (_, label) in METHODS.items():
            experiment = Experiment("conv4", dataset, dataset, method)
            cells = [_linked_accuracy(experiment, protocol) for protocol in FEW_LABELS]
            if cells.count("–") < len(cells) - 1:  # more than linear evaluation with all labels
                lines.append(_format_row(name_in_paper(dataset), label, *cells))
    return "\n".join(lines)


def neighbor_table() -> str:
    """Return the kNN accuracies and the retrieval metrics of Conv-4, with a link to the metrics of each seed."""
    lines = [
        "| data | method | kNN accuracy, % | seeds | precision at 10, % | mAP, % | seeds |",
        "| :-- | :-- | --: | :-- | --: | --: | :-- |",
    ]
    for dataset in ("cifar10", "cifar100"):
        for method, (_, label) in METHODS.items():
            experiment = Experiment("conv4", dataset, dataset, method)
            knn, retrieval = (_metrics_files(experiment, protocol) for protocol in ("knn", "retrieval"))
            if knn and retrieval:
                values = [_mean_text(retrieval, name) for name in ("precision_at_10", "mean_average_precision")]
                cells = (_mean_text(knn, "accuracy"), _links(knn), *values, _links(retrieval))
                lines.append(_format_row(name_in_paper(dataset), label, *cells))
    return "\n".join(lines)


def cost_table() -> str:
    """Return the duration of each pretraining run, and its number of views."""
    lines = ["| method, Conv-4 | CIFAR-10, hours | CIFAR-100, hours | views |", "| :-- | :-- | :-- | --: |"]
    for method, (_, label) in METHODS.items():
        hours, views = [], ""
        for dataset in ("cifar10", "cifar100"):
            records = [_read_json(file) for _, file in _by_seed(f"pretrain/{dataset}/conv4/{method}/*/run.json")]
            trained = [record for record in records if record.get("views")]
            hours.append(", ".join(f"{sum(record['epoch_seconds']) / 3600:.1f}" for record in trained) or "–")
            views = f"{trained[0]['views'] // 10**6} million" if trained else views
        if views:
            lines.append(f"| {label} | {hours[0]} | {hours[1]} | {views} |")
    return "\n".join(lines)


def _experiments() -> Iterator[Experiment]:
    for backbone in ("conv4", "resnet32"):
        for dataset, target in TASKS:
            for method in METHODS:
                yield Experiment(backbone, dataset, target, method)


def _metrics_files(experiment: Experiment, protocol: str = "linear") -> list[tuple[int, Path]]:
    run = f"{experiment.dataset}/{experiment.backbone}/{experiment.method}/*/{experiment.target}/{protocol}"
    return _by_seed(f"evaluate/{run}/metrics.json")


def _linked_accuracy(experiment: Experiment, protocol: str) -> str:
    """Return the accuracy of seed 1 in %, with a link to its metrics, or a dash."""
    file = dict(_metrics_files(experiment, protocol)).get(1)
    if file is None:
        return "–"
    return f"[{format_two_decimals(100 * _read_json(file)['accuracy'])}]({file.relative_to(DOCS).as_posix()})"


def _mean_text(files: Iterable[tuple[int, Path]], metric: str) -> str:
    """Return a metric in %, as mean ± standard deviation over seeds."""
    return format_mean_std(mean_std([100 * _read_json(file)[metric] for _, file in files]), format_two_decimals)


def _by_seed(pattern: str) -> list[tuple[int, Path]]:
    """Return the published files that match a pattern, with their seeds, which are the numbers at the asterisk."""
    depth = pattern.split("/").index("*")
    found: dict[int, Path] = {}
    for file in sorted(DOCS.glob(f"results/*/runs/{pattern}")):
        seed = int(file.relative_to(DOCS).parts[3 + depth])
        if seed in found:
            raise ValueError(f"{file} and {found[seed]} are results of the same run")
        found[seed] = file
    return sorted(found.items())


def _compare(experiment: Experiment) -> ComparisonCell:
    """Compare our result with the paper's as the report does."""
    published, evaluations = _find_published(experiment), _load_evaluations(experiment)
    if not evaluations:
        return ComparisonCell(published)
    if published is None:
        value = mean_std([100 * run.metrics["accuracy"] for run in evaluations])
        match = Match(experiment.method, "linear", value, epochs=0, deviations=[], has_reduced_budget=False)
        return ComparisonCell(None, match, Verdict.NOT_RECOVERED)
    match = make_match(published, evaluations)
    return ComparisonCell(published, match, decide_verdict(published, match))


def _load_evaluations(experiment: Experiment) -> list[EvaluationResult]:
    """Read the records and metrics of all seeds. The other outputs stay empty, because no table uses them."""
    evaluations = []
    for seed, file in _metrics_files(experiment):
        pretraining = PretrainPaths(experiment.dataset, experiment.backbone, experiment.method, seed)
        paths = EvaluationPaths(pretraining, experiment.target, "linear")
        project = file.parents[len(paths.metrics.parts) - 1]
        trained = PretrainResult(pretraining, read_run_record(project / pretraining.folder), {}, b"")
        record = read_run_record(project / paths.folder)
        evaluations.append(EvaluationResult(paths, trained, record, read_metrics(file, {}), None, b""))
    return evaluations


def _find_published(experiment: Experiment) -> PublishedResult | None:
    """Return the paper's accuracy. A value that appears in two tables has the same mean in both."""
    expected = (METHODS[experiment.method][0], experiment.backbone, experiment.dataset, experiment.target)
    for result in load_published():
        actual = (result.method, result.backbone, result.dataset, result.target)
        is_main = result.protocol == "linear" and result.unit == "percent"
        if actual == expected and is_main and result.label_fraction is None and result.views is None:
            return result
    return None


def _our_text(cell: ComparisonCell) -> str:
    return format_mean_std(cell.match.value, format_two_decimals) if cell.match else "–"


def _interval_text(cell: ComparisonCell) -> str:
    """Return the confidence interval of the difference, or nothing if the verdict does not compare the results."""
    if cell.verdict not in COMPARED or not (cell.match and cell.published_value):
        return ""
    low, high = map(format_difference, welch_interval(cell.match.value, cell.published_value))
    return f" [{low}, {high}]"


def _read_json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _data_name(experiment: Experiment) -> str:
    dataset, target = name_in_paper(experiment.dataset), name_in_paper(experiment.target)
    return dataset if target == dataset else f"{dataset} → {target}"


def _links(files: Iterable[tuple[int, Path]]) -> str:
    """Return the seeds, each with a link to its metrics, or a dash."""
    return ", ".join(f"[{seed}]({file.relative_to(DOCS).as_posix()})" for seed, file in files) or "–"


def _format_row(*columns: str) -> str:
    return "| " + " | ".join(map(_keep_on_one_line, columns)) + " |"


def _keep_on_one_line(text: str) -> str:
    """Return a cell of a table in which no line break separates the parts of a value."""
    return re.sub(r" (?=[=±+−])|(?<=[=±]) ", "\N{NO-BREAK SPACE}", text)


def update_tables(text: str) -> str:
    """Return a page with up-to-date tables, in place of those between `<!-- generated: … -->` lines."""
    tables = {
        "comparison": comparison_table,
        "others": other_accuracy_table,
        "costs": cost_table,
        "labels": few_labels_table,
        "neighbors": neighbor_table,
        "summary": summary_table,
    }
    return GENERATED.sub(lambda match: f"{match[1]}\n{tables[match[2]]()}\n\n{match[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(update_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
