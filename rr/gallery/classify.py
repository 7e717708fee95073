"""`rr classify`: predict the classes of the images in a folder."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from rr.data.printable_names import display_name, printable
from rr.data.skipped_files import UnreadablePolicy, format_skipped
from rr.errors import UserError
from rr.evaluate import knn, linear
from rr.evaluate.inputs import EvaluationInputs
from rr.gallery.feature_extractor import load_feature_extractor
from rr.gallery.images import list_images
from rr.gallery.index_file import default_index_path
from rr.gallery.index_update import make_skipped_files, update_index
from rr.params import KnnConfig, LinearConfig
from rr.runtime.atomic import write_text
from rr.runtime.formatting import format_count
from rr.runtime.output_path import check_output_path

# A function from features, float32 (N, D), to class probabilities, float64 (N, C).
Classifier = Callable[[np.ndarray], np.ndarray]

_HEADER = ("path", "class", "probability")
_MAX_CLASSES = 5  # in the summary


def check_csv_path(option: str, output: Path) -> None:
    """Raise UserError if `output` cannot be written, or is a file that `classify` has not written."""
    check_output_path(option, output, [".csv"])
    if output.is_file():
        with open(output, encoding="utf-8", errors="replace") as file:
            if file.readline().strip() != ",".join(_HEADER):
                raise UserError(
                    f"{option} {display_name(output)}: this file exists but was not written by rr classify: use a "
                    "different path"
                )


def classify(
    folder: Path,
    inputs: EvaluationInputs,
    config: LinearConfig | KnnConfig,
    output: Path,
    *,
    on_unreadable: UnreadablePolicy,
) -> str:
    """Write the predicted class of each image in `folder` and its subfolders to a CSV file; return a summary.

    The columns are the path relative to `folder`, the predicted class and its probability. The features of the images
    are stored in `.rr/gallery`, and features that are already there are not computed again.

    Args:
        folder: the folder of images.
        inputs: the inputs of the evaluation that tests the classifier.
        config: the settings of its protocol.
        output: the CSV file.
        on_unreadable: "raise" to raise an error if images cannot be read, or "skip" to skip them.

    Raises:
        UserError: if the folder has no images, if an image cannot be read (unless `on_unreadable` is "skip"), or if the
            backbone cannot be loaded.
    """
    skipped = make_skipped_files(on_unreadable)
    files = list_images(folder, skipped)
    extractor = load_feature_extractor(inputs.pretraining.weights, inputs.target.preprocessing, inputs.device)
    gallery, _ = update_index(default_index_path(extractor, folder), extractor, folder, files, skipped)
    skipped.raise_if_unreadable()
    with threadpool_limits(inputs.threads, "blas"):
        classifier = make_classifier(inputs, config)
        probabilities, test_probabilities = classifier(gallery.vectors), classifier(inputs.test.features)
    predictions = [inputs.target.class_names[label] for label in probabilities.argmax(1)]
    text = io.StringIO()
    text.write(",".join(_HEADER) + "\n")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")  # a name may contain a line break
    for image, name, probability in zip(gallery.images, predictions, probabilities.max(1), strict=True):
        writer.writerow((image.name, name, round(float(probability), 4)))
    write_text(output, text.getvalue(), concurrent=True)
    frequent = Counter(predictions).most_common()
    counts = [f"{printable(name)} {count:,}" for name, count in frequent[:_MAX_CLASSES]]
    counts += ["…"] if len(frequent) > _MAX_CLASSES else []
    accuracy = (test_probabilities.argmax(1) == inputs.test.labels).mean()
    lines = [
        f"{output}: {format_count(len(predictions), 'images')} ({', '.join(counts)})",
        f"accuracy of this classifier on the {format_count(len(inputs.test), 'test images')} of {inputs.target.name}: "
        f"{accuracy:.4f}",
        *format_skipped(skipped.counts),
    ]
    return "\n".join(lines)


def make_classifier(inputs: EvaluationInputs, config: LinearConfig | KnnConfig) -> Classifier:
    """Return the classifier that the `linear` or `knn` protocol with these inputs and settings tests.

    On the same kind of machine, its predictions for the test images are identical to those of the evaluation.
    """
    train, num_classes = inputs.train, inputs.num_classes
    if isinstance(config, KnnConfig):
        return lambda features: knn.predict_probabilities(train.features, train.labels, features, num_classes, config)
    train_features = torch.from_numpy(train.features).to(inputs.device)
    layer, _ = linear.train_classifier(train_features, train.labels, config, num_classes=num_classes, seed=inputs.seed)

    def predict(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return layer(torch.from_numpy(features).to(inputs.device)).double().softmax(1).cpu().numpy()

    return predict
