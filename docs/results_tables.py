"""Write the tables of README.md and results.md from the results in docs/results. `make docs` runs this first."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rr.report.formatting import format_difference, format_mean_std, format_two_decimals
from rr.report.paper.published import load_published, name_in_paper
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


class Cell(NamedTuple):
    """A row of the table of accuracies; the names are those in params.yaml."""

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
    for cell in _cells():
        files, ours, paper = _metrics_files(cell), _ours(cell), _paper(cell)
        if not files and (paper is None or cell.backbone != "conv4"):
            continue
        links = ", ".join(f"[{seed}]({file.relative_to(DOCS).as_posix()})" for seed, file in files)
        columns = (
            name_in_paper(cell.dataset) + ("" if cell.target == cell.dataset else f" → {name_in_paper(cell.target)}"),
            METHODS[cell.method][1] + ("" if cell.backbone == "conv4" else f", {name_in_paper(cell.backbone)}"),
            format_mean_std(paper, format_two_decimals) if paper else "–",
            format_mean_std(ours, format_two_decimals) if ours else "–",
            links or "–",
            *_compare(cell, ours, paper),
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
            cell = Cell("conv4", dataset, dataset, method)
            columns += [
                format_mean_std(value, format_two_decimals) if value else "–" for value in (_ours(cell), _paper(cell))
            ]
        if columns[1] != "–":
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


def _cells() -> Iterator[Cell]:
    for backbone in ("conv4", "resnet32"):
        for dataset, target in TASKS:
            for method in METHODS:
                yield Cell(backbone, dataset, target, method)


def _metrics_files(cell: Cell) -> list[tuple[int, Path]]:
    return _by_seed(f"evaluate/{cell.dataset}/{cell.backbone}/{cell.method}/*/{cell.target}/linear/metrics.json")


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


def _ours(cell: Cell) -> MeanStd | None:
    """Return our accuracy over all published seeds in percent.

    Where the paper reports the accuracy of the network that was trained with labels, this is also ours.
    """
    is_network = cell.method == "supervised-paper" and cell.dataset == cell.target
    key = "trained_classifier_accuracy" if is_network else "accuracy"
    metrics = [json.loads(file.read_text(encoding="utf-8")) for _, file in _metrics_files(cell)]
    return mean_std([100 * float(values[key]) for values in metrics]) if metrics else None


def _paper(cell: Cell) -> MeanStd | None:
    """Return the paper's accuracy in percent. Values that are in two tables have the same mean in both."""
    kind = METHODS[cell.method][0]
    for result in load_published():
        where = (result.method, result.backbone, result.dataset, result.target)
        is_accuracy = result.protocol == "linear" and result.unit == "percent" and result.label_fraction is None
        if where == (kind, cell.backbone, cell.dataset, cell.target) and is_accuracy and result.views is None:
            return None if result.mean is None else MeanStd(result.mean, result.std, result.num_seeds)
    return None


def _compare(cell: Cell, ours: MeanStd | None, paper: MeanStd | None) -> tuple[str, str]:
    """Return the difference, with its confidence interval if there is one, and the verdict."""
    if ours is None:
        return "", "not run"
    if paper is None:
        return "", "not recovered" if METHODS[cell.method][0] else "not given"
    difference = format_difference(ours.mean - paper.mean)
    if cell.method == "deepcluster-paper":
        return difference, "other settings"
    if ours.count == 1:
        return difference, "one seed"
    low, high = welch_interval(ours, paper)
    verdict = "above" if low > 0 else "below" if high < 0 else "agrees"
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
