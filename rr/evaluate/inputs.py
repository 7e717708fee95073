"""The inputs that every protocol receives. Importing this module loads neither torch nor FFCV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rr.data.beton import Beton, read_images
from rr.data.feature_file import SplitFeatures
from rr.errors import UserError
from rr.evaluate.relation_head import NumpyRelationHead, load_relation_head
from rr.evaluate.target_dataset import TargetDataset
from rr.paths import PretrainPaths

if TYPE_CHECKING:
    from torch import nn

    from rr.backbones.base import Backbone


@dataclass(frozen=True)
class EvaluationInputs:
    """The features of both splits of the target; its images and the pretrained network are loaded on demand.

    A protocol that needs labels receives only the labeled images.

    Attributes:
        train: features of the training images, with labels.
        test: features of the test images, with labels.
        target: the target dataset.
        pretraining: the run that trained the backbone.
        seed: seed for all random numbers that the protocol uses.
        device: torch device on which to compute. Protocols that use only numpy ignore it.
        threads: number of threads.
        positions: for each split, the position in the beton of each row in `train` or `test`, int64 (N,). By default,
            the rows are all images in the order of the beton.
    """

    train: SplitFeatures
    test: SplitFeatures
    target: TargetDataset
    pretraining: PretrainPaths
    seed: int
    device: str
    threads: int
    positions: Mapping[str, np.ndarray] | None = None
    _photographs: dict[str, Beton] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def num_classes(self) -> int:
        """Number of classes in the target."""
        return len(self.target.class_names)

    def without_unlabeled(self) -> EvaluationInputs:
        """Return the inputs with only the labeled images."""
        train, test = (np.flatnonzero(split.labels >= 0) for split in (self.train, self.test))
        positions = {"train": train, "test": test}
        return replace(self, train=self.train.select(train), test=self.test.select(test), positions=positions)

    def find_positions(self, split: str, rows: np.ndarray) -> np.ndarray:
        """Return the positions in a split's beton of the images in the given rows of `train` or `test`, int64 (M,)."""
        return rows if self.positions is None else self.positions[split][rows]

    def read_images(self, split: str, rows: np.ndarray) -> np.ndarray:
        """Return the images in the given rows of `train` or `test`, uint8 (M, S, S, 3), without loading all images.

        Only one thread may call this method at a time.
        """
        positions = self.find_positions(split, rows)
        if self.target.preprocessing.stored_size is None:
            return read_images(self.target.betons[split], positions)
        if split not in self._photographs:  # reused, because FFCV compiles its decoder for each `Beton`
            self._photographs[split] = self.open_split(split)
        batches = self._photographs[split].batches(positions, batch_size=64)
        return np.concatenate([images.copy() for images in batches])

    def open_split(self, split: str) -> Beton:
        """Open all images of a split, including the unlabeled ones.

        `find_positions` returns the positions of the rows of `train` and `test`.
        """
        from rr.data.photograph_beton import open_split

        return open_split(self.target.betons[split], self.target.preprocessing, threads=self.threads)

    def load_backbone(self, *, frozen: bool = True) -> Backbone:
        """Return the pretrained backbone on `device`, in eval mode; see `rr.backbones.weights.load_backbone`.

        Raises:
            UserError: if the weights are not a valid backbone file.
        """
        from rr.backbones.weights import load_backbone

        return load_backbone(self.pretraining.weights, frozen=frozen).to(self.device)

    def load_relation_head(self) -> NumpyRelationHead | None:
        """Return the relation head trained with the backbone, or None if the backbone was trained without one.

        Raises:
            UserError: if the weights are not a valid backbone file.
        """
        return load_relation_head(self.pretraining.weights)

    def load_trained_classifier(self) -> nn.Linear | None:
        """Return the classifier for the target's classes, on `device`.

        Return None if the backbone was trained without a classifier or on a different dataset.

        Raises:
            UserError: if the weights are not a valid backbone file, or if the number of classes has changed since
                training.
        """
        if self.target.name != self.pretraining.dataset:  # the classifier predicts the classes of a different dataset
            return None
        from rr.backbones.weights import load_classifier

        classifier = load_classifier(self.pretraining.weights)
        if classifier is None:
            return None
        if classifier.out_features != self.num_classes:
            raise UserError(
                f"{self.pretraining.weights}: the network was trained with {classifier.out_features} classes of "
                f"{self.target.name}, which now has {self.num_classes}: run rr pretrain again"
            )
        return classifier.to(self.device)
