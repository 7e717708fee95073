"""Finetuning against a direct form, and what it must leave alone."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rr import backbones
from rr.compute.device import settle
from rr.data.beton import Beton, write
from rr.data.labels import keep_share
from rr.data.shapes import generate
from rr.errors import UserError
from rr.evaluate import finetune
from rr.params import Dataset, Finetune, ShapesSource
from rr.views import Augmentation, make_views

DATASET = Dataset(
    source=ShapesSource(kind="shapes", train=10, test=10, seed=0), side=32, mean=(0.5, 0.4, 0.6), std=(0.25, 0.2, 0.3)
)
PAPER = Augmentation(
    flip=0.5, affine=0.5, degrees=18.0, translate=0.1, zoom=(0.9, 1.1), shear=10.0, erase=0.5, erase_area=0.25
)


def settings(**changes: object) -> Finetune:
    values = {
        "labelled": 1.0, "augmentation": PAPER, "epochs": 4, "batch_size": 16, "backbone_rate": 0.003,
        "classifier_rate": 0.01, "weight_decay": 1e-4, "milestones": [0.5], "decay": 0.1,
    }  # fmt: skip
    return Finetune(kind="finetune", **(values | changes))


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Beton, Beton]:
    folder = tmp_path_factory.mktemp("finetune")
    found = []
    for name, count in (("train", 65), ("test", 40)):
        images, labels = generate(count, 0, name)
        write(folder / name, images, labels, np.arange(count))
        found.append(Beton(folder / name, threads=1))
    return found[0], found[1]


def start(name: str = "conv4") -> nn.Module:
    torch.manual_seed(0)
    return backbones.build(name).requires_grad_(False).eval()


def run(splits: tuple[Beton, Beton], backbone: nn.Module | None = None, **changes: object):
    settle(1)
    return finetune.run(settings(**changes), backbone or start(), *splits, DATASET, 10, seed=5, device="cpu")


def test_step_by_step_as_a_direct_form_does_it(splits: tuple[Beton, Beton]) -> None:
    train, test = splits
    probabilities, metrics = run(splits)

    torch.manual_seed(5)
    layer = nn.Linear(64, 10)
    backbone = start().requires_grad_(True).train()
    assert train.images is not None
    assert test.images is not None
    moments = {}
    step = 0
    for epoch in range(4):
        rates = {id(p): 0.003 for p in backbone.parameters()} | {id(p): 0.01 for p in layer.parameters()}
        fallen = 0.1 if epoch >= 2 else 1.0
        order = np.random.Generator(np.random.Philox(key=[5, epoch])).permutation(65)[:64]  # 65: a last one of one
        for rows in order.reshape(4, 16):
            views = make_views(
                train.images[rows], rows, augmentation=PAPER, seed=5, epoch=epoch, views=1, mean=DATASET.mean,
                std=DATASET.std, device="cpu",
            )  # fmt: skip
            loss = F.cross_entropy(layer(backbone(views)), torch.from_numpy(train.labels[rows]))
            parameters = [*backbone.parameters(), *layer.parameters()]
            gradients = torch.autograd.grad(loss, parameters)
            step += 1
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    decayed = gradient + 1e-4 * parameter
                    mean, square = moments.get(id(parameter), (0, 0))
                    mean, square = 0.9 * mean + 0.1 * decayed, 0.999 * square + 0.001 * decayed**2
                    moments[id(parameter)] = mean, square
                    change = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
                    parameter -= fallen * rates[id(parameter)] * change
    pixels = torch.from_numpy(test.images).permute(0, 3, 1, 2).float() / 255
    normal = (pixels - torch.tensor(DATASET.mean)[:, None, None]) / torch.tensor(DATASET.std)[:, None, None]
    with torch.no_grad():
        logits = layer(backbone.eval()(normal))
    assert np.allclose(logits.softmax(1).numpy(), probabilities, atol=2e-3)
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, torch.from_numpy(test.labels)).item(), abs=5e-3)
    assert metrics["train_images"] == 65


def test_it_learns_repeats_and_leaves_the_backbone_alone(splits: tuple[Beton, Beton]) -> None:
    backbone = start()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    probabilities, metrics = run(splits, backbone, epochs=20, augmentation=Augmentation(), milestones=[])
    assert metrics["train_accuracy"] > 0.8
    again, same = run(splits, backbone, epochs=20, augmentation=Augmentation(), milestones=[])
    assert np.array_equal(again, probabilities)
    assert same == metrics
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_few_labels_means_no_other_picture_is_looked_at(splits: tuple[Beton, Beton], tmp_path) -> None:
    train, test = splits
    kept = keep_share(train.labels, 0.25, 5) >= 0
    expected, metrics = run(splits, labelled=0.25)
    assert metrics["train_images"] == kept.sum() < 30
    assert train.images is not None
    spoilt = np.where(kept[:, None, None, None], train.images, 0)
    write(tmp_path / "train", spoilt, np.where(kept, train.labels, (train.labels + 1) % 10), train.index)
    other = Beton(tmp_path / "train", threads=1)
    other.labels[:] = train.labels  # the choice is by label; pixels of the others must not matter
    found, _ = run((other, test), labelled=0.25)
    assert np.array_equal(found, expected)


def test_a_resnet_can_be_finetuned(splits: tuple[Beton, Beton]) -> None:
    probabilities, _ = run(splits, start("resnet8"), epochs=1)
    assert np.allclose(probabilities.sum(1), 1)


def test_what_cannot_work_is_refused(splits: tuple[Beton, Beton]) -> None:
    with pytest.raises(UserError, match="mini-batches of two"):
        run(splits, batch_size=1)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 1: lower the protocol's rates"):
        run(splits, backbone_rate=1e30, classifier_rate=1e30)
