"""Test the Python interface of the gallery: load_backbone, embed, compare and Gallery."""

import copy
import dataclasses
import io
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from networks import random_backbone
from own_images import save_file, save_tree
from PIL import EpsImagePlugin, Image, ImageSequence
from torch.utils.data import DataLoader

import rr
from rr.backbones.weights import load_backbone, save_backbone
from rr.data.preprocessing import Preprocessing
from rr.gallery.compare import compare
from rr.gallery.feature_extractor import FeatureExtractor
from rr.gallery.retrieve import retrieve
from rr.runtime.hashing import file_sha256

SIZE, MEAN, STD = 16, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
LARGE = np.random.default_rng(1).integers(0, 256, (30, 21, 3), np.uint8)


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureExtractor:
    monkeypatch.chdir(tmp_path)
    save_backbone(random_backbone("conv4"), Path("w"), Preprocessing(SIZE, MEAN, STD))
    return rr.load_backbone("w")


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_backbone_has_image_size_mean_and_std(backbone: FeatureExtractor) -> None:
    assert (backbone.image_size, backbone.mean, backbone.std) == (SIZE, MEAN, STD)
    assert backbone.num_features == 64
    assert backbone.preprocessing == rr.Preprocessing(SIZE, MEAN, STD)
    photographs = rr.Preprocessing(SIZE, MEAN, STD, stored_size=20)
    assert rr.load_backbone("w", photographs).preprocessing == photographs


def test_network_is_frozen_until_it_is_finetuned(backbone: FeatureExtractor) -> None:
    modules, parameters = list(backbone.backbone.modules()), list(backbone.backbone.parameters())
    assert not any(module.training for module in modules)
    assert not any(parameter.requires_grad for parameter in parameters)
    backbone.backbone.train().requires_grad_()
    assert all(module.training for module in modules)
    assert all(parameter.requires_grad for parameter in parameters)


def test_wrapped_network_gives_the_features_of_its_backbone(backbone: FeatureExtractor, tmp_path: Path) -> None:
    wrapped = rr.wrap_network(backbone.backbone, rr.Preprocessing(SIZE, MEAN, STD))
    assert wrapped.num_features == 64
    np.testing.assert_array_equal(wrapped(PIXELS), backbone(PIXELS))
    assert rr.cosine_similarity(LARGE, PIXELS[0], wrapped) == rr.cosine_similarity(LARGE, PIXELS[0], backbone)
    save_tree(tmp_path / "g", {"a": 3})
    gallery = rr.Gallery("g", wrapped)
    np.testing.assert_array_equal(gallery.vectors, rr.Gallery("g", backbone).vectors)
    assert gallery.search("g/a/0.png", top=1)[0].image.name == "a/0.png"
    assert rr.embed("g", wrapped)["path"].to_pylist() == [image.name for image in gallery.images]
    with torch.no_grad():
        next(wrapped.backbone.parameters()).mul_(2)
    with pytest.raises(rr.UserError, match="the backbone has changed since the features"):
        gallery.search("g/a/0.png")
    for call in (lambda: rr.Gallery("g", wrapped, index="i.parquet"), lambda: rr.compare(LARGE, LARGE, wrapped)):
        with pytest.raises(ValueError, match=r"rr\.load_backbone has loaded from a file"):
            call()


