"""The base class of pretraining methods: what the training loop expects of a method."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rr.backbones.base import Backbone

# The metrics of one step by name, each as a fraction (numerator, denominator). The loop sums both over an epoch.
Metrics = dict[str, tuple[Tensor | int, Tensor | int]]


class Method(nn.Module):
    """A backbone and everything that is needed to train it.

    A subclass implements `loss` and may override the other methods, whose defaults suit most pretraining methods.

    Attributes:
        backbone: The network that is kept after training.
        learning_rate: The learning rate of the default optimizer.
        epoch: The current epoch, counted from 0. The training loop sets it before `before_epoch` and after a restart.
        min_batch_size: The smallest number of images for which the loss is defined. Datasets whose last mini-batch is
            smaller are rejected.
        drop_last: Whether the last mini-batch of an epoch is left out if it is smaller than the others.
        label_fraction: The fraction of each class's training labels that `loss` receives.
        supports_data_parallel: Whether several processes can share a mini-batch. This requires that `loss` uses the
            views only through `self.backbone(views)`: each process encodes the views of its own images, and the
            backbone returns the representations of all images.
    """

    min_batch_size = 2
    drop_last = False
    label_fraction = 0.0
    supports_data_parallel = True

    def __init__(self, backbone: Backbone, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.backbone = backbone
        self.learning_rate = learning_rate
        self.epoch = 0

    @property
    def features(self) -> int:
        """The size D of a representation."""
        return self.backbone.features

    def loss(self, views: Tensor, labels: Tensor, noise: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the loss of a mini-batch and its metrics, without waiting for the device.

        Args:
            views: Float (K·M, 3, S, S), view-major: the first M rows are view 1 of all images. If several processes
                share the mini-batch, these are only the views of the images of this process.
            labels: Int64 (M,). A label is -1 if the image has none or if it is withheld (see `label_fraction`).
            noise: What `sample_noise` returned for this step, on the device.

        Returns:
            The loss, 0-d, and the metrics, which include `accuracy`.
        """
        raise NotImplementedError

    def count_pairs(self, num_images: int) -> int:
        """Return how many pairs of representations the loss of a mini-batch compares; 0 if it compares none."""
        return 0

    def sample_noise(self, num_images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Sample all random numbers that a step on `num_images` images needs, on the CPU."""
        return ()

    def before_epoch(self, extract_features: Callable[[], Tensor], seed: int) -> Tensor | None:
        """Prepare an epoch, and return labels that replace those of the dataset in this epoch, or None.

        The loop does not call this again if it continues an epoch from a checkpoint, which contains the labels.

        Args:
            extract_features: Returns the representations of all N training images, float32 (N, D) on the CPU, computed
                in eval mode and without augmentation.
            seed: A different seed in each epoch.

        Returns:
            Int64 (N,), or None.
        """
        return None

    def after_step(self) -> None:
        """Update what is not trained by gradients. Called after each optimizer step."""

    def configure_optimizer(
        self, num_epochs: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        """Return the optimizer and the learning rate scheduler, if any.

        The default is Adam with a constant learning rate, as in the paper's code for all but supervised training. The
        loop steps the scheduler after each epoch.
        """
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(parameters, self.learning_rate, fused=True), None
