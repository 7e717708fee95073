"""Write the tables of README.md and results.md from the results in docs/results. `make docs` runs this."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rr.report.formatting import format_difference, format_mean_std, format_two_decimals
from rr.report.paper.published import load_published, name_in_paper
from rr.report.paper.verdict import Verdict
from rr.report.statistics import MeanStd, mean_std
from rr.report.welch import welch_interval

DOCS = Path(__file__).parent
PAGES = (DOCS / "results.md", DOCS.parent / "README.md")
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# The names of the methods in params.yaml, those in paper.csv, and those in the tables, in the order of the rows.
METHODS = {
    "random": ("random", "random weights"),
    "supervised-paper": ("supervised", "supervised"),
    "deepcluster-paper": ("deepcluster", "DeepCluster"),
    "rotation-paper": ("rotation", "RotationNet"),
    "infomax-paper": ("infomax", "Deep InfoMax"),
    "simclr-paper": ("simclr", "SimCLR"),
    "relational-k2": (None, "relational, K = 2"),
    "relational-k4": (None, "relational, K = 4"),
    "relational-paper": ("relational", "relational, K = 32"),
}
TASKS = (("cifar10", "cifar10"), ("cifar100", "cifar100"), ("cifar10", "cifar100"), ("cifar100", "cifar10"),
         ("cifar100", "cifar100-20"))  # fmt: skip


class Experiment(NamedTuple):
    """The runs behind a row of the table of accuracies, one per seed. The names are those in params.yaml."""

    backbone: str
    dataset: str
    target: str
    method: str


def accuracy_table() -> str:
    """Return our accuracies beside the paper's, with a link to the metrics of each seed."""
    lines = [
        "| data | method | paper, % | ours, % | seeds | difference | verdict |",
        "| :-- | :-- | --: | --: | :-- | --: | :-- |",
    ]
    for experiment in _experiments():
        files, ours, paper = _metrics_files(experiment), _ours(experiment), _paper(experiment)
        # Of the experiments that were not run, list only those with Conv-4 whose result in the paper is known.
        if not files and (paper is None or experiment.backbone != "conv4"):
            continue
        links = ", ".join(f"[{seed}]({file.relative_to(DOCS).as_posix()})" for seed, file in files)
        columns = (
            name_in_paper(experiment.dataset)
            + ("" if experiment.target == experiment.dataset else f" → {name_in_paper(experiment.target)}"),
            METHODS[experiment.method][1]
            + ("" if experiment.backbone == "conv4" else f", {name_in_paper(experiment.backbone)}"),
            format_mean_std(paper, format_two_decimals) if paper else "–",
            format_mean_std(ours, format_two_decimals) if ours else "–",
            links or "–",
            *_compare(experiment, ours, paper),
        )
        lines.append("| " + " | ".join(map(_keep_on_one_line, columns)) + " |")
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
            experiment = Experiment("conv4", dataset, dataset, method)
            columns += [
                format_mean_std(value, format_two_decimals) if value else "–"
                for value in (_ours(experiment), _paper(experiment))
            ]
        if any(column != "–" for column in columns[1::2]):
            lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def cost_table() -> str:
    """Return the duration of each pretraining run, and its number of views."""
    lines = ["| method, Conv-4 | CIFAR-10, hours | CIFAR-100, hours | views |", "| :-- | :-- | :-- | --: |"]
    for method, (_, label) in METHODS.items():
        hours, views = [], ""
        for dataset in ("cifar10", "cifar100"):
            records = [
                json.loads(file.read_text(encoding="utf-8"))
                for _, file in _by_seed(f"pretrain/{dataset}/conv4/{method}/*/run.json")
            ]
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


def _metrics_files(experiment: Experiment) -> list[tuple[int, Path]]:
    return _by_seed(
        f"evaluate/{experiment.dataset}/{experiment.backbone}/{experiment.method}/*/{experiment.target}/linear/metrics.json"
    )


def _by_seed(pattern: str) -> list[tuple[int, Path]]:
    """Return the published files that match a pattern, with their seeds: the numbers at the asterisk."""
    depth = pattern.split("/").index("*")
    found: dict[int, Path] = {}
    for file in sorted(DOCS.glob(f"results/*/runs/{pattern}")):
        seed = int(file.relative_to(DOCS).parts[3 + depth])
        if seed in found:
            raise ValueError(f"{file} and {found[seed]} are results of the same run")
        found[seed] = file
    return sorted(found.items())


def _ours(experiment: Experiment) -> MeanStd | None:
    """Return our accuracy over all published seeds in percent.

    If the paper reports the accuracy of the network that was trained with labels, ours is also that accuracy.
    """
    is_network = experiment.method == "supervised-paper" and experiment.dataset == experiment.target
    key = "trained_classifier_accuracy" if is_network else "accuracy"
    metrics = [json.loads(file.read_text(encoding="utf-8")) for _, file in _metrics_files(experiment)]
    return mean_std([100 * float(values[key]) for values in metrics]) if metrics else None


def _paper(experiment: Experiment) -> MeanStd | None:
    """Return the paper's accuracy in percent. Values that are in two tables have the same mean in both."""
    kind = METHODS[experiment.method][0]
    for result in load_published():
        where = (result.method, result.backbone, result.dataset, result.target)
        is_accuracy = result.protocol == "linear" and result.unit == "percent" and result.label_fraction is None
        if (
            where == (kind, experiment.backbone, experiment.dataset, experiment.target)
            and is_accuracy
            and result.views is None
        ):
            return None if result.mean is None else MeanStd(result.mean, result.std, result.num_seeds)
    return None


def _compare(experiment: Experiment, ours: MeanStd | None, paper: MeanStd | None) -> tuple[str, str]:
    """Return the difference, with its confidence interval if there is one, and the verdict."""
    if ours is None:
        return "", Verdict.NOT_RUN
    if paper is None:
        return "", Verdict.NOT_RECOVERED
    difference = format_difference(ours.mean - paper.mean)
    if experiment.method == "deepcluster-paper":
        return difference, Verdict.OTHER_SETTINGS
    if ours.count == 1:
        return difference, Verdict.TOO_FEW_SEEDS
    low, high = welch_interval(ours, paper)
    verdict = Verdict.ABOVE if low > 0 else Verdict.BELOW if high < 0 else Verdict.AGREES
    return f"{difference} [{format_difference(low)}, {format_difference(high)}]", verdict


def _keep_on_one_line(text: str) -> str:
    """Return a cell of a table in which no line break separates the parts of a value."""
    return re.sub(r" (?=[=±+−])|(?<=[=±]) ", "\N{NO-BREAK SPACE}", text)


def update_tables(text: str) -> str:
    """Return a page with up-to-date tables, in place of those between `<!-- generated: … -->` lines."""
    tables = {"accuracies": accuracy_table, "costs": cost_table, "summary": summary_table}
    return GENERATED.sub(lambda match: f"{match[1]}\n{tables[match[2]]()}\n\n{match[3]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(update_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
