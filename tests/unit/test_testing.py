"""Test `rr.testing` on this project's methods, on the classes from the guides, and on faulty ones."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
    SIMSIAM,
    RunRr,
    pretrain_command,
    python_blocks,
    use_own_classes,
    write_own_classes,
    write_params,
    write_simsiam,
)

from rr.errors import UserError
from rr.evaluate.result import ProtocolResult, check_result
from rr.params import load_params
from rr.pretrain.loop import format_history
from rr.testing import check_backbone, check_method, check_protocol, check_source

FAULTY = """
import numpy as np
import torch
from torch import nn
from rr.methods.base import Method
from rr.params import ExtensionConfig

class Mine(Method):
    class Config(ExtensionConfig):
        pass

    def __init__(self, config, backbone):
        super().__init__(backbone)
        self.steps = 0

    def after_step(self):
        self.steps += 1

    def loss(self, views, labels, random_inputs):
        features = self.backbone(views)
        loss = features.square().mean()
        metrics = {"accuracy": (loss.detach(), 1)}
        FAULT
        return loss, metrics
"""


@pytest.mark.slow
def test_method_of_the_guide_passes(extensions: Path) -> None:
    write_simsiam(extensions)
    write_params(Path(), lambda params: params["methods"].update(simsiam=SIMSIAM))
    check_method("simsiam")


@pytest.mark.slow
def test_other_python_blocks_of_the_guide_work(extensions: Path) -> None:
    """They are a test file and a variant of SimCLR."""
    _, test_file, variant = python_blocks("docs/guides/add-a-method.md")
    write_simsiam(extensions)
    (extensions / "decayed.py").write_text(variant)

    def add_methods(params: dict) -> None:
        methods = params["methods"]
        methods["simsiam"] = SIMSIAM
        simclr = load_params(ROOT / "params.yaml").methods["simclr"].model_dump(mode="json")
        methods["decayed"] = {**simclr, "kind": "decayed:DecayedSimCLR", "decay": 0.001}

    write_params(Path(), add_methods)
    check_method("decayed")
    namespace: dict = {}
    exec(test_file, namespace)
    namespace["test_simsiam"]()


@pytest.mark.slow
def test_method_that_needs_large_batches_passes(extensions: Path) -> None:
    write_simsiam(extensions)
    file = extensions / "simsiam.py"
    text = file.read_text()
    for old, new in (
        ("        views: Literal[2]\n", "        min_batch_size: ClassVar[int] = 24\n        views: Literal[2]\n"),
        ("from typing import Literal\n", "from typing import ClassVar, Literal\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    write_params(Path(), lambda params: params["methods"].update(simsiam=SIMSIAM))
    check_method("simsiam")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["supervised", "relational"])
def test_methods_of_this_project_pass(project: Path, name: str) -> None:
    check_method(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loss = features.mean(0)", r"the loss must be a tensor of shape \(\) [^$]*, got a tensor of shape \(64,\)"),
        ("loss = 0.5", r"the loss must be a tensor of shape \(\) that depends on trainable weights, got float"),
        ("loss = loss.detach()", r"got a tensor of shape \(\) without a gradient"),
        ("return loss", "loss must return the loss and a dict of metrics, got Tensor"),
        ('metrics["accuracy"] = 0.5', "the metric accuracy must be a pair of a numerator and a denominator, got 0.5"),
        ('metrics["epoch"] = (1, 1)', "a metric must not have the name epoch"),
        ("loss = loss * torch.inf", "the loss is inf"),
        ("metrics = {}", "loss must return metrics that include accuracy"),
        ("loss = nn.Parameter(torch.ones(()))", "receives no gradient"),
        ("loss = loss * 0", "is zero"),
        ("loss = loss * (1 + np.random.rand())", "the loss differs if it is computed again"),
        ("loss = loss * (1 + torch.rand(()))", "the loss differs if it is computed again"),
        (
            "self.supports_data_parallel = False; loss = loss * (1 + np.random.rand())",
            "two training runs with the same seed differ",
        ),
        (
            "loss = loss * (1 + self.steps)",
            "a training run that was interrupted within an epoch produces a different result",
        ),
    ],
)
def test_faulty_methods_fail(extensions: Path, fault: str, message: str) -> None:
    (extensions / "mine.py").write_text(FAULTY.replace("FAULT", fault))
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")} | {"kind": "mine:Mine"}
    write_params(Path(), lambda params: params["methods"].update(mine=entry))
    with pytest.raises((AssertionError, UserError), match=message):
        check_method("mine")


@pytest.mark.slow
def test_method_that_ignores_the_seed_fails(extensions: Path) -> None:
    start = """self.steps = 0
        torch.manual_seed(0)
        for parameter in self.backbone.parameters():
            parameter.data.normal_()
