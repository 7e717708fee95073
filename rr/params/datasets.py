"""The `datasets` section: where the images of each dataset come from and how they are preprocessed."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rr.params.base import MAX_COUNT, Fraction, StrictModel
from rr.params.extensions import accept_extensions

LABEL_FILE_SUFFIXES = (".csv", ".tsv")

# For pixel values in [0, 1]. The bounds reject statistics of pixel values in [0, 255], which would silently ruin a run.
ChannelMean = Annotated[float, Field(ge=0, le=1)]
ChannelStd = Annotated[float, Field(ge=0.001, le=1)]


class ShapesSource(StrictModel):
    """Images of geometric shapes, generated from a seed; no download is needed.

    Attributes:
        train: number of training images.
        test: number of test images.
        seed: seed of the generator.
    """

    kind: Literal["shapes"]
    train: Annotated[int, Field(ge=10, le=MAX_COUNT)]
    test: Annotated[int, Field(ge=10, le=MAX_COUNT)]
    seed: Annotated[int, Field(ge=0)]


class DigitsSource(StrictModel):
    """The handwritten digits that come with scikit-learn (8 × 8 pixels).

    Attributes:
        seed: seed that selects the test images.
    """

    kind: Literal["digits"]
    seed: Annotated[int, Field(ge=0, lt=2**64)]


class PublishedSource(StrictModel):
    """Keys shared by the sources for published datasets.

    Attributes:
        path: local copy to read instead of downloading the dataset.
        validation_fraction: if set, this fraction of the training images of each class becomes the test split, and the
            usual test split is not used. This allows you to choose settings without it.
    """

    path: str | None = None
    validation_fraction: Annotated[float, Field(ge=0.01, le=0.5)] | None = None


class CifarSource(PublishedSource):
    """CIFAR-10, CIFAR-100, or CIFAR-100 with its 20 coarse labels (`cifar100_20`), read by torchvision."""

    kind: Literal["cifar10", "cifar100", "cifar100_20"]


class Stl10Source(PublishedSource):
    """STL-10 with labels (5,000 training and 8,000 test images), or its 100,000 unlabeled images (`stl10_unlabeled`).

    The unlabeled images have the same test images, without their labels.
    """

    kind: Literal["stl10", "stl10_unlabeled"]


class TinyImageNetSource(PublishedSource):
    """Tiny-ImageNet, with its official validation split as the test split."""

    kind: Literal["tiny_imagenet"]


class SlimageNetSource(PublishedSource):
    """SlimageNet64, which cannot be downloaded automatically: a `path` or `rr fetch --from` is required."""

    kind: Literal["slimagenet64"]


class SplitNames(StrictModel):
    """Where the training and test images are: folder names or, for Parquet, file name patterns.

    Attributes:
        train: the training images.
        test: the test images. By default, some of the training images become the test split.
    """

    train: Annotated[str, Field(min_length=1)]
    test: Annotated[str, Field(min_length=1)] | None = None


class OwnImagesSource(StrictModel):
    """Keys shared by the two sources for your own images.

    Attributes:
        path: a folder; for Parquet, a folder or a single file.
        splits: `auto` to recognize the splits by their names, `none` if there are no splits, or the names of the
            splits.
        test_fraction: fraction of the images that become the test split if there are no test images.
        on_unreadable: what to do with an image that cannot be read: raise an error, or skip the image.
        exclude: path of a list of images to leave out.
    """

    path: Annotated[str, Field(min_length=1)]
    splits: SplitNames | Literal["auto", "none"] = "auto"
    test_fraction: Fraction = 0.2
    on_unreadable: Literal["raise", "skip"] = "raise"
    exclude: Annotated[str, Field(min_length=1)] | None = None

    @field_validator("splits", mode="before")
    @classmethod
    def _check_splits(cls, value: Any) -> Any:
        """Replace pydantic's errors, one per possible type of `splits`, with a single error."""
        names = value if isinstance(value, dict) else {}
        is_valid = "train" in names and names.keys() <= {"train", "test"}
        if value not in ("auto", "none") and not (is_valid and all(isinstance(n, str) and n for n in names.values())):
            raise ValueError(
                "must be auto, none, or the names of the splits: {train: NAME} or {train: NAME, test: NAME}"
            )
        return value


