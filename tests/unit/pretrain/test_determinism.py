"""Tests that a seed determines all results: with any loader, after any interruption, and as in earlier versions."""

import json
import shutil
from functools import partial
from pathlib import Path

import golden
import pytest
from golden import small_config, train, write_images
from helpers import call_after_checkpoints, interrupt_at

from rr.data import beton
from rr.methods.requirements import depends_on_num_epochs
from rr.params import DynamicsConfig
from rr.params.optimizers import LARSConfig, SmoothScheduleConfig
from rr.paths import PretrainFolder
from rr.pretrain import loop
from rr.pretrain.checkpoint import TrainState, finish_checkpoints
from rr.pretrain.loop import describe_changes
from rr.views.augmentation import Augmentation

# Relative tolerances for the mean loss of each epoch of four steps. A different order of summation changes the loss,
# and the difference grows with every step. The largest differences between one and two threads, and between the kernels
# for the processor of the measurement and those for the oldest one (SSE 4.1), are 5e-6, 2e-4, 7e-4, 1e-3 and 8e-3 over
# all methods.
TOLERANCES = (1e-4, 1e-3, 5e-3, 2e-2, 5e-2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("determinism") / "train.beton")


@pytest.fixture(scope="module")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("determinism") / "small.beton", 60)


def read_outputs(outputs: PretrainFolder) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in (outputs.weights, outputs.last_epoch, outputs.history))


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.TRAINABLE)
def test_losses_of_twenty_steps_equal_the_golden_file(name: str, data: Path, tmp_path: Path) -> None:
    """After a change that is supposed to change the losses, `python tests/golden.py` updates the file."""
    expected = json.loads(golden.GOLDEN_FILE.read_text())
    assert list(expected) == golden.TRAINABLE
    losses = golden.epoch_losses(name, data, tmp_path)
    assert len(losses) == len(TOLERANCES)
    for loss, golden_loss, tolerance in zip(losses, expected[name], TOLERANCES, strict=True):
        assert loss == pytest.approx(golden_loss, rel=tolerance)


