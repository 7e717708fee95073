"""Write the history of a training run as TensorBoard event files."""

import math
from functools import partial
from pathlib import Path

from rr.errors import UserError
from rr.runtime.output_path import is_writable


class EventWriter:
    """Writes one scalar per column and epoch to a run's folder.

    The first call to `write` hides what an earlier process wrote to the same folder, and writes all epochs again. The
    curves are therefore complete and contain no epoch twice, even if a run was interrupted.

    Raises:
        UserError: if the folder is not writable.
        ModuleNotFoundError: if the `tensorboard` package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if not is_writable(folder / "events"):
            raise UserError(f"--tensorboard: no file can be written to {folder}: use another folder (RR_TENSORBOARD)")
        from torch.utils.tensorboard import SummaryWriter

        self._make_writer = partial(SummaryWriter, str(folder), purge_step=1)
        self._writer: SummaryWriter | None = None
        self._num_written = 0

    def write(self, history: list[dict[str, float]]) -> None:
        """Write the rows that have been added to `history` since the last call. NaN and infinity are left out."""
        if self._writer is None:
            self._writer = self._make_writer()  # hides the earlier values at once
        for row in history[self._num_written :]:
            for name, value in row.items():
                if name != "epoch" and math.isfinite(value):
                    self._writer.add_scalar(name, value, int(row["epoch"]))
        self._num_written = len(history)
        self._writer.flush()
