"""Tests of loading backbone files."""

from pathlib import Path

import pytest

from rr import backbones
from rr.backbones.base import Backbone
from rr.backbones.weights import load_backbone, save_backbone


@pytest.mark.parametrize("frozen", [True, False])
def test_parameters_that_the_author_froze_stay_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    build = backbones.build

    def build_partly_frozen(*arguments: object) -> Backbone:
        network = build(*arguments)  # type: ignore[arg-type]
        network.blocks[0][1].bias.requires_grad_(False)  # type: ignore[union-attr, index, operator]
        return network

    monkeypatch.setattr(backbones, "build", build_partly_frozen)
    path = tmp_path / "backbone.safetensors"
    save_backbone(backbones.build("conv4"), path)
    trained = [name for name, value in load_backbone(path, frozen=frozen).named_parameters() if value.requires_grad]
    assert len(trained) == (0 if frozen else 11)
    assert "blocks.0.1.bias" not in trained