# A recipe that differs from the paper's. It has every setting whose effect depends on the position in training, and is
# used with a backbone that has dropout.
RECIPE = {
    "optimizer": LARSConfig(kind="lars", momentum=0.9, weight_decay=1e-4, trust_coefficient=0.01),
    "schedule": SmoothScheduleConfig(kind="cosine", warmup_epochs=1), "momentum_schedule": "cosine",
    "second_augmentation": Augmentation(crop="resized", blur=0.5, solarize=0.5),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "backbone", "changes"),
    [
        *((name, "conv4", {}) for name in ("relational", "deepcluster", "supervised", "byol")),
        *(pytest.param(name, "conv4", {}, marks=pytest.mark.slow) for name in ("relational-10", "infomax", "barlow")),
        pytest.param("byol", "mobilenet_v3_small", RECIPE, marks=pytest.mark.slow),
    ],
)
def test_run_continues_from_any_checkpoint_to_identical_results(
    name: str, backbone: str, changes: dict, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoints are those of three epochs of three steps: within and after each epoch."""
    config = small_config(name, epochs=3, batch_size=20, **changes)
    dynamics = DynamicsConfig(every_n_epochs=2, images=60)
    train_measured = partial(train, small_data, config=config, dynamics=dynamics, backbone=backbone)
    checkpoints: dict[tuple[int, int], bytes] = {}

    def read_checkpoint(path: Path, state: TrainState) -> None:
        checkpoints[state.epoch, state.step] = path.read_bytes()

    with monkeypatch.context() as patch:
        call_after_checkpoints(patch, read_checkpoint)
        expected = read_outputs(train_measured(tmp_path / "uninterrupted"))
    assert sorted(checkpoints) == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]
    for (epoch, step), checkpoint in checkpoints.items():
        directory = tmp_path / f"{epoch}-{step}"
        directory.mkdir()
        (directory / "resume.pt").write_bytes(checkpoint)
        if (epoch, step) > (2, 0):
            (start,) = (tmp_path / "uninterrupted").glob("last_epoch.*.safetensors")
            shutil.copy(start, directory)
        assert read_outputs(train_measured(directory)) == expected


def test_interrupted_run_continues_after_a_run_with_other_settings(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config("relational", epochs=2, batch_size=20)
    expected = read_outputs(train(small_data, tmp_path / "uninterrupted", config))
    folder = tmp_path / "interrupted"

    def interrupt(path: Path, state: TrainState) -> None:
        if (state.epoch, state.step) == (1, 1):  # in the last epoch, which needs the state at its start
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        call_after_checkpoints(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(small_data, folder, config)
    capsys.readouterr()
    changed = config.model_copy(update={"learning_rate": 0.01})
    other = train(small_data, folder, changed, fingerprints=("other", ""))
    assert "have changed, so the earlier checkpoint is kept as" in capsys.readouterr().err
    assert read_outputs(other) == read_outputs(train(small_data, tmp_path / "other", changed))
    finish_checkpoints(other.checkpoint, "other", "")
    monkeypatch.setattr(loop, "describe_changes", lambda *_: "torch: 2, now 3")
    assert read_outputs(train(small_data, folder, config)) == expected
    output = capsys.readouterr().err
    assert "continuing in epoch 2 after step 1" in output
    assert "the result may differ slightly from that of an uninterrupted run (torch: 2, now 3)" in output


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("relational", "deepcluster") else pytest.mark.slow)
        for name in golden.TRAINABLE
        if not depends_on_num_epochs(golden.PARAMS.methods[name])
    ],
)
def test_finished_run_continues_with_more_epochs_to_identical_results(
    name: str, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train_epochs(folder: str, num_epochs: int) -> tuple[bytes, ...]:
        fingerprints = (f"{num_epochs}", name)
        config = small_config(name, epochs=num_epochs, batch_size=20)
        dynamics = DynamicsConfig(every_n_epochs=2, images=60)
        outputs = train(small_data, tmp_path / folder, config, dynamics=dynamics, fingerprints=fingerprints)
        files = read_outputs(outputs)
        finish_checkpoints(outputs.checkpoint, *fingerprints)
        assert [path.name for path in outputs.directory.glob("*.pt")] == [f"finished.{name[:16]}.pt"]
        return files

    expected = train_epochs("uninterrupted", 5)
    for num_epochs in (1, 2, 4):
        train_epochs("continued", num_epochs)
    capsys.readouterr()
    assert train_epochs("continued", 5) == expected
    assert ", from a run that differs only in its number of epochs" in (output := capsys.readouterr().err)
    assert output.endswith("pretrain: continuing in epoch 5 after step 0\n")
    # With the same number of epochs, or with fewer, the run is repeated from the beginning.
    assert train_epochs("continued", 5) == expected
    assert train_epochs("continued", 4)[2] == b"".join(expected[2].splitlines(keepends=True)[:5])
    assert "continuing" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("num_epochs", "continues", "position_of_the_next_run"),
    [
        (1, False, "epoch 2 after step 2"),
        (2, False, "epoch 3 after step 0"),
        (3, True, "epoch 4 after step 0"),
        (7, True, "epoch 2 after step 2"),
    ],
)
def test_unfinished_run_continues_with_another_number_of_epochs(
    num_epochs: int,
    continues: bool,
    position_of_the_next_run: str,
    small_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train_epochs(folder: str, num_epochs: int) -> tuple[bytes, ...]:
        config = small_config("relational", epochs=num_epochs, batch_size=20)
        fingerprints = (f"{num_epochs}", "without epochs")
        return read_outputs(train(small_data, tmp_path / folder, config, fingerprints=fingerprints))

    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, 2)  # after the start of the second epoch
        with pytest.raises(KeyboardInterrupt):
            train_epochs("interrupted", 5)
    expected = train_epochs("uninterrupted", num_epochs)
    capsys.readouterr()
    assert train_epochs("interrupted", num_epochs) == expected
    output = capsys.readouterr().err
    assert ("pretrain: continuing in epoch 2 after step 2\n" in output) == continues
    assert ("this run starts from the beginning" in output) != continues
    # The first run continues from its own checkpoint or from that of the second run, whichever is more advanced.
    assert train_epochs("interrupted", 5) == train_epochs("uninterrupted 5", 5)
    assert f"pretrain: continuing in {position_of_the_next_run}\n" in capsys.readouterr().err


def test_changed_packages_and_devices_are_reported() -> None:
    before = {
        "device": "H100",
        "processes": 2,
        "machine": {"processor": "EPYC", "versions": {"torch": "2", "numpy": "1"}},
    }
    now = {"device": "cpu", "processes": 2, "machine": {"processor": "EPYC", "versions": {"torch": "3", "numpy": "1"}}}
    assert describe_changes([before, now]) == "device: H100, now cpu; torch: 2, now 3"
    assert describe_changes([before, now, before, now]) == "device: H100, now cpu; torch: 2, now 3"
    assert describe_changes([now, now]) == describe_changes([{}, now]) == describe_changes([before]) == ""
    other_dvc = now | {"machine": {"processor": "EPYC", "versions": {"torch": "3", "numpy": "1", "dvc": "4"}}}
    assert describe_changes([other_dvc, now]) == ""  # DVC cannot affect a result


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relational", "deepcluster"])
def test_results_do_not_depend_on_the_loader(
    name: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A split in memory needs no workers. A streamed split has one, two or four (at most one per core)."""
    config = small_config(name, epochs=2, batch_size=20)
    resident = read_outputs(train(small_data, tmp_path / "0", config))
    original = beton.Beton.__init__

    def init_streamed(self: beton.Beton, path: Path, *, threads: int) -> None:
        original(self, path, threads=threads, max_resident_bytes=0)

    monkeypatch.setattr(beton.Beton, "__init__", init_streamed)
    for workers in (1, 2, 4):
        assert read_outputs(train(small_data, tmp_path / str(workers), config, workers=workers)) == resident
