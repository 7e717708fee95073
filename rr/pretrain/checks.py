"""Checks before the first step of a pretraining run."""

from rr.data.beton import Beton
from rr.errors import UserError
from rr.methods.base import Method
from rr.methods.requirements import find_training_problem
from rr.params import MethodConfig
from rr.runtime.formatting import format_count


def check_training_images(config: MethodConfig, data: Beton, num_classes: int) -> None:
    """Check the labels and the sizes of all mini-batches.

    Raises:
        UserError: if labels are missing, or if a mini-batch is too small for the method.
    """
    if problem := find_training_problem(config, data.labels, num_classes):
        raise UserError(f"{data.path}: {problem}")


def check_world_size(method_kind: str, method: Method, world_size: int, images_per_epoch: int, batch_size: int) -> None:
    """Check that the method can be trained by several processes, each with at least one image of every mini-batch.

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
            f"{world_size} processes cannot share mini-batches of {format_count(limit, 'images')}, because each "
            f"process needs at least one image: start at most {format_count(limit, 'processes', 'process')}"
        )
    remainder = images_per_epoch % batch_size
    if 0 < remainder < world_size:
        raise UserError(
            f"with {images_per_epoch:,} images and a batch_size of {batch_size:,}, the size of the last mini-batch is "
            f"{remainder}, but each of {world_size} processes needs at least one image: use fewer processes (no more "
            f"than {remainder}), or choose another batch_size for the method in params.yaml"
        )
