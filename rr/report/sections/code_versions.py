"""The versions of the code behind the results, with a warning if the runs of a stage used several versions."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from rr.paths import EXTENSIONS_DIR
from rr.report.formatting import letter_label
from rr.report.grouping import unique
from rr.report.inputs.collect import GridResults, StageResult
from rr.runtime.formatting import format_count, format_names


def code_version_labels(runs: Sequence[StageResult]) -> list[str]:
    """Return the label (A, B, …) of the code version of each run. Runs with equal file hashes have equal labels."""
    versions = _code_versions(runs)
    distinct = unique(versions)
    return [letter_label(distinct.index(version)) for version in versions]


def code_version_warnings(results: GridResults) -> list[str]:
    """Return a warning for each stage whose runs used several versions of the code."""
    warnings = []
    for stage, runs in results.runs_by_stage.items():
        versions = _code_versions(runs)
        distinct = unique(versions)
        if len(distinct) < 2:
            continue
        descriptions = []
        for index, version in enumerate(distinct):
            # The folders without runs/<stage>/, i.e. the names that the command line uses.
            folders = [run.paths.folder for run, used in zip(runs, versions, strict=True) if used == version]
            names = ["/".join(folder.parts[2:]) for folder in folders]
            descriptions.append(f"Version {letter_label(index)} produced {format_names(names)}.")
        warnings.append(
            f"{stage}: the runs used {len(distinct)} versions of the code. This alone may explain differences between "
            f"results. The versions differ in {', '.join(distinct[0])}. {' '.join(descriptions)}"
        )
    return warnings


def _code_versions(runs: Sequence[StageResult]) -> list[dict[str, str | None]]:
    """Return, for each run, the hashes of the files that differ between the runs.

    The record of a run does not contain files with user-defined classes that it does not use. This is not a difference:
    the run then has the hashes of the first run that uses them.
    """
    codes = [run.record.code for run in runs]
    first = {file: code[file] for code in reversed(codes) for file in code if _is_extension(file)}
    codes = [first | code for code in codes]
    files = sorted({file for code in codes for file in code})
    different = [file for file in files if len({code.get(file) for code in codes}) > 1]
    return [{file: code.get(file) for file in different} for code in codes]


def _is_extension(file: str) -> bool:
    return PurePath(file).is_relative_to(EXTENSIONS_DIR)


def describe_commits(results: GridResults) -> str:
    """Return the commits of the code and the number of runs of each, as text."""
    counts: Counter[str] = Counter()
    for record in results.records:
        changed = " with uncommitted changes" if record.commit and record.commit.changed else ""
        counts[f"{record.commit.id[:12]}{changed}" if record.commit else "not recorded"] += 1
    return "; ".join(f"{commit} ({format_count(count, 'runs')})" for commit, count in counts.items())
