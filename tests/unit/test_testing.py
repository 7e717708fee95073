"""Test `rr.testing.check_method` on the methods of this project, on that of the guide, and on faulty ones."""

from pathlib import Path

import pytest
from helpers import SIMSIAM, write_params, write_simsiam

from rr.errors import UserError
from rr.testing import check_method

FAULTY = """
import numpy as np
import torch
from torch import nn
from rr.methods.base import Method
from rr.params import ExtensionConfig

class Mine(Method):
    class Config(ExtensionConfig):
        pass

    def __init__(self, config, backbone):
        super().__init__(backbone)
        self.steps = 0

    def after_step(self):
        self.steps += 1

    def loss(self, views, labels, random_inputs):
        features = self.backbone(views)
        loss = features.square().mean()
        metrics = {"accuracy": (loss.detach(), 1)}
        FAULT
        return loss, metrics
"""


@pytest.mark.slow
def test_method_of_the_guide_passes(extensions: Path) -> None:
    write_simsiam(extensions)
    write_params(Path(), lambda params: params["methods"].update(simsiam=SIMSIAM))
    check_method("simsiam")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["supervised", "relational"])
def test_methods_of_this_project_pass(project: Path, name: str) -> None:
    check_method(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loss = features.mean(0)", "the loss must be a single number, got shape"),
        ("loss = loss * torch.inf", "the loss is inf"),
        ("metrics = {}", "the metrics have no entry accuracy, only none at all"),
        ("loss = nn.Parameter(torch.ones(()))", "receives no gradient"),
        ("loss = loss * 0", "is zero"),
        ("loss = loss * (1 + np.random.rand())", "two trainings with the same seed differ"),
        ("loss = loss * (1 + self.steps)", "a training that was interrupted within an epoch gives another result"),
    ],
)
def test_faulty_methods_fail(extensions: Path, fault: str, message: str) -> None:
    (extensions / "mine.py").write_text(FAULTY.replace("FAULT", fault))
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")} | {"kind": "mine:Mine"}
    write_params(Path(), lambda params: params["methods"].update(mine=entry))
    with pytest.raises(AssertionError, match=message):
        check_method("mine")


def test_unknown_and_untrained_methods_raise(project: Path) -> None:
    with pytest.raises(UserError, match=r"params.yaml: methods: unknown 'simsiam'; known: random"):
        check_method("simsiam")
    with pytest.raises(UserError, match=r"params.yaml: methods.random is not trained"):
        check_method("random")