def test_any_network_can_be_wrapped() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(3 * 64), torch.nn.Linear(3 * 64, 7))
    network[1].eval()  # frozen, in a network that is being trained
    extractor = rr.wrap_network(network, rr.Preprocessing(8, MEAN, STD))
    assert extractor.num_features == 7
    assert [module.training for module in network.modules()] == [True, True, False, True]
    with torch.inference_mode():
        inputs = (torch.from_numpy(PIXELS[:, :8, :8]).permute(0, 3, 1, 2).double() / 255).float()
        scaled = (inputs - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        expected = network.eval()(scaled).numpy()
    np.testing.assert_allclose(extractor(PIXELS[:, :8, :8]), expected, atol=1e-5)


class NetworkWithCache(torch.nn.Module):
    """A network that stores a tensor in its first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.cache: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            self.cache = torch.arange(3.0) + 1
        return self.scale * self.cache * images.mean((2, 3))


def test_wrapped_network_can_be_trained() -> None:
    network = NetworkWithCache()
    extractor = rr.wrap_network(network, rr.Preprocessing(SIZE, MEAN, STD))
    before = extractor(PIXELS)
    network(torch.ones(2, 3, SIZE, SIZE)).sum().backward()
    with torch.no_grad():
        network.scale.mul_(2)
    np.testing.assert_allclose(extractor(PIXELS), 2 * before, rtol=1e-6)


class FixedSizeNetwork(torch.nn.Conv2d):
    """A network that rejects images of other sizes, like the vision transformers of timm and torchvision."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != 224:
            raise AssertionError("expected 224 × 224")
        return super().forward(images)


def test_default_dtype_does_not_matter_for_wrapping() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE**2, 2))
    torch.set_default_dtype(torch.float64)
    try:
        assert rr.wrap_network(network, rr.Preprocessing(SIZE, MEAN, STD)).num_features == 2
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 4)),
            r"cannot process float32 images of shape \(2, 3",
        ),
        (torch.nn.Conv2d(3, 4, 3).half(), r"cannot process float32 images .*: use a float32 network"),
        (torch.nn.Conv2d(3, 4, 3), r"must have shape \(2, D\), got shape \(2, 4, 14, 14\)"),
        (
            FixedSizeNetwork(),
            r"\(AssertionError: expected 224 × 224\): use a float32 network that takes RGB images \(B, 3, S",
        ),
        (
            torch.nn.Bilinear(3, 3, 1),
            r"cannot process .* \(TypeError: .*RGB images \(B, 3, S, S\), and the image_size S",
        ),
        (torch.nn.Flatten(), "network must have parameters"),
        (lambda images: images, r"network must be a torch\.nn\.Module, got function"),
    ],
)
def test_network_that_cannot_be_wrapped_raises(network: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rr.wrap_network(network, rr.Preprocessing(SIZE, MEAN, STD))


def test_missing_preprocessing_can_be_passed(tmp_path: Path) -> None:
    save_backbone(random_backbone("conv4"), tmp_path / "bare")
    hint = r"lacks the image size, mean or std: pass preprocessing=rr.Preprocessing\(image_size, mean, std\)"
    with pytest.raises(rr.UserError, match=hint):
        rr.load_backbone(tmp_path / "bare")
    backbone = rr.load_backbone(tmp_path / "bare", preprocessing=rr.Preprocessing(SIZE, MEAN, STD))
    assert (backbone.image_size, backbone.mean, backbone.std) == (SIZE, MEAN, STD)


def assert_same_features(features: np.ndarray, expected: np.ndarray) -> None:
    """Compare features that are computed in batches of different sizes or memory layouts."""
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def features_of_file(backbone: FeatureExtractor, data: bytes) -> np.ndarray:
    return backbone.extract(np.stack([backbone.decode_and_resize(data)]))


def test_arrays_and_tensors_give_the_features_of_the_network(backbone: FeatureExtractor) -> None:
    with torch.inference_mode():
        normalized = (PIXELS / 255 - MEAN) / STD
        inputs = torch.from_numpy(normalized).permute(0, 3, 1, 2).float()
        expected = load_backbone(Path("w"))(inputs).numpy()
    floats = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255
    for images in (PIXELS, list(PIXELS), torch.from_numpy(PIXELS), floats, floats.double(), list(floats)):
        features = backbone(images)
        assert features.dtype == np.float32
        assert_same_features(features, expected)
    for single in (PIXELS[2], floats[2], Image.fromarray(PIXELS[2])):
        assert_same_features(backbone(single), expected[2:3])
    mixed = [floats[0], PIXELS[1], Image.fromarray(PIXELS[2]), floats[3].double(), floats[4]]
    assert_same_features(backbone(mixed), expected)


def test_images_that_are_not_square_are_center_cropped(backbone: FeatureExtractor) -> None:
    for axis, shape in ((1, (SIZE, 10, 3)), (0, (10, SIZE, 3))):
        image = np.concatenate([np.full(shape, 255, np.uint8), PIXELS[0], np.zeros(shape, np.uint8)], axis=axis)
        assert_same_features(backbone(image), backbone(PIXELS[:1]))


def test_features_do_not_depend_on_the_mode_of_the_network(backbone: FeatureExtractor) -> None:
    """During finetuning, the backbone is in train mode and may run under autocast."""
    expected, state = backbone(PIXELS), backbone.backbone.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    network = backbone.backbone.train()
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(backbone(PIXELS), expected)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def change_network(network: torch.nn.Module, change: str) -> None:
    """Change the weights, layers or type of a network in one of the ways that users do."""
    if change == "step":
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
        network(torch.rand(4, 3, 32, 32)).sum().backward()
        optimizer.step()
    elif change == "data":
        next(network.parameters()).data.mul_(1.01)
    elif change == "load":
        network.load_state_dict(random_backbone("conv4").state_dict())
    elif change == "layer":
        network.classifier = torch.nn.Linear(64, 3)
    else:
        network.double()


@pytest.mark.parametrize("change", ["step", "data", "load", "layer", "type"])
def test_finetuned_weights_are_not_used_with_an_index_or_the_relation_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tree(Path("g"), {"": 2})
    backbone = rr.load_backbone("conv4-cifar10-relational-k4")
    rr.Gallery("g", copy.deepcopy(backbone), index="i.parquet")
    network = backbone.backbone.requires_grad_()
    change_network(network, change)
    message = r"the weights of this backbone are no longer those in .*, so "
    with pytest.raises(rr.UserError, match=f"{message}their features cannot be stored: omit index"):
        rr.Gallery("g", backbone, index="i.parquet")
    with pytest.raises(rr.UserError, match=f"{message}the relation head does not belong to them"):
        rr.compare(PIXELS[0], PIXELS[1], backbone)


@pytest.mark.parametrize("change", ["step", "load", "layer", "type"])
def test_gallery_of_a_backbone_that_has_changed_cannot_be_searched(backbone: FeatureExtractor, change: str) -> None:
    save_tree(Path("g"), {"": 2})
    gallery = rr.Gallery("g", backbone)
    network = backbone.backbone.train().requires_grad_()
    assert len(gallery.search(PIXELS[0])) == 2  # train() and requires_grad_() do not change the features
    change_network(network, change)
    with pytest.raises(rr.UserError, match="the backbone has changed since the features of this gallery were computed"):
        gallery.search(PIXELS[0])


def test_backbone_for_another_image_size_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_backbone("conv4")
    network.image_size = 64
    monkeypatch.setattr("rr.gallery.feature_extractor.load_backbone", lambda path: network)
    with pytest.raises(
        rr.UserError, match=r"contains conv4 for images of 64 × 64 pixels, not of 32 × 32: use a dataset"
    ):
        rr.load_backbone("conv4-cifar10-simclr")
    assert rr.load_backbone("conv4-cifar10-simclr", rr.Preprocessing(64, (0.5,) * 3, (0.25,) * 3)).image_size == 64


def test_comparison_does_not_change_the_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random state belongs to all threads, so it must not even be reset for a moment."""
    backbone = rr.load_backbone("conv4-cifar10-relational-k4")
    monkeypatch.setattr(torch, "set_rng_state", pytest.fail)
    monkeypatch.setattr(torch, "set_default_dtype", pytest.fail)
    rr.compare(PIXELS[0], PIXELS[1], backbone)


def test_relative_path_after_a_change_of_the_folder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(rr.load_backbone("conv4-cifar10-relational-k4").weights, "w")
    backbone = rr.load_backbone("w")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(rr.UserError, match=r"^w does not exist: it was moved or deleted, or the current folder has"):
        rr.compare(PIXELS[0], PIXELS[1], backbone)


def test_postscript_is_never_interpreted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "evil.jpg").write_bytes(text)
    backbone = rr.load_backbone("conv4-cifar10-relational-k4")
    for image in (str(tmp_path / "evil.jpg"), Image.open(tmp_path / "evil.jpg")):
        with pytest.raises((rr.UserError, ValueError), match="its format is EPS; convert it to PNG or JPEG"):
            backbone(image)
    assert not (tmp_path / "started").exists()


def test_backbone_is_loaded_whatever_the_state_of_torch(backbone: FeatureExtractor) -> None:
    expected = backbone(PIXELS)
    torch.manual_seed(0)
    random_state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            loaded = rr.load_backbone("w")
        np.testing.assert_array_equal(loaded(PIXELS), expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), random_state)
    loaded.check_unchanged("")


def test_frames_and_lazily_opened_images_are_accepted(backbone: FeatureExtractor) -> None:
    frames = [Image.fromarray(np.roll(LARGE, shift)) for shift in range(0, 70, 7)]
    frames[0].save("a.tif", save_all=True, append_images=frames[1:])
    expected = backbone(frames)
    assert_same_features(backbone(ImageSequence.Iterator(Image.open("a.tif"))), expected)  # type: ignore[arg-type]
    assert_same_features(backbone([Image.open("a.tif")] * 20), expected[[0] * 20])


def test_images_of_other_sizes_are_resized_like_files(backbone: FeatureExtractor) -> None:
    save_file(Path("large.png"), png(Image.fromarray(LARGE)))
    expected = features_of_file(backbone, Path("large.png").read_bytes())
    for image in ("large.png", Path("large.png"), Image.fromarray(LARGE), LARGE, torch.from_numpy(LARGE)):
        assert_same_features(backbone(image), expected)
    assert_same_features(backbone([LARGE, "large.png"]), np.concatenate([expected, expected]))


def test_transparency_and_rotation_of_pil_images_are_applied(backbone: FeatureExtractor) -> None:
    transparent = Image.fromarray(np.dstack([LARGE, np.tile(np.arange(21, dtype=np.uint8) * 12, (30, 1))]))
    rotated = Image.fromarray(LARGE)
    rotated.getexif()[0x0112] = 6  # the orientation: a quarter turn
    for image in (transparent, rotated, Image.fromarray(LARGE).convert("P"), Image.fromarray(LARGE).convert("L")):
        expected = features_of_file(backbone, png(image, exif=image.getexif()))
        assert_same_features(backbone(image), expected)
    assert np.abs(backbone(rotated) - backbone(LARGE)).max() > 1e-3
    assert_same_features(
        backbone(Image.fromarray(LARGE).convert("CMYK")),
        backbone(Image.fromarray(LARGE).convert("CMYK").convert("RGB")),
    )
    for values in (LARGE[..., 0] / np.float32(255), LARGE[..., 0].astype(np.int32) * 257):
        with pytest.raises(ValueError, match=r"a PIL image of mode [FI] cannot be used: its values are"):
            backbone(Image.fromarray(values))


def test_photographs_are_cropped_as_in_evaluation(tmp_path: Path) -> None:
    preprocessing = Preprocessing(SIZE, MEAN, STD, stored_size=20)
    save_backbone(random_backbone("conv4"), tmp_path / "w", preprocessing)
    backbone = rr.load_backbone(tmp_path / "w")
    expected = features_of_file(backbone, png(Image.fromarray(LARGE)))
    assert_same_features(backbone(LARGE), expected)
    assert backbone(PIXELS).shape == (5, 64)


def test_no_images_give_no_rows(backbone: FeatureExtractor) -> None:
    assert backbone([]).shape == (0, 64)
    assert backbone(torch.empty(0, 3, SIZE, SIZE)).shape == (0, 64)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((1, 3, SIZE, SIZE), 1.5), r"values in \[0, 1\], got 1.5 to 1.5"),
        (torch.full((1, 3, SIZE, SIZE), torch.nan), r"values in \[0, 1\], got nan"),
        (torch.zeros(1, 3, 8, 8), r"shape \(B, 3, 16, 16\), got \(1, 3, 8, 8\)"),
        (np.zeros((1, SIZE, SIZE, 3)), r"uint8 \(H, W, 3\), got ndarray of float64 with shape \(16, 16, 3\)"),
        (np.zeros((1, 3, SIZE, SIZE), np.uint8), r"got ndarray of uint8 with shape \(3, 16, 16\)"),
        (np.zeros((0, 5, 3), np.uint8), r"got ndarray of uint8 with shape \(0, 5, 3\)"),
        (Image.new("RGB", (0, 9)), "^a PIL image of 0 × 9 pixels cannot be used: pass an image with pixels$"),
        ([PIXELS[0], Image.new("L", (9, 0))], "^a PIL image of 9 × 0 pixels cannot be used"),
        (np.zeros((9, 8), np.uint8), r"got ndarray of uint8 with shape \(9, 8\)"),
        (
            torch.zeros(3, 8, 9, dtype=torch.uint8),
            r"shape \(3, 8, 9\): move the channels to the end with permute\(1, 2, 0",
        ),
        (torch.zeros(2, 3, 8, 9, dtype=torch.uint8), r"or with permute\(0, 2, 3, 1\) for a batch"),
        (np.zeros((3, 8, 9), np.uint8), r"to the end with transpose\(1, 2, 0\), or with transpose\(0, 2, 3, 1\)"),
        ([torch.zeros(3, 8, 8)], r"must have shape \(3, 16, 16\), got \(3, 8, 8\): resize it, or pass uint8 pixels"),
        (
            [torch.zeros(2, 3, SIZE, SIZE), torch.zeros(2)],
            r"got \(2, 3, 16, 16\): pass a batch by itself, without labels",
        ),
        ([torch.full((3, SIZE, SIZE), 1.5)], r"values in \[0, 1\], got 1.5 to 1.5"),
        (
            [(PIXELS[0], 3), (PIXELS[1], 5)],
            r"got tuple: if the items are \(image, label\) pairs or batches from a DataL",
        ),
        ((PIXELS[0], 3), r"RGB pixels, uint8 \(H, W, 3\), got int$"),
        (5, r"RGB pixels, uint8 \(H, W, 3\), got int$"),
        ({"image": PIXELS[0]}, r"got dict: if the items are \(image, label\) pairs"),
        (
            DataLoader([(PIXELS[0], 3)]),
            r"got list: if the items are \(image, label\) pairs or batches from a DataLoader, ",
        ),
        (None, r"got None, which cv2\.imread returns for a file that it cannot read: check the path"),
        ([PIXELS[0], None], r"got None, which cv2\.imread returns"),
    ],
)
def test_wrong_images_raise(backbone: FeatureExtractor, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone(images)


def test_unreadable_file_raises(backbone: FeatureExtractor) -> None:
    save_file(Path("broken.png"), b"\x89PNG")
    for path in ("broken.png", "missing.png"):
        with pytest.raises(rr.UserError, match=path):
            backbone(path)
    Path("g").mkdir()
    for path, message in {
        "missing.png": r"^missing\.png does not exist: use the path of an image$",
        "broken.png/a.png": "does not exist: use the path of an image$",
        "g": r"^g is a folder: pass it to rr\.embed or rr\.Gallery, or pass the paths of its images$",
        "https://x.org/a.png": r"^https://x\.org/a\.png is a URL: download the files",
    }.items():
        with pytest.raises(rr.UserError, match=message):
            backbone([PIXELS[0], path])


def test_gallery_finds_the_same_image_first(backbone: FeatureExtractor) -> None:
    save_tree(Path("g"), {"": 2, "deep": 3})
    gallery = rr.Gallery("g", backbone)
    assert len(gallery) == 5
    assert [image.name for image in gallery.images] == ["0.png", "1.png", "deep/0.png", "deep/1.png", "deep/2.png"]
    assert_same_features(gallery.vectors, backbone([image.path for image in gallery.images]))
    hits = gallery.search("g/deep/1.png", top=3)
    assert [hit.rank for hit in hits] == [1, 2, 3]
    assert hits[0].image.name == "deep/1.png"
    assert hits[0].similarity == pytest.approx(1, abs=1e-6)
    similarity = rr.cosine_similarity("g/deep/1.png", hits[1].image.path, backbone)
    assert hits[1].similarity == pytest.approx(similarity, abs=1e-6)
    assert len(gallery.search("g/0.png", top=99)) == 5
    assert {path.name for path in Path().iterdir()} == {"g", "w"}  # nothing was written


def test_query_is_left_out_of_its_results_on_request(backbone: FeatureExtractor) -> None:
    save_tree(Path("g"), {"": 4})
    shutil.copy("g/2.png", "g/copy.png")
    Path("link.png").symlink_to("g/2.png")
    gallery = rr.Gallery("g", backbone)
    names = [hit.image.name for hit in gallery.search("g/2.png", top=5)]
    assert names[:2] == ["2.png", "copy.png"]
    for query in ("g/2.png", Path("link.png")):
        hits = gallery.search(query, top=5, include_query=False)
        assert [hit.image.name for hit in hits] == names[1:]
        assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    (hit,) = gallery.search("g/2.png", top=1, include_query=False)
    assert hit.image.name == "copy.png"
    with pytest.raises(ValueError, match="query must be a path if include_query is False, got ndarray"):
        gallery.search(PIXELS[0], include_query=False)


def test_search_gives_the_percentiles_of_retrieve(backbone: FeatureExtractor) -> None:
    """Five images form ten pairs, the smallest number for which percentiles are computed."""
    save_tree(Path("g"), {"": 5})
    gallery = rr.Gallery("g", backbone)
    pairs = [rr.cosine_similarity(a, b) for a, b in itertools.combinations(gallery.vectors, 2)]
    for hit in gallery.search(PIXELS[0], top=5):
        assert hit.percentile == 10 * sum(similarity < hit.similarity for similarity in pairs)
        assert hit.probability is None
    options = {"page_path": None, "index_path": None, "preprocessing": None, "on_unreadable": "raise", "device": "cpu"}
    text = retrieve([Path("g/1.png")], Path("g"), Path("w"), top=5, num_reranked=0, as_json=True, **options)
    (query,) = json.loads(text)["queries"]
    hits = gallery.search("g/1.png", top=5, include_query=False)
    assert [hit.percentile for hit in hits] == [hit["percentile"] for hit in query["hits"]]
    assert math.isnan(rr.Gallery(save_tree(Path("h"), {"": 4}), backbone).search(PIXELS[0])[0].percentile)


def test_gallery_keeps_its_features_in_an_index(backbone: FeatureExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tree(Path("g"), {"": 3})
    first = rr.Gallery("g", backbone, index="i.parquet")
    save_tree(Path("g"), {"new": 1})
    extracted: list[int] = []
    extract = FeatureExtractor.extract
    monkeypatch.setattr(
        FeatureExtractor, "extract", lambda self, images: (extracted.append(len(images)), extract(self, images))[1]
    )
    second = rr.Gallery("g", backbone, index="i.parquet")
    assert extracted == [1]
    np.testing.assert_array_equal(second.vectors[:3], first.vectors)


def test_threads_may_write_the_same_index(backbone: FeatureExtractor) -> None:
    save_tree(Path("g"), {"": 3})
    with ThreadPoolExecutor(4) as executor:
        galleries = list(executor.map(lambda _: rr.Gallery("g", backbone, index="i.parquet"), range(24)))
    for gallery in galleries:
        np.testing.assert_array_equal(gallery.vectors, galleries[0].vectors)
    assert {path.name for path in Path().iterdir()} == {"g", "w", "i.parquet"}


def test_unreadable_images_of_a_gallery_raise_or_are_skipped(backbone: FeatureExtractor) -> None:
    save_tree(Path("g"), {"": 2})
    save_file(Path("g/broken.png"), b"\x89PNG")
    with pytest.raises(rr.UserError, match=r'broken\.png(.|\n)*or pass on_unreadable="skip"'):
        rr.Gallery("g", backbone)
    save_file(Path("g/notes.txt"), b"text")
    save_file(Path("g/todo.md"), b"text")
    gallery = rr.Gallery("g", backbone, on_unreadable="skip")
    assert len(gallery) == 2
    assert gallery.skipped == {"an image that cannot be decoded": 1, "not an image": 2}
    save_file(Path("none/broken.png"), b"\x89PNG")
    for index in (None, "i.parquet"):
        with pytest.raises(rr.UserError, match="none of the images in none can be read: repair them or"):
            rr.Gallery("none", backbone, index=index, on_unreadable="skip")
    assert not Path("i.parquet").exists()


def test_wrong_files_for_embed_raise(backbone: FeatureExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder").mkdir()
    save_file(Path("a.png"), b"")
    Image.fromarray(PIXELS[0]).save("b.png")
    with pytest.raises(rr.UserError, match="folder is a folder: pass it by itself, or pass the paths of its images"):
        rr.embed(["a.png", "folder"], backbone)
    with pytest.raises(rr.UserError, match=r"x\.org/a\.png"):
        rr.embed(["https://x.org/a.png"], backbone)
    for images, kind in (([Image.fromarray(PIXELS[0])], "Image"), (5, "int"), (PIXELS, "ndarray")):
        with pytest.raises(ValueError, match=f"images must be paths, got {kind}: for images in memory, call the"):
            rr.embed(images, backbone)  # type: ignore[arg-type]
    monkeypatch.setattr(FeatureExtractor, "extract", lambda *_: pytest.fail("a gallery with a missing file"))
    with pytest.raises(rr.UserError, match=r"none\.png"):
        rr.embed(["none.png", *["b.png"] * 600], backbone)


def test_embed_returns_a_table(backbone: FeatureExtractor) -> None:
    save_tree(Path("g"), {"": 3})
    table = rr.embed("g", backbone)
    assert table["path"].to_pylist() == ["0.png", "1.png", "2.png"]
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), rr.Gallery("g", backbone).vectors)
    listed = rr.embed(["g/2.png", Path("g/0.png")], backbone)
    assert listed["path"].to_pylist() == ["g/2.png", "g/0.png"]
    assert_same_features(np.stack(listed["vector"].to_numpy()), backbone(["g/2.png", "g/0.png"]))
    name = os.fsdecode(b"g/\xff.png")  # not valid UTF-8
    os.rename("g/0.png", name)
    assert rr.embed([name], backbone)["path"].to_pylist() == ["g/\\xff.png"]
    assert rr.embed([], backbone).schema == listed.schema


def test_single_image_can_be_embedded(backbone: FeatureExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tree(Path("g"), {"": 1})
    monkeypatch.setenv("HOME", str(Path("g").absolute()))
    for path, name in (("g/0.png", "g/0.png"), (Path("g/0.png"), "g/0.png"), ("~/0.png", "~/0.png")):
        table = rr.embed(path, backbone)
        assert table["path"].to_pylist() == [name]
        np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), backbone(["g/0.png"]))
    with pytest.raises(rr.UserError, match=r"^none does not exist: use a folder of images, or the path of an image$"):
        rr.embed("none", backbone)
    with pytest.raises(rr.UserError, match="is a URL"):
        rr.embed("https://x.org/a.png", backbone)


def test_unreadable_images_of_a_list_raise_or_are_skipped(
    backbone: FeatureExtractor, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tree(Path("g"), {"": 20})
    save_file(Path("broken.png"), b"\x89PNG")
    files = ["g/3.png", "broken.png", *(f"g/{i}.png" for i in range(20)), "missing.png"]
    with pytest.raises(rr.UserError) as raised:
        rr.embed(files, backbone)
    first, *problems, hint = str(raised.value).splitlines()
    assert first == "2 images cannot be read:"
    assert [line.split(":")[0] for line in problems] == ["  broken.png", "  missing.png"]
    assert hint == 'use different images, or pass on_unreadable="skip"'
    assert capsys.readouterr().err == ""
    table = rr.embed(files, backbone, on_unreadable="skip")
    readable = [files[0], *files[2:-1]]
    assert table["path"].to_pylist() == readable
    assert_same_features(np.stack(table["vector"].to_numpy()), backbone(readable))
    skipped = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in skipped] == ["skipped broken.png", "skipped missing.png"]
    assert rr.embed(["missing.png"], backbone, on_unreadable="skip").num_rows == 0


def test_equal_features_of_all_images_cause_a_python_warning(
    backbone: FeatureExtractor, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tree(Path("g"), {"": 3})
    for value in backbone.backbone.state_dict().values():
        value.zero_()
    calls: list[Callable[[], object]] = [lambda: rr.Gallery("g", backbone), lambda: rr.embed("g", backbone)]
    for call in calls:
        with pytest.warns(UserWarning, match=r"^all 3 images have the same features: if the images differ") as warned:
            call()
        assert [warning.filename for warning in warned] == [__file__]
    assert "same features" not in capsys.readouterr().err


def test_cosine_similarity_matches_values_computed_by_hand(backbone: FeatureExtractor) -> None:
    assert rr.cosine_similarity(np.array([3, 4]), np.array([4, 3])) == pytest.approx(24 / 25)
    assert rr.cosine_similarity(np.array([[1.0, 0]]), np.array([-2.0, 0])) == -1
    assert rr.cosine_similarity(np.zeros(2), np.ones(2)) == 0
    first, second = backbone(PIXELS[:2])
    assert rr.cosine_similarity(PIXELS[0], PIXELS[1], backbone) == pytest.approx(rr.cosine_similarity(first, second))
    for arguments, got in (
        (("a.png", first), r"first must be .*, of shape \(D,\) or \(1, D\), because no backbone is given, got str: pa"),
        ((first, PIXELS[0]), r"second must be .* because no backbone is given, got shape \(16, 16, 3\): pass features"),
    ):
        with pytest.raises(ValueError, match=got):
            rr.cosine_similarity(*arguments)
    for arguments in ((PIXELS[:2], PIXELS[0], backbone), (backbone(PIXELS[:2]), first)):
        with pytest.raises(ValueError, match="first must be one image, got 2"):
            rr.cosine_similarity(*arguments)


def test_compare_gives_the_probability_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, pixels in zip(("a.png", "b.png"), PIXELS[:2], strict=True):
        Image.fromarray(pixels).save(name)
    backbone = rr.load_backbone("conv4-cifar10-relational-k4")
    probability = rr.compare("a.png", "b.png", backbone)
    text = compare(Path("a.png"), Path("b.png"), backbone.weights, preprocessing=None, device="cpu", as_json=True)
    assert json.loads(text)["probability"] == pytest.approx(probability, abs=1e-6)
    with pytest.raises(ValueError, match="second must be one image, got 2"):
        rr.compare("a.png", ["a.png", "b.png"], backbone)
    with pytest.raises(rr.UserError, match="has no relation head"):
        rr.compare("a.png", "b.png", rr.load_backbone("conv4-cifar10-simclr"))
    shutil.copy(backbone.weights, "mine")
    mine = rr.load_backbone("mine")
    with pytest.warns(UserWarning, match="the probability is not calibrated, because this folder contains no"):
        assert abs(rr.compare("a.png", "b.png", mine) - 0.5) < abs(probability - 0.5)
    shutil.copy(rr.load_backbone("conv4-cifar10-relational").weights, "mine")
    with pytest.raises(rr.UserError, match="mine has changed since the backbone was loaded: load it again"):
        rr.compare("a.png", "b.png", mine)


def test_comparison_notices_every_change_of_the_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is computed only once, but a file of the same size, with the same modification time, is noticed."""
    weights = tmp_path / "mine"
    shutil.copy(rr.load_backbone("conv4-cifar10-relational-k4").weights, weights)
    backbone = rr.load_backbone(weights)
    hashed: list[Path] = []
    monkeypatch.setattr(
        "rr.gallery.feature_extractor.file_sha256", lambda path: (hashed.append(path), file_sha256(path))[1]
    )
    with pytest.warns(UserWarning, match="not calibrated"):
        probabilities = [rr.compare(PIXELS[0], PIXELS[1], backbone) for _ in range(3)]
    assert probabilities == [probabilities[0]] * 3
    assert hashed == []
    before = weights.stat()
    shutil.copy(rr.load_backbone("conv4-cifar10-relational").weights, weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(rr.UserError, match="mine has changed since the backbone was loaded: load it again"):
        rr.compare(PIXELS[0], PIXELS[1], backbone)
    other = rr.load_backbone(weights)
    with pytest.warns(UserWarning, match="not calibrated"):
        assert rr.compare(PIXELS[0], PIXELS[1], other) != probabilities[0]
    with torch.no_grad():
        next(other.backbone.parameters()).data.mul_(2)  # does not change the version of the tensor
    with pytest.raises(rr.UserError, match="the weights of this backbone are no longer those in"):
        rr.compare(PIXELS[0], PIXELS[1], other)


def test_comparison_embeds_both_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = rr.load_backbone("conv4-cifar10-relational-k4")
    images = np.random.default_rng(2).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = rr.compare(images[0], images[1], backbone)
    sizes: list[int] = []
    extract = FeatureExtractor.extract
    monkeypatch.setattr(
        FeatureExtractor, "extract", lambda self, pixels: (sizes.append(len(pixels)), extract(self, pixels))[1]
    )
    floats = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    for first, second in (([images[0]], images[1:]), (Image.fromarray(images[0]), images[1]), (floats[0], floats[1:])):
        assert rr.compare(first, second, backbone) == pytest.approx(expected, abs=1e-5)  # type: ignore[arg-type]
    assert sizes == [2, 2]  # float images do not need `extract`


def test_search_rejects_several_queries_and_no_results(backbone: FeatureExtractor) -> None:
    save_tree(Path("g"), {"": 2})
    gallery = rr.Gallery("g", backbone)
    with pytest.raises(ValueError, match="query must be one image, got 2"):
        gallery.search(PIXELS[:2])
    for top in (0, 1.5, "2"):
        with pytest.raises(ValueError, match=f"top must be an integer and at least 1, got {top!r}"):
            gallery.search(PIXELS[0], top=top)
    for data in (b"x", bytearray(b"x"), [b"x"]):
        with pytest.raises(ValueError, match=r"got bytes: for an encoded image, pass PIL\.Image\.open\(io\.BytesIO"):
            gallery.search(data)


def test_unavailable_device_is_named_as_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(rr.UserError, match=r"^device cuda: torch found no GPU on this machine; use device cpu, or run"):
        rr.load_backbone("conv4-cifar10-relational", device="cuda")


def test_gallery_does_not_overwrite_a_file_that_is_not_an_index(backbone: FeatureExtractor) -> None:
    save_tree(Path("g"), {"": 2})
    pq.write_table(pa.table({"x": [1]}), "table.parquet")
    Path("notes.parquet").write_text("notes")
    for path in ("notes.parquet", "table.parquet"):
        before = Path(path).read_bytes()
        with pytest.raises(rr.UserError, match=f"index {path}: this file exists but was not written by rr"):
            rr.Gallery("g", backbone, index=path)
        assert Path(path).read_bytes() == before


def test_index_in_the_home_folder(backbone: FeatureExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tree(Path("g"), {"": 2})
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    rr.Gallery("g", backbone, index="~/i.parquet")
    assert Path("home/i.parquet").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, MEAN, STD), "image_size must be a positive integer, got 0"),
        ((32.0, MEAN, STD), "image_size must be a positive integer, got 32.0"),
        ((np.array(0.5), MEAN, STD), "image_size must be a positive integer, got array(0.5)"),
        ((32, MEAN, STD, -1), "stored_size must be a positive integer, got -1"),
        ((32, 0.5, STD), "mean must be three numbers in [0, 1], got 0.5"),
        ((32, MEAN[:2], STD), "mean must be three numbers in [0, 1], got"),
        ((32, (0.5, 0.5, math.nan), STD), "mean must be three numbers in [0, 1], got"),
        ((32, (125, 123, 114), STD), "mean must be three numbers in [0, 1], got (125, 123, 114)"),
        ((True, MEAN, STD), "image_size must be a positive integer, got True"),
        ((32, "111", STD), "mean must be three numbers in [0, 1], got '111'"),
        ((32, MEAN, (0.5, 0.0, 0.5)), "std must be three numbers in (0, 1], got"),
        ((32, MEAN, "abc"), "std must be three numbers in (0, 1], got 'abc'"),
    ],
)
def test_invalid_preprocessing_raises(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rr.Preprocessing(*arguments)


def test_preprocessing_accepts_arrays() -> None:
    preprocessing = rr.Preprocessing(np.int64(32), np.array(MEAN), list(STD))  # type: ignore[arg-type]
    assert preprocessing == rr.Preprocessing(32, MEAN, STD)


def test_statistics_of_another_scale_raise(backbone: FeatureExtractor) -> None:
    changed = dataclasses.replace(backbone, std=(63, 62, 67))
    for image in (LARGE, torch.zeros(3, SIZE, SIZE)):
        with pytest.raises(ValueError, match=r"std must be three numbers in \(0, 1\], got \(63, 62, 67\)"):
            changed(image)


def test_device_may_be_a_torch_device(backbone: FeatureExtractor) -> None:
    for device in (torch.device("cpu"), torch.device("cpu", 0)):
        assert rr.load_backbone("w", device=device).device == torch.device("cpu")


def test_arguments_of_a_wrong_type_raise(backbone: FeatureExtractor) -> None:
    save_tree(Path("g"), {"": 2})
    calls: list[Callable[[], object]] = [
        lambda: rr.Gallery("g", "w"),  # type: ignore[arg-type]
        lambda: rr.embed("g", "w"),  # type: ignore[arg-type]
        lambda: rr.compare(LARGE, LARGE, "w"),  # type: ignore[arg-type]
        lambda: rr.cosine_similarity(LARGE, LARGE, "w"),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"backbone must be the return value of rr\.load_backbone or rr\.wrap_network, got 'w'"
        ):
            call()
    with pytest.raises(ValueError, match='on_unreadable must be "raise" or "skip", got \'ignore\''):
        rr.Gallery("g", backbone, on_unreadable="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='on_unreadable must be "raise" or "skip", got \'ignore\''):
        rr.embed([], backbone, on_unreadable="ignore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"preprocessing must be an rr\.Preprocessing, got 32"):
        rr.load_backbone("w", 32)  # type: ignore[arg-type]


def test_cosine_similarity_of_large_and_small_features() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 64))
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    for a, b in ((1, 1), (1e-30, 1), (1e20, 1), (1e20, 1e20), (1e-200, 1e200)):
        assert rr.cosine_similarity(a * first, b * second) == pytest.approx(expected, rel=1e-12)
    assert rr.cosine_similarity(torch.from_numpy(first).bfloat16(), second) == pytest.approx(expected, abs=1e-2)
    for zero in (0 * first, np.zeros(64, np.float32), torch.zeros(64)):
        assert rr.cosine_similarity(zero, second) == 0
    assert rr.cosine_similarity(torch.from_numpy(1e200 * first), second) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="first and second have features of different sizes, 63 and 64: compute"):
        rr.cosine_similarity(first[1:], second)
    for bad in (first * np.nan, first * 1j, torch.from_numpy(first * 1j)):
        with pytest.raises(ValueError, match="the features in first must be real and finite"):
            rr.cosine_similarity(bad, second)
