"""Tests of what the loop does with a user-defined method or backbone, even if it returns something unusual."""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
import torch.distributed as dist
from helpers import use_own_classes, write_own_classes, write_params
from torch import Tensor, nn

from rr import backbones
from rr.backbones.weights import save_backbone
from rr.compute.process_group import ProcessGroup
from rr.data.photograph_beton import open_split
from rr.errors import UserError
from rr.methods.base import Method, Metrics, check_loss_result, check_saved_layers
from rr.methods.initial_weights import load_initial_weights
from rr.methods.relation import RelationHead
from rr.params import load_params
from rr.params.methods import WeightsFile
from rr.paths import PretrainFolder, previous_checkpoint
from rr.pretrain import Job, loop, pretrain
from rr.pretrain.data_parallel import DataParallelMethod
from rr.pretrain.loop import Trainer
from rr.runtime.hashing import file_sha256

NUM_IMAGES = 40
CONFIG = golden.small_config("supervised", epochs=2, batch_size=20)
JOB = Job(golden.PARAMS.datasets["shapes"], "conv4", CONFIG, 10, 1, "float32", golden.NO_DYNAMICS, "test")


class Own(Method):
    """A method whose `accuracy` metric is a tensor that depends on the weights."""

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        loss = self.backbone(views).square().mean()
        return loss, {"accuracy": (loss, 1)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return golden.write_images(tmp_path / "train.beton", NUM_IMAGES)


def make_trainer(
    data: Path,
    method: Method,
    job: Job = JOB,
    group: ProcessGroup | None = None,
    parallel: DataParallelMethod | None = None,
) -> Trainer:
    beton = open_split(data, job.preprocessing, threads=1)
    return Trainer(job, method, beton, data.with_name("resume.pt"), "cpu", group or ProcessGroup(), parallel)


@pytest.fixture
def pretrain_own(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Method]], None]:
    """Return a function that trains the method that the given function builds."""

    def train(build: Callable[[Any], Method]) -> None:
        monkeypatch.setattr(loop.methods, "build", lambda config, backbone, *_: build(backbone))
        pretrain(JOB, data, PretrainFolder("shapes", "conv4", "own", 1, data.parent), device="cpu", threads=1)

    return train


def test_sums_of_metrics_do_not_keep_the_graphs_of_the_steps(data: Path) -> None:
    trainer = make_trainer(data, Own(backbones.build("conv4")))
    for batch in trainer.loader.iter_epoch(0):
        trainer.run_step(batch)
    assert trainer.state.step == 2
    assert not trainer.state.metric_sums["accuracy"].requires_grad


@pytest.mark.parametrize(
    ("part", "got"), [(torch.ones(1), r"shape \(1,\)"), ("0.5", "'0.5'"), ([1.0], r"\[1\.0\]"), (None, "None")]
)
def test_parts_of_metrics_that_are_not_numbers_raise(part: object, got: str) -> None:
    loss = torch.ones((), requires_grad=True)
    for fraction in ((part, 1), (1, part)):
        message = rf"mine:Mine: the numerator and denominator of accuracy must be .*, got {got}"
        with pytest.raises(UserError, match=message):
            check_loss_result("mine:Mine", (loss, {"accuracy": fraction}), ())


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (torch.zeros(NUM_IMAGES - 1, dtype=torch.int64), r"torch.int64 \(39,\) on cpu"),
        (torch.zeros(NUM_IMAGES), r"torch.float32 \(40,\) on cpu"),
        (torch.zeros(NUM_IMAGES, dtype=torch.int64, device="meta"), r"torch.int64 \(40,\) on meta"),
        ([0] * NUM_IMAGES, "list"),
    ],
)
def test_invalid_pseudo_labels_raise(
    pretrain_own: Callable[..., None], labels: object, got: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Own, "update_pseudo_labels", lambda *_: labels)
    message = rf"supervised: update_pseudo_labels must return None or a tensor, torch.int64 \(40,\) on cpu, got {got}$"
    with pytest.raises(UserError, match=message):
        pretrain_own(Own)