"""
    text = FAULTY.replace("FAULT", "").replace("self.steps = 0\n", start)
    (extensions / "mine.py").write_text(text.replace("self.backbone(views)", "self.backbone(torch.ones_like(views))"))
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")} | {"kind": "mine:Mine"}
    write_params(Path(), lambda params: params["methods"].update(mine=entry))
    with pytest.raises(AssertionError, match="training runs with different seeds produce the same weights"):
        check_method("mine")


def test_later_epochs_may_have_other_metrics() -> None:
    first = {"epoch": 1, "loss": 0.5, "accuracy": 0.25}
    history = format_history([first, {**first, "epoch": 2, "margin": 2.0}])
    assert history == "epoch,loss,accuracy,margin\n1,0.5,0.25,\n2,0.5,0.25,2.0\n"


LABELS_IN_THE_FIRST_EPOCH = """
    def update_pseudo_labels(self, extract_features, seed):
        return (torch.arange(len(extract_features())) + 1) % 4 if self.epoch == 0 else None
"""


@pytest.mark.slow
def test_method_with_pseudo_labels_in_some_epochs_passes(extensions: Path) -> None:
    """In the other epochs, it receives no labels, even if it continues from a checkpoint."""
    text = (
        FAULTY.replace(
            "FAULT",
            "assert self.epoch == 0 or (labels < 0).all()\n"
            "        loss = (features.mean(1) - labels.repeat(2)).square().mean()",
        )
        + LABELS_IN_THE_FIRST_EPOCH
    )
    (extensions / "mine.py").write_text(text)
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")} | {"kind": "mine:Mine"}
    write_params(Path(), lambda params: params["methods"].update(mine=entry))
    check_method("mine")


MEMORY_BANK = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from rr.methods.base import Method
from rr.params import ExtensionConfig

class Mine(Method):
    class Config(ExtensionConfig):
        pass

    def __init__(self, config, backbone):
        super().__init__(backbone)

    def setup(self, num_images, num_classes):
        self.num_images = num_images
        self.register_buffer("bank", normalize(torch.randn(num_images, self.num_features)))
        self.classifier = nn.Linear(self.num_features, num_classes)

    @property
    def trained_classifier(self):
        return self.classifier

    def update_pseudo_labels(self, extract_features, seed):
        return torch.arange(self.num_images)

    def loss(self, views, labels, random_inputs):
        features = normalize(self.backbone(views))
        logits = features @ self.bank.clone().T / 0.1
        targets = labels.repeat(2)
        with torch.no_grad():
            self.bank[labels] = features[: len(labels)]
        return cross_entropy(logits, targets), {"accuracy": ((logits.argmax(1) == targets).sum(), len(targets))}
"""


@pytest.mark.slow
def test_method_with_a_memory_bank_passes(extensions: Path, rr: RunRr) -> None:
    """`setup` receives the sizes of the data, and the labels are the indices of the images."""
    (extensions / "mine.py").write_text(MEMORY_BANK)
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")} | {"kind": "mine:Mine"}
    write_params(Path(), lambda params: (params["methods"].update(mine=entry), params["grid"].update(method=["mine"])))
    check_method("mine")
    assert rr("plan").code == 0


@pytest.fixture
def former_settings() -> Iterator[None]:
    """Restore the settings that a test changes, even if it fails."""
    threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    deterministic = torch.backends.cudnn.deterministic
    yield
    torch.set_num_threads(threads)
    numba.set_num_threads(numba_threads)
    torch.backends.cudnn.deterministic = deterministic


def test_settings_of_torch_and_numba_are_restored(own_classes: Path, former_settings: None) -> None:
    """A check must not change the results of the tests that follow it."""
    state, numba_threads = torch.get_rng_state(), numba.config.NUMBA_NUM_THREADS
    torch.set_num_threads(3)
    numba.set_num_threads(numba_threads)
    torch.backends.cudnn.deterministic = False
    check_method("relational")
    check_backbone("separable")
    check_protocol("knn")
    assert (torch.get_num_threads(), torch.backends.cudnn.deterministic) == (3, False)
    assert numba.get_num_threads() == numba_threads
    assert torch.equal(torch.get_rng_state(), state)


