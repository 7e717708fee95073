"""What the paper's runs were given, and in which of it a run of ours differs, in words.

From the authors' code and README (mpatacchiola/self-supervised-relational-reasoning) and the paper's text on K.
"""

from typing import Any

from rr.report.paper.published import Figure

_VIEWS = {("resnet32", "tiny-imagenet"): 16, ("resnet34", "stl10-unlabelled"): 25}
_CROP_FLIP = {"crop": "padded", "padding": 0.125, "flip": 0.5}
_STRONG = {
    "crop": "resized", "flip": 0.5, "jitter": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2,
    "grayscale": 0.2,
}  # fmt: skip
# Of finetuning on STL-10, as of its supervised row.
_AFFINE = {
    "flip": 0.5, "affine": 0.5, "degrees": 18.0, "translate": 0.1, "shear": 10.0, "erase": 0.5, "erase_area": 0.111,
}  # fmt: skip
_ADAM = {"batch_size": 128, "learning_rate": 0.001}
_METHODS: dict[str, dict[str, Any]] = {
    "supervised": {
        "augmentation": _CROP_FLIP, "views": 1, "batch_size": 128, "learning_rate": 0.1, "momentum": 0.9,
        "milestones": [0.5, 0.75], "decay": 0.1,
    },
    "random": {},
    "deepcluster": {"augmentation": _CROP_FLIP, **_ADAM, "hidden": 256, "starts": 5, "iterations": 30},
    "rotation": {"augmentation": _CROP_FLIP, "views": 1, **_ADAM},
    "infomax": {"augmentation": {"flip": 0.5}, "batch_size": 128, "learning_rate": 0.0001, "prior": 0.1},
    "simclr": {"augmentation": _STRONG, "views": 2, **_ADAM, "temperature": 0.5, "hidden": 256, "outputs": 64},
    "relational": {
        "augmentation": _STRONG, "batch_size": 64, "learning_rate": 0.001, "gamma": 2.0, "alpha": 0.5,
    },
}  # fmt: skip
# How long it finetunes is not known, so it is not compared.
_PROTOCOLS: dict[str, dict[str, Any]] = {
    "linear": {"epochs": 100, "batch_size": 128, "learning_rate": 0.001},
    "finetune": {"augmentation": _AFFINE, "backbone_rate": 0.001, "classifier_rate": 0.0001, "weight_decay": 0.00001},
}
_AMOUNTS = {"epochs", "views"}
_WORDS = {"batch_size": "M", "views": "K"}


def differences(figure: Figure, method: dict[str, Any], protocol: dict[str, Any]) -> list[str]:
    """In what the settings of a run and of its evaluation differ from those behind `figure`; empty where in nothing."""
    return [words for words, _ in _compared(figure, method, protocol)]


def reduced(figure: Figure, method: dict[str, Any], protocol: dict[str, Any]) -> bool:
    """Whether the run was given fewer epochs or views than the paper's, in training or in evaluation."""
    return any(less for _, less in _compared(figure, method, protocol))


def _compared(figure: Figure, method: dict[str, Any], protocol: dict[str, Any]) -> list[tuple[str, bool]]:
    """Each difference in words, and whether it is a smaller amount."""
    found = []
    for settings, expected, prefix in (
        (method, _expected(figure, method["kind"]), ""),
        (protocol, _PROTOCOLS[figure.protocol], f"{figure.protocol} "),
    ):
        for key, value in expected.items():
            ours = settings.get(key)
            if key == "augmentation":
                if not _same_views(ours or {}, value):
                    found.append((f"another {prefix}augmentation", False))
            elif ours != value:
                found.append((_words(prefix, key, ours, value), key in _AMOUNTS and (ours or 0) < value))
    return found


def _expected(figure: Figure, kind: str) -> dict[str, Any]:
    if kind == "random":
        return {}
    expected = {"epochs": 300 if figure.dataset == "stl10-unlabelled" else 200, **_METHODS[kind]}
    if kind == "relational":
        expected["views"] = _VIEWS.get((figure.backbone, figure.dataset), 32)
    if kind == "deepcluster":  # ten clusters a class; the unlabelled pictures have none to count by
        expected["clusters"] = 100 if figure.dataset == "stl10-unlabelled" else 10
    if kind == "supervised" and figure.dataset == "stl10":
        expected["augmentation"] = _AFFINE
    if figure.views:
        expected["views"] = figure.views
    return expected


def _same_views(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether two policies draw the same views: what one of them leaves out is off."""
    switches = {*_CROP_FLIP, *_STRONG, *_AFFINE} - {"padding"}
    off: dict[str, Any] = {"crop": "none"}
    same = all(ours.get(key, off.get(key, 0)) == theirs.get(key, off.get(key, 0)) for key in switches)
    return same and ("padding" not in theirs or ours.get("padding", theirs["padding"]) == theirs["padding"])


def _words(prefix: str, key: str, ours: Any, theirs: Any) -> str:
    if key == "epochs":
        return f"{ours} of {theirs} {prefix}epochs"
    name = f"{prefix}{_WORDS.get(key, key.replace('_', ' '))}"
    return f"{name} = {_number(ours)} ({_number(theirs)} there)"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