class Normalized(nn.Linear):
    """A linear layer that does more than nn.Linear."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.normalize(input))


@pytest.mark.parametrize(
    "layer", [nn.Linear(64, 10, bias=False), nn.Linear(64, 9), Normalized(64, 10), nn.Sequential(nn.Linear(64, 10))]
)
def test_classifier_that_cannot_be_evaluated_raises(
    pretrain_own: Callable[..., None], layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Own, "trained_classifier", layer)
    monkeypatch.setattr(Own, "loss", None)  # the training must not start
    message = (
        rf"supervised: trained_classifier must be None or nn.Linear\(64, 10\) with a bias, got {type(layer).__name__}"
    )
    with pytest.raises(UserError, match=message):
        pretrain_own(Own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": nn.LeakyReLU(0.2)}, r"must keep the layers .*slope=0.01.*, got Linear.*slope=0.2"),
        ({"activation": nn.ReLU()}, r"must keep the layers .*, got Linear.* ReLU\(\)"),
        ({"norm": nn.BatchNorm1d(256, eps=1e-3)}, r"must keep the layers .*eps=1e-05.*, got Linear.*eps=0.001"),
        ({"norm": nn.BatchNorm1d(256, affine=False)}, r"must keep the layers .*, got Linear.*affine=False"),
        ({"norm": nn.Identity()}, r"must keep the layers .*, got Linear.* Identity\(\)"),
        ({"linear": nn.Linear(64, 256)}, r"must .* of RelationHead\(64, 'cat', 256\) .*, got Linear\(in_features=64,"),
        ({"output": nn.Linear(256, 1, bias=False)}, r"must .* of RelationHead\(64, 'cat', 256\) .*, got .*bias=False"),
        ({"output": nn.Identity()}, r"must keep the layers .*, got Linear.* Identity\(\)"),
        (None, r"must be None or an rr.methods.relation.RelationHead, got Linear"),
    ],
)
def test_relation_head_that_cannot_be_evaluated_raises(
    pretrain_own: Callable[..., None],
    change: dict[str, nn.Module] | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = RelationHead(64) if change else nn.Linear(64, 1)
    for name, layer in (change or {}).items():
        setattr(head, name, layer)
    monkeypatch.setattr(Own, "relation_head", head)
    monkeypatch.setattr(Own, "loss", None)
    with pytest.raises(UserError, match=f"supervised: relation_head {message}"):
        pretrain_own(Own)


def test_check_of_saved_layers_uses_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "relation_head", RelationHead(64, "sum", 16))
    method = Own(backbones.build("conv4", 32))
    state = torch.get_rng_state()
    check_saved_layers("own", method, num_classes=10)
    assert torch.equal(torch.get_rng_state(), state)


def test_infinite_buffer_raises_before_training(
    pretrain_own: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(backbone: nn.Module) -> Method:
        backbone.register_buffer("mask", torch.tensor([0, -torch.inf]))
        return Own(backbone)  # type: ignore[arg-type]

    monkeypatch.setattr(Own, "loss", None)
    message = "supervised with conv4: backbone.mask contains NaN or infinity before the first step: .*persistent=False"
    with pytest.raises(UserError, match=message):
        pretrain_own(build)


def test_epoch_ends_when_the_device_has_completed_its_steps(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a value waits for the GPU."""
    now = 100.0

    class Pending:
        def __getitem__(self, position: int) -> float:
            nonlocal now
            now += 7.0
            return 2.0

    trainer = make_trainer(data, Own(backbones.build("conv4")))
    monkeypatch.setattr(loop.time, "monotonic", lambda: now)
    trainer.epoch_start = now
    trainer.state.metric_sums = {"finite": Pending(), "loss": torch.ones(2)}  # type: ignore[dict-item]
    trainer.finish_epoch()
    assert trainer.state.epoch_seconds == [7.0]


