"""A reference implementation of the paper for `rr bench` and the tests, written from the paper's description.

The worker processes of a `DataLoader` create the views from PIL images with torchvision transforms. The K views of a
mini-batch are concatenated view by view. All pairs are built and passed through the head at once. The memory format is
NCHW. Linear evaluation preprocesses every image and computes its features in every epoch. This module does not use any
other code from rr.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

_LEARNING_RATE, _TEMPERATURE = 1e-3, 0.5  # for Adam, and for SimCLR
ChannelValues = Sequence[float]  # values for red, green and blue


def relational_transform(image_size: int, mean: ChannelValues, std: ChannelValues) -> Callable[[Image.Image], Tensor]:
    """Return the paper's augmentation for self-supervised training; it produces normalized tensors."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def supervised_transform(image_size: int, mean: ChannelValues, std: ChannelValues) -> Callable[[Image.Image], Tensor]:
    """Return the paper's augmentation for supervised training: a padded crop and a flip."""
    return transforms.Compose(
        [
            transforms.RandomCrop(image_size, padding=image_size // 8),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def plain_transform(mean: ChannelValues, std: ChannelValues) -> Callable[[Image.Image], Tensor]:
    """Return the transform for evaluation, which normalizes images without augmenting them."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])


class ImageDataset(Dataset[tuple[list[Tensor], int]]):
    """Images kept in memory, as in torchvision's CIFAR classes. An item is a list of views of one image, and its label.

    `images` is uint8 (N, S, S, 3), and `labels` is int64 (N,).
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Image.Image], Tensor], views: int = 1
    ) -> None:
        self.images, self.labels, self.transform, self.views = images, labels, transform, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[list[Tensor], int]:
        image = Image.fromarray(self.images[position])
        return [self.transform(image) for _ in range(self.views)], int(self.labels[position])


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def make_loader(data: ImageDataset, batch_size: int, workers: int) -> "DataLoader[Any]":
    """Return a loader of shuffled mini-batches.

    The worker processes use one thread each and persist between epochs.
    """
    return DataLoader(
        data,
        batch_size,
        shuffle=True,
        num_workers=workers,
        worker_init_fn=_use_one_thread,
        persistent_workers=workers > 0,
    )


def repeat_forever(batches: "DataLoader[Any]") -> Iterator[Any]:
    """Yield mini-batches indefinitely, one epoch after another."""
    while True:
        yield from batches


class Conv4(nn.Sequential):
    """Four blocks of convolution, batch norm, ReLU and pooling that map (B, 3, S, S) to (B, 64)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for block, (inputs, outputs) in enumerate(((3, 8), (8, 16), (16, 32), (32, 64))):
            pool = nn.AvgPool2d(2) if block < 3 else nn.AdaptiveAvgPool2d(1)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), pool]
        super().__init__(*layers, nn.Flatten())


class _ResidualBlock(nn.Module):
    """Two convolutions with batch norm, added to the input.

    If the shape changes, a 1×1 convolution projects the input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return F.relu(self.residual(x) + self.shortcut(x))


class ResNet32(nn.Sequential):
    """The paper's ResNet for small images: three stages of five blocks that map (B, 3, S, S) to (B, 64)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers.append(_ResidualBlock(inputs, outputs, stride))
            layers += [_ResidualBlock(outputs, outputs, 1) for _ in range(4)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def build_backbone(name: str) -> tuple[nn.Module, int]:
    """Return the backbone "conv4", "resnet32" or "resnet34", and its number of features."""
    if name == "resnet34":
        network = models.resnet34(weights=None)
        network.fc = nn.Identity()
        return network, 512
    return (Conv4() if name == "conv4" else ResNet32()), 64


class RelationHead(nn.Sequential):
    """A multilayer perceptron that maps pairs of representations, (P, 2 D), to logits, (P, 1); D is `num_features`."""

    def __init__(self, num_features: int = 64) -> None:
        super().__init__(nn.Linear(2 * num_features, 256), nn.BatchNorm1d(256), nn.LeakyReLU(), nn.Linear(256, 1))


def make_pairs(features_KMD: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    """Return all positive pairs and an equal number of negative pairs.

    A positive pair consists of two views of the same image. For the negative pairs, the second views are rolled along
    the batch. The shift increases by one row with each pair of views, and restarts at 1 before it reaches the batch
    size.

    Args:
        features_KMD: representations of K views of M images, float (K, M, D).

    Returns:
        The pairs, float (P, 2 D), and their targets, 1 for positive and 0 for negative pairs, float (P,).
    """
    pairs, targets, shift = [], [], 1
    for i in range(len(features_KMD)):
        for j in range(i + 1, len(features_KMD)):
            first, second = features_KMD[i], features_KMD[j]
            pairs.append(torch.cat((first, second), 1))
            targets.append(first.new_ones(len(first)))
            pairs.append(torch.cat((first, second.roll(shift, 0)), 1))
            targets.append(first.new_zeros(len(first)))
            shift = shift + 1 if shift + 1 < len(first) else 1
    return torch.cat(pairs), torch.cat(targets)


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy weighted by half the squared probability of the wrong class."""
    probability = torch.sigmoid(logits)
    wrong_probability = torch.where(targets > 0, 1 - probability, probability)
    return (0.5 * wrong_probability**2 * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).mean()


