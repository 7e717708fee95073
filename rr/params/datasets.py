"""The section `datasets`: where pictures come from and how they enter a network."""

from typing import Annotated, Literal

from pydantic import Field

from rr.params.base import MOST, Closed, Share

# Of values in [0, 1]; in units of 0 to 255 they would pass unseen and ruin a run.
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(ge=0.001, le=1)]


class ShapesSource(Closed):
    """Pictures generated from a seed: nothing to download."""

    kind: Literal["shapes"]
    train: Annotated[int, Field(ge=10, le=MOST)]
    test: Annotated[int, Field(ge=10, le=MOST)]
    seed: Annotated[int, Field(ge=0)]


class CifarSource(Closed):
    """CIFAR-10, CIFAR-100, or CIFAR-100 with its 20 coarse labels (`cifar100_20`), read by torchvision.

    `path`, here and below, names a copy to use instead of a download.
    """

    kind: Literal["cifar10", "cifar100", "cifar100_20"]
    path: str | None = None


class Stl10Source(Closed):
    """STL-10 with labels (5,000 and 8,000 pictures), or its 100,000 unlabelled pictures (`stl10_unlabelled`)."""

    kind: Literal["stl10", "stl10_unlabelled"]
    path: str | None = None


class TinyImageNetSource(Closed):
    """Tiny-ImageNet; its official validation split is the test split."""

    kind: Literal["tiny_imagenet"]
    path: str | None = None


class SlimageNetSource(Closed):
    """SlimageNet64. It is not downloaded: `path`, or --from, names a copy."""

    kind: Literal["slimagenet64"]
    path: str | None = None


class FolderSource(Closed):
    """One's own pictures: `path/<class>/…`, with or without `train` and `test` between; without classes, unlabelled."""

    kind: Literal["imagefolder"]
    path: Annotated[str, Field(min_length=1)]
    test_share: Share
    unreadable: Literal["stop", "skip"]


class ParquetSource(Closed):
    """One's own pictures in the Hugging Face convention: a struct column `image` with `bytes`, an integer `label`."""

    kind: Literal["parquet"]
    path: Annotated[str, Field(min_length=1)]
    test_share: Share
    unreadable: Literal["stop", "skip"]


Source = Annotated[
    ShapesSource | CifarSource | Stl10Source | TinyImageNetSource | SlimageNetSource | FolderSource | ParquetSource,
    Field(discriminator="kind"),
]


class Dataset(Closed):
    """Where pictures come from, and the side (pixels), mean and standard deviation (of values in [0, 1]) they get."""

    source: Source
    side: Annotated[int, Field(ge=8, le=1024)]
    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]
