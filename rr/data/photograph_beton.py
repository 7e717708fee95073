"""Read betons of photographs: FFCV decodes each photograph once per batch, and all its views are cropped from it.

The decoders are FFCV operations that differ from FFCV's own decoders in three ways. Their crops are antialiased. The
crops are a pure function of (seed, epoch, image, view). Each thread needs memory for only one decoded photograph,
whereas FFCV's own decoders allocate memory for a batch of photographs of the largest size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from rr.data.beton import Beton, import_ffcv, iter_epoch, make_loader, validate
from rr.data.preprocessing import Preprocessing, shorter_side_before_crop
from rr.views.augmentation import Augmentation
from rr.views.resize_kernel import resize_box
from rr.views.view_parameters_kernel import sample_resized_crop

_BATCHES_AHEAD = 1  # each batch takes up batch_size × views × image_size² × 3 bytes


class PhotographBeton(Beton):
    """A beton of photographs of any size, open for reading. FFCV streams them from the file.

    Args:
        path: file to read.
        image_size: height and width of the yielded images in pixels.
        threads: number of threads that FFCV uses to read and decode photographs.

    Attributes:
        labels: label of each photograph, int64 (N,); -1 if unlabeled.
        index: row of each photograph in the raw file, int64 (N,).
        image_size: height and width of the yielded images in pixels.
        images: None.

    Raises:
        UserError: if the file is missing or damaged (see `rr.data.beton.validate`).
    """

    def __init__(self, path: Path, image_size: int, *, threads: int) -> None:
        self.path, self.image_size, self.threads = path, image_size, threads
        info = validate(path, photographs=True)
        self.labels, self.index, self.images = info.labels, info.index, None
        self._loaders: dict[tuple[Any, ...], Any] = {}

    def batches(self, order: Sequence[int] | np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yield the photographs at the positions in `order`, prepared for evaluation, batch by batch.

        Each photograph is resized so that its shorter side is 256 / 224 of `image_size`, and its center is cropped, as
        with torchvision's Resize and CenterCrop. See `Beton.batches` for the arguments and the results.
        """
        return self.center_crops(order, batch_size, shorter_side_before_crop(self.image_size))

    def center_crops(
        self, order: Sequence[int] | np.ndarray, batch_size: int, shorter_side: int
    ) -> Iterator[np.ndarray]:
        """Yield the photographs like `batches`, but resize them so that the shorter side is `shorter_side` pixels."""
        order = np.asarray(order, dtype=np.int64)
        for images in self._stream(order, batch_size, 1, _center_crop_renderer, shorter_side):
            yield images[:, 0]

    def random_crops(
        self,
        order: np.ndarray,
        batch_size: int,
        policies: tuple[Augmentation, ...],
        seed: int,
        epoch: int,
        num_views: int,
    ) -> Iterator[np.ndarray]:
        """Yield random resized crops of the photographs at the positions in `order`, batch by batch.

        A crop is the same as torchvision's `resized_crop` with antialiasing. Its box is a pure function of the seed,
        the epoch, the row in the raw file, the view number, and the photograph's size.

        Args:
            order: positions of the photographs in the file, int64 (N,).
            batch_size: number of photographs per batch (M).
            policies: the augmentation policies, which the views use in turn. Only `scale` and `ratio` are used.
            seed: seed for the boxes, in [0, 2**64).
            epoch: epoch number, in [0, 2**32).
            num_views: number of crops of each photograph (K).

        Yields:
            The crops, uint8 (M, K, image_size, image_size, 3). The array is valid only until the next batch is
            requested.
        """
        # The decoder reads the epoch from the upper half of the sample numbers.
        ranges = tuple((policy.scale, policy.ratio) for policy in policies)
        samples = np.uint64(epoch) << np.uint64(32) | order.astype(np.uint64)
        return self._stream(samples, batch_size, num_views, _random_crop_renderer, ranges, seed, int(self.index[0]))

    def _stream(
        self, samples: np.ndarray, batch_size: int, num_views: int, make_renderer: Any, *arguments: Any
    ) -> Iterator[np.ndarray]:
        """Yield the output of `make_renderer(*arguments)`. On first use, FFCV compiles it, which takes two seconds."""
        key = (make_renderer, *arguments)
        if key not in self._loaders:
            decoder = _make_decoder(make_renderer(*arguments))
            self._loaders[key] = decoder, make_loader(self.path, decoder, self.threads, _BATCHES_AHEAD)
        decoder, loader = self._loaders[key]
        decoder.shape = (num_views, self.image_size, self.image_size, 3)
        yield from iter_epoch(loader, samples, batch_size)


