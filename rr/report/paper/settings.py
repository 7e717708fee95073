"""The settings of the paper's and lightly's runs, and how our runs deviate from them.

The sources are the authors' code and README (mpatacchiola/self-supervised-relational-reasoning) and, for K, the paper's
text. lightly's settings come from its cifar10_benchmark.py at commit 42a6a92.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rr.report.paper.published import LIGHTLY, PublishedResult, name_in_paper

_VIEWS = {("resnet32", "tiny-imagenet"): 16, ("resnet34", "stl10-unlabeled"): 25}
_CROP_FLIP = {"crop": "padded", "padding": 0.125, "flip": 0.5}
_STRONG = {
    "crop": "resized", "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3], "flip": 0.5, "jitter": 0.8, "brightness": 0.8,
    "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "grayscale": 0.2,
}  # fmt: skip
# The paper uses this augmentation for finetuning and for supervised training on STL-10.
_AFFINE = {
    "flip": 0.5, "affine": 0.5, "degrees": 18.0, "translate": 0.1, "zoom": [0.9, 1.1], "shear": 10.0, "erase": 0.5,
    "erase_area": 0.111,
}  # fmt: skip
# The settings of each augmentation operation. They have no effect if the operation is disabled.
_OPERATIONS = {
    "resized": ("scale", "ratio"), "padded": ("padding",), "flip": (), "grayscale": (),
    "jitter": ("brightness", "contrast", "saturation", "hue"), "blur": ("blur_sigma",), "solarize": (),
    "affine": ("degrees", "translate", "zoom", "shear"), "erase": ("erase_area",),
}  # fmt: skip
# The recipe for every method except supervised training.
_RECIPE: dict[str, Any] = {
    "second_augmentation": None, "optimizer": {"kind": "adam", "weight_decay": 0.0},
    "schedule": {"kind": "constant", "warmup_epochs": 0}, "initial_weights": None,
}  # fmt: skip
_ADAM = {"batch_size": 128, "learning_rate": 0.001, **_RECIPE}
_PROJECTOR = {"projector_layers": 2, "projector_output_norm": False}
_METHODS: dict[str, dict[str, Any]] = {
    "supervised": {
        "augmentation": _CROP_FLIP, "views": 1, "batch_size": 128, "learning_rate": 0.1, "second_augmentation": None,
        "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0},
        "schedule": {"kind": "steps", "warmup_epochs": 0, "milestones": [0.5, 0.75], "lr_decay": 0.1},
        "initial_weights": None,
    },
    "random": {},
    "deepcluster": {"augmentation": _CROP_FLIP, **_ADAM, "hidden_dim": 256, "n_init": 5, "max_iter": 30},
    "rotation": {"augmentation": _CROP_FLIP, "views": 1, **_ADAM},
    "infomax": {"augmentation": {"flip": 0.5}, **_ADAM, "learning_rate": 0.0001, "prior_weight": 0.1},
    "simclr": {
        "augmentation": _STRONG, "views": 2, **_ADAM, "loss": "log-mean-prob", "temperature": 0.5, "hidden_dim": 256,
        "projection_dim": 64, **_PROJECTOR,
    },
    "relational": {
        "augmentation": _STRONG, **_RECIPE, "batch_size": 64, "learning_rate": 0.001, "aggregation": "cat",
        "loss": "focal", "gamma": 2.0, "alpha": 0.5, "negatives": "roll",
    },
}  # fmt: skip
_LIGHTLY_COMMON: dict[str, Any] = {
    "augmentation": _STRONG | {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "second_augmentation": None, "epochs": 200, "batch_size": 128, "learning_rate": 0.06,
    "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.0005},
    "schedule": {"kind": "cosine", "warmup_epochs": 0}, "initial_weights": None, **_PROJECTOR,
}  # fmt: skip
_LIGHTLY: dict[str, dict[str, Any]] = {
    "simclr": {
        **_LIGHTLY_COMMON, "temperature": 0.5, "hidden_dim": 512, "projection_dim": 128, "projector_output_norm": True,
    },
    # Our loss is twice lightly's. Half the learning rate and twice the weight decay result in the same steps.
    "byol": {
        **_LIGHTLY_COMMON, "learning_rate": 0.03, "optimizer": {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.001},
        "momentum": 0.99, "momentum_schedule": "constant", "hidden_dim": 1024, "projection_dim": 256,
    },
    "barlow": {**_LIGHTLY_COMMON, "redundancy_weight": 0.005, "hidden_dim": 2048, "projection_dim": 2048},
}  # fmt: skip
# The number of finetuning epochs is unknown, so it is not compared.
_PROTOCOLS: dict[str, dict[str, Any]] = {
    "linear": {"epochs": 100, "batch_size": 128, "learning_rate": 0.001},
    "finetune": {
        "augmentation": _AFFINE,
        "backbone_lr": 0.001,
        "classifier_lr": 0.0001,
        "optimizer": {"kind": "adam", "weight_decay": 0.00001},
    },
    "knn": {"neighbors": 200, "temperature": 0.1},
}
_CIFAR = {"image_size": 32, "stored_size": None, "train_images": 50_000, "test_images": 10_000}
_CIFAR100 = _CIFAR | {"mean": [0.507, 0.487, 0.441], "std": [0.267, 0.256, 0.276]}
_HALF, _QUARTER = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
_STL10 = {"image_size": 96, "stored_size": None, "mean": _HALF, "std": _HALF}
_64_PIXELS = {"image_size": 64, "stored_size": None, "mean": _HALF, "std": _QUARTER}
_DATASETS: dict[str, dict[str, Any]] = {
    "cifar10": _CIFAR | {"mean": [0.491, 0.482, 0.447], "std": [0.247, 0.243, 0.262]},
    "cifar100": _CIFAR100,
    "cifar100-20": _CIFAR100,
    "stl10": _STL10 | {"train_images": 5_000, "test_images": 8_000},
    "stl10-unlabeled": _STL10,
    "tiny-imagenet": _64_PIXELS | {"train_images": 100_000, "test_images": 10_000},
    "slimagenet64": _64_PIXELS | {"train_images": 160_000, "test_images": 40_000},
}
_PREPROCESSING = ("image_size", "stored_size", "mean", "std")
_BUDGET = {"epochs", "views"}
_SYMBOLS = {"batch_size": "M", "views": "K"}


class KnownDeviation(NamedTuple):
    """A deviation that no setting in params.yaml can remove.

    Attributes:
        documented_as: the first cell of the deviation's row in docs/deviations.md.
        text: the deviation as the report prints it.
        applies_to: field values that identify the affected published results.
    """

    documented_as: str
    text: str
    applies_to: dict[str, str]


KNOWN_DEVIATIONS = (
    KnownDeviation(
        "DeepCluster, data",
        "k-means on unaugmented images (the paper’s code uses augmented images, corrupted by a bug)",
        {"method": "deepcluster"},
    ),
    KnownDeviation(
        "Deep InfoMax, prior",
        "encoder trained against the prior’s discriminator (the paper’s code trains it to help the discriminator)",
        {"method": "infomax"},
    ),
    KnownDeviation(
        "finetuning, schedule",
        "finetuning with a schedule and an augmentation that take effect (in the paper’s code, neither does)",
        {"protocol": "finetune"},
    ),
    KnownDeviation(
        "finetuning, epochs and batch size",
        "assumed number of finetuning epochs (the paper’s is unknown)",
        {"protocol": "finetune"},
    ),
    KnownDeviation(
        "supervised, epochs on STL-10",
        "assumed number of epochs (the paper’s is unknown)",
        {"method": "supervised", "dataset": "stl10"},
    ),
    KnownDeviation(
        "supervised, coarse classes",
        "new linear layer on the network trained on the fine classes (how the paper got its result is unknown)",
        {"method": "supervised", "target": "cifar100-20"},
    ),
    KnownDeviation(
        "SlimageNet64, split",
        "different split into training and test images (the paper’s is unknown)",
        {"dataset": "slimagenet64"},
    ),
    KnownDeviation(
        "head ablation, dot product",
        "dot product without scaling (the paper gives no details)",
        {"method": "dot"},
    ),
    KnownDeviation(
        "head ablation, encoder",
        "assumed encoder shape (the paper’s is unknown)",
        {"method": "encoder-dot"},
    ),
    *(
        KnownDeviation(
            "K views for RotationNet and supervised training",
            "K views of each image in a mini-batch (the paper gives no details)",
            {"table": "Figure 2b", "method": method},
        )
        for method in ("rotation", "supervised")
    ),
    KnownDeviation(
        "lightly’s benchmark",
        "result of the last epoch (lightly: of the best epoch on the test set), batch norm over both views together",
        {"table": LIGHTLY},
    ),
)


class Deviation(NamedTuple):
    """A setting that differs from the paper's. `reduces_budget` is True if it means fewer epochs or views."""

    text: str
    reduces_budget: bool


