"""Several GPUs of one host, and a run on each: who takes which, without a server between them.

`RR_GPUS=0,1,2,3` names them as CUDA_VISIBLE_DEVICES would. One that stands there twice takes two runs at once; the
first that is free is taken, so `0,1,0,1` spreads them.
"""

import fcntl
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from rr.errors import UserError

_taken: int | None = None  # the file of this process's GPU; open, and so locked, until it ends


def take() -> None:
    """Show this process one GPU of RR_GPUS that no other run of this user has; wait while there is none.

    Without RR_GPUS nothing happens. The kernel gives a GPU back when its process ends, however that ends. Raises
    UserError for names that are none, and where CUDA_VISIBLE_DEVICES has been given, as a cluster does.
    """
    global _taken
    named = os.environ.get("RR_GPUS")
    if not named or _taken is not None:
        return
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        raise UserError("RR_GPUS and CUDA_VISIBLE_DEVICES are both set: unset the one that shall not decide")
    gpus = named.split(",")
    if not all(re.fullmatch("[A-Za-z0-9-]+", gpu) for gpu in gpus):
        raise UserError(f"RR_GPUS={named}: give numbers or UUIDs of GPUs with commas between, such as 0,1")
    folder = Path(tempfile.gettempdir(), f"rr-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    waiting = False
    while True:
        for place, gpu in enumerate(gpus):
            file = os.open(folder / f"{gpu}.{gpus[:place].count(gpu)}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                _taken, os.environ["CUDA_VISIBLE_DEVICES"] = file, gpu
                return
        if not waiting:
            print(f"every GPU of RR_GPUS={named} has its run: waiting for one", file=sys.stderr, flush=True)
        waiting = True
        time.sleep(1)
