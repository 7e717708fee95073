"""A resume file that an accident has altered: the state that was saved, or none; never one in between."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from corruption import damage, rounds
from helpers import SMALL_PARAMS
from pydantic import TypeAdapter

from rr import backbones, methods
from rr.params import MethodConfig
from rr.pretrain.checkpoint import TrainState, load_checkpoint, save_checkpoint


def fresh(name: str, seed: int) -> tuple[Any, Any, Any]:
    torch.manual_seed(seed)
    settings: Any = TypeAdapter(MethodConfig).validate_json(json.dumps(SMALL_PARAMS["methods"][name]))
    method = methods.build(settings, backbones.build("conv4"), 10, 200)
    return method, *method.configure_optimizer(2)


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["relational", "supervised"])
def test_all_or_nothing(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "resume.pt"
    method, optimiser, schedule = fresh(name, 0)
    sum(value.sum() for value in method.parameters()).backward()
    optimiser.step()
    run = TrainState(epoch=1, step=3, num_views=40, history=[{"epoch": 1.0, "loss": 0.5}], epoch_seconds=[1.0])
    save_checkpoint(path, "this", run, method, optimiser, schedule)
    whole, saved = path.read_bytes(), method.state_dict()
    continued = 0
    for number, chance in rounds(f"resume {name}"):
        path.write_bytes(whole if number == 0 else damage(whole, chance))
        other, *rest = fresh(name, 1)
        begun = {key: value.clone() for key, value in other.state_dict().items()}
        found = load_checkpoint(path, "this", other, *rest)
        if found.epoch:
            assert vars(found) == vars(run), f"round {number}"
        assert equal(other.state_dict(), saved if found.epoch else begun), f"round {number}"
        continued += bool(found.epoch)
    assert continued >= 1
