"""The paper's way, written from its description: what `rr bench` compares with, and tests hold the product against.

Views are torchvision's transforms on PIL pictures, made by the worker processes of a `DataLoader`; the K views of a
mini-batch are joined view by view; all pairs are built and sent through the head at once; memory is NCHW throughout;
linear evaluation reads and encodes every picture again in every epoch. None of the product's code is used here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

Triple = Sequence[float]


def relational_transform(side: int, mean: Triple, std: Triple) -> Callable[[Image.Image], Tensor]:
    """Crop and resize, flip, colour jitter, greyscale, tensor, normalise (paper, augmentations)."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(side, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def supervised_transform(side: int, mean: Triple, std: Triple) -> Callable[[Image.Image], Tensor]:
    """Padded crop and flip, tensor, normalise."""
    return transforms.Compose(
        [
            transforms.RandomCrop(side, padding=side // 8),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def plain_transform(mean: Triple, std: Triple) -> Callable[[Image.Image], Tensor]:
    """Tensor and normalise: what evaluation sees."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])


class Pictures(Dataset[tuple[list[Tensor], int]]):
    """uint8 pictures (N, S, S, 3) in memory, as torchvision keeps CIFAR; an item is `views` transformed copies."""

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Image.Image], Tensor], views: int = 1
    ) -> None:
        self.images, self.labels, self.transform, self.views = images, labels, transform, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> tuple[list[Tensor], int]:
        picture = Image.fromarray(self.images[position])
        return [self.transform(picture) for _ in range(self.views)], int(self.labels[position])


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def loader(data: Pictures, batch_size: int, workers: int) -> "DataLoader[Any]":
    """Shuffled mini-batches from worker processes of one thread each, kept between epochs."""
    return DataLoader(
        data,
        batch_size,
        shuffle=True,
        num_workers=workers,
        worker_init_fn=_one_thread,
        persistent_workers=workers > 0,
    )


def endless(batches: "DataLoader[Any]") -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from batches


class Conv4(nn.Sequential):
    """Four blocks of convolution, batch norm, ReLU and pooling: (B, 3, S, S) to (B, 64)."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(((3, 8), (8, 16), (16, 32), (32, 64))):
            pool = nn.AvgPool2d(2) if number < 3 else nn.AdaptiveAvgPool2d(1)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), pool]
        super().__init__(*layers, nn.Flatten())


class RelationHead(nn.Sequential):
    """Two representations of size D side by side to a logit: (P, 2 D) to (P, 1)."""

    def __init__(self, features: int = 64) -> None:
        super().__init__(nn.Linear(2 * features, 256), nn.BatchNorm1d(256), nn.LeakyReLU(), nn.Linear(256, 1))


def all_pairs(features_KMD: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of views of one image (target 1), and as many with the second view rolled along the batch (target 0).

    The roll grows by one row for each pair of views and never reaches the whole batch. Returns (P, 2 D) and (P,).
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


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, each pair weighted by half the squared probability of the wrong answer."""
    probability = torch.sigmoid(logits)
    wrong = torch.where(targets > 0, 1 - probability, probability)
    return (0.5 * wrong**2 * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).mean()


class Relational(nn.Module):
    """Backbone and head, trained by Adam."""

    def __init__(self, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.backbone, self.head = Conv4(), RelationHead()
        self.optimiser: torch.optim.Optimizer = torch.optim.Adam(self.parameters(), learning_rate)

    def step(self, views: Sequence[Tensor], labels: Tensor) -> float:
        """One step on K tensors (M, 3, S, S); the loss, for which it waits, as a loop that prints it does."""
        features = self.backbone(torch.cat(tuple(views)))
        pairs, targets = all_pairs(features.chunk(len(views)))
        loss = focal(self.head(pairs).squeeze(1), targets)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


class Supervised(nn.Module):
    """Backbone and linear layer, trained by SGD with momentum."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.classifier = Conv4(), nn.Linear(64, classes)
        self.optimiser: torch.optim.Optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    def step(self, views: Sequence[Tensor], labels: Tensor) -> float:
        """One step on a single view (M, 3, S, S)."""
        loss = F.cross_entropy(self.classifier(self.backbone(views[0])), labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


class SimCLR(nn.Module):
    """Backbone and projection, trained by Adam to find the other view of each image among 2M."""

    def __init__(self, learning_rate: float = 1e-3, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = temperature
        self.backbone = Conv4()
        self.projection = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.LeakyReLU(), nn.Linear(256, 64))
        self.optimiser = torch.optim.Adam(self.parameters(), learning_rate)

    def step(self, views: Sequence[Tensor], labels: Tensor) -> float:
        """One step on two tensors (M, 3, S, S): minus the logarithm of the mean share of the right view."""
        embeddings = F.normalize(self.projection(self.backbone(torch.cat(tuple(views)))))
        similarities = torch.exp(embeddings @ embeddings.T / self.temperature)
        count = len(embeddings)
        positive = similarities[torch.arange(count), torch.arange(count).roll(count // 2)]
        loss = -torch.log((positive / (similarities.sum(0) - similarities.diagonal())).mean())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


class RotationNet(nn.Module):
    """Backbone and linear layer, trained by Adam to tell four rotations."""

    def __init__(self, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.backbone, self.classifier = Conv4(), nn.Linear(64, 4)
        self.optimiser = torch.optim.Adam(self.parameters(), learning_rate)

    def step(self, views: Sequence[Tensor], labels: Tensor) -> float:
        """One step on a single view (M, 3, S, S), shown in four rotations."""
        rotated = torch.cat([torch.rot90(views[0], turns, (2, 3)) for turns in range(4)])
        targets = torch.arange(4).repeat_interleave(len(views[0]))
        loss = F.cross_entropy(self.classifier(self.backbone(rotated)), targets)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()


def build(method: str, classes: int) -> "Relational | Supervised | SimCLR | RotationNet":
    """The paper's way of training `method`."""
    match method:
        case "relational":
            return Relational()
        case "supervised":
            return Supervised(classes)
        case "simclr":
            return SimCLR()
        case _:
            return RotationNet()


class LinearEvaluation:
    """A linear layer on a frozen backbone, every epoch from the pictures."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        self.backbone, self.layer = backbone.eval(), nn.Linear(64, classes)
        self.optimiser = torch.optim.Adam(self.layer.parameters(), 1e-3)

    def epoch(self, batches: "DataLoader[Any]") -> None:
        """Read, encode and learn every picture once."""
        for (pictures,), labels in batches:
            with torch.no_grad():
                features = self.backbone(pictures)
            loss = F.cross_entropy(self.layer(features), labels)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def accuracy(self, batches: "DataLoader[Any]") -> float:
        """Share of right answers."""
        right = total = 0
        with torch.no_grad():
            for (pictures,), labels in batches:
                right += int((self.layer(self.backbone(pictures)).argmax(1) == labels).sum())
                total += len(labels)
        return right / total
