"""Finetuning, the paper's protocol on STL-10: backbone and linear layer trained together on labelled pictures."""

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rr.compute.device import one_thread
from rr.data.beton import Beton
from rr.data.labels import keep_share
from rr.data.loader import Feed
from rr.errors import UserError
from rr.evaluate.features import extract
from rr.params import Dataset, Finetune
from rr.runtime.progress import Progress


def run(
    settings: Finetune,
    backbone: nn.Module,
    train: Beton,
    test: Beton,
    dataset: Dataset,
    classes: int,
    *,
    seed: int,
    device: str,
) -> tuple[np.ndarray, dict[str, float]]:
    """Train a copy of `backbone` (on `device`) and a linear layer; return what the test pictures get.

    Adam with a rate for each of the two, cross-entropy, batch norm in training mode, rates multiplied by `decay` at
    the `milestones`. One augmented view of a picture an epoch. With `labelled` below 1, only that share of each class
    is seen. A last mini-batch of one picture is left out, as it may have no batch statistics.

    Returns probabilities float64 (N_test, classes), and the metrics `loss` (test), `train_accuracy` (of the last epoch
    while it trained, on augmented pictures) and `train_images`. Raises UserError for a single labelled picture, and
    for a loss that is no longer finite.
    """
    torch.manual_seed(seed)
    layer = nn.Linear(backbone.features, classes).to(device)  # type: ignore[arg-type]
    trained = copy.deepcopy(backbone).requires_grad_(True).train()
    rows = np.flatnonzero(keep_share(train.labels, settings.labelled, seed) >= 0)
    if min(len(rows), settings.batch_size) < 2:
        raise UserError(
            f"{train.path}: finetuning needs mini-batches of two labelled pictures: raise labelled or batch_size"
        )
    optimiser = torch.optim.Adam(
        [
            {"params": trained.parameters(), "lr": settings.backbone_rate},
            {"params": layer.parameters(), "lr": settings.classifier_rate},
        ],
        weight_decay=settings.weight_decay,
        fused=True,
    )
    steps = [max(1, round(share * settings.epochs)) for share in settings.milestones]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, steps, settings.decay)
    feed = Feed(
        train, dataset, settings.augmentation, views=1, batch_size=settings.batch_size, seed=seed, device=device,
        rows=rows,
    )  # fmt: skip
    seen = len(rows) - (len(rows) % settings.batch_size == 1)
    right = torch.zeros((), dtype=torch.int64, device=device)
    with Progress("evaluate", settings.epochs, "epochs") as progress:
        for epoch in range(settings.epochs):
            right.zero_()
            for batch in feed.epoch(epoch, 0, seen):
                logits = layer(trained(feed.augment(*batch.inputs)))
                loss = F.cross_entropy(logits, batch.labels)
                right += (logits.detach().argmax(1) == batch.labels).sum()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                with one_thread():
                    optimiser.step()
            if not math.isfinite(loss.item()):
                raise UserError(
                    f"finetuning: the loss is {loss.item()} in epoch {epoch + 1}: lower the protocol's rates"
                )
            schedule.step()
            progress.advance(1)
    with torch.inference_mode():
        logits = layer(extract(trained.eval(), test, dataset, device))
        loss = F.cross_entropy(logits, torch.from_numpy(test.labels).to(logits.device))
    metrics = {"loss": loss.item(), "train_accuracy": right.item() / seen, "train_images": len(rows)}
    return logits.double().softmax(1).cpu().numpy(), metrics
