"""Pixels: both implementations against torchvision's functional operations with the same parameters."""

import functools

import numba
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from rr.views import Augmentation, ViewParameters, cpu, draw, make_views, normalise, torch_ops

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
POLICIES = {
    "none": Augmentation(),
    "paper": Augmentation(crop="resized", flip=0.5, jitter=0.8, grayscale=0.2, **JITTER),
    "strong": Augmentation(crop="resized", jitter=1.0, brightness=2.0, contrast=2.0, saturation=2.0, hue=0.5),
    "brightness": Augmentation(jitter=1.0, brightness=0.8),
    "contrast": Augmentation(jitter=1.0, contrast=0.8),
    "saturation": Augmentation(jitter=1.0, saturation=0.8),
    "hue": Augmentation(jitter=1.0, hue=0.5),
    "supervised": Augmentation(crop="padded", flip=0.5),
    "finetune": Augmentation(
        flip=0.5, affine=0.5, degrees=18.0, translate=0.1, zoom=(0.9, 1.1), shear=10.0, erase=0.5, erase_area=0.25
    ),
    "everything": Augmentation(
        crop="resized", flip=0.5, jitter=0.8, grayscale=0.2, affine=0.5, degrees=40.0, translate=0.2, zoom=(0.5, 2.0),
        shear=10.0, erase=0.5, erase_area=0.1, **JITTER,
    ),
}  # fmt: skip
IMAGES, VIEWS = 8, 3


