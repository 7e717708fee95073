"""Tests for photograph betons: crops and evaluation images against torchvision, determinism, and the view loader."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PAPER_AUGMENTATION
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from rr.data import beton
from rr.data.image_decoding import crop_center
from rr.data.photograph_beton import PhotographBeton, open_split
from rr.data.preprocessing import Preprocessing
from rr.data.view_loader import ViewLoader
from rr.errors import UserError
from rr.evaluate.feature_extraction import extract_features
from rr.views import make_views, sample_view_parameters
from rr.views.augmentation import Augmentation
from rr.views.view_parameters_kernel import sample_resized_crop

SIZE, FIRST_ROW, SEED = 24, 100, 7
SHAPES = [(40, 60), (60, 40), (40, 40), (15, 90), (90, 15), (10, 12), (41, 53), (24, 24)]  # height, width
CROP = Augmentation(crop="resized")
SMALL_CROP = Augmentation(crop="resized", scale=(0.05, 0.1), ratio=(1.0, 1.5))
PAPER = Augmentation(**PAPER_AUGMENTATION)  # type: ignore[arg-type]
DATASET = Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), stored_size=64)


def make_images(smooth: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    if smooth:
        colors = [rng.integers(0, 256, (4, 4, 3), np.uint8) for _ in SHAPES]
        return [
            np.asarray(Image.fromarray(c).resize(shape[::-1], Image.Resampling.BICUBIC))
            for c, shape in zip(colors, SHAPES, strict=True)
        ]
    return [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]


def write(path: Path, images: list[np.ndarray], quality: int | str = "raw") -> Path:
    rows = np.arange(len(images))
    stored = (beton.encode_photograph(image, quality) for image in images)  # type: ignore[arg-type]
    beton.write_stored(path, stored, rows % 2, FIRST_ROW + rows, beton.max_photograph_bytes(64))
    return path


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> PhotographBeton:
    return PhotographBeton(write(tmp_path_factory.mktemp("x") / "train.beton", make_images()), SIZE, threads=2)


def collect(batches: object) -> np.ndarray:
    return np.concatenate([np.array(images) for images in batches])  # type: ignore[attr-defined]


def box_of(shape: tuple[int, int], index: int, epoch: int, view: int, policy: Augmentation = CROP) -> tuple[int, ...]:
    numbers = (np.uint64(value) for value in (SEED, epoch, index, view))
    return sample_resized_crop(*shape, policy.scale, policy.ratio, *numbers)


@pytest.mark.slow
def test_crops_are_those_of_torchvision(photographs: PhotographBeton) -> None:
    order = np.array([5, 0, 3, 4, 1, 2, 7, 6])
    crops = collect(photographs.random_crops(order, 3, (CROP, SMALL_CROP), SEED, 2**32 - 1, 4))
    assert crops.shape == (8, 4, SIZE, SIZE, 3)
    images = make_images()
    for row, position in enumerate(order):
        image = torch.from_numpy(images[position]).permute(2, 0, 1).float()
        for view in range(4):
            box = box_of(SHAPES[position], FIRST_ROW + position, 2**32 - 1, view, (CROP, SMALL_CROP)[view % 2])
            expected = F.resized_crop(image, *box, [SIZE, SIZE], antialias=True).permute(1, 2, 0).numpy()
            assert np.abs(crops[row, view] - expected).max() <= 0.5 + 1e-3


@pytest.mark.slow
def test_evaluation_images_are_those_of_torchvision(photographs: PhotographBeton) -> None:
    transform = v2.Compose([v2.Resize(27, antialias=True), v2.CenterCrop(SIZE)])  # 24 * 256 / 224 = 27.4
    images = collect(photographs.batches(range(8), 3))
    for image, result in zip(make_images(), images, strict=True):
        expected = transform(torch.from_numpy(image).permute(2, 0, 1).float()).permute(1, 2, 0).numpy()
        assert np.abs(result - expected).max() <= 0.5 + 1e-3
        assert np.abs(crop_center(image, 27, SIZE).astype(int) - result).max() <= 1  # the gallery's version


def test_images_are_centered_if_no_crops_are_taken(photographs: PhotographBeton) -> None:
    images = collect(photographs.center_crops(range(8), 8, SIZE))
    transform = v2.Compose([v2.Resize(SIZE, antialias=True), v2.CenterCrop(SIZE)])
    for image, result in zip(make_images(), images, strict=True):
        expected = transform(torch.from_numpy(image).permute(2, 0, 1).float()).permute(1, 2, 0).numpy()
        assert np.abs(result - expected).max() <= 0.5 + 1e-3
    assert np.array_equal(images[7], make_images()[7])  # unchanged, because this image already has the requested size


@pytest.mark.slow
def test_crops_depend_only_on_seed_epoch_image_and_view(photographs: PhotographBeton, tmp_path: Path) -> None:
    order = np.arange(8)
    crops = collect(photographs.random_crops(order, 8, (CROP,), SEED, 1, 3))
    shuffled = np.array([6, 1, 4])
    assert np.array_equal(collect(photographs.random_crops(shuffled, 2, (CROP,), SEED, 1, 3)), crops[shuffled])
    assert np.array_equal(collect(photographs.random_crops(order, 8, (CROP,), SEED, 1, 2)), crops[:, :2])
    other = PhotographBeton(photographs.path, SIZE, threads=1)
    assert np.array_equal(collect(other.random_crops(order, 5, (CROP,), SEED, 1, 3)), crops)
    for changed in (
        collect(photographs.random_crops(order, 8, (CROP,), SEED, 2, 3)),
        collect(photographs.random_crops(order, 8, (CROP,), SEED + 1, 1, 3)),
    ):
        assert (changed != crops).any(axis=(1, 2, 3, 4)).all()
    assert not np.array_equal(crops[:, 0], crops[:, 1])


@pytest.mark.slow
def test_jpeg_is_decoded(tmp_path: Path) -> None:
    images = make_images(smooth=True)
    exact = PhotographBeton(write(tmp_path / "raw", images), SIZE, threads=1)
    mixed = PhotographBeton(write(tmp_path / "jpeg", images, 95), SIZE, threads=2)
    modes = np.fromfile(mixed.path, beton._SAMPLE, 8, offset=beton._HEADER.itemsize + 3 * beton._FIELD.itemsize)
    assert set(modes["image"]["mode"]) == {0, 1}
    difference = collect(mixed.batches(range(8), 8)).astype(int) - collect(exact.batches(range(8), 8))
    assert 0 < np.abs(difference).mean() < 4


@pytest.mark.parametrize("on_device", [False, True])
def test_loader_augments_the_crops(photographs: PhotographBeton, on_device: bool) -> None:
    """A view is the crop with the color augmentation and flip that a square image with the same index would get."""
    loader = ViewLoader(
        photographs, DATASET, PAPER, num_views=3, batch_size=3, seed=SEED, device="cpu", augment_on_device=on_device
    )
    order, start = np.random.Generator(np.random.Philox(key=[SEED, 4])).permutation(8), 0
    uncropped = replace(PAPER, crop="none")
    for batch in loader.iter_epoch(4):
        positions = order[start : start + 3]
        start += len(positions)
        views = loader.augment(*batch.inputs)
        crops = collect(photographs.random_crops(positions, 3, (PAPER,), SEED, 4, 3))
        for view in range(3):
            expected = make_views(
                crops[:, view], FIRST_ROW + positions, augmentation=uncropped, seed=SEED, epoch=4, num_views=3,
                mean=DATASET.mean, std=DATASET.std, device="cpu",
            ).view(3, len(positions), 3, SIZE, SIZE)[view]  # fmt: skip
            result = views.view(3, len(positions), 3, SIZE, SIZE)[view]
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-4 if on_device else 0)
        assert torch.equal(batch.labels, torch.from_numpy(photographs.labels[positions]))
    assert start == 8


@pytest.mark.parametrize("augmentation", [Augmentation(crop="padded", flip=0.5), (CROP, Augmentation(crop="padded"))])
def test_loader_without_resized_crops_uses_centers(
    photographs: PhotographBeton, augmentation: Augmentation | tuple[Augmentation, ...]
) -> None:
    loader = ViewLoader(photographs, DATASET, augmentation, num_views=2, batch_size=8, seed=SEED, device="cpu")
    batch = next(loader.iter_batches(0, np.arange(8)))
    centers = collect(photographs.center_crops(range(8), 8, SIZE))
    expected = make_views(
        centers, photographs.index, augmentation=augmentation, seed=SEED, epoch=0, num_views=2, mean=DATASET.mean,
        std=DATASET.std, device="cpu",
    )  # fmt: skip
    assert torch.equal(batch.inputs[0], expected)


def test_processes_load_their_slices(photographs: PhotographBeton) -> None:
    def load(local_slice: object) -> torch.Tensor:
        loader = ViewLoader(
            photographs, DATASET, PAPER, num_views=2, batch_size=8, seed=SEED, device="cpu",
            local_slice=local_slice,  # type: ignore[arg-type]
        )  # fmt: skip
        return next(iter(loader.iter_epoch(0))).inputs[0].clone().view(2, -1, 3, SIZE, SIZE)

    parts = [load(lambda size, rank=rank: slice(rank * size // 2, (rank + 1) * size // 2)) for rank in (0, 1)]
    assert torch.equal(torch.cat(parts, 1), load(slice))


def test_as_single_views_keeps_the_order() -> None:
    parameters = sample_view_parameters(PAPER, 0, 0, np.arange(5), 3, SIZE)
    single = parameters.as_single_views()
    assert (single.num_views, single.num_images) == (1, 15)
    assert np.array_equal(single.jitter_factors[0, 5 * 2 + 4], parameters.jitter_factors[2, 4])
    assert np.array_equal(single.crop[0, 5 * 1 + 3], parameters.crop[1, 3])


def test_open_split_chooses_by_stored_size(photographs: PhotographBeton, tmp_path: Path) -> None:
    assert isinstance(open_split(photographs.path, DATASET, threads=1), PhotographBeton)
    beton.write(tmp_path / "x", np.zeros((2, SIZE, SIZE, 3), np.uint8), np.zeros(2, np.int64), np.arange(2))
    squares = open_split(tmp_path / "x", replace(DATASET, stored_size=None), threads=1)
    assert type(squares) is beton.Beton


def test_features_are_extracted(photographs: PhotographBeton) -> None:
    class Mean(torch.nn.Module):
        num_features = 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    features = extract_features(Mean(), photographs, DATASET, "cpu", np.array([2, 0]))  # type: ignore[arg-type]
    images = collect(photographs.batches([2, 0], 2)) / 255
    expected = (images.mean((1, 2)) - DATASET.mean) / DATASET.std
    assert features.numpy() == pytest.approx(expected, abs=1e-5)


def test_other_files_are_refused(photographs: PhotographBeton, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="differ in size"):
        beton.validate(photographs.path)
    content = photographs.path.read_bytes()
    start = beton._HEADER.itemsize + 3 * beton._FIELD.itemsize
    samples = np.frombuffer(content, beton._SAMPLE, 8, start).copy()

    def check(message: str) -> None:
        (tmp_path / "x").write_bytes(content[:start] + samples.tobytes() + content[start + samples.nbytes :])
        with pytest.raises(UserError, match=message):
            beton.validate(tmp_path / "x", photographs=True)

    for row, field, value, message in (
        (4, "mode", 2, "unknown mode"),
        (4, "width", 0, "no pixels"),
        (4, "height", 999, "does not match its number of bytes"),
        (4, "pointer", 0, "not in order"),
        (7, "pointer", 2**63, "outside the file"),
    ):
        before = samples.copy()
        samples["image"][field][row] = value
        check(message)
        samples = before
    samples["index"][4] = 3
    check("not in order")
    for field, value in (("mode", 0), ("height", 20_000), ("width", 20_000)):  # mode 0 is JPEG
        samples["image"][field][5] = value
    check("larger than its page allows")
    (tmp_path / "short").write_bytes(content[:-24])
    with pytest.raises(UserError, match="does not match its number of samples"):
        PhotographBeton(tmp_path / "short", SIZE, threads=1)
