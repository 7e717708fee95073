"""The inputs that every protocol receives."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.data.beton import Beton
from rr.data.index import Preprocessing
from rr.errors import UserError
from rr.evaluate.features import extract_features
from rr.runtime.progress import Progress


@dataclass(frozen=True)
class EvaluationInputs:
    """A pretrained backbone and the two splits of the target dataset.

    The features of a split are extracted on first use and cached. As in the paper, the images are not augmented, so a
    classifier is trained on the same features in every epoch.

    Attributes:
        backbone: frozen backbone in eval mode, on `device`.
        train: training split, with labels.
        test: test split, with labels.
        dataset: configuration with the mean and the standard deviation for normalization.
        num_classes: number of classes of the target dataset.
        seed: seed of all random numbers of the protocol.
        device: torch device on which to compute.
        trained_classifier: the classifier of the target's classes that was trained with the backbone, on `device`, if
            such a classifier exists.
    """

    backbone: Backbone
    train: Beton
    test: Beton
    dataset: Preprocessing
    num_classes: int
    seed: int
    device: str
    trained_classifier: nn.Linear | None = None

    @cached_property
    def train_features(self) -> Tensor:
        """Features of the training images, float32 (N_train, D). UserError is raised if one is not finite."""
        return self._extract_finite_features(self.train)

    @cached_property
    def test_features(self) -> Tensor:
        """Features of the test images, float32 (N_test, D). UserError is raised if one is not finite."""
        return self._extract_finite_features(self.test)

    def _extract_finite_features(self, beton: Beton) -> Tensor:
        with Progress("evaluate", len(beton), "images", note=f"features of {beton.path}") as progress:
            features = extract_features(self.backbone, beton, self.dataset, self.device, None, progress.advance)
        if not features.isfinite().all():
            raise UserError(
                f"{beton.path}: the backbone computes NaN or infinity for images of this split. If the backbone was "
                "trained, lower learning_rate of its method in params.yaml and run rr pretrain again. If it was "
                "imported, check its weights, and mean and std of the dataset in params.yaml"
            )
        return features