def find_deviations(
    published: PublishedResult,
    method_settings: dict[str, Any],
    protocol_settings: dict[str, Any],
    precision: str,
    datasets: Mapping[str, Mapping[str, Any]],
) -> list[Deviation]:
    """Return a run's deviations from a paper result, including those that no setting can remove.

    Args:
        published: the result in the paper.
        method_settings: the settings of the method.
        protocol_settings: the settings of the protocol. They are not compared if the paper's result is the accuracy of
            the trained network, because no protocol affects it.
        precision: the floating-point precision used in training.
        datasets: what the run recorded about its datasets, from `recorded_datasets`.
    """
    paper_protocol = {} if published.is_trained_classifier_accuracy else _PROTOCOLS[published.protocol]
    paper_method = _published_method_settings(published, method_settings["kind"])
    deviations = _compare_settings(published, method_settings, paper_method, "")
    deviations += _compare_settings(published, protocol_settings, paper_protocol, f"{published.protocol} ")
    for name, recorded in datasets.items():
        expected = {key: value for key, value in _paper_dataset(published, name).items() if key in recorded}
        deviations += _compare_settings(published, recorded, expected, f"{name_in_paper(name)}: ")
    if precision != "float32":
        deviations.append(Deviation("mixed precision", False))
    for known in KNOWN_DEVIATIONS:
        if all(getattr(published, name) == value for name, value in known.applies_to.items()):
            deviations.append(Deviation(known.text, False))
    return deviations


