"""Fuzz test with checkpoints: loading a damaged one restores the saved state completely or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from corruption import damage, rounds
from helpers import SMALL_PARAMS
from pydantic import TypeAdapter

from rr import backbones, methods
from rr.compute.optimizers import make_optimizer
from rr.params import MethodConfig
from rr.pretrain.checkpoint import TrainState, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow


def build_method(name: str, seed: int) -> tuple[Any, Any]:
    """Return a method with random weights, and the optimizer of the method."""
    torch.manual_seed(seed)
    config: Any = TypeAdapter(MethodConfig).validate_json(json.dumps(SMALL_PARAMS["methods"][name]))
    method = methods.build(config, backbones.build("conv4"), 10)
    return method, make_optimizer(config.optimizer, [(method.parameters(), config.learning_rate)])


def equal_tensors(actual: dict, expected: dict) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in actual.items())


@pytest.mark.parametrize("name", ["relational", "supervised"])
def test_damaged_checkpoint_is_restored_completely_or_ignored(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "resume.pt"
    method, optimizer = build_method(name, 0)
    sum(value.sum() for value in method.parameters()).backward()
    optimizer.step()
    state = TrainState(epoch=1, step=3, num_views=40, history=[{"epoch": 1.0, "loss": 0.5}], epoch_seconds=[1.0])
    save_checkpoint(path, "fingerprint", state, method, optimizer)
    intact, saved_weights = path.read_bytes(), method.state_dict()
    num_restored = 0
    for number, rng in rounds(f"resume {name}"):
        path.write_bytes(intact if number == 0 else damage(intact, rng))
        other, other_optimizer = build_method(name, 1)
        initial_weights = {key: value.clone() for key, value in other.state_dict().items()}
        restored = load_checkpoint(path, "fingerprint", other, other_optimizer, 2)
        if restored.epoch:
            assert vars(restored) == vars(state), f"round {number}"
        assert equal_tensors(other.state_dict(), saved_weights if restored.epoch else initial_weights), (
            f"round {number}"
        )
        num_restored += bool(restored.epoch)
    assert num_restored >= 1
