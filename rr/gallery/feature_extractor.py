"""Extract features with a frozen backbone. The backbone and its preprocessing determine an image's vector."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from operator import call
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from safetensors.torch import load_file
from torch import nn

from rr.backbones.base import Backbone
from rr.backbones.weights import check_image_size, load_backbone, read_metadata
from rr.compute.device import resolve_device
from rr.data import image_decoding
from rr.data.image_decoding import UnreadableImageError, crop_center, decode_image, decode_photograph
from rr.data.preprocessing import Preprocessing, parse_preprocessing, shorter_side_before_crop
from rr.errors import UserError
from rr.evaluate.feature_extraction import batch_size_for
from rr.gallery.image_arguments import ImageLike, check_image_path, check_pixels, is_single_image
from rr.gallery.images import change_time, read_images
from rr.paths import expand_user
from rr.runtime.hashing import code_sha256, file_sha256
from rr.runtime.ordered_map import DECODING_THREADS, map_ordered
from rr.runtime.weights_lookup import find_weights
from rr.views import normalize
from rr.views.argument_checks import normalization_coefficients

# Batch limits: large enough to be fast, but small enough that the activations of a large backbone fit in memory.
_MAX_BATCH_PIXELS, _MAX_BATCH_IMAGES = 1 << 22, 512


@dataclass(frozen=True)
class FeatureExtractor:
    """A backbone and the preprocessing that it requires.

    Features are computed in eval mode and without autocast. While the backbone is in train mode, only one thread may
    call this object.

    Attributes:
        backbone: the backbone.
        weights: the file from which it was loaded; None for a network from `wrap_network`.
        sha256: SHA-256 of that file; empty without a file.
        image_size: height and width of the images in pixels.
        mean: mean of each channel, for values in [0, 1].
        std: standard deviation of each channel, for values in [0, 1].
        stored_size: the `stored_size` of the dataset if the backbone was trained on photographs, otherwise None. It
            determines how images are resized.
    """

    backbone: Backbone
    weights: Path | None
    sha256: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stored_size: int | None = None
    # Status of the weights file when its hash was last found to be `sha256`. An unchanged file is not hashed again.
    _hashed_status: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)

    def check_unchanged(self, reason: str) -> Path:
        """Check that the backbone still has the weights in its file, and return the path of the file.

        Args:
            reason: end of the error message if the weights of the backbone have changed.

        Raises:
            UserError: if the file is missing or has changed, or if the weights of the backbone have changed.
            ValueError: if the backbone was not loaded from a file.
        """
        if self.weights is None:
            raise ValueError(
                "compare and the index of a gallery need a backbone that rr.load_backbone has loaded from a file, but "
                "this one is from rr.wrap_network: for a gallery, omit index"
            )
        if not self.weights.is_file():
            raise UserError(
                f"{self.weights} does not exist: it was moved or deleted, or the current folder has changed, since the "
                "backbone was loaded: load it again"
            )
        status = _file_status(self.weights)
        if status != self._hashed_status:
            if file_sha256(self.weights) != self.sha256:
                raise UserError(f"{self.weights} has changed since the backbone was loaded: load it again")
            object.__setattr__(self, "_hashed_status", status)
        # The version of a tensor does not change if its `data` is modified, so the values are always compared.
        with torch.device("cpu"), torch.inference_mode(False):
            saved = load_file(self.weights)
        for name, value in self.backbone.state_dict().items():
            original = saved.get(name)
            if original is None or value.dtype != original.dtype or not torch.equal(value.cpu(), original):
                raise UserError(f"the weights of this backbone are no longer those in {self.weights}, so {reason}")
        return self.weights

    @property
    def version(self) -> list[tuple[int, int]]:
        """A value that changes if the weights are replaced, moved or modified in place, as by an optimizer."""
        return [(value.data_ptr(), value._version) for value in self.backbone.state_dict().values()]

    @property
    def metadata(self) -> dict[str, str]:
        """Everything that determines the vectors, in the form that an index stores."""
        photographs = {"stored_size": str(self.stored_size)} if self.stored_size else {}
        return photographs | {
            "weights": self.sha256,
            "backbone": self.backbone.name,
            "side": str(self.image_size),
            "mean": json.dumps(self.mean),
            "std": json.dumps(self.std),
            "decoding_code": code_sha256(Path(image_decoding.__file__)),
        }

    @property
    def num_features(self) -> int:
        """Length of a feature vector."""
        return self.backbone.num_features

    @property
    def preprocessing(self) -> Preprocessing:
        """The image size, mean, std and stored size, as `wrap_network` and `save_backbone` take them."""
        return Preprocessing(self.image_size, self.mean, self.std, self.stored_size)

    @property
    def device(self) -> torch.device:
        """Torch device of the backbone, on which the features are computed."""
        return next(self.backbone.parameters()).device

    @property
    def batch_size(self) -> int:
        """Number of images to decode at a time."""
        return max(1, min(_MAX_BATCH_IMAGES, _MAX_BATCH_PIXELS // self.image_size**2))

    def decode_and_resize(self, data: bytes | Image.Image) -> np.ndarray:
        """Decode and resize an encoded image, or resize a PIL image, as `rr evaluate` does.

        For a backbone that was trained on photographs, the pixels can differ slightly from those in `rr evaluate`,
        which crops the JPEG images that the beton contains. JPEG images that are given as bytes may be decoded at a
        reduced size, so a PIL image of the same file can also give slightly different pixels.

        Returns:
            The pixels, uint8 (image_size, image_size, 3).

        Raises:
            UnreadableImageError: if the image cannot be decoded.
        """
        if self.stored_size is None:
            return decode_image(data, self.image_size)
        photograph = decode_photograph(data, self.stored_size)
        return crop_center(photograph, shorter_side_before_crop(self.image_size), self.image_size)

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Return the features of one or more images.

        Images of any size are accepted, and are decoded, resized and normalized as in `rr evaluate`. Images that are
        not square are center-cropped, so only their central square is used. Only float tensors must already have the
        size `image_size`.

        Args:
            images: an image or a sequence of images. An image is a path, a PIL image, or the RGB pixels as an array or
                tensor, uint8 (H, W, 3), or as a float tensor (3, S, S) with S = image_size and values in [0, 1], like
                the images that torchvision's `ToTensor` returns. An array or tensor may also contain several images,
                uint8 (B, H, W, 3) or float (B, 3, S, S).

        Returns:
            The features, float32 (B, D). For a single image, B is 1.

        Raises:
            UserError: if a file does not exist or cannot be read, if a path is that of a folder, or if a feature is NaN
                or infinite.
            ValueError: if an image has another type, if an array or tensor has the wrong shape, type or range of
                values, or if a PIL image has no pixels or no defined range of values (modes I and F).
        """
        if isinstance(images, torch.Tensor) and images.is_floating_point():
            return self._extract_in_batches(images[None] if images.ndim == 3 else images, self._normalize_floats)
        sequence: Any = [images] if is_single_image(images) else images
        features = [np.empty((0, self.num_features), np.float32)]
        loaded = map_ordered(call, map(self._prepare_load, sequence), DECODING_THREADS)
        while batch := list(islice(loaded, self.batch_size)):
            for is_float, group in groupby(batch, torch.is_tensor):
                values: list[Any] = list(group)
                if is_float:
                    batch_B3SS = torch.stack([value.to(values[0].device, torch.float32) for value in values])
                    features.append(self._extract_in_batches(batch_B3SS, self._normalize_floats))
                else:
                    features.append(self.extract(np.stack(values)))
        return np.concatenate(features)

    def extract(self, images_BSS3: np.ndarray) -> np.ndarray:
        """Return the features of uint8 images, float32 (B, D), computed in the same way as in `rr evaluate`.

        Raises:
            UserError: if a feature is NaN or infinite.
        """
        return self._extract_in_batches(
            images_BSS3, partial(normalize, mean=self.mean, std=self.std, device=str(self.device))
        )

    def _extract_in_batches(self, images: Any, normalize_batch: Callable[[Any], torch.Tensor]) -> np.ndarray:
        batches = [np.empty((0, self.num_features), np.float32)]
        batch_size = batch_size_for(self.image_size, str(self.device))
        with self._evaluating():
            for start in range(0, len(images), batch_size):
                inputs = normalize_batch(images[start : start + batch_size])
                batches.append(self.backbone(inputs).float().cpu().numpy())
        features_BD = np.concatenate(batches)
        if not np.isfinite(features_BD).all():
            source = f"{self.weights}: " if self.weights else ""
            raise UserError(
                f"{source}the features of some images are NaN or infinite, so the weights are unusable: "
                f"{'download the file again, or ' if self.weights else ''}retrain the backbone"
            )
        return features_BD

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Put the backbone into eval mode, without gradients and autocast, and restore each module's mode afterward."""
        training = [module for module in self.backbone.modules() if module.training]  # not empty during finetuning
        self.backbone.eval()
        try:
            # Inference mode is not used, because later training could not use a tensor that the network stored in it.
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            for module in training:
                module.training = True

    def _prepare_load(self, image: ImageLike) -> Callable[[], np.ndarray | torch.Tensor]:
        """Return a function that loads an image and can be called from another thread.

        Images that Pillow reads from a file are loaded now, because they are not thread-safe, and because an iterator
        over frames yields the same object every time.
        """
        if isinstance(image, ImageFile):
            pixels = self._load(image)
            return lambda: pixels
        return partial(self._load, image)

    def _load(self, image: ImageLike) -> np.ndarray | torch.Tensor:
        """Return the pixels of an image, resized, uint8 (image_size, image_size, 3).

        A float tensor is returned as it is, (3, image_size, image_size).
        """
        if isinstance(image, (str, os.PathLike)):
            path = expand_user(image)
            check_image_path(path)
            return read_images([path], self.decode_and_resize)[0]
        if isinstance(image, torch.Tensor) and image.is_floating_point():
            shape = (3, self.image_size, self.image_size)
            if tuple(image.shape) != shape:
                remedy = (
                    "pass a batch by itself, without labels" if image.ndim == 4 else "resize it, or pass uint8 pixels"
                )
                raise ValueError(f"a float image must have shape {shape}, got {tuple(image.shape)}: {remedy}")
            return image
        if not isinstance(image, Image.Image):
            pixels = check_pixels(image, self.image_size)
            if self.stored_size is None and pixels.shape[:2] == (self.image_size, self.image_size):
                return pixels
            image = Image.fromarray(pixels)
        if 0 in image.size:
            raise ValueError(
                f"a PIL image of {image.width} × {image.height} pixels cannot be used: pass an image with pixels"
            )
        try:
            return self.decode_and_resize(image)
        except UnreadableImageError as error:
            raise ValueError(f"a PIL image of mode {image.mode} cannot be used: {error}") from error

    def _normalize_floats(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        shape = (3, self.image_size, self.image_size)
        if tuple(images_B3SS.shape[1:]) != shape:
            raise ValueError(
                f"float images must have shape (B, {', '.join(map(str, shape))}), got {tuple(images_B3SS.shape)}"
            )
        images_B3SS = images_B3SS.to(self.device, torch.float32)
        lowest, highest = images_B3SS.aminmax()
        if not (lowest >= 0 and highest <= 1):
            raise ValueError(
                f"float images must have values in [0, 1], got {lowest:.3g} to {highest:.3g}: if the images are "
                "already normalized, call `.backbone` directly"
            )
        scale, offset = (
            torch.from_numpy(values).to(self.device).view(3, 1, 1)
            for values in normalization_coefficients(self.mean, self.std)
        )
        return images_B3SS * scale + offset


def load_feature_extractor(
    weights: str | os.PathLike[str],
    preprocessing: Preprocessing | None = None,
    device: str = "auto",
    hint: str = "add --dataset NAME to take them from a dataset in params.yaml, or pass --mean and --std to rr import",
) -> FeatureExtractor:
    """Load a backbone file, with the preprocessing stored in it.

    Args:
        weights: the file, or a name that `rr.load_backbone` accepts.
        preprocessing: preprocessing to use instead of the one in the file.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:<number>".
        hint: end of the error message for metadata that lacks a valid image size, mean or std. The default is meant for
            users of the command line.

    Raises:
        UserError: if the file is not a valid backbone file, if `preprocessing` is None and the metadata lacks a valid
            image size, mean or std, if the backbone was built for another image size, or if the device does not exist.
        ValueError: if `preprocessing` is neither None nor an `rr.Preprocessing`.
    """
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"preprocessing must be an rr.Preprocessing, got {preprocessing!r}")
    weights, device = find_weights(weights), resolve_device(device)
    with default_torch_state():
        backbone = load_backbone(weights).to(device)
    if preprocessing is None:
        try:
            preprocessing = parse_preprocessing(read_metadata(weights))
        except ValueError as error:
            raise UserError(f"{weights}: {error}: {hint}") from error
        if preprocessing is None:
            raise UserError(f"{weights}: its metadata lacks the image size, mean or std: {hint}")
    check_image_size(backbone, preprocessing.image_size, weights)
    status = _file_status(weights)
    extractor = FeatureExtractor(backbone, weights, file_sha256(weights), **vars(preprocessing))
    object.__setattr__(extractor, "_hashed_status", status)
    return extractor


