"""Pretraining: the training loop, its job description and its checkpoints."""

from rr.pretrain.job import Job
from rr.pretrain.loop import pretrain

__all__ = ["Job", "pretrain"]
