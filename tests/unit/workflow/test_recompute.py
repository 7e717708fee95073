"""Tests of rerunning the last epoch of a run from the state that is saved before it."""

import signal
from dataclasses import replace
from pathlib import Path

import golden
import pytest
from golden import PARAMS, small_config, train
from safetensors.torch import load_file, save_file

from rr.data.view_loader import Batch
from rr.errors import UserError
from rr.params import DynamicsConfig, MethodConfig
from rr.paths import PretrainFolder
from rr.pretrain import Job
from rr.pretrain.loop import Trainer
from rr.workflow.recompute import RecomputedEpoch, find_difference, recompute_last_epoch

DYNAMICS = DynamicsConfig(every_n_epochs=1, images=60)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden.write_images(tmp_path_factory.mktemp("recompute") / "train.beton", 60)


def repeat(data: Path, outputs: PretrainFolder, config: MethodConfig, seed: int = 1) -> RecomputedEpoch:
    job = Job(PARAMS.datasets["shapes"], "conv4", config, 10, seed, "float32", DYNAMICS, "")
    return recompute_last_epoch(job, data, outputs, device="cpu", threads=1)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_missing_metric_of_an_earlier_epoch_is_not_a_difference() -> None:
    epoch = RecomputedEpoch({"loss": "0.5", "margin": ""}, {"loss": "0.5"}, equal_weights=True)
    assert find_difference(epoch, exact=True) is None
    assert epoch.is_identical
    assert find_difference(replace(epoch, recorded={"loss": "0.5", "margin": "1.0"}), exact=True)


@pytest.mark.parametrize("exact", [True, False])
def test_empty_accuracy_is_compared(exact: bool) -> None:
    """A method that counts no predictions writes an empty accuracy."""
    epoch = RecomputedEpoch({"loss": "0.5", "accuracy": ""}, {"loss": "0.5", "accuracy": ""}, equal_weights=True)
    assert find_difference(epoch, exact=exact) is None
    assert find_difference(replace(epoch, repeated={"loss": "0.5"}), exact=exact) is None
    other = replace(epoch, repeated={"loss": "0.5", "accuracy": "0.25"})
    assert find_difference(other, exact=exact) == "accuracy is 0.25 instead of empty"
    close = replace(epoch, repeated={"loss": "0.5001", "accuracy": ""})
    assert find_difference(close, exact=exact) == ("loss is 0.5001 instead of 0.5" if exact else None)


def test_interrupted_epoch_saves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config("simclr", epochs=2, batch_size=20)
    outputs = train(data, tmp_path / "run", config, dynamics=DYNAMICS)
    capsys.readouterr()
    original = Trainer.run_step

    def run_step(trainer: Trainer, batch: Batch) -> None:
        original(trainer, batch)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "run_step", run_step)
    with pytest.raises(SystemExit) as exit_info:
        repeat(data, outputs, config)
    assert exit_info.value.code == 128 + signal.SIGTERM
    assert "saved" not in capsys.readouterr().err


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("name", ["relational", "deepcluster", "supervised", "byol"])
def test_repeated_epoch_is_identical(name: str, epochs: int, data: Path, tmp_path: Path) -> None:
    config = small_config(name, epochs=epochs, batch_size=20)
    outputs = train(data, tmp_path / "run", config, dynamics=DYNAMICS)
    before = read_files(outputs.folder)
    epoch = repeat(data, outputs, config)
    assert epoch.repeated["epoch"] == str(epochs)
    assert epoch.repeated["views"] == str(epochs * 60 * config.views)  # counted from the first epoch
    assert epoch.repeated == epoch.recorded
    assert epoch.is_identical
    assert find_difference(epoch, exact=True) is None
    assert read_files(outputs.folder) == before


def test_changes_of_a_run_are_found(data: Path, tmp_path: Path) -> None:
    config = small_config("relational", epochs=2, batch_size=20)
    outputs = train(data, tmp_path / "run", config, dynamics=DYNAMICS)
    assert find_difference(repeat(data, outputs, config), exact=True) is None
    assert "loss is" in (find_difference(repeat(data, outputs, config, seed=2), exact=True) or "")

    weights = load_file(outputs.weights)
    metadata = {"rr": "{}"}
    next(iter(weights.values())).view(-1)[0] += 1
    original = outputs.weights.read_bytes()
    save_file(weights, outputs.weights, metadata)
    assert find_difference(repeat(data, outputs, config), exact=True) == "the weights differ"
    outputs.weights.write_bytes(original)

    start = load_file(outputs.last_epoch)
    moment = next(key for key in start if key.endswith("exp_avg"))
    start[moment] += 0.1
    save_file(start, outputs.last_epoch)
    assert find_difference(repeat(data, outputs, config), exact=True)


def test_tolerance_for_another_machine() -> None:
    recorded = {"epoch": "3", "loss": "0.5", "accuracy": "0.7", "information": "0.1"}
    epoch = RecomputedEpoch(recorded, recorded, equal_weights=False)
    assert find_difference(epoch, exact=False) is None
    assert find_difference(epoch, exact=True) == "the weights differ"
    for loss, accuracy, problem in (
        ("0.509", "0.7", None),
        ("0.511", "0.7", "loss is 0.511 instead of 0.5"),
        ("0.5", "0.719", None),
        ("0.5", "0.679", "accuracy is 0.679 instead of 0.7"),
    ):
        repeated = {**recorded, "loss": loss, "accuracy": accuracy, "information": "0.2"}
        assert find_difference(replace(epoch, repeated=repeated), exact=False) == problem


def test_continuing_in_the_last_epoch_requires_its_start(data: Path, tmp_path: Path) -> None:
    config = small_config("simclr", epochs=1, batch_size=20)
    train(data, tmp_path / "run", config)
    (start,) = (tmp_path / "run").glob("last_epoch.*.safetensors")
    start.unlink()
    with pytest.raises(UserError, match=rf"{start.name} is missing: delete .*resume.pt and .*previous.pt, and run"):
        train(data, tmp_path / "run", config)
