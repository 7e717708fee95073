"""The versions of the code behind the results, with a warning if the runs of one stage used several."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rr.report.formatting import letter_label
from rr.report.grouping import group_by
from rr.report.inputs.collect import EvaluationResult, GridResults, PretrainResult

_MAX_NAMES = 6  # runs of a version that the warning names


@dataclass(frozen=True)
class Versions:
    """The versions of the code.

    Attributes:
        warnings: a sentence for each stage whose runs used several versions.
        commits: the commits and the number of runs of each, as text.
    """

    warnings: list[str]
    commits: str


def build_versions(results: GridResults) -> Versions:
    """Return the versions of the code that made the results."""
    warnings = [version_warning(stage, runs) for stage, runs in results.stages.items()]
    return Versions([text for text in warnings if text], _count_commits(results))


def version_labels(runs: Sequence[PretrainResult | EvaluationResult]) -> list[str]:
    """Return the label (A, B, …) of the version of the code of each run. Equal hashes get equal labels."""
    versions = _distinct_versions(runs)
    return [letter_label(versions.index(run.record.code)) for run in runs]


def version_warning(stage: str, runs: Sequence[PretrainResult | EvaluationResult]) -> str:
    """Return a warning if the runs of a stage used several versions of the code, else an empty string."""
    versions = _distinct_versions(runs)
    if len(versions) < 2:
        return ""
    files = sorted({file for code in versions for file in code})
    changed_files = [file for file in files if len({code.get(file) for code in versions}) > 1]
    descriptions = []
    for label, labeled_runs in group_by(zip(version_labels(runs), runs, strict=True), lambda pair: pair[0]).items():
        # The folders without runs/pretrain/ or runs/evaluate/: the names that the command line uses.
        names = ["/".join(run.paths.folder.parts[2:]) for _, run in labeled_runs]
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        descriptions.append(f"version {label} made {', '.join(names[:_MAX_NAMES])}{more}")
    return (
        f"{stage} mixes {len(versions)} versions of the code, which alone may explain differences between results. "
        f"Files that differ: {', '.join(changed_files)}. Runs: {'; '.join(descriptions)}."
    )


def _count_commits(results: GridResults) -> str:
    """Return the commits of the code and the number of runs of each."""
    counts: Counter[str] = Counter()
    for record in results.records:
        changed = " with uncommitted changes" if record.commit and record.commit.changed else ""
        counts[f"{record.commit.id[:12]}{changed}" if record.commit else "not recorded"] += 1
    return "; ".join(f"{commit} ({count} run{'' if count == 1 else 's'})" for commit, count in counts.items())


def _distinct_versions(runs: Sequence[PretrainResult | EvaluationResult]) -> list[dict[str, str]]:
    """Return the distinct code hashes by file, in order of first appearance."""
    versions: list[dict[str, str]] = []
    for run in runs:
        if run.record.code not in versions:
            versions.append(run.record.code)
    return versions