def _compare_settings(
    published: PublishedResult, ours: Mapping[str, Any], expected: Mapping[str, Any], prefix: str
) -> list[Deviation]:
    """Return a deviation for each key in `expected` whose value differs in `ours`.

    `prefix` precedes the key in the text.
    """
    deviations = []
    for key, theirs in expected.items():
        value = ours.get(key)
        if key == "augmentation":
            if _enabled_operations(value or {}) != _enabled_operations(theirs):
                deviations.append(Deviation(f"different {prefix}augmentation", False))
        elif value != theirs:
            text = _describe_deviation(prefix, key, value, theirs, published)
            deviations.append(Deviation(text, key in _BUDGET and (value or 0) < theirs))
    return deviations


def paper_method_settings(kind: str, dataset: str, backbone: str) -> dict[str, Any]:
    """Return the settings with which the paper trained a method of this kind; empty if the paper does not use it.

    An augmentation contains only the settings of its enabled operations.
    """
    if kind not in _METHODS or kind == "random":
        return {}
    expected = {"epochs": 300 if dataset == "stl10-unlabeled" else 200, **_METHODS[kind]}
    if kind == "relational":
        expected["views"] = _VIEWS.get((backbone, dataset), 32)
    if kind == "deepcluster":  # ten clusters per class, or 100 clusters for the unlabeled images, which have no classes
        total = {"clusters": 100, "clusters_per": "dataset"}
        expected |= total if dataset == "stl10-unlabeled" else {"clusters": 10, "clusters_per": "class"}
    if kind == "supervised" and dataset == "stl10":
        expected["augmentation"] = _AFFINE
        del expected["epochs"]  # unknown
    return expected


