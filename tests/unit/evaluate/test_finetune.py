"""Compare finetuning with a direct implementation."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_inputs import make_inputs
from torch import nn
from torch.nn import functional as F

from rr import backbones
from rr.compute.torch_threads import configure_torch
from rr.data.beton import Beton, write
from rr.data.feature_file import SplitFeatures
from rr.data.shapes import generate_shapes
from rr.errors import UserError
from rr.evaluate import finetune
from rr.evaluate.labeled_rows import choose_labeled_rows
from rr.params import DatasetConfig, FinetuneConfig, ShapesSource
from rr.params.optimizers import CONSTANT, AdamConfig, StepsScheduleConfig
from rr.views import Augmentation, make_views

DATASET = DatasetConfig(
    source=ShapesSource(kind="shapes", train=10, test=10, seed=0),
    image_size=32,
    mean=(0.5, 0.4, 0.6),
    std=(0.25, 0.2, 0.3),
)
PAPER = Augmentation(
    flip=0.5, affine=0.5, degrees=18.0, translate=0.1, zoom=(0.9, 1.1), shear=10.0, erase=0.5, erase_area=0.25
)


def make_config(**changes: object) -> FinetuneConfig:
    values = {
        "label_fraction": 1.0, "augmentation": PAPER, "epochs": 4, "batch_size": 16, "backbone_lr": 0.003,
        "classifier_lr": 0.01, "optimizer": AdamConfig(kind="adam", weight_decay=1e-4),
        "schedule": StepsScheduleConfig(kind="steps", warmup_epochs=0, milestones=[0.5], lr_decay=0.1),
    }  # fmt: skip
    return FinetuneConfig(kind="finetune", **(values | changes))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Beton, Beton]:
    folder = tmp_path_factory.mktemp("finetune")
    betons = []
    for name, count in (("train", 65), ("test", 40)):
        images, labels = generate_shapes(count, 0, name)
        write(folder / name, images, labels, np.arange(count))
        betons.append(Beton(folder / name, threads=1))
    return betons[0], betons[1]


def build_backbone(name: str = "conv4") -> nn.Module:
    torch.manual_seed(0)
    return backbones.build(name).eval()


def train_and_predict(
    splits: tuple[Beton, Beton], backbone: nn.Module | None = None, **changes: object
) -> tuple[np.ndarray, dict[str, float]]:
    configure_torch(1)
    train, test = (SplitFeatures(np.zeros((len(split), 64)), split.labels, split.index) for split in splits)
    inputs = make_inputs(
        train, test, {}, DATASET, ["class"] * 10, seed=5,
        load_backbone=lambda frozen: copy.deepcopy(backbone or build_backbone()).requires_grad_(not frozen),
        open_split={"train": splits[0], "test": splits[1]}.get,
    )  # fmt: skip
    return finetune.train_and_predict(inputs, make_config(**changes))


def test_matches_direct_implementation(splits: tuple[Beton, Beton]) -> None:
    train, test = splits
    probabilities, metrics = train_and_predict(splits)

    torch.manual_seed(5)
    layer = nn.Linear(64, 10)
    backbone = build_backbone().train()
    assert train.images is not None
    assert test.images is not None
    moments = {}
    step = 0
    for epoch in range(4):
        rates = {id(p): 0.003 for p in backbone.parameters()} | {id(p): 0.01 for p in layer.parameters()}
        decay = 0.1 if epoch >= 2 else 1.0
        order = np.random.Generator(np.random.Philox(key=[5, epoch])).permutation(65)[:64]  # the 65th image is skipped
        for rows in order.reshape(4, 16):
            views = make_views(
                train.images[rows], rows, augmentation=PAPER, seed=5, epoch=epoch, num_views=1, mean=DATASET.mean,
                std=DATASET.std, device="cpu",
            )  # fmt: skip
            loss = F.cross_entropy(layer(backbone(views)), torch.from_numpy(train.labels[rows]))
            parameters = [*backbone.parameters(), *layer.parameters()]
            gradients = torch.autograd.grad(loss, parameters)
            step += 1
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    gradient = gradient + 1e-4 * parameter  # weight decay
                    mean, square = moments.get(id(parameter), (0, 0))
                    mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
                    moments[id(parameter)] = mean, square
                    update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
                    parameter -= decay * rates[id(parameter)] * update
    pixels = torch.from_numpy(test.images).permute(0, 3, 1, 2).float() / 255
    normalized = (pixels - torch.tensor(DATASET.mean)[:, None, None]) / torch.tensor(DATASET.std)[:, None, None]
    with torch.no_grad():
        logits = layer(backbone.eval()(normalized))
    assert np.allclose(logits.softmax(1).numpy(), probabilities, atol=2e-3)
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, torch.from_numpy(test.labels)).item(), abs=5e-3)
    assert metrics["train_images"] == 65


def test_learns_reproducibly(splits: tuple[Beton, Beton]) -> None:
    backbone = build_backbone()
    probabilities, metrics = train_and_predict(
        splits, backbone, epochs=20, augmentation=Augmentation(), schedule=CONSTANT
    )
    assert metrics["train_accuracy"] > 0.8
    probabilities_again, metrics_again = train_and_predict(
        splits, backbone, epochs=20, augmentation=Augmentation(), schedule=CONSTANT
    )
    assert np.array_equal(probabilities_again, probabilities)
    assert metrics_again == metrics


@pytest.mark.parametrize(
    ("label_use", "num_images"),
    [
        ({"label_fraction": 0.25}, 20),
        ({"label_fraction": None, "images_per_class": 3}, 30),
        ({"label_fraction": None, "images_per_class": 1}, 10),
    ],
)
def test_images_without_kept_label_are_not_used(
    splits: tuple[Beton, Beton], tmp_path: Path, label_use: dict, num_images: int
) -> None:
    train, test = splits
    kept = np.isin(np.arange(len(train)), choose_labeled_rows(train.labels, make_config(**label_use), 5))
    expected, metrics = train_and_predict(splits, **label_use)
    assert metrics["train_images"] == kept.sum() == num_images
    assert set(train.labels[kept]) == set(range(10))
    assert train.images is not None
    changed_images = np.where(kept[:, None, None, None], train.images, 0)
    write(tmp_path / "train", changed_images, np.where(kept, train.labels, (train.labels + 1) % 10), train.index)
    changed_train = Beton(tmp_path / "train", threads=1)
    changed_train.labels[:] = train.labels  # labels decide which images are kept
    probabilities, _ = train_and_predict((changed_train, test), **label_use)
    assert np.array_equal(probabilities, expected)


def test_accuracy_in_training_is_that_of_the_images_in_mini_batches(splits: tuple[Beton, Beton]) -> None:
    """With mini-batches of three images, the last of the ten images is skipped, so it is neither right nor wrong."""
    _, metrics = train_and_predict(
        splits, label_fraction=None, images_per_class=1, batch_size=3, epochs=60, augmentation=Augmentation(),
        schedule=CONSTANT,
    )  # fmt: skip
    assert (metrics["train_accuracy"], metrics["train_images"]) == (1, 10)


def test_resnet_can_be_finetuned(splits: tuple[Beton, Beton]) -> None:
    probabilities, _ = train_and_predict(splits, build_backbone("resnet8"), epochs=1)
    assert np.allclose(probabilities.sum(1), 1)


def test_diverged_loss_raises(splits: tuple[Beton, Beton]) -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 1: lower backbone_lr and classifier_lr"):
        train_and_predict(splits, backbone_lr=1e30, classifier_lr=1e30)
