"""What the training loop asks of a method."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# A statistic of one step as a fraction: how much, out of how much. The loop sums both over an epoch.
Statistics = dict[str, tuple[Tensor | int, Tensor | int]]


class Method(nn.Module):
    """A way of training a backbone. A method gives `loss`; the rest has an answer that fits most.

    Attributes:
        backbone: what is kept after training.
        smallest_batch: images below which an epoch's last mini-batch has no loss; such data are refused.
        drop_last: whether an epoch's last, smaller mini-batch is left out.
        labelled: share of each class's training labels that it may see.
        shareable: whether `loss` looks at pictures by `self.backbone(…)` alone. Several processes can then share a
            mini-batch: each passes its own pictures' views, and gets the representations of all.
    """

    smallest_batch = 2
    drop_last = False
    labelled = 0.0
    shareable = True

    def __init__(self, backbone: nn.Module, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.backbone = backbone
        self.learning_rate = learning_rate

    @property
    def features(self) -> int:
        """Size D of a representation."""
        return self.backbone.features  # type: ignore[return-value]

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """The loss of a mini-batch, 0-d, and statistics, among them `accuracy`. It may not wait for the device.

        Args:
            views: float (K·M, 3, S, S), view-major: the first M are view 1 of all images. Where several processes
                share the mini-batch, those of this process's images alone.
            labels: int64 (M,), -1 where a label is absent or held back.
            drawn: what `draw` gave for this step, on the device.
        """
        raise NotImplementedError

    def pairs(self, images: int) -> int:
        """How many pairs of representations the loss of a mini-batch of `images` compares; 0 where it compares none."""
        return 0

    def draw(self, images: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The random numbers of a step on `images` images, on the CPU like the generator."""
        return ()

    def before_epoch(self, extract: Callable[[], Tensor], seed: int) -> Tensor | None:
        """Labels, int64 (N,), to train on in this epoch instead of the data's, or None.

        `extract` gives the representations of all N training images, float32 (N, D) on the CPU, in eval mode and
        without augmentation; `seed` differs from epoch to epoch. The loop saves the labels with its state.
        """
        return None

    def after_step(self) -> None:
        """Called when the optimiser has changed the weights."""

    def optimiser(self, epochs: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
        """Adam at one rate without schedule (the paper's code, for all but supervised training)."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, self.learning_rate, fused=True), None
