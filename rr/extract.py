"""The `extract` stage: compute the features of a target dataset with a pretrained backbone.

As in the paper, the images are not augmented. The same features can therefore be used by all protocols that need
features, and in all epochs of a protocol.
"""

from pathlib import Path
from typing import Any

from rr.backbones.weights import check_image_size, load_backbone
from rr.data.feature_file import SplitFeatures, write_features
from rr.data.photograph_beton import open_split
from rr.errors import UserError
from rr.evaluate.feature_extraction import extract_features
from rr.evaluate.target_dataset import TargetDataset
from rr.runtime.progress import Progress


def extract(weights: Path, target: TargetDataset, output: Path, *, device: str, threads: int) -> dict[str, Any]:
    """Write the features of both splits of `target` to `output`.

    Args:
        weights: backbone file.
        target: the dataset.
        output: file to write (see `rr.data.feature_file`).
        device: torch device to compute on.
        threads: number of threads that read images.

    Returns:
        The number of features per image, and the number of images in each split.

    Raises:
        UserError: if the weights are not a valid backbone file or are for images of another size, or if a feature is
            NaN or infinite.
    """
    betons = {split: open_split(path, target.preprocessing, threads=threads) for split, path in target.betons.items()}
    backbone = load_backbone(weights).to(device)
    check_image_size(backbone, target.preprocessing.image_size, weights)
    splits = {}
    num_images = sum(map(len, betons.values()))
    with Progress("extract", num_images, "images") as progress:
        for split, beton in betons.items():
            features = extract_features(backbone, beton, target.preprocessing, device, None, progress.advance)
            if not features.isfinite().all():
                raise UserError(
                    f"{beton.path}: the backbone outputs NaN or infinite values for images in this split. If the "
                    "backbone was trained, lower its method's learning_rate in params.yaml and run rr pretrain again. "
                    "If it was imported, check its weights and the dataset's mean and std in params.yaml"
                )
            splits[split] = SplitFeatures(features.cpu().numpy(), beton.labels, beton.index)
    write_features(output, splits)
    return {"features": backbone.num_features, "images": {split: len(values) for split, values in splits.items()}}
