"""Section `runs`: the machines, and the duration and resources of every run."""

from collections.abc import Sequence
from dataclasses import dataclass

from rr.paths import record_file
from rr.report.formatting import format_duration, format_energy, letter_label
from rr.report.inputs.collect import EvaluationResult, GridResults, PretrainResult
from rr.report.inputs.files import Machine
from rr.report.sections.versions import version_labels
from rr.report.text_table import TextCell, TextTable, number_columns, text_table


@dataclass(frozen=True)
class StageRuns:
    """The runs of one stage: the total as text, and a table with one row per run."""

    title: str
    total: str
    table: TextTable


@dataclass(frozen=True)
class Runs:
    """The machines, and the runs by stage. `has_energy` is true if any run measured its energy."""

    machines: TextTable
    stages: list[StageRuns]
    has_energy: bool


def build_runs(results: GridResults) -> Runs:
    """Return the machines and the runs of every stage."""
    machines: list[Machine] = []
    for record in results.records:
        if record.machine not in machines:
            machines.append(record.machine)
    has_energy = any(record.energy_joules for record in results.records)
    # The version is a column of all stages if any stage has runs of several versions.
    has_versions = any(len(set(version_labels(runs))) > 1 for runs in results.stages.values())
    stages = [
        StageRuns(title, _total(runs), _run_table(runs, machines, has_versions, has_energy))
        for title, runs in results.stages.items()
    ]
    return Runs(_machine_table(machines), stages, has_energy)


def _machine_table(machines: Sequence[Machine]) -> TextTable:
    """Return a table with a column per machine. Package names do not break from their versions."""
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
    return text_table(["Machine", *labels], [[name, *values] for name, values in rows.items()])


def _total(runs: Sequence[PretrainResult | EvaluationResult]) -> str:
    seconds = sum(run.record.seconds for run in runs)
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'}, {format_duration(seconds)} in total"


def _run_table(
    runs: Sequence[PretrainResult | EvaluationResult], machines: list[Machine], has_versions: bool, has_energy: bool
) -> TextTable:
    """Return a table with a row per run; columns without any information are left out."""
    numbers = number_columns(["Time", "Views/s", "Peak memory", "Energy"])
    rows: list[list[TextCell | str]] = []
    for run, version in zip(runs, version_labels(runs), strict=True):
        record = run.record
        row: list[TextCell | str] = [
            TextCell(record.command, link=record_file(run.paths.folder)),
            record.device,
            letter_label(machines.index(record.machine)),
            version,
            TextCell(format_duration(record.seconds), sort_key=record.seconds),
            f"{record.views_per_second:,.0f}" if record.views_per_second else "–",
            f"{record.peak_memory_mib:,.0f} MiB",
            TextCell(format_energy(record.energy_joules), sort_key=sum(record.energy_joules.values())),
            record.started.replace("T", " ").replace("Z", ""),
        ]
        rows.append(row)
    has_views = any(run.record.views_per_second for run in runs)
    is_hidden = {"Code": not has_versions, "Views/s": not has_views, "Energy": not has_energy}
    table = text_table(["Command", "Device", "Machine", "Code", *numbers, "Started (UTC)"], rows)
    return table.without(title for title, hidden in is_hidden.items() if hidden)
