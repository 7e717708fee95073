"""The versions of the code behind the results, with a warning if the runs of a stage used several versions."""

from collections import Counter
from collections.abc import Sequence

from rr.report.formatting import letter_label
from rr.report.grouping import unique
from rr.report.inputs.collect import GridResults, StageResult
from rr.runtime.formatting import format_count, format_names


def code_version_labels(runs: Sequence[StageResult]) -> list[str]:
    """Return the label (A, B, …) of the code version of each run. Runs with equal file hashes have equal labels."""
    versions = unique(run.record.code for run in runs)
    return [letter_label(versions.index(run.record.code)) for run in runs]


def code_version_warnings(results: GridResults) -> list[str]:
    """Return a warning for each stage whose runs used several versions of the code."""
    warnings = []
    for stage, runs in results.runs_by_stage.items():
        versions = unique(run.record.code for run in runs)
        if len(versions) < 2:
            continue
        files = sorted({file for code in versions for file in code})
        changed_files = [file for file in files if len({code.get(file) for code in versions}) > 1]
        descriptions = []
        for index, version in enumerate(versions):
            # The folders without runs/<stage>/, i.e. the names that the command line uses.
            names = ["/".join(run.paths.folder.parts[2:]) for run in runs if run.record.code == version]
            descriptions.append(f"Version {letter_label(index)} produced {format_names(names)}.")
        warnings.append(
            f"{stage}: the runs used {len(versions)} versions of the code. This alone may explain differences between "
            f"results. The versions differ in {', '.join(changed_files)}. {' '.join(descriptions)}"
        )
    return warnings


def describe_commits(results: GridResults) -> str:
    """Return the commits of the code and the number of runs of each, as text."""
    counts: Counter[str] = Counter()
    for record in results.records:
        changed = " with uncommitted changes" if record.commit and record.commit.changed else ""
        counts[f"{record.commit.id[:12]}{changed}" if record.commit else "not recorded"] += 1
    return "; ".join(f"{commit} ({format_count(count, 'runs')})" for commit, count in counts.items())
