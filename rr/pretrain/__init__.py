"""Pretraining: the training loop, run descriptions and checkpoints."""

from rr.pretrain.job import Job
from rr.pretrain.loop import pretrain

__all__ = ["Job", "pretrain"]