def paper_protocol_settings(kind: str, target: str) -> dict[str, Any]:
    """Return the paper's settings for a protocol of this kind on a target; empty if the paper does not use it."""
    is_used = kind == "linear" or (kind == "finetune" and target == "stl10")
    return _PROTOCOLS[kind] if is_used else {}


def paper_preprocessing(dataset: str) -> dict[str, Any]:
    """Return the size and normalization of a dataset's images in the paper; empty if the paper does not use it."""
    return {key: value for key, value in _DATASETS.get(dataset, {}).items() if key in _PREPROCESSING}


def recorded_datasets(
    preprocessing: Iterable[Mapping[str, Any]], target: str, metrics: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return what a run recorded about its datasets, by name, for `find_deviations`.

    Args:
        preprocessing: the preprocessing in the records of the pretraining and the evaluation.
        target: the target dataset.
        metrics: the evaluation's metrics, which include the numbers of training and test images.
    """
    datasets: dict[str, dict[str, Any]] = {}
    for sections in preprocessing:
        for path, values in sections.items():
            datasets.setdefault(path.removeprefix("datasets."), {}).update(values)
    counts = {name: metrics[name] for name in ("train_images", "test_images") if name in metrics}
    datasets.setdefault(target, {}).update(counts)
    return datasets


def is_augmentation_operation(name: str) -> bool:
    """Return whether an augmentation key is an operation that a value of 0 disables, such as `flip`."""
    return name in _OPERATIONS


def _published_method_settings(published: PublishedResult, kind: str) -> dict[str, Any]:
    """Return the settings that the paper or lightly used to train a method of this kind for a result."""
    if published.table == LIGHTLY:
        return _LIGHTLY[kind]
    expected = paper_method_settings(kind, published.dataset, published.backbone)
    if expected and published.views:
        expected["views"] = published.views
    return expected


def _paper_dataset(published: PublishedResult, name: str) -> dict[str, Any]:
    """Return the paper's preprocessing and number of images for a dataset. lightly's normalization is not compared."""
    skipped = ("mean", "std") if published.table == LIGHTLY else ()
    return {key: value for key, value in _DATASETS.get(name, {}).items() if key not in skipped}


def _enabled_operations(augmentation: dict[str, Any]) -> dict[str, Any]:
    """Return an augmentation's enabled operations and their settings, which determine its effect."""
    names = [name for name in _OPERATIONS if name == augmentation.get("crop") or augmentation.get(name)]
    return {key: augmentation.get(key) for name in names for key in (name, *_OPERATIONS[name])}


def _describe_deviation(prefix: str, key: str, ours: Any, theirs: Any, published: PublishedResult) -> str:
    if key == "epochs" and ours < theirs:
        return f"{ours} of {theirs} {prefix}epochs"
    name = f"{prefix}{_SYMBOLS.get(key, key.replace('_', ' '))}"
    source = "lightly" if published.table == LIGHTLY else "paper"
    return f"{name} = {_describe_setting(ours)} ({source}: {_describe_setting(theirs)})"


def _describe_setting(value: Any) -> str:
    """Return a setting as text, such as `sgd, momentum 0.9, weight decay 0` for an optimizer."""
    if isinstance(value, dict):
        others = (f"{key.replace('_', ' ')} {_describe_setting(item)}" for key, item in value.items() if key != "kind")
        return ", ".join(filter(None, [value.get("kind"), *others]))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_describe_setting, value))
    if value is None:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