def _optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


class RelationalModel(nn.Module):
    """Backbone and relation head, trained with Adam."""

    def __init__(self, backbone: str = "conv4") -> None:
        super().__init__()
        self.backbone, num_features = build_backbone(backbone)
        self.head = RelationHead(num_features)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.parameters(), _LEARNING_RATE)

    def train_step(self, views: Sequence[Tensor], labels: Tensor) -> float:
        """Train on K tensors of shape (M, 3, S, S) and return the loss."""
        features = self.backbone(torch.cat(tuple(views)))
        pairs, targets = make_pairs(features.chunk(len(views)))
        loss = focal_loss(self.head(pairs).squeeze(1), targets)
        return _optimizer_step(loss, self.optimizer)


class SupervisedModel(nn.Module):
    """Backbone and linear classifier, trained with SGD with momentum."""

    def __init__(self, num_classes: int, backbone: str = "conv4") -> None:
        super().__init__()
        self.backbone, num_features = build_backbone(backbone)
        self.classifier = nn.Linear(num_features, num_classes)
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    def train_step(self, views: Sequence[Tensor], labels: Tensor) -> float:
        """Train on a list that contains one view, (M, 3, S, S), and return the loss."""
        loss = F.cross_entropy(self.classifier(self.backbone(views[0])), labels)
        return _optimizer_step(loss, self.optimizer)


class SimCLRModel(nn.Module):
    """Backbone and projection head, trained with Adam to find the other view of each image among 2M views."""

    def __init__(self, backbone: str = "conv4") -> None:
        super().__init__()
        self.backbone, num_features = build_backbone(backbone)
        self.projection = nn.Sequential(
            nn.Linear(num_features, 256), nn.BatchNorm1d(256), nn.LeakyReLU(), nn.Linear(256, 64)
        )
        self.optimizer = torch.optim.Adam(self.parameters(), _LEARNING_RATE)

    def train_step(self, views: Sequence[Tensor], labels: Tensor) -> float:
        """Train on two tensors of shape (M, 3, S, S) and return the loss.

        The loss is the negative logarithm of the mean softmax probability of the positive view. The mean over the batch
        is inside the logarithm.
        """
        embeddings = F.normalize(self.projection(self.backbone(torch.cat(tuple(views)))))
        similarities = torch.exp(embeddings @ embeddings.T / _TEMPERATURE)
        count = len(embeddings)
        positive = similarities[torch.arange(count), torch.arange(count).roll(count // 2)]
        loss = -torch.log((positive / (similarities.sum(0) - similarities.diagonal())).mean())
        return _optimizer_step(loss, self.optimizer)


class RotationModel(nn.Module):
    """Backbone and linear classifier, trained with Adam to predict one of four rotations."""

    def __init__(self, backbone: str = "conv4") -> None:
        super().__init__()
        self.backbone, num_features = build_backbone(backbone)
        self.classifier = nn.Linear(num_features, 4)
        self.optimizer = torch.optim.Adam(self.parameters(), _LEARNING_RATE)

    def train_step(self, views: Sequence[Tensor], labels: Tensor) -> float:
        """Train on the four rotations of the only view in the list, (M, 3, S, S), and return the loss."""
        rotated = torch.cat([torch.rot90(views[0], quarter_turns, (2, 3)) for quarter_turns in range(4)])
        targets = torch.arange(4).repeat_interleave(len(views[0]))
        loss = F.cross_entropy(self.classifier(self.backbone(rotated)), targets)
        return _optimizer_step(loss, self.optimizer)


def build_model(
    method: str, num_classes: int, backbone: str = "conv4"
) -> "RelationalModel | SupervisedModel | SimCLRModel | RotationModel":
    """Return the model for a method: "relational", "supervised", "simclr" or "rotation"."""
    match method:
        case "relational":
            return RelationalModel(backbone)
        case "supervised":
            return SupervisedModel(num_classes, backbone)
        case "simclr":
            return SimCLRModel(backbone)
        case _:
            return RotationModel(backbone)


class LinearEvaluator:
    """A linear classifier on a frozen backbone with 64 features. The features are recomputed in every epoch."""

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        self.backbone, self.classifier = backbone.eval(), nn.Linear(64, num_classes)
        self.optimizer = torch.optim.Adam(self.classifier.parameters(), _LEARNING_RATE)

    def train_epoch(self, batches: "DataLoader[Any]") -> None:
        """Train the classifier on every image once."""
        for (images,), labels in batches:
            with torch.no_grad():
                features = self.backbone(images)
            loss = F.cross_entropy(self.classifier(features), labels)
            _optimizer_step(loss, self.optimizer)
