"""Between the two engines: what one has done becomes known to the other."""

import functools
import subprocess
import sys
from pathlib import Path

from rr import grid, provenance
from rr.errors import UserError
from rr.params import Params


def faults(params: Params) -> list[str]:
    """Every difference between the grid's artefacts and their records, a line each; empty when all is true."""
    hashed = functools.cache(provenance.sha256)
    return [fault for cell in grid.cells(params) for fault in provenance.faults(cell, hashed)]


def altered(params: Params) -> list[str]:
    """Every file of the grid's stages, from the raw pictures to the report's inputs, that is not what was recorded.

    What is missing is not among them: weights and pictures may lie elsewhere when a report is written.
    """
    hashed = functools.cache(provenance.sha256)
    cells = (cell for cell in grid.cells(params) if cell.stage != "report")
    # A file that several cells read is named for each of them.
    return [fault for cell in cells for fault in provenance.altered(cell, hashed)]


def sync(source: str, params: Params) -> None:
    """After "dvc", give Snakemake the metadata it compares with; after "snakemake", commit to DVC's cache.

    DVC's commit asks no question, and without metadata Snakemake sees no change of a parameter: either would bless
    stale files. So both begin with a check of every record. Raises UserError when it fails, or when an engine does.
    """
    found = faults(params)
    if found:
        raise UserError(
            "\n".join([*found, f"not synchronised: run {_run(source)} first, so that every artefact is up to date"])
        )
    if source == "dvc":
        _call("snakemake", "--touch", "--forceall", "--cores", "1", "--quiet", "all")
    else:
        _call("dvc", "commit", "--force", "--quiet")


def _run(source: str) -> str:
    return "dvc repro" if source == "dvc" else "snakemake --cores 8"


def _call(program: str, *arguments: str) -> None:
    # The engines stand beside this interpreter, whatever the shell's PATH says.
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{program} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}".rstrip())
