"""The embedded set: ten shapes, drawn from a seed."""

from collections.abc import Iterator

from rr.data import raw
from rr.data.shapes import CLASS_NAMES, generate
from rr.params import ShapesSource


def pictures(source: ShapesSource) -> raw.Pictures:
    """Draw `source.train` and `source.test` pictures of 32 × 32."""

    def rows() -> Iterator[raw.Picture]:
        for split, count in (("train", source.train), ("test", source.test)):
            images, labels = generate(count, source.seed, split)
            for position, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield raw.Picture(split, f"{split}/{position}.png", raw.encode(image), int(label))

    return raw.Pictures(list(CLASS_NAMES), rows())
