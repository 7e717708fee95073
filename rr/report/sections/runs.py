"""The `runs` section: the machines, and the duration and resources of every run."""

from collections.abc import Sequence
from dataclasses import dataclass

from rr.paths import record_file
from rr.report.formatting import format_energy, format_exact_duration, letter_label
from rr.report.grouping import unique
from rr.report.inputs.collect import GridResults, StageResult
from rr.report.inputs.files import Machine
from rr.report.sections.code_versions import code_version_labels, describe_commits
from rr.report.table import Cell, Column, Table, make_table, numeric_columns
from rr.runtime.formatting import format_count


@dataclass(frozen=True)
class Runs:
    """The machines and the runs.

    Attributes:
        machines: a table with a column per machine.
        commits: the commits of the code and the number of runs of each, as text.
        stages: for each stage that has runs, its title, its total as text, and a table with a row per run.
        has_energy: whether the energy consumption of any run was measured.
    """

    machines: Table
    commits: str
    stages: list[tuple[str, str, Table]]
    has_energy: bool


def build_runs(results: GridResults) -> Runs:
    """Return the machines and the runs of every stage."""
    machines = unique(machine for record in results.records for machine in record.machines)
    has_energy = any(record.energy_joules for record in results.records)
    # All stages have a column for the code version if the runs of any stage used several versions.
    has_versions = any(len(set(code_version_labels(runs))) > 1 for runs in results.runs_by_stage.values())
    stages = []
    for title, runs in results.runs_by_stage.items():
        if not runs:
            continue
        duration = format_exact_duration(sum(run.record.total_seconds for run in runs))
        total = f"{format_count(len(runs), 'runs')}, {duration} in total"
        stages.append((title, total, _run_table(runs, machines, has_versions, has_energy)))
    return Runs(_machine_table(machines), describe_commits(results), stages, has_energy)


def _machine_table(machines: Sequence[Machine]) -> Table:
    """Return a table with a column per machine. The name of a package and its version are kept on one line."""
    rows = {
        "processor": [machine.processor for machine in machines],
        "cores": [str(machine.cores) for machine in machines],
        "system": [machine.system for machine in machines],
        "Python": [machine.python for machine in machines],
        "packages": [
            ", ".join(f"{name}\N{NO-BREAK SPACE}{version}" for name, version in machine.versions.items())
            for machine in machines
        ],
    }
    labels = [letter_label(index) for index in range(len(machines))]
    return make_table(["Machine", *labels], [[name, *values] for name, values in rows.items()])


def _run_table(runs: Sequence[StageResult], machines: list[Machine], has_versions: bool, has_energy: bool) -> Table:
    """Return a table with a row per run. Columns without information are left out."""
    numbers = numeric_columns(["Time", "Views/s", "Peak memory", "Energy"])
    rows: list[list[Cell | str]] = []
    for run, version in zip(runs, code_version_labels(runs), strict=True):
        record = run.record
        row: list[Cell | str] = [
            Cell(record.command, link=record_file(run.paths.folder)),
            record.device,
            ", ".join(letter_label(machines.index(machine)) for machine in record.machines),
            version,
            Cell(format_exact_duration(record.total_seconds), sort_key=record.total_seconds),
            f"{record.views_per_second:,.0f}" if record.views_per_second else "–",
            f"{record.peak_memory_mib:,.0f} MiB",
            Cell(format_energy(record.energy_joules), sort_key=sum(record.energy_joules.values()) or None),
            record.started.replace("T", " ").replace("Z", ""),
        ]
        rows.append(row)
    has_views = any(run.record.views_per_second for run in runs)
    is_shown = {"Code": has_versions, "Views/s": has_views, "Energy": has_energy}
    columns: list[Column | str] = ["Command", "Device", "Machine", "Code", *numbers, "Started (UTC)"]
    return make_table(columns, rows, omitted=[title for title, shown in is_shown.items() if not shown])
