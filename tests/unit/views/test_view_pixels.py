"""Tests of the pixels of views: both implementations against torchvision's functional operations."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from rr.views import Augmentation, ViewParameters, cpu_views, make_views, normalize, sample_view_parameters, torch_views
from rr.views.argument_checks import check_device
from rr.views.augmentation import blur_radius

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
NO_NORMALIZATION = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
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
    "all": Augmentation(
        crop="resized", flip=0.5, jitter=0.8, grayscale=0.2, affine=0.5, degrees=40.0, translate=0.2, zoom=(0.5, 2.0),
        shear=10.0, erase=0.5, erase_area=0.1, **JITTER,
    ),
    "filters": Augmentation(
        crop="resized", flip=0.5, jitter=0.8, grayscale=0.3, blur=0.7, solarize=0.5, erase=0.3, erase_area=0.1, **JITTER
    ),
    "blur": Augmentation(blur=1.0, blur_sigma=(0.3, 0.6)),
}  # fmt: skip
NUM_IMAGES, NUM_VIEWS = 8, 3

pytestmark = pytest.mark.usefixtures("single_torch_thread")


def make_images(size: int) -> np.ndarray:
    """Return noise, the hardest case for a resize. Four images are black, white, gray, and noise with equal R and G."""
    images = np.random.default_rng(size).integers(0, 256, (NUM_IMAGES, size, size, 3), dtype=np.uint8)
    images[0] = 0
    images[1, ..., 0] = images[1, ..., 1]
    images[2] = images[2, ..., :1]
    images[3] = 255
    return images


def torchvision_view(image, parameters: ViewParameters, k: int, m: int, mean, std) -> torch.Tensor:
    """Return view k of image m, computed by torchvision from a float tensor (3, S, S) or a PIL image."""
    p, size = parameters, parameters.image_size
    top, left, height, width = p.crop[k, m].tolist()
    if height == width == size:
        x = F.crop(image, top, left, size, size)
    else:
        antialias = isinstance(image, Image.Image)  # PIL always antialiases
        x = F.resized_crop(image, top, left, height, width, [size, size], antialias=antialias)
    if p.flip[k, m]:
        x = F.hflip(x)
    if p.affine[k, m]:
        angle, shift_x, shift_y, zoom, shear = p.affine_params[k, m].tolist()
        bilinear, black = F.InterpolationMode.BILINEAR, [0.0, 0.0, 0.0]
        x = F.affine(x, angle, [int(shift_x), int(shift_y)], zoom, [shear, 0.0], interpolation=bilinear, fill=black)
    if p.jitter[k, m]:
        adjustments = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for code in p.jitter_order[k, m]:
            x = adjustments[code](x, float(p.jitter_factors[k, m, code]))
    if p.grayscale[k, m]:
        x = F.rgb_to_grayscale(x, 3)
    if p.blur_sigma[k, m]:
        x = F.gaussian_blur(x, [2 * blur_radius(size) + 1] * 2, [float(p.blur_sigma[k, m])] * 2)
    if p.solarize[k, m]:
        x = F.solarize(x, 0.5)
    if isinstance(x, Image.Image):
        x = F.to_tensor(x)
    x = F.normalize(x, mean, std)
    top, left, height, width = p.erase[k, m].tolist()
    return F.erase(x, top, left, height, width, torch.zeros(1)) if height else x


@functools.cache
def make_case(policy: str, size: int, normalized: bool) -> tuple[np.ndarray, ViewParameters, tuple, torch.Tensor]:
    """Return images, parameters, (mean, std) and the expected views (K * M, 3, S, S)."""
    images = make_images(size)
    parameters = sample_view_parameters(POLICIES[policy], 3, 2, np.arange(NUM_IMAGES) * 1000, NUM_VIEWS, size)
    mean_std = (MEAN, STD) if normalized else NO_NORMALIZATION
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    expected = [
        torchvision_view(tensors[m], parameters, k, m, *mean_std) for k in range(NUM_VIEWS) for m in range(NUM_IMAGES)
    ]
    return images, parameters, mean_std, torch.stack(expected)


def augment_on_cpu(images, parameters, mean, std) -> torch.Tensor:
    views = cpu_views.augment(images, parameters, mean, std)
    assert views.shape == (NUM_VIEWS, NUM_IMAGES, parameters.image_size, parameters.image_size, 3)
    assert views.dtype == np.float32
    return torch.from_numpy(views).flatten(0, 1).permute(0, 3, 1, 2)


def augment_with_torch_views(images, parameters, mean, std) -> torch.Tensor:
    views = torch_views.augment(torch.from_numpy(images), parameters, mean, std)
    assert views.dtype == torch.float32
    assert views.is_contiguous(memory_format=torch.channels_last)
    return views


@pytest.mark.parametrize("augment", [augment_on_cpu, augment_with_torch_views])
@pytest.mark.parametrize("size", [32, 37, 64, 96])
@pytest.mark.parametrize("policy", POLICIES)
def test_views_equal_torchvision_on_float_tensors(policy, size, augment):
    images, parameters, mean_std, expected = make_case(policy, size, normalized=False)
    # torchvision computes the positions of the resize in float32, with different rounding on each processor type. At 96
    # pixels, the values then differ by up to 2.5e-5 (on an Intel Xeon), less than a hundredth of an 8-bit level.
    torch.testing.assert_close(augment(images, parameters, *mean_std), expected, rtol=0, atol=4e-5)


@pytest.mark.parametrize("augment", [augment_on_cpu, augment_with_torch_views])
@pytest.mark.parametrize("size", [1, 2, 5, 32])
@pytest.mark.parametrize("policy", ["paper", "supervised", "finetune", "filters"])
def test_normalized_views_of_small_images_equal_torchvision(policy, size, augment):
    images, parameters, mean_std, expected = make_case(policy, size, normalized=True)
    torch.testing.assert_close(augment(images, parameters, *mean_std), expected, rtol=0, atol=2e-5)


def test_views_use_the_policies_of_a_tuple_in_turn():
    images, indices = make_images(16), np.arange(NUM_IMAGES)
    options = {"seed": 4, "epoch": 1, "num_views": 5, "mean": MEAN, "std": STD, "device": "cpu"}
    policies = (POLICIES["paper"], POLICIES["filters"], POLICIES["none"])
    views = make_views(images, indices, augmentation=policies, **options)
    for k in range(5):
        expected = make_views(images, indices, augmentation=policies[k % 3], **options)
        assert torch.equal(views.unflatten(0, (5, -1))[k], expected.unflatten(0, (5, -1))[k])
    parameters = sample_view_parameters(policies, 4, 1, indices, 5, 16)
    torch.testing.assert_close(augment_with_torch_views(images, parameters, MEAN, STD), views, rtol=0, atol=2e-5)
    enabled = torch_views.EnabledOps.from_policies(policies)
    assert enabled == torch_views.EnabledOps(
        affine=False, jitter=True, hue=True, grayscale=True, blur=True, solarize=True, erase=True
    )


@pytest.mark.parametrize("size", [5, 32, 37])
def test_unfiltered_views_do_not_depend_on_the_filtered_ones_in_their_batch(size):
    """If a batch contains filtered views, all of its views are normalized in a second pass."""
    images, indices = make_images(size), np.arange(NUM_IMAGES)
    policy = dataclasses.replace(POLICIES["all"], blur=0.3, solarize=0.2)
    filtered, plain = (sample_view_parameters(p, 1, 0, indices, NUM_VIEWS, size) for p in (policy, POLICIES["all"]))
    unfiltered = (filtered.blur_sigma == 0) & ~filtered.solarize
    assert 0 < unfiltered.sum() < unfiltered.size
    actual, expected = (cpu_views.augment(images, parameters, MEAN, STD) for parameters in (filtered, plain))
    np.testing.assert_array_equal(actual[unfiltered], expected[unfiltered])


@pytest.mark.parametrize("size", [32, 64])
def test_difference_from_pil_is_small(size):
    """PIL, which the official code uses, rounds to bytes after every step. The limits are in units of 1/255."""
    images, parameters, mean_std, _ = make_case("paper", size, normalized=False)
    pil = [Image.fromarray(image) for image in images]
    expected = [
        torchvision_view(pil[m], parameters, k, m, *mean_std) for k in range(NUM_VIEWS) for m in range(NUM_IMAGES)
    ]
    difference = (augment_on_cpu(images, parameters, *mean_std) - torch.stack(expected)).numpy() * 255
    assert np.abs(difference).mean() < 2
    assert np.percentile(np.abs(difference), 99) < 12
    assert 0.5 < difference.mean() < 1.5  # PIL rounds down after most steps


def test_border_of_the_affine_map_fades():
    """In PIL, each pixel is either an interpolated value or black."""
    images = np.full((NUM_IMAGES, 32, 32, 3), 255, np.uint8)
    affine = Augmentation(affine=1.0, degrees=18.0, translate=0.1, shear=10.0)
    parameters = sample_view_parameters(affine, 3, 2, np.arange(NUM_IMAGES), NUM_VIEWS, 32)
    views = augment_on_cpu(images, parameters, *NO_NORMALIZATION)
    assert ((views > 0.1) & (views < 0.9)).float().mean() > 0.01


@pytest.mark.parametrize("policy", ["paper", "all", "filters"])
def test_bit_identical_for_any_number_of_threads(policy, monkeypatch):
    images, parameters, mean_std, _ = make_case(policy, 32, normalized=True)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(numba, "get_num_threads", lambda threads=threads: threads)
        results.append(cpu_views.augment(images, parameters, *mean_std))
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()


@pytest.mark.parametrize("implementation", ["cpu", "torch_views"])
def test_pixels_of_a_view_do_not_depend_on_its_batch(implementation):
    images, indices = make_images(32), np.arange(NUM_IMAGES) + 7
    options = {"augmentation": POLICIES["paper"], "seed": 1, "epoch": 5, "mean": MEAN, "std": STD, "device": "cpu"}

    def make(positions, num_views):
        if implementation == "cpu":
            views = make_views(images[positions], indices[positions], num_views=num_views, **options)
        else:
            parameters = sample_view_parameters(POLICIES["paper"], 1, 5, indices[positions], num_views, 32)
            views = torch_views.augment(torch.from_numpy(images[positions]), parameters, MEAN, STD)
        return views.unflatten(0, (num_views, len(positions)))

    batch, subset = make(np.arange(NUM_IMAGES), 4), make(np.array([6, 2]), 3)
    if implementation == "cpu":
        assert torch.equal(batch[:3, [6, 2]], subset)
    else:
        torch.testing.assert_close(batch[:3, [6, 2]], subset, rtol=0, atol=1e-5)


def test_out_is_written_and_returned():
    images, parameters, mean_std, _ = make_case("paper", 32, normalized=True)
    out = np.full((NUM_VIEWS, NUM_IMAGES, 32, 32, 3), np.nan, np.float32)
    assert cpu_views.augment(images, parameters, *mean_std, out=out) is out
    np.testing.assert_array_equal(out, cpu_views.augment(images, parameters, *mean_std))


def test_memory_of_views_is_reused_only_if_nothing_refers_to_it():
    images, indices = make_images(16), np.arange(NUM_IMAGES)
    options = {"augmentation": POLICIES["paper"], "seed": 0, "num_views": 2, "mean": MEAN, "std": STD, "device": "cpu"}

    def make(epoch: int) -> torch.Tensor:
        return make_views(images, indices, epoch=epoch, **options)

    first = make(0)
    address = first.data_ptr()
    part, part_copy = first[3:, :, 2], first[3:, :, 2].clone()
    del first
    later = [make(epoch) for epoch in range(1, 6)]
    assert len({views.data_ptr() for views in later} | {address}) == 6
    assert torch.equal(part, part_copy)
    address = later.pop().data_ptr()
    assert make(6).data_ptr() == address


def test_images_are_not_modified():
    images = make_images(32)
    original = images.copy()
    make_views(
        images, np.arange(NUM_IMAGES), augmentation=POLICIES["all"], seed=0, epoch=0, num_views=2, mean=MEAN,
        std=STD, device="cpu",
    )  # fmt: skip
    np.testing.assert_array_equal(images, original)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_make_views_without_augmentation_equals_normalize(as_tensor):
    images, indices = make_images(16), np.arange(NUM_IMAGES)
    inputs = (torch.from_numpy(images), torch.from_numpy(indices)) if as_tensor else (images, indices)
    options = {"seed": 0, "epoch": 0, "num_views": 3, "mean": MEAN, "std": STD, "device": "cpu"}
    views = make_views(*inputs, augmentation=Augmentation(), **options)
    assert views.shape == (3 * NUM_IMAGES, 3, 16, 16)
    assert views.dtype == torch.float32
    assert views.is_contiguous(memory_format=torch.channels_last)

    normalized = normalize(inputs[0], MEAN, STD, "cpu")
    assert normalized.shape == (NUM_IMAGES, 3, 16, 16)
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    expected = F.normalize(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, MEAN, STD)
    torch.testing.assert_close(normalized, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(views, normalized.repeat(3, 1, 1, 1), rtol=0, atol=2e-6)


def test_make_views_on_another_device_uses_torch_views():
    """Tensors on the meta device have no values, so the operations cannot depend on them."""
    views = make_views(
        make_images(16), np.arange(NUM_IMAGES), augmentation=POLICIES["all"], seed=0, epoch=0, num_views=2,
        mean=MEAN, std=STD, device="meta",
    )  # fmt: skip
    assert views.device.type == "meta"
    assert views.shape == (2 * NUM_IMAGES, 3, 16, 16)
    assert views.is_contiguous(memory_format=torch.channels_last)


def test_automatic_device_and_list_of_policies_are_accepted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    policies = (POLICIES["all"], POLICIES["paper"])
    check_device.cache_clear()
    first, second = (
        make_views(
            make_images(16), np.arange(NUM_IMAGES), augmentation=augmentation, seed=0, epoch=0, num_views=2,
            mean=MEAN, std=STD, device=device,
        ).clone()
        for augmentation, device in ((policies, "cpu"), (list(policies), "auto"))
    )  # fmt: skip
    assert torch.equal(first, second)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_views_are_on_the_device_of_the_images_by_default(device):
    images = make_images(8) if device == "cpu" else torch.zeros(NUM_IMAGES, 8, 8, 3, dtype=torch.uint8, device=device)
    options = {"augmentation": POLICIES["paper"], "seed": 0, "epoch": 0, "num_views": 2, "mean": MEAN, "std": STD}
    assert make_views(images, np.arange(NUM_IMAGES), **options).device.type == device


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device gpu: torch cannot use it; use auto, cpu, cuda or cuda:<number>"),
        ("mps", "device mps: torch cannot use it; use auto, cpu, cuda or cuda:<number>"),
        ("cuda:x", "device cuda:x: unknown device; use auto, cpu, cuda or cuda:<number>"),
        ("cuda", "device cuda: torch found no GPU on this machine; use device cpu"),
    ],
)
def test_invalid_device_raises(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device.cache_clear()
    with pytest.raises(ValueError, match=message):
        make_views(
            make_images(8), np.arange(NUM_IMAGES), augmentation=Augmentation(), seed=0, epoch=0, num_views=2,
            mean=MEAN, std=STD, device=device,
        )  # fmt: skip


def test_empty_batch_gives_empty_views():
    views = make_views(
        np.zeros((0, 8, 8, 3), np.uint8), np.arange(0), augmentation=POLICIES["paper"], seed=0, epoch=0, num_views=2,
        mean=MEAN, std=STD, device="cpu",
    )  # fmt: skip
    assert views.shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.float32)}, "images must be uint8"),
        ({"images": torch.zeros(2, 8, 8, 3)}, "images must be uint8"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, "images must be square and of shape"),
        ({"images": np.zeros((2, 8, 9, 3), np.uint8)}, "images must be square and of shape"),
        ({"images": np.zeros((8, 8, 3), np.uint8)}, "images must be square and of shape"),
        ({"image_indices": np.arange(3)}, r"image_indices must have shape \(2,\), one entry per image, got \(3,\)"),
        ({"image_indices": 3}, r"image_indices must have shape \(2,\), one entry per image, got \(\)"),
        ({"images": [np.zeros((8, 8, 3), np.uint8)]}, "images must be an array or a tensor, got list"),
        ({"num_views": 0}, "num_views must be"),
        ({"mean": (0.5, 0.5)}, r"mean must be three numbers in \[0, 1\], got \(0\.5, 0\.5\)"),
        ({"mean": (125, 123, 114)}, r"mean must be three numbers in \[0, 1\], got \(125, 123, 114\)"),
        ({"std": (0.5, 0.0, 0.5)}, r"std must be three numbers in \(0, 1\], got \(0\.5, 0\.0, 0\.5\)"),
        ({"std": (63, 62, 67)}, r"std must be three numbers in \(0, 1\], got \(63, 62, 67\)"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_invalid_argument_raises(change, message, device):
    valid = {"images": np.zeros((2, 8, 8, 3), np.uint8), "image_indices": np.arange(2), "num_views": 1}
    arguments = {**valid, "mean": MEAN, "std": STD, **change}
    with pytest.raises(ValueError, match=message):
        make_views(**arguments, augmentation=Augmentation(), seed=0, epoch=0, device=device)


def test_parameters_or_out_of_another_shape_raise():
    images, parameters = make_images(8), sample_view_parameters(Augmentation(), 0, 0, np.arange(NUM_IMAGES - 1), 1, 8)
    with pytest.raises(ValueError, match="parameters are for 7 images of size 8, but there are 8 images of size 8"):
        cpu_views.augment(images, parameters, MEAN, STD)
    with pytest.raises(ValueError, match="parameters are for 7 images"):
        torch_views.augment(torch.from_numpy(images), parameters, MEAN, STD)
    with pytest.raises(ValueError, match="out must be C-contiguous float32 of shape"):
        cpu_views.augment(images[1:], parameters, MEAN, STD, out=np.empty((1, 7, 8, 8, 3)))
    with pytest.raises(ValueError, match="images must be square"):
        normalize(np.zeros((2, 8, 9, 3), np.uint8), MEAN, STD, "cpu")
    with pytest.raises(ValueError, match="mean must be three numbers in"):
        normalize(images, (125, 123, 114), STD, "cpu")


HASH_VIEWS = """
import hashlib
import numpy as np
from rr.views import Augmentation, make_views

policy = Augmentation(crop="resized", flip=0.5, jitter=0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
digest = hashlib.sha256()
for size in (5, 32, 37):
    images = np.random.default_rng(size).integers(0, 256, (7, size, size, 3), np.uint8)
    views = make_views(
        images, np.arange(7), augmentation=policy, seed=1, epoch=0, num_views=5, mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3), device="cpu",
    )
    digest.update(views.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_process_that_compiles_the_kernel_gives_the_same_bits(tmp_path: Path) -> None:
    def hash_in_child() -> str:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", HASH_VIEWS]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert hash_in_child() == hash_in_child()