def open_split(path: Path, preprocessing: Preprocessing, *, threads: int) -> Beton:
    """Open a split of a converted dataset.

    Args:
        path: the beton.
        preprocessing: the preprocessing of the dataset.
        threads: number of threads that FFCV uses to read and decode images.

    Raises:
        UserError: if the file is missing or damaged.
    """
    if preprocessing.stored_size is None:
        return Beton(path, threads=threads)
    return PhotographBeton(path, preprocessing.image_size, threads=threads)


def _center_crop_renderer(shorter_side: int) -> Callable[..., None]:
    """Return a kernel that renders the center of a resized photograph, like torchvision's Resize and CenterCrop."""

    @njit
    def render(pixels, epoch, position, out):  # type: ignore[no-untyped-def]
        height, width = pixels.shape[0], pixels.shape[1]
        side = out.shape[1]
        longer_side = np.int64(shorter_side * max(height, width) / min(height, width))
        out_height, out_width = (shorter_side, longer_side) if height <= width else (longer_side, shorter_side)
        top, left = np.int64(np.rint((out_height - side) / 2)), np.int64(np.rint((out_width - side) / 2))
        resize_box(pixels, 0, 0, height, width, out_height, out_width, top, left, out[0])

    return render


def _random_crop_renderer(
    ranges: tuple[tuple[tuple[float, float], tuple[float, float]], ...], seed: int, first_row: int
) -> Callable[..., None]:
    """Return a kernel that renders the random resized crops of a photograph in an epoch.

    `ranges` contains the `scale` and the `ratio` of each policy.
    """
    key, num_policies = np.uint64(seed), len(ranges)

    @njit
    def render(pixels, epoch, position, out):  # type: ignore[no-untyped-def]
        row = np.uint64(first_row) + position
        for view in range(out.shape[0]):
            scale, ratio = ranges[view % num_policies]
            top, left, height, width = sample_resized_crop(
                pixels.shape[0], pixels.shape[1], scale, ratio, key, epoch, row, np.uint64(view)
            )
            resize_box(pixels, top, left, height, width, out.shape[1], out.shape[2], 0, 0, out[view])

    return render


def _make_decoder(render: Callable[..., None]) -> Any:
    """Return an FFCV operation that decodes each image of a batch and calls `render`.

    Its `shape` attribute is the shape of the result for one image. It may change between epochs.

    Args:
        render: a compiled function with these arguments: the pixels, uint8 (H, W, 3); the upper half of the sample
            number, which is the epoch; its lower half, which is the image position; and the output array.
    """
    import_ffcv()
    from ffcv.fields.rgb_image import IMAGE_MODES, SimpleRGBImageDecoder
    from ffcv.libffcv import imdecode
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler

    class Decoder(SimpleRGBImageDecoder):  # FFCV accepts only its own decoders and their subclasses
        shape: tuple[int, ...] = (1, 1, 1, 3)

        def declare_state_and_memory(self, previous_state):  # type: ignore[no-untyped-def]
            state = replace(previous_state, jit_mode=True, shape=self.shape, dtype=np.dtype("<u1"))
            return state, AllocationQuery(self.shape, state.dtype)

        def generate_code(self):  # type: ignore[no-untyped-def]
            read, decode_jpeg = self.memory_read, Compiler.compile(imdecode)
            indices, jpeg_mode = Compiler.get_iterator(), IMAGE_MODES["jpg"]

            def decode(samples, out, metadata, storage):  # type: ignore[no-untyped-def]
                for i in indices(len(samples)):
                    position = samples[i] & np.uint64(0xFFFFFFFF)
                    image = metadata[position]
                    data = read(image["data_ptr"], storage)
                    height, width = np.int64(image["height"]), np.int64(image["width"])
                    if image["mode"] == jpeg_mode:
                        # FFCV does not report damaged data. Zeros make the result the same each time.
                        pixels = np.zeros((height, width, 3), np.uint8)
                        decode_jpeg(data, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                    else:
                        pixels = data.reshape((height, width, 3))
                    render(pixels, samples[i] >> np.uint64(32), position, out[i])
                return out[: len(samples)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    return Decoder()
