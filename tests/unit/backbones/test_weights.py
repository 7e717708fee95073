"""Tests of loading backbone files."""

import json
from pathlib import Path

import pytest
import torch
from networks import random_backbone
from safetensors.torch import load_file, save_file

from rr import backbones
from rr.backbones.base import Backbone
from rr.backbones.weights import load_backbone, load_classifier, read_metadata, save_backbone
from rr.errors import UserError


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


@pytest.mark.parametrize("dtype", [torch.int32, torch.float16])
def test_tensor_of_another_dtype_raises(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "w"
    save_backbone(random_backbone("conv4"), path, layers={"trained_classifier": torch.nn.Linear(64, 2)})
    tensors, metadata = load_file(path), {"rr": json.dumps(read_metadata(path))}
    for name, load in (("blocks.0.0.weight", load_backbone), ("trained_classifier.bias", load_classifier)):
        assert load(path)  # type: ignore[operator]
        save_file(tensors | {name: tensors[name].to(dtype)}, path, metadata)
        with pytest.raises(
            UserError, match=rf"w is damaged \({name} has the dtype {dtype} instead of torch\.float32\)"
        ):
            load(path)  # type: ignore[operator]
        save_file(tensors, path, metadata)


@pytest.mark.parametrize("entry", ["1", "null", "[]", '"backbone"'])
def test_metadata_that_is_not_an_object_raises(tmp_path: Path, entry: str) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "w", {"rr": entry})
    for load in (load_backbone, load_classifier, read_metadata):
        with pytest.raises(UserError, match="w is damaged \\(its metadata entry 'rr' is not a JSON object\\)"):
            load(tmp_path / "w")  # type: ignore[operator]
