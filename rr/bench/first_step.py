"""Run an `rr` command up to the end of its first training step: `python -m rr.bench.first_step pretrain ...`."""

import os
import sys
from functools import partial

from rr import cli


def main() -> None:
    """Run the command line with a callback that ends the process after the first step."""

    def exit_after_first_step(_num_views: int) -> None:
        print("first step", flush=True)
        os._exit(0)

    # `cli.run` also sets this variable, but too late, because the next import loads torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import rr.pretrain

    rr.pretrain.pretrain = partial(rr.pretrain.pretrain, on_step=exit_after_first_step)
    sys.argv[0] = "rr"
    cli.run()


if __name__ == "__main__":
    main()