class FolderSource(OwnImagesSource):
    """Your own images in folders, `path/<class>/…` or `path/{train,test}/<class>/…`.

    Images that are not in class folders are unlabeled, unless `labels` is a CSV file.

    Attributes:
        labels: `auto` to use the names of the folders, `none` to treat all images as unlabeled, or the path of a CSV
            file with a column of image names, a column of labels and, optionally, a column of splits.
    """

    kind: Literal["imagefolder"]
    labels: str = "auto"

    @property
    def label_file(self) -> str | None:
        """The path of the CSV file with the labels, or None."""
        return None if self.labels in ("auto", "none") else self.labels

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: str) -> str:
        if value not in ("auto", "none") and not value.lower().endswith(LABEL_FILE_SUFFIXES):
            raise ValueError("must be auto, none, or the path of a CSV file (.csv or .tsv)")
        return value


class ParquetSource(OwnImagesSource):
    """Your own Parquet files with a column of encoded images and, unless the images are unlabeled, a label column.

    Attributes:
        image: name of the image column. By default, the column is recognized automatically.
        label: name of the label column. By default, the column is recognized automatically.
        labels: if `none`, all images are treated as unlabeled.
    """

    kind: Literal["parquet"]
    image: Annotated[str, Field(min_length=1)] | None = None
    label: Annotated[str, Field(min_length=1)] | None = None
    labels: Literal["auto", "none"] = "auto"


class ExtensionSource(StrictModel):
    """Keys of a user-defined source; the source's `Config` class subclasses this one.

    If it has a key `path: str | None = None`, `rr fetch --from` can be used to specify a local copy.
    """

    kind: str
    required_function: ClassVar[str] = "read_dataset"


_BuiltinSource = Annotated[
    ShapesSource
    | DigitsSource
    | CifarSource
    | Stl10Source
    | TinyImageNetSource
    | SlimageNetSource
    | FolderSource
    | ParquetSource,
    Field(discriminator="kind"),
]
Source = Annotated[_BuiltinSource, accept_extensions(_BuiltinSource, ExtensionSource), SerializeAsAny()]


class DatasetConfig(StrictModel):
    """A dataset's source and preprocessing.

    Attributes:
        source: where the images come from.
        image_size: height and width of the network's input in pixels.
        stored_size: if set, photographs keep their aspect ratio and are shrunk so that the shorter side has at most
            this many pixels. Views are then cropped from the stored photograph. By default, images are stored as
            squares of `image_size` × `image_size` pixels.
        quality: JPEG quality of the photographs, or `raw` to store the pixels without loss.
        mean: mean of each channel, for pixel values in [0, 1]. By default, `rr convert` computes it from the training
            images.
        std: standard deviation of each channel, for pixel values in [0, 1]. By default, `rr convert` computes it from
            the training images.
    """

    source: Source
    image_size: Annotated[int, Field(ge=8, le=1024)]
    stored_size: Annotated[int, Field(ge=8, le=1024)] | None = None
    quality: Annotated[int, Field(ge=1, le=100)] | Literal["raw"] = 90
    mean: tuple[ChannelMean, ChannelMean, ChannelMean] | None = None
    std: tuple[ChannelStd, ChannelStd, ChannelStd] | None = None

    @property
    def estimated_image_bytes(self) -> int:
        """The size of a stored image in bytes, assuming 4:3 photographs and a JPEG compression ratio of eight."""
        if self.stored_size is None:
            return self.image_size**2 * 3
        pixels = self.stored_size**2 * 4
        return pixels if self.quality == "raw" else pixels // 8

    @field_validator("quality", mode="before")
    @classmethod
    def _check_quality(cls, value: Any) -> Any:
        """Replace pydantic's errors, one per possible type of `quality`, with a single error."""
        if value != "raw" and (type(value) is not int or not 1 <= value <= 100):
            raise ValueError("must be the JPEG quality, an integer from 1 to 100, or raw")
        return value

    @model_validator(mode="after")
    def _check_keys(self) -> "DatasetConfig":
        if (self.mean is None) != (self.std is None):
            given, missing = ("mean", "std") if self.std is None else ("std", "mean")
            raise ValueError(f"{given} is set without {missing}: add {missing}, or remove {given} to compute both")
        if self.stored_size is None and "quality" in self.model_fields_set:
            raise ValueError(
                "quality applies only to photographs with a stored_size: add stored_size, or remove quality"
            )
        if self.stored_size is not None and self.stored_size < self.image_size:
            raise ValueError(
                f"stored_size must be at least image_size, got {self.stored_size} and {self.image_size}: smaller "
                "photographs would be enlarged"
            )
        return self
