"""Checks of a pretraining run before its first step."""

from rr.compute.distributed import ProcessGroup
from rr.data.beton import Beton
from rr.errors import UserError
from rr.methods.base import Method


def images_per_epoch(method: Method, data: Beton, batch_size: int) -> int:
    """Check that the method can be trained on the data, and return the number of images of an epoch.

    Raises:
        UserError: If labels are missing, or if a mini-batch is too small for the method.
    """
    num_images = len(data)
    num_unlabeled = int((data.labels < 0).sum())
    if method.label_fraction and num_unlabeled:
        raise UserError(
            f"{data.path}: the method needs a label for every image, but {num_unlabeled:,} images have none: choose "
            "another method (for relational, label_fraction: 0.0)"
        )
    if min(batch_size, num_images) < 2:
        raise UserError(
            f"{num_images:,} images in batches of {batch_size}: a mini-batch must contain at least two images, because "
            "methods compare them; raise batch_size"
        )
    remainder = num_images % batch_size
    if method.drop_last:
        if num_images < batch_size:
            raise UserError(f"{num_images} images are less than one batch of {batch_size}: lower batch_size")
        return num_images - remainder
    if 0 < remainder < method.min_batch_size:
        raise UserError(
            f"{num_images} images in batches of {batch_size} leave a last batch of {remainder}, but the method needs "
            f"at least {method.min_batch_size}: change the method's batch_size by one"
        )
    return num_images


def check_data_parallel(kind: str, method: Method, group: ProcessGroup, num_images: int, batch_size: int) -> None:
    """Check that the processes can share the mini-batches of an epoch of `num_images` images.

    Raises:
        UserError: If the method does not support several processes, or if a mini-batch has fewer images than processes.
    """
    world_size = group.world_size
    if not method.supports_data_parallel:
        raise UserError(
            f"the {kind} method cannot be trained by {world_size} processes, because its loss needs more than the "
            "representations of the images: run the command without torchrun"
        )
    if min(batch_size, num_images) < world_size:
        raise UserError(
            f"{world_size} processes cannot share mini-batches of {min(batch_size, num_images)} images: start fewer "
            "processes, or raise the method's batch_size"
        )
    remainder = num_images % batch_size
    if 0 < remainder < world_size:
        raise UserError(
            f"{num_images} images in batches of {batch_size} leave a last batch of {remainder}, which is too small for "
            f"{world_size} processes: start fewer processes, or change the method's batch_size by one"
        )