@pytest.fixture(autouse=True)
def one_torch_thread():
    """Small tensors and busy cores: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_images(side: int, count: int = IMAGES) -> np.ndarray:
    """Noise, the hardest case for a resize, and a few images with ties in hue, without colour, black and white."""
    images = np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    images[0] = 0
    images[1, ..., 0] = images[1, ..., 1]
    images[2] = images[2, ..., :1]
    images[3] = 255
    return images


def reference(image, parameters: ViewParameters, k: int, m: int, mean, std) -> torch.Tensor:
    """One view by torchvision, from a float tensor (3, S, S) or a PIL image."""
    p, side = parameters, parameters.side
    top, left, height, width = p.crop[k, m].tolist()
    if height == width == side:
        x = F.crop(image, top, left, side, side)
    else:
        antialias = isinstance(image, Image.Image)  # PIL has no choice
        x = F.resized_crop(image, top, left, height, width, [side, side], antialias=antialias)
    if p.flip[k, m]:
        x = F.hflip(x)
    if p.affine[k, m]:
        angle, across, down, zoom, shear = p.motion[k, m].tolist()
        bilinear, black = F.InterpolationMode.BILINEAR, [0.0, 0.0, 0.0]
        x = F.affine(x, angle, [int(across), int(down)], zoom, [shear, 0.0], interpolation=bilinear, fill=black)
    if p.jitter[k, m]:
        adjustments = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for code in p.order[k, m]:
            x = adjustments[code](x, float(p.factors[k, m, code]))
    if p.grayscale[k, m]:
        x = F.rgb_to_grayscale(x, 3)
    if isinstance(x, Image.Image):
        x = F.to_tensor(x)
    x = F.normalize(x, mean, std)
    top, left, height, width = p.erase[k, m].tolist()
    return F.erase(x, top, left, height, width, torch.zeros(1)) if height else x


@functools.cache
def case(policy: str, side: int, normalised: bool) -> tuple[np.ndarray, ViewParameters, tuple, torch.Tensor]:
    images = make_images(side)
    parameters = draw(POLICIES[policy], 3, 2, np.arange(IMAGES) * 1000, VIEWS, side)
    mean_std = (MEAN, STD) if normalised else PLAIN
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    expected = [reference(tensors[m], parameters, k, m, *mean_std) for k in range(VIEWS) for m in range(IMAGES)]
    return images, parameters, mean_std, torch.stack(expected)


def by_cpu(images, parameters, mean, std) -> torch.Tensor:
    views = cpu.apply(images, parameters, mean, std)
    assert views.shape == (VIEWS, IMAGES, parameters.side, parameters.side, 3)
    assert views.dtype == np.float32
    return torch.from_numpy(views).flatten(0, 1).permute(0, 3, 1, 2)


def by_batch(images, parameters, mean, std) -> torch.Tensor:
    views = torch_ops.apply(torch.from_numpy(images), parameters, mean, std)
    assert views.dtype == torch.float32
    assert views.is_contiguous(memory_format=torch.channels_last)
    return views


@pytest.mark.parametrize("apply", [by_cpu, by_batch])
@pytest.mark.parametrize("side", [32, 37, 64, 96])
@pytest.mark.parametrize("policy", POLICIES)
def test_as_torchvision_on_float_tensors(policy, side, apply):
    images, parameters, mean_std, expected = case(policy, side, normalised=False)
    tolerance = 3e-5 if policy == "strong" else 1e-5  # factors of 3 in a row multiply the rounding of the resize
    torch.testing.assert_close(apply(images, parameters, *mean_std), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("apply", [by_cpu, by_batch])
@pytest.mark.parametrize("side", [1, 2, 5, 32])
@pytest.mark.parametrize("policy", ["paper", "supervised", "finetune"])
def test_normalisation_and_tiny_sides(policy, side, apply):
    images, parameters, mean_std, expected = case(policy, side, normalised=True)
    torch.testing.assert_close(apply(images, parameters, *mean_std), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("side", [32, 64])
def test_distance_to_pil(side):
    """PIL rounds to bytes after every step; this is how far the official 8-bit path is away, in 1/255."""
    images, parameters, mean_std, _ = case("paper", side, normalised=False)
    pil = [Image.fromarray(image) for image in images]
    theirs = [reference(pil[m], parameters, k, m, *mean_std) for k in range(VIEWS) for m in range(IMAGES)]
    distance = (by_cpu(images, parameters, *mean_std) - torch.stack(theirs)).abs().numpy() * 255
    assert distance.mean() < 2
    assert np.percentile(distance, 99) < 12


def test_pil_does_not_antialias_these_crops():
    """PIL only antialiases when it shrinks, and a crop is at most as large as the view."""
    images = make_images(32)
    for top, left, height, width in [(0, 0, 32, 32), (0, 3, 32, 20), (5, 0, 9, 32), (1, 2, 3, 4)]:
        by_pil = F.resized_crop(Image.fromarray(images[4]), top, left, height, width, [32, 32])
        tensor = torch.from_numpy(images[4]).permute(2, 0, 1).float()
        ours = F.resized_crop(tensor, top, left, height, width, [32, 32], antialias=False)
        assert (F.pil_to_tensor(by_pil) - ours).abs().max() <= 1.01  # both of PIL's passes round


@pytest.mark.parametrize("policy", ["paper", "everything"])
def test_bit_identical_for_any_number_of_threads(policy, monkeypatch):
    images, parameters, mean_std, _ = case(policy, 32, normalised=True)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(numba, "get_num_threads", lambda threads=threads: threads)
        results.append(cpu.apply(images, parameters, *mean_std))
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


@pytest.mark.parametrize("device", ["cpu", "batched"])
def test_a_view_does_not_depend_on_its_batch(device, monkeypatch):
    images, index = make_images(32), np.arange(IMAGES) + 7
    options = {"augmentation": POLICIES["paper"], "seed": 1, "epoch": 5, "mean": MEAN, "std": STD, "device": "cpu"}

    def make(picks, views):
        if device == "cpu":
            made = make_views(images[picks], index[picks], views=views, **options)
        else:
            parameters = draw(POLICIES["paper"], 1, 5, index[picks], views, 32)
            made = torch_ops.apply(torch.from_numpy(images[picks]), parameters, MEAN, STD)
        return made.unflatten(0, (views, len(picks)))

    whole, part = make(np.arange(IMAGES), 4), make(np.array([6, 2]), 3)
    if device == "cpu":
        assert torch.equal(whole[:3, [6, 2]], part)
    else:
        torch.testing.assert_close(whole[:3, [6, 2]], part, rtol=0, atol=1e-5)


def test_out_is_written_and_returned():
    images, parameters, mean_std, _ = case("paper", 32, normalised=True)
    out = np.full((VIEWS, IMAGES, 32, 32, 3), np.nan, np.float32)
    assert cpu.apply(images, parameters, *mean_std, out=out) is out
    np.testing.assert_array_equal(out, cpu.apply(images, parameters, *mean_std))


def test_memory_is_reused_only_when_nothing_refers_to_it():
    images, index = make_images(16), np.arange(IMAGES)
    options = {"augmentation": POLICIES["paper"], "seed": 0, "views": 2, "mean": MEAN, "std": STD, "device": "cpu"}

    def make(epoch: int) -> torch.Tensor:
        return make_views(images, index, epoch=epoch, **options)

    first = make(0)
    place = first.data_ptr()
    part, copy = first[3:, :, 2], first[3:, :, 2].clone()
    del first
    kept = [make(epoch) for epoch in range(1, 6)]
    assert len({views.data_ptr() for views in kept} | {place}) == 6
    assert torch.equal(part, copy)
    place = kept.pop().data_ptr()
    assert make(6).data_ptr() == place


def test_inputs_are_left_alone():
    images = make_images(32)
    before = images.copy()
    make_views(
        images, np.arange(IMAGES), augmentation=POLICIES["everything"], seed=0, epoch=0, views=2, mean=MEAN, std=STD,
        device="cpu",
    )  # fmt: skip
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_make_views_and_normalise(as_tensor):
    images, index = make_images(16), np.arange(IMAGES)
    given = torch.from_numpy(images) if as_tensor else images
    positions = torch.from_numpy(index) if as_tensor else index
    options = {"seed": 0, "epoch": 0, "views": 3, "mean": MEAN, "std": STD, "device": "cpu"}
    views = make_views(given, positions, augmentation=Augmentation(), **options)
    assert views.shape == (3 * IMAGES, 3, 16, 16)
    assert views.dtype == torch.float32
    assert views.is_contiguous(memory_format=torch.channels_last)

    plain = normalise(given, MEAN, STD, "cpu")
    assert plain.shape == (IMAGES, 3, 16, 16)
    assert plain.is_contiguous(memory_format=torch.channels_last)
    expected = F.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, MEAN, STD)
    torch.testing.assert_close(plain, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(views, plain.repeat(3, 1, 1, 1), rtol=0, atol=2e-6)


def test_make_views_on_another_device_is_batched():
    """The meta device has no values, so this also shows that nothing depends on any."""
    views = make_views(
        make_images(16), np.arange(IMAGES), augmentation=POLICIES["everything"], seed=0, epoch=0, views=2, mean=MEAN,
        std=STD, device="meta",
    )  # fmt: skip
    assert views.device.type == "meta"
    assert views.shape == (2 * IMAGES, 3, 16, 16)
    assert views.is_contiguous(memory_format=torch.channels_last)


def test_empty_batch():
    images = np.zeros((0, 8, 8, 3), np.uint8)
    views = make_views(
        images, np.arange(0), augmentation=POLICIES["paper"], seed=0, epoch=0, views=2, mean=MEAN, std=STD, device="cpu"
    )
    assert views.shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.float32)}, "images must be uint8"),
        ({"images": torch.zeros(2, 8, 8, 3)}, "images must be uint8"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, "images must be square and of shape"),
        ({"images": np.zeros((2, 8, 9, 3), np.uint8)}, "images must be square and of shape"),
        ({"images": np.zeros((8, 8, 3), np.uint8)}, "images must be square and of shape"),
        ({"index": np.arange(3)}, "index must name each image once, got 3 for 2"),
        ({"views": 0}, "views must be"),
        ({"mean": (0.5, 0.5)}, "mean must be three finite numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be positive"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_arguments(change, message, device):
    good = {"images": np.zeros((2, 8, 8, 3), np.uint8), "index": np.arange(2), "views": 1, "mean": MEAN, "std": STD}
    arguments = {**good, **change}
    with pytest.raises(ValueError, match=message):
        make_views(**arguments, augmentation=Augmentation(), seed=0, epoch=0, device=device)


def test_parameters_and_out_must_fit():
    images, parameters = make_images(8), draw(Augmentation(), 0, 0, np.arange(IMAGES - 1), 1, 8)
    with pytest.raises(ValueError, match="parameters are for 7 images of side 8, images are 8 of side 8"):
        cpu.apply(images, parameters, MEAN, STD)
    with pytest.raises(ValueError, match="parameters are for 7 images"):
        torch_ops.apply(torch.from_numpy(images), parameters, MEAN, STD)
    with pytest.raises(ValueError, match="out must be C-contiguous float32 of shape"):
        cpu.apply(images[1:], parameters, MEAN, STD, out=np.empty((1, 7, 8, 8, 3)))
    with pytest.raises(ValueError, match="images must be square"):
        normalise(np.zeros((2, 8, 9, 3), np.uint8), MEAN, STD, "cpu")
