"""Compare records (`run.json`) with the files, the code and the parameters of now."""

import functools
from collections.abc import Callable
from pathlib import Path

from rr import paths
from rr.errors import UserError
from rr.params import Params
from rr.runtime.hashing import sha256
from rr.workflow import grid
from rr.workflow.grid import Cell
from rr.workflow.records import ROOT, load_record, stage_code


def changed_files(cell: Cell, hashed: Callable[[Path], str] = sha256) -> list[str]:
    """The files that a cell read or wrote, are there, and are not what its record says; a line each.

    Where the record itself is missing there is nothing to compare. Raises UserError for one that is damaged.
    """
    if not paths.run_record(cell.folder).is_file():
        return []
    record = load_record(cell.folder)
    return [
        f"{name} has changed since {cell.folder} was made ({kind})"
        for kind in ("outputs", "inputs")
        for name, known in record[kind].items()
        if Path(name).is_file() and hashed(Path(name)) != known
    ]


def mismatches(cell: Cell, hashed: Callable[[Path], str] = sha256) -> list[str]:
    """Compare a cell's record with what the cell needs now; one line per difference, empty when all is true.

    `hashed` gives a file's hash; one that remembers spares reading an input once for every cell that has it.
    """
    try:
        record = load_record(cell.folder)
    except UserError as error:
        return [str(error)]
    found = []
    expected = {"outputs": cell.outputs, "inputs": cell.inputs, "code": stage_code(cell.stage)}
    for kind, files in expected.items():
        for path in files:
            place = ROOT / path if kind == "code" else path
            if str(path) not in record[kind]:
                found.append(f"{path} is not in the record of {cell.folder} ({kind})")
            elif not place.is_file():
                found.append(f"{path} is missing ({kind} of {cell.folder})")
            elif hashed(place) != record[kind][str(path)]:
                found.append(f"{path} has changed since {cell.folder} was made ({kind})")
        unknown = sorted(set(record[kind]) - {str(path) for path in files})
        found += [f"{name} is no longer among the {kind} of {cell.folder}" for name in unknown]
    if cell.params != record["params"]:
        found.append(f"{cell.folder} was made with other parameters")
    return found


def grid_mismatches(params: Params) -> list[str]:
    """Every difference between the grid's artefacts and their records, a line each; empty when all is true."""
    hashed = functools.cache(sha256)
    return [fault for cell in grid.cells(params) for fault in mismatches(cell, hashed)]


def grid_changed_files(params: Params) -> list[str]:
    """Every file of the grid's stages, from the raw pictures to the report's inputs, that is not what was recorded.

    What is missing is not among them: weights and pictures may lie elsewhere when a report is written.
    """
    hashed = functools.cache(sha256)
    cells = (cell for cell in grid.cells(params) if cell.stage != "report")
    # A file that several cells read is named for each of them.
    return [fault for cell in cells for fault in changed_files(cell, hashed)]
