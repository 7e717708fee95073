"""Where pictures come from: one small module a source, each with `pictures(source, ...) -> raw.Pictures`."""

from pathlib import Path

from rr.data.raw import Pictures
from rr.errors import UserError
from rr.params import ShapesSource, Source


def pictures(source: Source, download: Path, local: Path | None) -> Pictures:
    """Open `source`. `download` keeps archives between tries; `local` is a copy on this machine to use instead.

    Raises UserError for a missing folder, a wrong checksum, an unreadable picture.
    """
    if local is None and not isinstance(source, ShapesSource) and source.path:
        local = _place(source.path)
    match source.kind:
        case "shapes":
            from rr.data.sources import shapes

            return shapes.pictures(source)
        case "cifar10" | "cifar100" | "cifar100_20":
            from rr.data.sources import cifar

            return cifar.pictures(source, download, local)
        case "stl10" | "stl10_unlabelled":
            from rr.data.sources import stl10

            return stl10.pictures(source, download, local)
        case "tiny_imagenet":
            from rr.data.sources import tiny_imagenet

            return tiny_imagenet.pictures(download, local)
        case "slimagenet64":
            from rr.data.sources import slimagenet

            return slimagenet.pictures(download, local)
        case "imagefolder":
            from rr.data.sources import imagefolder

            return imagefolder.pictures(source, local)
        case "parquet":
            from rr.data.sources import parquet

            return parquet.pictures(source, local)


def _place(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # how pathlib says it
        raise UserError(f"{path}: there is no such user here: correct the source's path in params.yaml") from error
