"""The same parameters and seed give the same bits: for any loader, after any stop; and the losses of before."""

import json
from pathlib import Path

import golden
import pytest
from golden import small_config, train, write_images

from rr.data import beton
from rr.pretrain import loop

# How far sums in another order may lead, by epoch of four steps: relative differences of the mean loss, which grow from
# step to step. Measured between one and two threads, and between a processor's own kernels and those for the plainest
# one (SSE 4.1), the largest of any method: 5e-6, 2e-4, 7e-4, 1e-3, 8e-3.
TOLERANCES = (1e-4, 1e-3, 5e-3, 2e-2, 5e-2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("determinism") / "train.beton")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("determinism") / "few.beton", 60)


def files(outputs: golden.OutputPaths) -> tuple[bytes, bytes]:
    return outputs.weights.read_bytes(), outputs.history.read_bytes()


@pytest.mark.parametrize("name", golden.TRAINABLE)
def test_the_losses_of_twenty_steps_are_those_of_before(name: str, data: Path, tmp_path: Path) -> None:
    """`python tests/golden.py` writes them anew, where a change is meant to change them."""
    expected = json.loads(golden.GOLDEN_FILE.read_text())
    assert list(expected) == golden.TRAINABLE
    found = golden.epoch_losses(name, data, tmp_path)
    assert len(found) == len(TOLERANCES)
    for loss, before, tolerance in zip(found, expected[name], TOLERANCES, strict=True):
        assert loss == pytest.approx(before, rel=tolerance)


@pytest.mark.parametrize("name", ["relational", "deepcluster", "supervised", "byol"])
def test_a_run_that_stops_after_any_step_goes_on_to_the_same_bits(
    name: str, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs of three steps: inside each epoch, at each boundary, and after the last."""
    settings = small_config(name, epochs=3, batch_size=20)
    states: dict[tuple[int, int], bytes] = {}
    save = loop.save_checkpoint

    def keep(resume: Path, fingerprint: str, run: loop.TrainState, *rest: object) -> None:
        save(resume, fingerprint, run, *rest)
        states[run.epoch, run.step] = resume.read_bytes()

    with monkeypatch.context() as patched:
        patched.setattr(loop, "SECONDS_BETWEEN_SAVES", 0.0)
        patched.setattr(loop, "save_checkpoint", keep)
        undisturbed = files(train(few, tmp_path / "whole", settings))
    assert sorted(states) == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]
    for (epoch, step), state in states.items():
        place = tmp_path / f"{epoch}-{step}"
        place.mkdir()
        (place / "resume.pt").write_bytes(state)
        assert files(train(few, place, settings)) == undisturbed


@pytest.mark.parametrize("name", ["relational", "deepcluster"])
def test_any_loader_gives_the_same_bits(name: str, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split that is decoded once and kept needs none while it trains; one, two and four for one that is streamed.

    More workers than there are cores are as many as there are cores.
    """
    settings = small_config(name, epochs=2, batch_size=20)
    resident = files(train(few, tmp_path / "0", settings))
    original = beton.Beton.__init__

    def streamed(self: beton.Beton, path: Path, *, threads: int) -> None:
        original(self, path, threads=threads, max_resident_bytes=0)

    monkeypatch.setattr(beton.Beton, "__init__", streamed)
    for workers in (1, 2, 4):
        assert files(train(few, tmp_path / str(workers), settings, workers=workers)) == resident
