"""Run an `rr` command until it calls a function, such as `rr.evaluate.knn:predict_probabilities`.

The first argument names the function, and the other arguments are those of the command. The process ends when the
specified function or method is called for the first time. This is usually the function in which the work begins, but it
can also be a later one, such as the method that the training loop calls after the first step.
"""

import os
import pkgutil
import sys
from typing import Any
from unittest import mock

from rr import cli


def main() -> None:
    """Run the command line after replacing the specified function with one that ends the process."""
    # `cli.run` also sets this variable, but that would be too late, because the next lines may load torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    owner, _, name = sys.argv.pop(1).replace(":", ".").rpartition(".")
    mock.patch.object(pkgutil.resolve_name(owner), name, _exit).start()
    sys.argv[0] = "rr"
    cli.run()


def _exit(*_arguments: Any, **_options: Any) -> None:
    os._exit(0)


if __name__ == "__main__":
    main()
