"""Between the two engines: what one has done becomes known to the other."""

import subprocess
import sys
from pathlib import Path

from rr.errors import UserError
from rr.params import Params
from rr.workflow.verify import grid_mismatches


def sync(source: str, params: Params) -> None:
    """After "dvc", give Snakemake the metadata it compares with; after "snakemake", commit to DVC's cache.

    DVC's commit asks no question, and without metadata Snakemake sees no change of a parameter: either would bless
    stale files. So both begin with a check of every record. Raises UserError when it fails, or when an engine does.
    """
    found = grid_mismatches(params)
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
