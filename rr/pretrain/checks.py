"""Checks of a pretraining that are made before its first step."""

from typing import Any

from rr.compute.distributed import Group
from rr.data.beton import Beton
from rr.errors import UserError
from rr.methods.base import Method
from rr.pretrain.job import Job


def images_per_epoch(method: Method, data: Beton, batch_size: int) -> int:
    """How many pictures an epoch shows. Raises UserError for labels or a mini-batch that the method cannot do with."""
    if method.labelled and (data.labels < 0).any():
        raise UserError(
            f"{data.path}: the method needs a label for every picture, and {(data.labels < 0).sum():,} have none: "
            "choose another method (for relational, labelled: 0.0)"
        )
    if min(batch_size, len(data)) < 2:
        raise UserError(
            f"{len(data):,} pictures in batches of {batch_size}: methods compare the pictures of a mini-batch, so it "
            "needs two; raise batch_size"
        )
    rest = len(data) % batch_size
    if method.drop_last:
        if len(data) < batch_size:
            raise UserError(f"{len(data)} pictures are less than one batch of {batch_size}: lower batch_size")
        return len(data) - rest
    if 0 < rest < method.smallest_batch:
        raise UserError(
            f"{len(data)} pictures in batches of {batch_size} leave a last batch of {rest}, and the method needs "
            f"{method.smallest_batch}: change the method's batch_size by one"
        )
    return len(data)


def check_local_batches(job: Job, method: Method, group: Group, images: int) -> None:
    """Raise UserError where the processes cannot share the mini-batches of an epoch of `images` pictures."""
    settings: Any = job.method
    if not method.shareable:
        raise UserError(
            f"the {settings.kind} method cannot be trained by {group.size} processes, because its loss compares more "
            "than the representations of pictures: run the command without torchrun"
        )
    if min(settings.batch_size, images) < group.size:
        raise UserError(
            f"{group.size} processes cannot share mini-batches of {min(settings.batch_size, images)} pictures: start "
            "fewer, or raise the method's batch_size"
        )
    if 0 < images % settings.batch_size < group.size:
        raise UserError(
            f"{images} pictures in batches of {settings.batch_size} leave a last batch of "
            f"{images % settings.batch_size}, too few for {group.size} processes: start fewer, or change the method's "
            "batch_size by one"
        )