def wrap_network(network: nn.Module, preprocessing: Preprocessing) -> FeatureExtractor:
    """Return a feature extractor for a network that you have built or trained yourself.

    It can be used like the return value of `load_backbone`, except for `Gallery(index=…)` and `compare`, which need a
    weights file. If you continue to train the network, the features change accordingly.

    Args:
        network: a network that maps normalized images, float32 (B, 3, S, S), to features (B, D), on any device.
        preprocessing: the image size S, and the mean and std with which images are normalized.

    Raises:
        ValueError: if an argument has the wrong type, if the network has no parameters or cannot process images of this
            shape and type, or if its output does not have the shape (B, D).
    """
    if not isinstance(network, nn.Module):
        hint = ": pass its .backbone" if isinstance(network, FeatureExtractor) else ""
        raise ValueError(f"network must be a torch.nn.Module, got {type(network).__name__}{hint}")
    if not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"preprocessing must be an rr.Preprocessing, got {preprocessing!r}")
    if next(network.parameters(), None) is None:
        raise ValueError("network must have parameters, because they determine its device")
    extractor = FeatureExtractor(_WrappedNetwork(network), None, "", **vars(preprocessing))
    size = preprocessing.image_size
    try:
        with extractor._evaluating():
            output: object = network(torch.zeros(2, 3, size, size, dtype=torch.float32, device=extractor.device))
    except Exception as error:  # networks raise many different exceptions
        raise ValueError(
            f"the network cannot process float32 images of shape (2, 3, {size}, {size}) ({type(error).__name__}: "
            f"{error}): use a float32 network that takes RGB images (B, 3, S, S), and the image_size S with which it "
            "was trained"
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != 2:
        what = f"shape {tuple(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"for 2 images, the output of the network must have shape (2, D), got {what}")
    extractor.backbone.num_features = output.shape[1]
    return extractor


def _file_status(path: Path) -> tuple[int, ...]:
    """Return a value that changes if a file is modified or replaced, even if its modification time is then reset."""
    info = os.stat(path)
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, change_time(info)


class _WrappedNetwork(Backbone):
    """A user's network as a `Backbone`."""

    name = "wrapped"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        return self.network(images_B3SS)


@contextmanager
def default_torch_state() -> Iterator[None]:
    """Build networks as in a new process, regardless of the user's settings, and keep torch's random state.

    All threads share the default dtype and the random state, so other threads must not use them meanwhile.
    """
    dtype = torch.get_default_dtype()
    with torch.device("cpu"), torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