def test_optimizers_are_restored(project: Path) -> None:
    """`differentiable=True` needs a decorator that rr removes from its own optimizers."""
    code = (
        "import torch; from rr.testing import check_method; before = torch.optim.Adam.step\n"
        "check_method('relational'); assert torch.optim.Adam.step is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    process = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True)
    assert process.returncode == 1
    assert "python -O ignores" in process.stderr


def test_unknown_and_untrained_methods_raise(project: Path) -> None:
    with pytest.raises(UserError, match=r"params.yaml: methods: unknown 'simsiam'; known: random"):
        check_method("simsiam")
    with pytest.raises(UserError, match=r"params.yaml: methods.random is not a trainable method"):
        check_method("random")


@pytest.fixture
def own_classes(extensions: Path) -> Path:
    """Return the folder of extensions, with the backbone, the source and the protocol from the guides."""
    write_own_classes(extensions)
    write_params(Path(), use_own_classes)
    return extensions


def test_other_classes_of_the_guides_pass(own_classes: Path) -> None:
    check_backbone("separable", image_size=16)
    check_source("own")
    check_protocol("nearest-mean")


def test_builtin_sources_and_protocols_pass(project: Path) -> None:
    check_source("shapes")
    check_protocol("knn")


@pytest.mark.slow
def test_method_with_an_own_backbone_passes(own_classes: Path) -> None:
    check_method("relational", backbone="separable")


def test_backbone_with_a_frozen_parameter_passes(own_classes: Path) -> None:
    file = own_classes / "separable.py"
    text = file.read_text().replace("from torch import", "import torch\nfrom torch import")
    frozen = "        self.offset = nn.Parameter(torch.ones(1), requires_grad=False)\n        self.num_features"
    file.write_text(
        text.replace("        self.num_features", frozen).replace(".mean((2, 3))", ".mean((2, 3)) + self.offset")
    )
    check_backbone("separable", image_size=16)


@pytest.mark.parametrize(
    ("code", "change", "message"),
    [
        (".mean((2, 3))", ".mean(3)", r"the output must have shape \(B, num_features\) = \(8, 8\)"),
        (".mean((2, 3))", ".mean((2, 3)),", r"the output must be a tensor \(B, num_features\), got tuple"),
        (".mean((2, 3))", ".mean((2, 3)).double()", "the output must be float32"),
        (".mean((2, 3))", ".mean((2, 3)) * torch.inf", "the output contains NaN or infinite values"),
        (".mean((2, 3))", ".mean((2, 3)) * 0", "is zero"),
        (
            ".mean((2, 3))",
            ".mean((2, 3)).to(torch.float32 if self.training else torch.float64)",
            "in eval mode, .* float32",
        ),
        (
            ".mean((2, 3))",
            ".mean((2, 3)) * (1 if self.training else torch.nan)",
            "in eval mode, the output contains NaN",
        ),
        (".mean((2, 3))", ".mean((2, 3)).detach() + self.layers[0].weight.mean()", "receives no gradient"),
        (
            "        self.num_features",
            "        torch.seed()\n        self.num_features",
            "differs between two networks with",
        ),
        (".mean((2, 3))", ".mean((2, 3)) + next(COUNTER)", "a saved and reloaded backbone produces different"),
    ],
)
def test_faulty_backbones_fail(own_classes: Path, code: str, change: str, message: str) -> None:
    file = own_classes / "separable.py"
    text = (
        file.read_text()
        .replace(code, change)
        .replace("from torch import", "import itertools\nimport torch\nfrom torch import")
    )
    file.write_text(text.replace("class Separable", "COUNTER = itertools.count()\n\nclass Separable"))
    with pytest.raises(AssertionError, match=message):
        check_backbone("separable", image_size=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "self.features",
            "separable:Separable does not define num_features: set it to the size of a representation, an int; its "
            "attribute features must be renamed to num_features",
        ),
        (
            "self.size",
            "separable:Separable does not define num_features: set it to the size of a representation, an int$",
        ),
        ("self.num_features = float(config.width); _", "separable:Separable defines num_features as 8.0: set it to"),
        (
            "self.relation_head = nn.Linear(1, 1); self.num_features",
            "separable:Separable: the attribute name relation_head is reserved for a layer that rr saves with the "
            "backbone: rename the attribute$",
        ),
    ],
)
def test_backbone_without_a_number_of_features_fails(own_classes: Path, change: str, message: str) -> None:
    file = own_classes / "separable.py"
    file.write_text(file.read_text().replace("self.num_features", change))
    with pytest.raises(UserError, match=message):
        check_backbone("separable", image_size=16)


