"""`rr classify`: predict the classes of the images in a folder."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rr.data.feature_file import SplitFeatures
from rr.data.preprocessing import Preprocessing
from rr.data.printable_names import printable
from rr.data.skipped_files import UnreadablePolicy, format_skipped
from rr.evaluate import knn, linear
from rr.gallery.feature_extractor import load_feature_extractor
from rr.gallery.images import list_images
from rr.gallery.index_file import default_index_path
from rr.gallery.index_update import make_skipped_files, update_index
from rr.params import KnnConfig, LinearConfig
from rr.runtime.atomic import write_text
from rr.runtime.formatting import format_count

# A function from features, float32 (N, D), to class probabilities, float64 (N, C).
Classifier = Callable[[np.ndarray], np.ndarray]

_MAX_CLASSES = 5  # in the summary


def make_classifier(
    config: LinearConfig | KnnConfig, train: SplitFeatures, num_classes: int, *, seed: int, device: str
) -> Classifier:
    """Return the classifier that the `linear` or `knn` protocol with these settings and this seed evaluates.

    On the same kind of machine, its predictions for the test images are identical to those of the evaluation.
    """
    if isinstance(config, KnnConfig):
        return lambda features: knn.predict_probabilities(train.features, train.labels, features, num_classes, config)
    train_features = torch.from_numpy(train.features).to(device)
    layer, _ = linear.train_classifier(train_features, train.labels, config, num_classes=num_classes, seed=seed)

    def predict(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return layer(torch.from_numpy(features).to(device)).double().softmax(1).cpu().numpy()

    return predict


def classify(
    folder: Path,
    weights: Path,
    preprocessing: Preprocessing,
    classifier: Classifier,
    class_names: list[str],
    output: Path,
    *,
    on_unreadable: UnreadablePolicy,
    device: str,
) -> str:
    """Write the predicted class of each image in `folder` and its subfolders to a CSV file; return a summary.

    The columns are the path relative to `folder`, the predicted class and its probability. The features of the images
    are stored in `.rr/gallery`, and features that are already there are not computed again.

    Raises:
        UserError: if the folder has no images, if an image cannot be read (unless `on_unreadable` is "skip"), or if the
            backbone cannot be loaded.
    """
    skipped = make_skipped_files(on_unreadable)
    files = list_images(folder, skipped)
    extractor = load_feature_extractor(weights, preprocessing, device)
    found, _ = update_index(default_index_path(extractor, folder), extractor, folder, files, skipped)
    skipped.raise_if_unreadable()
    probabilities = classifier(found.vectors)
    predictions = [class_names[label] for label in probabilities.argmax(1)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "class", "probability"))
    for image, name, probability in zip(found.images, predictions, probabilities.max(1), strict=True):
        writer.writerow((image.name, name, f"{probability:.4f}"))
    write_text(output, text.getvalue(), concurrent=True)
    frequent = Counter(predictions).most_common()
    counts = [f"{printable(name)} {count:,}" for name, count in frequent[:_MAX_CLASSES]]
    counts += ["…"] if len(frequent) > _MAX_CLASSES else []
    summary = f"{output}: {format_count(len(predictions), 'images')} ({', '.join(counts)})"
    return "\n".join([summary, *format_skipped(skipped.counts)])
