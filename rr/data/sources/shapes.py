"""Read the built-in `shapes` dataset, which is generated from a seed."""

from collections.abc import Iterator

from rr.data import raw
from rr.data.shapes import CLASS_NAMES, generate_shapes
from rr.params import ShapesSource


def read_dataset(source: ShapesSource) -> raw.RawDataset:
    """Return `source.train` training and `source.test` test images of 32 × 32 pixels."""

    def iter_images() -> Iterator[raw.EncodedImage]:
        for split, count in (("train", source.train), ("test", source.test)):
            images, labels = generate_shapes(count, source.seed, split)
            for position, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield raw.EncodedImage(split, f"{split}/{position}.png", raw.encode_png(image), int(label))

    return raw.RawDataset(list(CLASS_NAMES), iter_images(), source.train + source.test)
