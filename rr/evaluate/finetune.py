"""Finetuning, the paper's protocol for STL-10: train the backbone and a linear classifier on labeled images."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rr.compute.optimizers import make_optimizer, set_learning_rates
from rr.compute.torch_threads import single_threaded
from rr.data.view_loader import ViewLoader
from rr.errors import UserError
from rr.evaluate.classification import make_classification_result
from rr.evaluate.feature_extraction import extract_features
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.labeled_rows import choose_labeled_rows
from rr.evaluate.result import ProtocolResult
from rr.params import FinetuneConfig
from rr.runtime.progress import Progress


def evaluate(inputs: EvaluationInputs, config: FinetuneConfig) -> ProtocolResult:
    """Train the backbone together with a linear classifier, and test both after the last epoch.

    Raises:
        UserError: if the loss or a probability is not finite.
    """
    probabilities, metrics = train_and_predict(inputs, config)
    return make_classification_result(probabilities, inputs, metrics, config)


def train_and_predict(inputs: EvaluationInputs, config: FinetuneConfig) -> tuple[np.ndarray, dict[str, float]]:
    """Train the backbone together with a linear layer and return class probabilities for the test images.

    The loss is the cross-entropy. The backbone and the classifier have different learning rates but the same schedule.
    Batch norm layers are in training mode. Each epoch uses one augmented view of each image that
    `choose_labeled_rows` returns. If the last mini-batch consists of a single image, it is skipped because
    batch statistics need at least two images.

    Returns:
        Probabilities, float64 (N_test, num_classes), and the metrics `loss` (on the test images), `train_accuracy` (on
        the augmented images during the last epoch) and `train_images` (the number of training images used).

    Raises:
        UserError: if the loss becomes NaN or infinite.
    """
    train, test, preprocessing = inputs.open_split("train"), inputs.open_split("test"), inputs.target.preprocessing
    device = inputs.device
    backbone = inputs.load_backbone(frozen=False).train()
    torch.manual_seed(inputs.seed)
    classifier = nn.Linear(backbone.num_features, inputs.num_classes).to(device)
    rows = choose_labeled_rows(inputs.train.labels, config, inputs.seed)
    groups = [(backbone.parameters(), config.backbone_lr), (classifier.parameters(), config.classifier_lr)]
    optimizer = make_optimizer(config.optimizer, groups)
    loader = ViewLoader(
        train, preprocessing, config.augmentation, num_views=1, batch_size=config.batch_size, seed=inputs.seed,
        device=device, positions=inputs.find_positions("train", rows),
    )  # fmt: skip
    images_per_epoch = len(rows) - (len(rows) % config.batch_size == 1)  # without a last mini-batch of one image
    steps_per_epoch = math.ceil(images_per_epoch / config.batch_size)
    num_correct = torch.zeros((), dtype=torch.int64, device=device)
    with Progress("evaluate", config.epochs, "epochs") as progress:
        for epoch in range(config.epochs):
            num_correct.zero_()
            for step, batch in enumerate(loader.iter_epoch(epoch, 0, images_per_epoch)):
                set_learning_rates(optimizer, config.schedule, epoch + step / steps_per_epoch, config.epochs)
                logits = classifier(backbone(loader.augment(*batch.inputs)))
                loss = F.cross_entropy(logits, batch.labels)
                num_correct += (logits.detach().argmax(1) == batch.labels).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                with single_threaded():
                    optimizer.step()
            if not math.isfinite(loss.item()):
                raise UserError(
                    f"finetune: the loss is {loss.item()} in epoch {epoch + 1}: lower backbone_lr and classifier_lr "
                    "for this protocol in params.yaml"
                )
            progress.advance(1)
    with torch.inference_mode():
        positions = inputs.find_positions("test", np.arange(len(inputs.test)))
        logits = classifier(extract_features(backbone.eval(), test, preprocessing, device, positions))
        loss = F.cross_entropy(logits, torch.from_numpy(inputs.test.labels).to(logits.device))
    metrics = {
        "loss": loss.item(),
        "train_accuracy": num_correct.item() / images_per_epoch,
        "train_images": len(rows),
    }
    return logits.double().softmax(1).cpu().numpy(), metrics