@pytest.mark.parametrize(
    ("bias", "message"), [(0.0, "in epoch 1 after step 0; saved "), (torch.nan, "in epoch 1 after step 0; nothing was")]
)
def test_message_about_a_signal_does_not_promise_a_checkpoint(
    data: Path, bias: float, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    method = Own(backbones.build("conv4"))
    trainer = make_trainer(data, method)
    with torch.no_grad():
        next(method.parameters()).fill_(bias)
    trainer.signals, trainer.epoch_start, trainer.last_checkpoint_time = [signal.SIGTERM], 0.0, 0.0
    with pytest.raises(SystemExit):
        trainer.save_if_due_and_exit_on_signal()
    assert capsys.readouterr().err.startswith(f"pretrain: stopping {message}")
    assert trainer.checkpoint.exists() == (bias == 0)


@pytest.fixture
def process_group() -> Iterator[None]:
    """Make this process the only one in a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Stop(Exception):
    """Raised instead of communicating."""


class StoppingGroup(ProcessGroup):
    """A process group whose `check_identical` raises Stop with its argument."""

    def check_identical(self, facts: dict[str, str]) -> None:
        raise Stop(facts)


@pytest.mark.usefixtures("process_group")
def test_processes_compare_both_checkpoints(data: Path) -> None:
    """Both files matter: if the newest checkpoint is damaged, the previous one is loaded."""
    checkpoint = data.with_name("resume.pt")
    previous_checkpoint(checkpoint).write_bytes(b"content")
    backbone = backbones.build("conv4")
    parallel = DataParallelMethod(ProcessGroup(), backbone)
    with pytest.raises(Stop) as raised:
        make_trainer(data, Own(backbone), group=StoppingGroup(world_size=2), parallel=parallel).restore()
    assert list(raised.value.args[0].values()) == ["", file_sha256(previous_checkpoint(checkpoint))]


OWN_METHOD = """
from rr.methods.base import Method
from rr.params import ExtensionConfig
from torch import nn

class Mine(Method):
    class Config(ExtensionConfig):
        pass

    def __init__(self, config, backbone):
        super().__init__(backbone)
        self.heads = nn.ModuleList([nn.Linear(64, 1), nn.Linear(64, 1)])
        self.steps = 0

    def loss(self, views, labels, random_inputs):
        self.steps += 1
        return self.heads[self.steps % 2](self.backbone(views)).mean(), {"accuracy": (0, 1)}
"""


def test_step_may_leave_parameters_out_in_several_processes(extensions: Path, data: Path, process_group: None) -> None:
    (extensions / "mine.py").write_text(OWN_METHOD)
    shared = {key: CONFIG.model_dump(mode="json")[key] for key in ("augmentation", "views", "batch_size", "epochs")}
    entry = {"kind": "mine:Mine", "learning_rate": 0.1, **shared}
    write_params(Path(), lambda params: params["methods"].update(mine=entry))
    config: Any = load_params(Path("params.yaml")).methods["mine"]
    backbone = backbones.build("conv4")
    parallel = DataParallelMethod(ProcessGroup(), backbone)
    method = loop.methods.build(config, backbone, 10)
    trainer = make_trainer(data, method, dataclasses.replace(JOB, method=config), parallel=parallel)
    for batch in trainer.loader.iter_epoch(0):
        trainer.run_step(batch)
    assert trainer.state.step == 2


def test_initial_weights_of_other_settings_raise(extensions: Path, tmp_path: Path) -> None:
    write_own_classes(extensions)
    write_params(Path(), use_own_classes)
    config = load_params(Path("params.yaml")).backbones["separable"]
    path = tmp_path / "w.safetensors"
    save_backbone(backbones.build("separable", 16, config), path)
    file = WeightsFile(path=str(path), sha256=file_sha256(path))
    load_initial_weights(file, backbones.build("separable", 16, config))
    wider = backbones.build("separable", 16, config.model_copy(update={"width": 16}))
    message = r"w.safetensors contains weights of separable with .*width=8.*, but params.yaml specifies .*width=16"
    with pytest.raises(UserError, match=message):
        load_initial_weights(file, wider)
