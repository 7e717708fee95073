"""DeepCluster: learn to tell apart the clusters of one's own representations (Caron et al., ECCV 2018)."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from rr import params
from rr.compute.precision import at_least_float32
from rr.errors import UserError
from rr.methods.base import Method, Statistics
from rr.methods.projector import projector

SPREAD = 0.01  # standard deviation of the last layer's fresh weights
HALVED_FROM = 512  # from this size of representation on, whitening keeps half of the directions
SAMPLE, SAMPLE_PER_CLUSTER = 10_000, 10  # images on which k-means looks for its start: the larger of the two
NOISE = 1e-5  # spread relative to the representations' size that may be rounding of the backbone's float32


class DeepCluster(Method):
    """Backbone and projector under cross-entropy over clusters found before every epoch, as in the paper's code.

    That code clusters features of randomly augmented pictures, against its own comment; here they are those of the
    pictures as they are, and k-means looks for its start on a sample (``cluster``).
    """

    weights_C: Tensor  # a buffer, so that it is saved: an epoch may be interrupted and go on

    def __init__(self, settings: params.DeepCluster, backbone: nn.Module, classes: int, images: int) -> None:
        """For `images` training pictures of `classes` classes, 0 for unlabelled ones.

        Raises UserError for clusters per class where there are no classes, and for more clusters than pictures.
        """
        super().__init__(backbone, settings.learning_rate)
        self.settings = settings
        if settings.clusters_per == "class" and classes < 1:
            raise UserError(
                "the deepcluster method has clusters_per: class, and this data set has no classes: "
                "set it to dataset, and clusters to their number"
            )
        self.clusters = settings.clusters * (classes if settings.clusters_per == "class" else 1)
        if self.clusters > images:
            raise UserError(
                f"the deepcluster method is to find {self.clusters} clusters in {images} pictures: lower its clusters"
            )
        self.head = projector(self.features, settings.hidden, self.clusters)
        self.register_buffer("weights_C", torch.ones(self.clusters))

    def loss(self, views: Tensor, labels: Tensor, drawn: tuple[Tensor, ...]) -> tuple[Tensor, Statistics]:
        """Weighted mean cross-entropy against `labels`, the clusters; float32 also under autocast."""
        logits_MC = self.head(self.backbone(views))
        right = (logits_MC.detach().argmax(1) == labels).sum()
        wide_MC = at_least_float32(logits_MC)
        loss = F.cross_entropy(wide_MC, labels, self.weights_C.to(wide_MC.dtype))
        return loss, {"accuracy": (right, len(labels))}

    def before_epoch(self, extract: Callable[[], Tensor], seed: int) -> Tensor:
        """Find the clusters, int64 (N,); weigh them, and draw the last layer afresh (its numbers changed meaning).

        A cluster weighs 1 - its share of the images (the code's "inverse frequency").
        """
        features_ND = extract()
        kept = self.features // 2 if self.features >= HALVED_FROM else self.features
        points_NP = F.normalize(whiten(features_ND, kept))
        labels = torch.from_numpy(cluster(points_NP.numpy(), self.clusters, self.settings, seed))
        share_C = torch.bincount(labels, minlength=self.clusters) / len(labels)
        # The bound is met by a cluster of all images alone (dead features): a weight of 0 would make the loss 0 / 0.
        self.weights_C.copy_((1 - share_C).clamp(min=1 / len(labels)))
        last: nn.Linear = self.head[-1]  # type: ignore[assignment]
        with torch.no_grad():
            last.weight.copy_(SPREAD * torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(seed)))
            last.bias.zero_()
        return labels


def whiten(features_ND: Tensor, kept: int) -> Tensor:
    """The `kept` principal components of features on the CPU, each of mean 0 and variance 1, float32 (N, kept).

    Components without spread (dead or redundant units, fewer images than units) are 0. Computed in float64.
    """
    x_ND = features_ND.to(torch.float64, copy=True)
    size = x_ND.square().mean(0).sum()
    x_ND -= x_ND.mean(0)
    variances_D, directions_DD = torch.linalg.eigh(x_ND.T @ x_ND / max(len(x_ND) - 1, 1))
    variances_P, directions_DP = variances_D.flip(0)[:kept], directions_DD.flip(1)[:, :kept]
    scale_P = torch.where(variances_P > NOISE**2 * size, variances_P.clamp(min=0).rsqrt(), 0.0)
    return (x_ND @ (directions_DP * scale_P)).float()


def cluster(points_NP: np.ndarray, clusters: int, settings: params.DeepCluster, seed: int) -> np.ndarray:
    """Each point's cluster by scikit-learn's k-means (k-means++), int64 (N,), for points float32 (N, P).

    The best of `starts` runs is found on a random sample of 10,000 points (10 per cluster, if that is more), and only
    that one goes on with all points. For 100 clusters of 50,000 × 64 points, five starts of at most 30 iterations then
    take 1.2 s in place of 4.4 s, and end with the same within-cluster sum to four digits; for 1,000 clusters 10 s in
    place of some 70 s, and a sum 0.2 % larger. The same seed gives the same bits.
    """
    common = {"n_clusters": clusters, "max_iter": settings.iterations, "random_state": seed}
    size = max(SAMPLE, SAMPLE_PER_CLUSTER * clusters)
    # One thread: several add up the centres in the order in which they finish, and BLAS wastes its own on pieces this
    # small (a start of 1,000 clusters: 5 s with one thread, 205 s with two on a machine that is busy).
    with threadpool_limits(1):
        if len(points_NP) <= size:
            found = KMeans(n_init=settings.starts, **common).fit(points_NP)
        else:
            sample = np.random.default_rng(seed).choice(len(points_NP), size, replace=False)
            start = KMeans(n_init=settings.starts, **common).fit(points_NP[sample])
            found = KMeans(init=start.cluster_centers_, n_init=1, **common).fit(points_NP)
    return found.labels_.astype(np.int64)
