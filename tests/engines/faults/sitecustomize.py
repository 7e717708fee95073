"""When all outputs of a stage are complete but not yet in place, make the stage fail or change a file.

Python imports this module at startup if this folder is in PYTHONPATH. RR_TEST_FAULT specifies the stage and the fault.
"""

import errno
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[2] / "offline/sitecustomize.py"))
fsync = os.fsync


def fail_and_fsync(file: int) -> None:
    """Trigger the fault when the stage writes its last file, the record."""
    stage, _, fault = os.environ["RR_TEST_FAULT"].partition(": ")
    if sys.argv[1:2] == [stage] and os.readlink(f"/proc/self/fd/{file}").endswith("/.run.tmp.json"):
        match fault:
            case "full disk":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "bug":
                raise ZeroDivisionError
            case "killed stage":
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed engine":
                os.killpg(0, signal.SIGKILL)  # the engine and the stage
            case "Ctrl-C":
                os.killpg(0, signal.SIGINT)
            case _ if fault.startswith("copy "):  # an edit while the stage runs
                shutil.copy(*fault.split()[1:])
    fsync(file)


os.fsync = fail_and_fsync
