"""Linear evaluation, the paper's main protocol: a linear classifier on frozen features."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rr.compute.torch_threads import single_threaded
from rr.evaluate.classification import make_classification_result
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.labeled_rows import choose_labeled_rows, choose_validation_rows
from rr.evaluate.result import ProtocolResult
from rr.params import LinearConfig
from rr.runtime.progress import Progress

# The fraction of the labeled training images that is used to choose a learning rate.
_VALIDATION_FRACTION = 0.2


def evaluate(inputs: EvaluationInputs, config: LinearConfig) -> ProtocolResult:
    """Train a linear classifier on the training features and test it after the last epoch.

    If the backbone was trained with a classifier for the target's classes, that classifier's accuracy is reported as an
    additional metric, `trained_classifier_accuracy`. It does not depend on the protocol's settings.

    Raises:
        UserError: if the predicted probabilities are not finite.
    """
    train, test = inputs.train, inputs.test
    train_features, test_features = (torch.from_numpy(split.features).to(inputs.device) for split in (train, test))
    classifier = inputs.load_trained_classifier()
    probabilities, metrics = train_and_predict(
        train_features, train.labels, test_features, test.labels, config, num_classes=inputs.num_classes,
        seed=inputs.seed,
    )  # fmt: skip
    if classifier:
        predictions = classifier(test_features).argmax(1).cpu().numpy()
        metrics["trained_classifier_accuracy"] = float((predictions == test.labels).mean())
    return make_classification_result(probabilities, inputs, metrics, config)


def train_and_predict(
    train_features: Tensor,
    train_labels: np.ndarray,
    test_features: Tensor,
    test_labels: np.ndarray,
    config: LinearConfig,
    *,
    num_classes: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, float]]:
    """Train a linear layer and return class probabilities for the test images.

    The arguments are those of `train_classifier`, and `test_features`, float32 (N_test, D), with `test_labels`, int64
    (N_test,).

    Returns:
        Probabilities, float64 (N_test, num_classes), and the metrics: `loss` (on the test images) and those that
        `train_classifier` returns.
    """
    classifier, metrics = train_classifier(train_features, train_labels, config, num_classes=num_classes, seed=seed)
    with torch.inference_mode():
        logits = classifier(test_features)
        loss = F.cross_entropy(logits, torch.from_numpy(test_labels).to(logits.device)).item()
    return logits.double().softmax(1).cpu().numpy(), {"loss": loss, **metrics}


def train_classifier(
    train_features: Tensor, train_labels: np.ndarray, config: LinearConfig, *, num_classes: int, seed: int
) -> tuple[nn.Linear, dict[str, float]]:
    """Train a linear layer and return it.

    The optimizer is Adam with a constant learning rate and without weight decay. Images are shuffled in every epoch.
    Only the images that `choose_labeled_rows` returns are used. If `learning_rate` is a list, a layer is trained with
    each rate on about four fifths of these images. The rate with the highest accuracy on the other images (at least one
    of each class with two or more images) is then used to train on all of these images; in case of a tie, the first
    such rate is used.

    Args:
        train_features: float32 (N, D).
        train_labels: int64 (N,).
        config: settings, which include the labels to use, the number of epochs, the batch size and the learning rate.
        num_classes: number of classes.
        seed: seed for the initial weights, the image order and the selection of the labels to keep.

    Returns:
        The layer, and the metrics `train_accuracy` and `train_images` (the number of training images used). If the
        learning rate was chosen from a list, the metrics also include `learning_rate`, and the accuracy and number of
        images with which it was chosen (`validation_accuracy` and `validation_images`).
    """
    kept = choose_labeled_rows(train_labels, config, seed)
    rows = torch.from_numpy(kept).to(train_features.device)
    features, labels = train_features[rows], torch.from_numpy(train_labels).to(train_features.device)[rows]
    rate = config.learning_rate
    choice: dict[str, float] = {}
    if isinstance(rate, list):
        rate, choice = _choose_learning_rate(features, labels, config, rate, num_classes, seed)
    classifier = _train(features, labels, config, rate, num_classes, seed)
    with torch.inference_mode():
        train_accuracy = (classifier(features).argmax(1) == labels).double().mean().item()
    return classifier, {"train_accuracy": train_accuracy, "train_images": len(labels), **choice}


def _choose_learning_rate(
    features: Tensor, labels: Tensor, config: LinearConfig, rates: list[float], num_classes: int, seed: int
) -> tuple[float, dict[str, float]]:
    """Return the learning rate with the highest accuracy on validation images, and metrics about this selection."""
    rows = choose_validation_rows(labels.cpu().numpy(), _VALIDATION_FRACTION, seed)
    is_validation = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    is_validation[torch.from_numpy(rows).to(labels.device)] = True
    accuracies = []
    for rate in rates:
        classifier = _train(features[~is_validation], labels[~is_validation], config, rate, num_classes, seed)
        with torch.inference_mode():
            is_correct = classifier(features[is_validation]).argmax(1) == labels[is_validation]
        accuracies.append(is_correct.double().mean().item())
    best = int(np.argmax(accuracies))
    count = int(is_validation.sum())
    return rates[best], {
        "learning_rate": rates[best], "validation_accuracy": accuracies[best], "validation_images": count,
    }  # fmt: skip


def _train(
    features: Tensor, labels: Tensor, config: LinearConfig, learning_rate: float, num_classes: int, seed: int
) -> nn.Linear:
    """Train a linear layer on features, float32 (N, D), and labels, int64 (N,), and return it."""
    torch.manual_seed(seed)
    classifier = nn.Linear(features.shape[1], num_classes).to(features.device)
    optimizer = torch.optim.Adam(classifier.parameters(), learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    # The steps are so small that a second thread and autograd would mostly add overhead.
    with Progress("evaluate", config.epochs, "epochs") as progress, single_threaded():
        for _ in range(config.epochs):
            order = torch.randperm(len(labels), generator=generator).to(labels.device)
            shuffled_features, shuffled_labels = features[order], labels[order]
            for start in range(0, len(labels), config.batch_size):
                batch = slice(start, start + config.batch_size)
                set_cross_entropy_gradient(classifier, shuffled_features[batch], shuffled_labels[batch])
                optimizer.step()
            progress.advance(1)
    return classifier


@torch.no_grad()
def set_cross_entropy_gradient(classifier: nn.Linear, features: Tensor, labels: Tensor) -> None:
    """Set the gradients of a mini-batch's mean cross-entropy with respect to the weight and bias of a linear layer.

    The gradient with respect to the logits is softmax(logits) − one-hot(labels), divided by the number of images.

    Args:
        classifier: the layer. Its gradients are replaced.
        features: float32 (M, D).
        labels: int64 (M,).
    """
    errors_MC = classifier(features).softmax(1)
    errors_MC.scatter_add_(1, labels[:, None], errors_MC.new_full((len(labels), 1), -1.0)).div_(len(labels))
    classifier.weight.grad = errors_MC.t() @ features
    classifier.bias.grad = errors_MC.sum(0)
