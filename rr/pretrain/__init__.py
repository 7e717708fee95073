"""Pretraining: the training loop, the description of a run, and checkpoints."""

from rr.pretrain.job import Job
from rr.pretrain.loop import pretrain

__all__ = ["Job", "pretrain"]
