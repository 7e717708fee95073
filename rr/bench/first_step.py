"""`python -m rr.bench.first_step pretrain …`: the command line as it is, ended by its first training step."""

import os
import sys

from rr import cli
from rr.bench.listener import listening
from rr.runtime import progress


def main() -> None:
    def stop(units: int) -> None:
        print("first step", flush=True)
        os._exit(0)

    # Before rr.pretrain is imported, so that it takes this one.
    progress.Progress = listening(stop)  # type: ignore[misc]
    sys.argv[0] = "rr"
    cli.main()


if __name__ == "__main__":
    main()
