"""Checks before the first step of a pretraining run."""

from rr.data.beton import Beton
from rr.errors import UserError
from rr.methods.base import Method


def check_images_per_epoch(method: Method, data: Beton, batch_size: int) -> int:
    """Check the labels and the sizes of all mini-batches, and return the number of images per epoch.

    Raises:
        UserError: if labels are missing, or if a mini-batch is too small for the method.
    """
    num_images = len(data)
    num_unlabeled = int((data.labels < 0).sum())
    if method.label_fraction and num_unlabeled:
        raise UserError(
            f"{data.path}: the method needs a label for every image, but {num_unlabeled:,} of {num_images:,} images "
            "are unlabeled: choose a method that needs no labels or, for a method of kind relational, set "
            "label_fraction: 0.0 in params.yaml"
        )
    if min(batch_size, num_images) < 2:
        remedy = "raise the method's batch_size in params.yaml" if batch_size < 2 else "use a larger dataset"
        raise UserError(
            f"a mini-batch must contain at least two images, but batch_size is {batch_size}, and the number of images "
            f"in {data.path} is {num_images:,}: {remedy}"
        )
    remainder = num_images % batch_size
    if method.drop_last:
        if num_images < batch_size:
            raise UserError(
                f"{data.path} contains {num_images:,} images, which is fewer than one mini-batch of {batch_size:,}: "
                "lower the method's batch_size in params.yaml"
            )
        return num_images - remainder
    if 0 < remainder < method.min_batch_size:
        raise UserError(
            f"{data.path}: with {num_images:,} images and a batch_size of {batch_size:,}, the size of the last "
            f"mini-batch is {remainder}, but the method needs at least {method.min_batch_size} images in every "
            "mini-batch: choose another batch_size for the method in params.yaml"
        )
    return num_images


def check_world_size(method_kind: str, method: Method, world_size: int, images_per_epoch: int, batch_size: int) -> None:
    """Check that the method can be trained by several processes, each with an image of every mini-batch.

    Raises:
        UserError: if the method does not support several processes, or if any mini-batch has fewer images than there
            are processes.
    """
    if not method.supports_data_parallel:
        raise UserError(
            f"the {method_kind} method does not support training with several processes ({world_size} were started): "
            "run the command without torchrun"
        )
    if min(batch_size, images_per_epoch) < world_size:
        limit = min(batch_size, images_per_epoch)
        raise UserError(
            f"{world_size} processes cannot share mini-batches of {limit} images, because each process needs at least "
            f"one image: start at most {limit} processes"
        )
    remainder = images_per_epoch % batch_size
    if 0 < remainder < world_size:
        raise UserError(
            f"with {images_per_epoch:,} images and a batch_size of {batch_size:,}, the size of the last mini-batch is "
            f"{remainder}, but each of {world_size} processes needs at least one image: use fewer processes (no more "
            f"than {remainder}), or choose another batch_size for the method in params.yaml"
        )
