"""Linear evaluation, the paper's main protocol: a linear layer on frozen features, test accuracy of the last epoch."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rr.data.labels import keep_share
from rr.params import Linear
from rr.runtime.progress import Progress


def run(
    settings: Linear, train: tuple[Tensor, np.ndarray], test: tuple[Tensor, np.ndarray], classes: int, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Train on (features float32 (N, D), labels int64 (N,)); return what the test pictures get.

    Adam, no schedule, no decay, no augmentation; a new order every epoch. With `labelled` below 1 the layer sees that
    share of each class's pictures and no others.

    Returns probabilities float64 (N_test, classes), and metrics: `loss` of the test pictures, `train_accuracy` (a
    share in [0, 1]) and `train_images` of the pictures trained on.
    """
    known = torch.from_numpy(np.flatnonzero(keep_share(train[1], settings.labelled, seed) >= 0)).to(train[0].device)
    features, labels = train[0][known], torch.from_numpy(train[1]).to(train[0].device)[known]
    torch.manual_seed(seed)
    layer = nn.Linear(features.shape[1], classes).to(features.device)
    optimiser = torch.optim.Adam(layer.parameters(), settings.learning_rate, fused=True)
    shuffle = torch.Generator().manual_seed(seed)
    with Progress("evaluate", settings.epochs, "epochs") as progress:
        for _ in range(settings.epochs):
            order = torch.randperm(len(labels), generator=shuffle).to(labels.device)
            shuffled, targets = features[order], labels[order]
            for start in range(0, len(labels), settings.batch_size):
                part = slice(start, start + settings.batch_size)
                loss = F.cross_entropy(layer(shuffled[part]), targets[part])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
            progress.advance(1)
    with torch.inference_mode():
        logits = layer(test[0])
        metrics = {
            "loss": F.cross_entropy(logits, torch.from_numpy(test[1]).to(logits.device)).item(),
            "train_accuracy": (layer(features).argmax(1) == labels).double().mean().item(),
            "train_images": len(labels),
        }
    return logits.double().softmax(1).cpu().numpy(), metrics