@pytest.mark.parametrize(
    ("code", "change", "message"),
    [
        ("encode_png(pixels)", "encode_png(pixels ^ np.random.randint(255, dtype=np.uint8))", "differ between two rea"),
    ],
)
def test_faulty_sources_fail(own_classes: Path, code: str, change: str, message: str) -> None:
    file = own_classes / "medmnist.py"
    assert code in file.read_text()
    file.write_text(file.read_text().replace(code, change))
    with pytest.raises(AssertionError, match=message):
        check_source("own")


@pytest.mark.parametrize(
    ("code", "change", "message"),
    [
        (
            "encode_png(pixels)",
            'b"nothing"',
            r"train/0.png: not a readable image [^$]*repair them, or fix medmnist",
        ),
        (
            "source.classes, iter",
            "source.classes[:3], iter",
            r"the label 9 has no class name \(the number of class name",
        ),
        (
            "EncodedImage(split,",
            'EncodedImage("val",',
            r"medmnist:MedMnist: the split of 'train/0.png' must be 'train' or 'test', got 'val'",
        ),
        (
            "int(labels[split][row])",
            "str(labels[split][row])",
            r"the label of 'train/0.png' must be an integer, got '[0-9]'",
        ),
        ("encode_png(pixels)", "pixels", r"the data of 'train/0.png' must be of type bytes, got array"),
        (
            'f"{split}/{row}.png"',
            'f"{row}.png"',
            r"medmnist:MedMnist: several images have the name '0.png': give each image a different name",
        ),
        ('f"{split}/{row}.png"', "'\\udce9.png'", r"the name of '\\udce9.png' must be text in valid Unicode"),
        ("yield EncodedImage(split", "yield (split", r"an image must be an rr\.data\.raw\.EncodedImage, got \('train'"),
        (
            "RawDataset(source.classes",
            "RawDataset(['a'] * 10",
            r"class_names must be a list of distinct, non-empty strings",
        ),
        (
            '("train", "test"):\n                for',
            '("test", "train"):\n                for',
            "a source must yield all training images before the test images",
        ),
        ("return RawDataset(", "return (", r"medmnist:MedMnist\.read_dataset must return an rr\.data\.raw\.RawDataset"),
    ],
)
def test_unusable_images_and_labels_raise(own_classes: Path, code: str, change: str, message: str) -> None:
    file = own_classes / "medmnist.py"
    file.write_text(file.read_text().replace(code, change))
    with pytest.raises(UserError, match=message):
        check_source("own")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("metrics={}", "there are no metrics"),
        ('metrics={"m": float("nan")}', "the metric m must be a finite number, got nan"),
        ('metrics={"m": "0.5"}', "the metric m must be a finite number, got '0.5'"),
        ('metrics={"classes": 4}', "metrics must not contain the name classes, which rr uses"),
        ('columns={"label": result.rows}', "columns must not contain the name label, which rr uses"),
        ("metrics=None", "metrics must be a dict, got NoneType"),
        ('metrics={"label": 0.5}, columns={"index": result.rows}', "columns must not contain the name index"),
        ('metrics={"m": True}', "the metric m must be a finite number, got True"),
        ("rows=result.rows[:3]", "prediction has 40 values for 3 rows"),
        ("rows=result.rows + 1", "rows must be between 0 and 39, got 1 to 40"),
        ("predictions=result.predictions - 1", r"predictions must be between 0 and 9, got -1 to \d"),
        ("predictions=result.predictions / 2", r"predictions must be an array of integers \(R,\), got float64"),
        ("examples=result.examples[0]", "the examples must be an image"),
        ("examples=None", "the examples must be an image"),
        ('metrics={"m": np.random.rand()}', "the metrics differ between two evaluations"),
        ('columns={"c": np.random.rand(40)}', "the values of c differ between two evaluations"),
        ("columns={str(np.random.rand()): result.rows}", "the names of the columns differ between two evaluations"),
        ("rows=np.random.permutation(result.rows)", "the rows differ between two evaluations"),
        ("predictions=np.random.permutation(result.rows) % 10", "the predictions differ between two evaluations"),
        ("examples=np.random.randint(256, size=(8, 8, 3), dtype=np.uint8)", "the examples differ between two evalua"),
    ],
)
def test_faulty_protocols_fail(own_classes: Path, change: str, message: str) -> None:
    file = own_classes / "nearest_mean.py"
    text = file.read_text().replace("return make_classification_result", "result = make_classification_result")
    file.write_text(f"import dataclasses\n{text}        return dataclasses.replace(result, {change})\n")
    with pytest.raises((AssertionError, UserError), match=message):
        check_protocol("nearest-mean")


