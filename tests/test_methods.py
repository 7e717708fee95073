"""What must hold of every method: it learns, it repeats, it goes on where it stopped, and a GPU can run its step."""

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from rr import backbones, methods, paths, pretrain
from rr.data import beton
from rr.data.shapes import generate
from rr.device import settle
from rr.errors import UserError
from rr.features import extract, load_backbone
from rr.feed import Feed
from rr.methods.method import Method
from rr.params import Method as Settings
from rr.params import Params, load

ROOT = Path(__file__).parent.parent
PARAMS: Params = load(ROOT / "params.yaml")
TRAINED = [name for name, settings in PARAMS.methods.items() if hasattr(settings, "epochs")]
SHAPES = PARAMS.datasets["shapes"]
CLASSES = 10


def small(name: str, **changes: object) -> Settings:
    """A method of params.yaml in small: a few epochs, few clusters."""
    settings = PARAMS.methods[name]
    less: dict[str, object] = {"epochs": 2, "batch_size": 24}
    if settings.kind == "relational":
        less["views"] = 4
    if settings.kind == "deepcluster":
        less |= {"clusters": 12, "clusters_per": "dataset", "starts": 2}
    return settings.model_copy(update=less | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("methods") / "train.beton"
    images, labels = generate(64, 0, "train")
    beton.write(target, images, labels, np.arange(64))
    return target


@dataclasses.dataclass(frozen=True)
class Outputs(paths.Pretraining):
    place: Path

    @property
    def folder(self) -> Path:
        return self.place

    @property
    def history(self) -> Path:
        return self.place / "history.csv"

    @property
    def resume(self) -> Path:
        return self.place / "resume.pt"


def train(data: Path, place: Path, settings: Settings, seed: int = 1) -> dict[str, bytes]:
    """Run the loop; return the weights and the history."""
    settle(2)
    job = pretrain.Job(SHAPES, "conv4", settings, CLASSES, seed, "float32", "test")
    place.mkdir(exist_ok=True)
    outputs = Outputs("shapes", "conv4", "method", seed, place)
    pretrain.pretrain(job, data, outputs, device="cpu", threads=2)
    return {path.name: path.read_bytes() for path in (outputs.weights, outputs.history)}


def test_every_kind_stands_in_the_parameters() -> None:
    assert {settings.kind for settings in PARAMS.methods.values()} == {
        "random", "supervised", "relational", "simclr", "rotation", "infomax", "deepcluster", "byol", "vicreg",
        "barlow",
    }  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_equal_seeds_give_equal_files_and_others_do_not(name: str, data: Path, tmp_path: Path) -> None:
    first, again, other = (train(data, tmp_path / str(run), small(name), seed) for run, seed in enumerate((1, 1, 2)))
    assert first == again
    assert first["backbone.safetensors"] != other["backbone.safetensors"]
    rows = first["history.csv"].decode().splitlines()
    assert len(rows) == 3
    assert rows[0].startswith("epoch,loss,accuracy")
    assert "nan" not in rows[1]


@pytest.mark.parametrize("name", ["supervised", "relational-10", "infomax", "deepcluster", "byol", "barlow"])
def test_a_training_that_stops_inside_an_epoch_goes_on_to_the_same_bits(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(data, tmp_path / "whole", small(name, batch_size=16))
    save, steps = pretrain.save, []

    def stop_in_the_middle(resume: Path, spec: str, run: pretrain.Progressed, *rest: object) -> None:
        save(resume, spec, run, *rest)
        steps.append((run.epoch, run.step))
        if (run.epoch, run.step) == (1, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(pretrain, "save", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "parts", small(name, batch_size=16))
    monkeypatch.setattr(pretrain, "save", save)
    assert train(data, tmp_path / "parts", small(name, batch_size=16)) == undisturbed


def method_of(settings: Settings) -> Method:
    torch.manual_seed(0)
    return methods.build(settings, backbones.build("conv4"), CLASSES, 64).train()


@pytest.mark.parametrize("name", TRAINED)
def test_it_overfits_64_images(name: str, data: Path) -> None:
    """The same views again and again: the loss falls by half of what it can, or the answers become right."""
    settle(2)
    settings = small(name, batch_size=64)
    method = method_of(settings)
    pictures = beton.Beton(data, threads=2)
    feed = Feed(pictures, SHAPES, settings.augmentation, views=settings.views, batch_size=64, seed=0, device="cpu")  # type: ignore[union-attr]
    labels = method.before_epoch(lambda: extract(method.backbone, pictures, SHAPES, "cpu"), 0)
    if labels is not None:
        feed.use_labels(labels.numpy())
    (batch,) = feed.epoch(0)
    views = batch.inputs[0].clone()
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], 3e-3)
    losses, accuracies = [], []
    for _ in range(8 if settings.kind == "infomax" else 80):
        loss, statistics = method.loss(views, batch.labels, method.draw(64, torch.Generator().manual_seed(0)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step()
        losses.append(loss.item())
        accuracies.append(float(statistics["accuracy"][0] / statistics["accuracy"][1]))
    assert losses[-1] < losses[0]
    if settings.kind == "infomax":
        assert losses[-1] < 0.9 * losses[0]
    elif name == "dot":  # representations are not negative, so no logit is, and half of the answers stay wrong
        assert losses[-1] < 0.5 * losses[0]
    elif settings.kind == "byol":  # its accuracy is that of the representation, which a constant would lower
        assert losses[-1] < 0.3 * losses[0]
    else:
        assert accuracies[-1] > 0.75
        assert accuracies[-1] > accuracies[0] + 0.15


@pytest.mark.parametrize("name", TRAINED)
def test_the_step_of_a_gpu_is_one_graph_that_is_compiled_once_for_each_shape(name: str, data: Path) -> None:
    """On CPU tensors: no break that would wait for the host."""
    settings = small(name)
    method = method_of(settings)
    source = Feed(
        beton.Beton(data, threads=2), SHAPES, settings.augmentation, views=settings.views, batch_size=24, seed=0,  # type: ignore[union-attr]
        device="cpu", on_device=True,
    )  # fmt: skip
    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(
        partial(pretrain._forward, method, source.augment, "float32"), backend=counter, fullgraph=True, dynamic=False
    )
    shapes = set()
    for epoch in range(2):
        for batch in source.epoch(epoch, 0, 48 if method.drop_last else None):
            drawn = method.draw(len(batch.labels), torch.Generator().manual_seed(0))
            loss, _ = step(batch.inputs, batch.labels.clamp(max=9), drawn)
            loss.backward()
            shapes.add(len(batch.labels))
    assert counter.frame_count == len(shapes) == (1 if method.drop_last else 2)


@pytest.mark.parametrize("name", ["relational", "simclr", "rotation", "supervised"])
def test_it_is_better_than_chance_on_pictures_it_has_not_seen(name: str, tmp_path: Path) -> None:
    """A nearest centroid on its representations, after a short training."""
    images, labels = generate(600, 0, "train")
    path = tmp_path / "train.beton"
    beton.write(path, images, labels, np.arange(600))
    train(path, tmp_path / "run", small(name, epochs=5, batch_size=50))
    backbone = load_backbone(tmp_path / "run/backbone.safetensors")
    features = extract(backbone, beton.Beton(path, threads=2), SHAPES, "cpu")
    unseen, truth = generate(200, 0, "test")
    beton.write(tmp_path / "test.beton", unseen, truth, np.arange(200))
    found = extract(backbone, beton.Beton(tmp_path / "test.beton", threads=2), SHAPES, "cpu")
    scale = features.std(0) + 1e-6
    centres = torch.stack([features[torch.from_numpy(labels == c)].mean(0) for c in range(CLASSES)])
    guesses = torch.cdist(found / scale, centres / scale).argmin(1)
    assert (guesses.numpy() == truth).mean() > 0.17  # chance: 0.1, with a standard deviation of 0.021


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deepcluster", {"clusters": 65}, "65 clusters"),
        ("infomax", {"batch_size": 65}, "less than one batch of 65"),
        ("simclr", {"batch_size": 63}, "last batch of 1"),
        ("supervised", {"batch_size": 63}, "last batch of 1"),
    ],
)
def test_data_that_do_not_suit_are_refused(name: str, changes: dict, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(data, tmp_path / "run", small(name, **changes))


@pytest.mark.parametrize("name", ["supervised", "relational-10"])
def test_labels_that_are_asked_for_must_be_there(name: str, tmp_path: Path) -> None:
    images, labels = generate(64, 0, "train")
    labels[3] = -1
    path = tmp_path / "train.beton"
    beton.write(path, images, labels, np.arange(64))
    with pytest.raises(UserError, match="needs a label for every picture"):
        train(path, tmp_path / "run", small(name))


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_state(data: Path, tmp_path: Path) -> None:
    settings = small("relational", learning_rate=1e25, loss="bce")
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 1 at step [23]: lower"):
        train(data, tmp_path / "run", settings)
    assert not (tmp_path / "run/backbone.safetensors").exists()


def test_a_share_of_the_labels_is_kept_by_class() -> None:
    from rr.labels import keep_share

    labels = np.repeat(np.arange(5), [100, 50, 20, 3, 1])
    for share in (0.01, 0.1, 0.5, 1.0):
        kept = keep_share(labels, share, seed=1)
        assert ((kept == labels) | (kept == -1)).all()
        counts = np.bincount(kept[kept >= 0], minlength=5)
        assert counts.tolist() == [max(1, round(share * n)) for n in (100, 50, 20, 3, 1)]
    assert (keep_share(labels, 0, seed=1) == -1).all()
    assert not np.array_equal(keep_share(labels, 0.1, 1), keep_share(labels, 0.1, 2))
    fewer, more = keep_share(labels, 0.1, 1), keep_share(labels, 0.5, 1)
    assert (more[fewer >= 0] >= 0).all()  # a larger share holds the smaller one
