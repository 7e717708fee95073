"""DeepCluster: learn to predict k-means clusters of the network's own representations (Caron et al., ECCV 2018)."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from rr.backbones.base import Backbone
from rr.compute.minimum_precision import at_least_float32
from rr.methods.base import Method, Metrics
from rr.methods.projector import build_mlp
from rr.methods.requirements import count_clusters
from rr.params import DeepClusterConfig

INIT_STD = 0.01  # standard deviation of the last layer's new weights
HALVE_PCA_FROM = 512  # whitening keeps half of the principal components of representations with at least this size
# k-means is initialized on a sample of this many images, or this many per cluster if that is more.
SAMPLE_SIZE, SAMPLES_PER_CLUSTER = 10_000, 10
# A principal component may be a rounding error if its standard deviation, divided by the root mean square norm of the
# features, is below this value.
RANK_TOLERANCE = 1e-5


class DeepCluster(Method):
    """Train a backbone and a projector to predict clusters, which are recomputed before every epoch.

    The paper's code clusters the features of randomly augmented images that a bug has corrupted. Here, the
    features come from the images without augmentation, and k-means is initialized on a sample (see `cluster`).
    """

    cluster_weights_C: Tensor  # a buffer, so that a checkpoint within an epoch contains it

    def __init__(self, config: DeepClusterConfig, backbone: Backbone, num_classes: int) -> None:
        """Create the projector.

        Args:
            config: the hyperparameters.
            backbone: the network to train.
            num_classes: number of classes in the dataset.
        """
        super().__init__(backbone)
        self.config = config
        self.num_clusters = count_clusters(config, num_classes)
        self.head = build_mlp(self.num_features, config.hidden_dim, self.num_clusters)
        self.register_buffer("cluster_weights_C", torch.ones(self.num_clusters))

    def loss(self, views: Tensor, labels: Tensor, random_inputs: tuple[Tensor, ...]) -> tuple[Tensor, Metrics]:
        """Return the weighted mean cross-entropy with the clusters (`labels`) as targets, in at least float32."""
        logits_MC = self.head(self.backbone(views))
        correct = (logits_MC.detach().argmax(1) == labels).sum()
        logits_MC = at_least_float32(logits_MC)
        loss = F.cross_entropy(logits_MC, labels, self.cluster_weights_C.to(logits_MC.dtype))
        return loss, {"accuracy": (correct, len(labels))}

    def update_pseudo_labels(self, extract_features: Callable[[], Tensor], seed: int) -> Tensor:
        """Compute the clusters and their weights, and reinitialize the last layer.

        The last layer is reinitialized because the numbering of the new clusters is unrelated to that of the previous
        ones. The weight of a cluster is one minus the fraction of the images that it contains (the "inverse frequency"
        in the paper's code).

        Returns:
            The cluster of each image, int64 (N,).
        """
        features_ND = extract_features()
        num_components = self.num_features // 2 if self.num_features >= HALVE_PCA_FROM else self.num_features
        points_NP = F.normalize(whiten(features_ND, num_components))
        labels = torch.from_numpy(cluster(points_NP.numpy(), self.num_clusters, self.config, seed))
        fraction_C = torch.bincount(labels, minlength=self.num_clusters) / len(labels)
        # If all features are constant, one cluster contains all images. Its weight would be 0, and the loss 0 / 0.
        self.cluster_weights_C.copy_((1 - fraction_C).clamp(min=1 / len(labels)))
        last: nn.Linear = self.head[-1]  # type: ignore[assignment]
        with torch.no_grad():
            last.weight.copy_(INIT_STD * torch.randn(last.weight.shape, generator=torch.Generator().manual_seed(seed)))
            last.bias.zero_()
        return labels


def whiten(features_ND: Tensor, num_components: int) -> Tensor:
    """Return the first principal components of the features, each standardized to mean 0 and variance 1.

    Components with zero variance are set to 0. They occur if some of the D features are constant or redundant, or if
    there are fewer images than features. The computation is done in float64.

    Args:
        features_ND: float (N, D), on the CPU.
        num_components: number of components to return, at most D.

    Returns:
        float32 (N, num_components), in descending order of the original variances.
    """
    x_ND = features_ND.to(torch.float64, copy=True)
    mean_square = x_ND.square().mean(0).sum()
    x_ND -= x_ND.mean(0)
    variances_D, directions_DD = torch.linalg.eigh(x_ND.T @ x_ND / max(len(x_ND) - 1, 1))
    variances_P, directions_DP = variances_D.flip(0)[:num_components], directions_DD.flip(1)[:, :num_components]
    scale_P = torch.where(variances_P > RANK_TOLERANCE**2 * mean_square, variances_P.clamp(min=0).rsqrt(), 0.0)
    return (x_ND @ (directions_DP * scale_P)).float()


def cluster(points_NP: np.ndarray, num_clusters: int, config: DeepClusterConfig, seed: int) -> np.ndarray:
    """Assign each point to a cluster with scikit-learn's k-means (k-means++).

    The `n_init` runs use a random sample of 10,000 points (or 10 per cluster, if that is more). Only the best run
    continues with all points. For 100 clusters of CIFAR-10 features (50,000 points in 64 dimensions), five runs of at
    most 30 iterations then take 1.1 s instead of 3.8 s, and the within-cluster sum of squares differs by up to 0.1% in
    either direction. For 1,000 clusters, they take 8 s instead of 35 s, and the sum is 0.1 to 0.2% larger. The same
    seed always produces the same result.

    Args:
        points_NP: the points, float32 (N, P).
        num_clusters: number of clusters.
        config: the hyperparameters, of which only `n_init` and `max_iter` are used.
        seed: seed for the sample and for k-means.

    Returns:
        The cluster of each point, int64 (N,).
    """
    options = {"n_clusters": num_clusters, "max_iter": config.max_iter, "random_state": seed}
    sample_size = max(SAMPLE_SIZE, SAMPLES_PER_CLUSTER * num_clusters)
    # Use one thread, because several threads add up the centers in the order in which they finish. BLAS threads are
    # also slow on matrices this small: a run with 1,000 clusters took 5 s with one thread, and 205 s with two threads
    # on a busy machine.
    with threadpool_limits(1):
        if len(points_NP) <= sample_size:
            result = KMeans(n_init=config.n_init, **options).fit(points_NP)
        else:
            sample = np.random.default_rng(seed).choice(len(points_NP), sample_size, replace=False)
            initial = KMeans(n_init=config.n_init, **options).fit(points_NP[sample])
            result = KMeans(init=initial.cluster_centers_, n_init=1, **options).fit(points_NP)
    return result.labels_.astype(np.int64)