def test_columns_of_equal_missing_values_and_texts_pass(own_classes: Path) -> None:
    file = own_classes / "nearest_mean.py"
    text = file.read_text().replace("return make_classification_result", "result = make_classification_result")
    change = 'columns={"c": np.full(40, np.nan, np.float32), "t": np.array(["a"] * 40)}, predictions=None'
    file.write_text(f"import dataclasses\n{text}        return dataclasses.replace(result, {change})\n")
    check_protocol("nearest-mean")


def test_metrics_of_numpy_and_torch_become_python_numbers() -> None:
    image, none = np.zeros((1, 1, 3), np.uint8), np.empty(0, int)
    metrics = {"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(0.25), "d": np.array(1.5)}
    result = check_result("mine:Mine", ProtocolResult(metrics, none, {}, image), 5, 2)  # type: ignore[arg-type]
    assert json.dumps(result.metrics) == '{"a": 0.5, "b": 3, "c": 0.25, "d": 1.5}'


def test_backbone_with_one_module_under_two_names_passes(own_classes: Path) -> None:
    file = own_classes / "separable.py"
    text = file.read_text()
    layers = "self.layers = nn.Sequential(*layers)"
    file.write_text(text.replace(layers, f"{layers}\n        self.first = self.layers[0]"))
    check_backbone("separable", image_size=16)


def test_pretraining_checks_the_output_of_a_backbone_first(own_classes: Path, rr: RunRr) -> None:
    file = own_classes / "separable.py"
    file.write_text(file.read_text().replace(".mean((2, 3))", ".mean(3)"))
    write_params(Path(), lambda params: (use_own_classes(params), params["grid"].update(dataset=["own"])))
    assert [rr(stage, "--dataset", "own").code for stage in ("fetch", "convert")] == [0, 0]
    outcome = rr("pretrain", "--dataset", "own", "--backbone", "separable", "--method", "random", "--seed", 1)
    assert outcome.code == 2
    message = "for 2 images, the output must have shape (2, num_features) = (2, 8), got shape (2, 8, 4)\n"
    assert f"so this stage was not started:\nseparable:Separable: {message}" in outcome.err


def test_functions_that_are_not_static_raise(own_classes: Path) -> None:
    file = own_classes / "medmnist.py"
    text = file.read_text().replace("    @staticmethod\n", "")
    file.write_text(text.replace("def read_dataset(source", "def read_dataset(self, source"))
    with pytest.raises(UserError, match=r"medmnist:MedMnist\.read_dataset must be static: add @staticmethod, and rem"):
        check_source("own")


def test_unknown_names_raise(project: Path) -> None:
    for check, section in ((check_backbone, "backbones"), (check_source, "datasets"), (check_protocol, "protocols")):
        with pytest.raises(UserError, match=rf"params.yaml: {section}: unknown 'mine'"):
            check("mine")


def test_protocol_that_returns_something_else_raises(own_classes: Path) -> None:
    file = own_classes / "nearest_mean.py"
    file.write_text(file.read_text().replace("inputs, {}, config)", "inputs, {}, config).metrics"))
    with pytest.raises(
        UserError, match=r"nearest_mean:NearestMean\.evaluate must return an rr\.evaluate\.result\.Prot"
    ):
        check_protocol("nearest-mean")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("metrics = {}", "loss must return metrics that include accuracy"),
        ("loss = nn.Parameter(torch.ones(()))", "the loss of the first step does not depend on the backbone"),
    ],
)
def test_training_of_a_faulty_method_ends_in_the_first_step(
    extensions: Path, rr: RunRr, fault: str, message: str
) -> None:
    (extensions / "mine.py").write_text(FAULTY.replace("FAULT", fault))
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")} | {"kind": "mine:Mine"}
    write_params(Path(), lambda params: params["methods"].update(mine=entry))
    assert [rr(stage, "--dataset", "shapes").code for stage in ("fetch", "convert")] == [0, 0]
    outcome = rr(*pretrain_command("mine"))
    assert (outcome.code, outcome.err) == (2, f"rr: mine:Mine: {message}\n")
