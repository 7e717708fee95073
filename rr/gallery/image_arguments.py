"""Check the images that are passed to a feature extractor, and explain common mistakes."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rr.data.folder_listing import raise_if_url
from rr.data.printable_names import display_name
from rr.errors import UserError

# The path of an image file, a PIL image, RGB pixels, uint8 (H, W, 3), or a float tensor (3, S, S). An array or tensor
# may also contain several images (see `FeatureExtractor.__call__`).
ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor


def is_single_image(images: object) -> bool:
    """Return whether an argument of a feature extractor is one image, and not a sequence or a batch of images.

    An object that is neither is treated as an image, so that `check_pixels` explains the mistake.
    """
    is_image = isinstance(images, (str, bytes, bytearray, os.PathLike, Image.Image))
    is_sequence = isinstance(images, Iterable) and not isinstance(images, Mapping)
    return is_image or not is_sequence or getattr(images, "ndim", 0) in (2, 3)


def check_image_path(path: Path) -> None:
    """Raise UserError if `path` is a folder or does not exist."""
    raise_if_url(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{display_name(path)} does not exist: use the path of an image") from error
    except OSError:  # reading the file raises an error with the reason
        return
    if stat.S_ISDIR(mode):
        raise UserError(
            f"{display_name(path)} is a folder: pass it to rr.embed or rr.Gallery, or pass the paths of its images"
        )


def check_pixels(image: object, image_size: int) -> np.ndarray:
    """Return the pixels in an array or tensor, uint8 (H, W, 3).

    Raises:
        ValueError: if `image` contains something else. The message explains common mistakes.
    """
    expected = "an image must be a path, a PIL image or RGB pixels, uint8 (H, W, 3), got"
    if image is None:
        raise ValueError(f"{expected} None, which cv2.imread returns for a file that it cannot read: check the path")
    if isinstance(image, (bytes, bytearray)):
        raise ValueError(f"{expected} bytes: for an encoded image, pass PIL.Image.open(io.BytesIO(DATA))")
    kind = type(image).__name__
    if isinstance(image, (tuple, list, dict)):
        raise ValueError(
            f"{expected} {kind}: if the items are (image, label) pairs or batches from a DataLoader, pass only the "
            "images"
        )
    pixels = image.cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if pixels.ndim == 0:
        raise ValueError(f"{expected} {kind}")
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size:
        return pixels
    found = f"{kind} of {pixels.dtype} with shape {pixels.shape}"
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3:
        method = "permute" if isinstance(image, torch.Tensor) else "transpose"
        raise ValueError(
            f"{expected} {found}: move the channels to the end with {method}(1, 2, 0), or with {method}(0, 2, 3, 1) "
            "for a batch"
        )
    raise ValueError(
        f"{expected} {found}; for float values, pass a tensor (B, 3, {image_size}, {image_size}) with values in [0, 1]"
    )
