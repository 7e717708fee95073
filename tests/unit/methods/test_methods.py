"""What must hold of every method: it learns, it repeats, it goes on where it stopped, and a GPU can run its step."""

import hashlib
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import OutputPaths
from torch._dynamo.testing import CompileCounter

from rr import backbones, methods
from rr.compute.device import configure_backends
from rr.data import beton
from rr.data.loader import ViewLoader
from rr.data.shapes import generate
from rr.errors import UserError
from rr.evaluate.features import extract_features
from rr.methods.base import Method
from rr.params import DynamicsConfig, MethodConfig, Params, load_params
from rr.pretrain import loop

ROOT = Path(__file__).parents[3]
PARAMS: Params = load_params(ROOT / "params.yaml")
TRAINED = [name for name, settings in PARAMS.methods.items() if hasattr(settings, "epochs")]
SHAPES = PARAMS.datasets["shapes"]
CLASSES = 10
DYNAMICS = DynamicsConfig(every_n_epochs=2, images=60)


def small(name: str, **changes: object) -> MethodConfig:
    """A method of params.yaml in small: a few epochs, few clusters."""
    settings = PARAMS.methods[name]
    less: dict[str, object] = {"epochs": 2, "batch_size": 24}
    if settings.kind == "relational":
        less["views"] = 4
    if settings.kind == "deepcluster":
        less |= {"clusters": 12, "clusters_per": "dataset", "n_init": 2}
    return settings.model_copy(update=less | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("methods") / "train.beton"
    images, labels = generate(64, 0, "train")
    beton.write(target, images, labels, np.arange(64))
    return target


def train(
    data: Path, place: Path, settings: MethodConfig, seed: int = 1, dynamics: DynamicsConfig = DYNAMICS
) -> dict[str, bytes]:
    """Run the loop; return the weights and the history."""
    configure_backends(1)
    job = loop.Job(SHAPES, "conv4", settings, CLASSES, seed, "float32", dynamics, "test")
    place.mkdir(exist_ok=True)
    outputs = OutputPaths("shapes", "conv4", "method", seed, place)
    loop.pretrain(job, data, outputs, device="cpu", threads=1)
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
    save, steps = loop.save_checkpoint, []

    def stop_in_the_middle(resume: Path, spec: str, run: loop.TrainState, *rest: object) -> None:
        save(resume, spec, run, *rest)
        steps.append((run.epoch, run.step))
        if (run.epoch, run.step) == (1, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(loop, "save_checkpoint", stop_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "parts", small(name, batch_size=16))
    monkeypatch.setattr(loop, "save_checkpoint", save)
    assert train(data, tmp_path / "parts", small(name, batch_size=16)) == undisturbed


def method_of(settings: MethodConfig) -> Method:
    torch.manual_seed(0)
    return methods.build(settings, backbones.build("conv4"), CLASSES, 64).train()


def steps(method: Method, batches: list[tuple[torch.Tensor, torch.Tensor]], rate: float = 3e-3) -> None:
    """One optimiser step on each batch of views and labels."""
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], rate)
    for number, (views, labels) in enumerate(batches):
        loss, _ = method.loss(views, labels, method.sample_noise(len(labels), torch.Generator().manual_seed(number)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step()


def found(method: Method, views: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Loss and statistics, without a step."""
    with torch.no_grad():
        loss, statistics = method.loss(
            views, labels, method.sample_noise(len(labels), torch.Generator().manual_seed(0))
        )
    return {"loss": loss.item(), **{name: float(part / whole) for name, (part, whole) in statistics.items() if whole}}


def batches_of(
    path: Path, method: Method, settings: MethodConfig, epochs: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every mini-batch of so many epochs, in new views."""
    pictures = beton.Beton(path, threads=1)
    feed = ViewLoader(
        pictures, SHAPES, settings.augmentation, views=settings.views, batch_size=settings.batch_size, seed=0,  # type: ignore[union-attr]
        device="cpu",
    )  # fmt: skip
    labels = method.before_epoch(lambda: extract_features(method.backbone, pictures, SHAPES, "cpu"), 0)
    if labels is not None:
        feed.set_labels(labels.numpy())
    return [(batch.inputs[0].clone(), batch.labels) for epoch in range(epochs) for batch in feed.epoch(epoch)]


def shifted(views: torch.Tensor, count: int) -> torch.Tensor:
    """The same first views, each beside another image's second view."""
    return torch.cat((views[:count], views[count : 2 * count].roll(1, 0), views[2 * count :]))


@pytest.mark.parametrize("name", TRAINED)
def test_it_overfits_64_images(name: str, data: Path) -> None:
    """The same views again and again: what the method asks of them comes true, and of wrong partners it does not."""
    configure_backends(1)
    settings = small(name, batch_size=64)
    method = method_of(settings)
    ((views, labels),) = batches_of(data, method, settings, 1)
    if settings.kind == "infomax":  # which is slow
        views, labels = views[:16], labels[:16]
    before = found(method, views, labels)
    steps(method, [(views, labels)] * (25 if settings.kind == "infomax" else 80))
    after = found(method, views, labels)
    assert after["loss"] < before["loss"]
    if settings.kind == "infomax":
        assert after["accuracy"] > 0.65
    elif name == "dot":  # no logit is negative (docs/deviations.md), but a partner's must be the larger one
        assert after["loss"] < 0.5 * before["loss"]
        assert after["loss"] < found(method, shifted(views, 64), labels)["loss"]
    elif settings.kind == "byol":  # its accuracy is that of the representation, which a constant would lower
        assert after["loss"] < 0.3 * before["loss"]
        assert after["loss"] < 0.7 * found(method, shifted(views, 64), labels)["loss"]
    else:
        assert after["accuracy"] > 0.75
        assert after["accuracy"] > before["accuracy"] + 0.15


def coloured(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that fade from one colour at the top to another; a class is the strongest channel of each."""
    ends = np.random.default_rng(seed).uniform(0, 255, (count, 2, 3))
    down = np.linspace(0, 1, 32)[:, None, None]
    pictures = ends[:, 0, None, None] * (1 - down) + ends[:, 1, None, None] * down
    labels = ends.argmax(2)
    return np.broadcast_to(pictures, (count, 32, 32, 3)).astype(np.uint8), labels[:, 0] * 3 + labels[:, 1]


# Left out: deepcluster, whose question is another for other pictures; infomax, which is slow; dot, whose answers are no
# sign (docs/deviations.md); relational-10, for whose tenth of labels ten mini-batches of 640 pictures are too few.
LEFT_OUT = ("deepcluster", "infomax", "dot", "relational-10")


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in LEFT_OUT])
def test_what_it_learns_holds_for_pictures_it_has_not_seen(name: str, tmp_path: Path) -> None:
    """Its own question, on new pictures: better answers than before training."""
    configure_backends(1)
    beton.write(tmp_path / "train.beton", *coloured(640, 0), np.arange(640))
    beton.write(tmp_path / "test.beton", *coloured(64, 1), np.arange(64))
    settings = small(name, batch_size=64)
    method = method_of(settings)
    training = batches_of(tmp_path / "train.beton", method, settings, 10)
    ((views, truth),) = batches_of(tmp_path / "test.beton", method, settings, 1)
    before, before_wrong = (found(method, pairs, truth) for pairs in (views, shifted(views, 64)))
    steps(method, training)
    after, after_wrong = (found(method, pairs, truth) for pairs in (views, shifted(views, 64)))
    assert after["loss"] < before["loss"]
    if settings.views == 2:  # type: ignore[union-attr]
        assert after_wrong["loss"] - after["loss"] > 1.5 * (before_wrong["loss"] - before["loss"])
    else:
        assert after["accuracy"] > before["accuracy"] + 0.05


@pytest.mark.parametrize("name", TRAINED)
def test_the_step_of_a_gpu_is_one_graph_that_is_compiled_once_for_each_shape(name: str, data: Path) -> None:
    """On CPU tensors: no break that would wait for the host."""
    settings = small(name)
    method = method_of(settings)
    source = ViewLoader(
        beton.Beton(data, threads=1), SHAPES, settings.augmentation, views=settings.views, batch_size=24, seed=0,  # type: ignore[union-attr]
        device="cpu", augment_on_device=True,
    )  # fmt: skip
    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(
        partial(loop._forward, method, source.augment, "float32"), backend=counter, fullgraph=True, dynamic=False
    )
    shapes = set()
    for epoch in range(2):
        for batch in source.epoch(epoch, 0, 48 if method.drop_last else None):
            drawn = method.sample_noise(len(batch.labels), torch.Generator().manual_seed(0))
            loss, _ = step(batch.inputs, batch.labels.clamp(max=9), drawn)
            loss.backward()
            shapes.add(len(batch.labels))
    assert counter.frame_count == len(shapes) == (1 if method.drop_last else 2)


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


def test_a_loss_that_is_no_number_ends_the_run_and_says_where(data: Path, tmp_path: Path) -> None:
    settings = small("relational", learning_rate=1e25, loss="bce")
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 1 at step [23]: lower"):
        train(data, tmp_path / "run", settings)
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert not (tmp_path / "run/resume.pt").exists()  # no state was good


def test_the_last_good_state_stays_when_a_later_epoch_diverges(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU too, where the loss is read at the end of an epoch: the step is told all the same."""
    from rr.methods.relational import RelationalReasoning

    loss, calls = RelationalReasoning.loss, []

    def broken(self: RelationalReasoning, *arguments: object) -> object:
        calls.append(1)
        value, statistics = loss(self, *arguments)  # type: ignore[arg-type]
        return (value * float("nan") if len(calls) >= 5 else value), statistics  # epoch 2, step 2 of 3

    for reads_at_once in (True, False):
        place = tmp_path / str(reads_at_once)
        with monkeypatch.context() as patch:
            patch.setattr(RelationalReasoning, "loss", broken)
            if not reads_at_once:
                patch.setattr(loop, "loss_is_on_host", lambda loss: False)
            calls.clear()
            with pytest.raises(UserError, match=r"the loss is nan in epoch 2 at step 2: .*stays in .*resume.pt"):
                train(data, place, small("relational"))
        content = (place / "resume.pt").read_bytes()
        assert hashlib.sha256(content[32:]).digest() == content[:32]
        state = torch.load(io.BytesIO(content[32:]), weights_only=True)
        assert state["run"]["epoch"] == 1
        assert all(value.isfinite().all() for value in state["method"].values())
        assert train(data, place, small("relational")) == train(data, tmp_path / "whole", small("relational"))


def test_weights_that_are_not_finite_are_neither_saved_nor_written(data: Path, tmp_path: Path) -> None:
    """One step an epoch at an absurd rate: its loss is finite, what it leaves is not."""
    settings = small("supervised", learning_rate=1e39, batch_size=64, epochs=1)
    with pytest.raises(UserError, match="weights that are not finite"):
        train(data, tmp_path / "run", settings)
    assert not (tmp_path / "run/resume.pt").exists()
    assert not (tmp_path / "run/backbone.safetensors").exists()


@pytest.mark.parametrize("name", TRAINED)
def test_a_batch_of_one_is_refused(name: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"in batches of 1: .* needs two; raise batch_size"):
        train(data, tmp_path / "run", small(name, batch_size=1))


def test_a_share_of_the_labels_is_kept_by_class() -> None:
    from rr.data.labels import keep_label_fraction

    labels = np.repeat(np.arange(5), [100, 50, 20, 3, 1])
    for share in (0.01, 0.1, 0.5, 1.0):
        kept = keep_label_fraction(labels, share, seed=1)
        assert ((kept == labels) | (kept == -1)).all()
        counts = np.bincount(kept[kept >= 0], minlength=5)
        assert counts.tolist() == [max(1, round(share * n)) for n in (100, 50, 20, 3, 1)]
    assert (keep_label_fraction(labels, 0, seed=1) == -1).all()
    assert not np.array_equal(keep_label_fraction(labels, 0.1, 1), keep_label_fraction(labels, 0.1, 2))
    fewer, more = keep_label_fraction(labels, 0.1, 1), keep_label_fraction(labels, 0.5, 1)
    assert (more[fewer >= 0] >= 0).all()  # a larger share holds the smaller one
