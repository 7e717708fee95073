"""Supervised training: the schedule of the authors' code, and the classifier that is saved with the backbone."""

import json
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from golden import small_config
from helpers import RunRr, write_params
from safetensors.torch import load_file, save_file
from torch import nn

from rr import backbones, methods
from rr.backbones.weights import load_backbone, load_classifier, save_backbone
from rr.compute.optimizers import milestone_epochs, scheduled_learning_rate
from rr.data.beton import Beton
from rr.errors import UserError
from rr.evaluate.stage import evaluate
from rr.evaluate.target_dataset import TargetDataset
from rr.extract import extract
from rr.params.methods import TrainableConfig
from rr.params.optimizers import SGDConfig
from rr.paths import EvaluationPaths, PretrainPaths
from rr.views import Augmentation

CLASSIFIER_KEYS = {"trained_classifier.weight", "trained_classifier.bias"}


def authors_rates(num_epochs: int) -> list[float]:
    """Return the learning rate of each epoch in the authors' code (methods/standard.py)."""
    rate, rates = 0.1, []
    for epoch in range(num_epochs):
        if epoch == int(num_epochs * 0.5) or epoch == int(num_epochs * 0.75):
            rate *= 0.1
        rates.append(rate)
    return rates


def scheduled_rates(num_epochs: int) -> list[float]:
    """Return the learning rate of each epoch in our training."""
    config = small_config("supervised", epochs=num_epochs)
    assert isinstance(config, TrainableConfig)
    assert config.optimizer == SGDConfig(kind="sgd", momentum=0.9, weight_decay=0.0)
    return [
        scheduled_learning_rate(config.schedule, config.learning_rate, epoch, num_epochs) for epoch in range(num_epochs)
    ]


@pytest.mark.parametrize(
    ("num_epochs", "decays"),
    # The number of decays before each epoch, by hand: int(1.5) = 1, int(2.25) = 2, int(2.5) = 2, int(3.75) = 3.
    [(2, [0, 1]), (3, [0, 1, 2]), (4, [0, 0, 1, 2]), (5, [0, 0, 1, 2, 2]), (7, [0, 0, 0, 1, 1, 2, 2])],
)
def test_rates_of_small_budgets(num_epochs: int, decays: list[int]) -> None:
    assert scheduled_rates(num_epochs) == pytest.approx([0.1 * 0.1**count for count in decays])


@pytest.mark.parametrize("num_epochs", [2, 3, 6, 9, 20, 200, 300])
def test_rates_equal_those_of_the_authors_code(num_epochs: int) -> None:
    assert scheduled_rates(num_epochs) == pytest.approx(authors_rates(num_epochs))


def test_milestones_equal_those_of_the_authors_code_for_every_budget() -> None:
    for num_epochs in range(2, 301):
        milestones = milestone_epochs([0.5, 0.75], num_epochs)
        rates = [0.1 * 0.1 ** sum(m <= epoch for m in milestones) for epoch in range(num_epochs)]
        assert rates == pytest.approx(authors_rates(num_epochs)), num_epochs


def test_a_single_epoch_has_the_initial_rate() -> None:
    """The authors' code would start with the decayed rate (docs/deviations.md)."""
    assert scheduled_rates(1) == [0.1]


def test_milestones_are_exact() -> None:
    assert 0.29 * 100 < 29  # a rounding error
    for percent in range(101):
        for num_epochs in (100, 200, 300):
            assert milestone_epochs([percent / 100], num_epochs) == [max(1, percent * num_epochs // 100)]
    assert milestone_epochs([0.75, 0.5, 0.75], 8) == [4, 6]
    assert milestone_epochs([], 8) == []


@pytest.mark.parametrize("K", [1, 3])
def test_loss_is_over_all_views(K: int) -> None:
    torch.manual_seed(0)
    method = methods.build(small_config("supervised", views=K), backbones.build("conv4"), num_classes=10)
    views, labels = torch.randn(4 * K, 3, 16, 16), torch.tensor([3, 1, 4, 1])
    loss, statistics = method.loss(views, labels, ())
    logits, targets = method.classifier(method.backbone(views)), torch.cat([labels] * K)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, targets))
    correct, total = statistics["accuracy"]
    assert total == 4 * K
    assert int(correct) == int((logits.argmax(1) == targets).sum())


def test_network_is_saved_with_its_classifier(tmp_path: Path) -> None:
    """The saved classifier is the one that a single step of torch's own modules produces."""
    data = golden.write_images(tmp_path / "train.beton", 64)
    config = small_config("supervised", epochs=1, batch_size=64, augmentation=Augmentation())
    outputs = golden.train(data, tmp_path / "run", config)
    state = load_file(outputs.weights)
    assert set(state) >= CLASSIFIER_KEYS
    classifier = load_classifier(outputs.weights)
    assert classifier is not None
    assert torch.equal(classifier.weight, state["trained_classifier.weight"])
    assert torch.equal(classifier.bias, state["trained_classifier.bias"])
    assert not classifier.weight.requires_grad
    torch.manual_seed(1)
    reference = backbones.build("conv4")
    layer = nn.Linear(64, 10)
    images = Beton(data, threads=1)
    assert images.images is not None
    normalized = torch.from_numpy(images.images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    loss = nn.functional.cross_entropy(layer(reference(normalized)), torch.from_numpy(images.labels))
    loss.backward()
    torch.optim.SGD(layer.parameters(), 0.1, 0.9).step()
    assert layer.weight.detach().numpy() == pytest.approx(classifier.weight.numpy(), abs=1e-5)
    assert layer.bias.detach().numpy() == pytest.approx(classifier.bias.numpy(), abs=1e-5)
    assert load_backbone(outputs.weights).state_dict().keys() == reference.state_dict().keys()


@pytest.mark.parametrize("name", ["simclr", "rotation", "deepcluster"])
def test_files_of_other_methods_contain_only_the_backbone(name: str, tmp_path: Path) -> None:
    data = golden.write_images(tmp_path / "train.beton", 64)
    outputs = golden.train(data, tmp_path / "run", small_config(name, epochs=1, batch_size=32))
    assert load_classifier(outputs.weights) is None
    assert load_file(outputs.weights).keys() == load_backbone(outputs.weights).state_dict().keys()


@pytest.mark.parametrize(
    ("weight", "bias", "problem"),
    [
        (torch.zeros(10, 63), torch.zeros(10), "its classifier does not have 64 inputs"),
        (torch.zeros(10, 64), torch.zeros(9), "Error"),
        (torch.zeros(10, 64), None, "Error"),
        (torch.tensor(0.0), torch.zeros(10), "its classifier does not have 64 inputs"),
        (torch.full((10, 64), torch.nan), torch.zeros(10), r"trained_classifier\.weight contains NaN or infinity"),
    ],
)
def test_damaged_classifier_raises(
    weight: torch.Tensor, bias: torch.Tensor | None, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "backbone.safetensors"
    save_backbone(backbones.build("conv4"), path)
    state = load_file(path) | {"trained_classifier.weight": weight}
    if bias is not None:
        state["trained_classifier.bias"] = bias
    save_file(state, path, {"rr": json.dumps({"backbone": "conv4", "features": 64})})
    with pytest.raises(UserError, match=rf"is damaged \({problem}"):
        load_classifier(path)


RUN = ("--dataset", "shapes", "--backbone", "conv4", "--method", "supervised", "--seed", "1")
FOLDER = Path("runs/evaluate/shapes/conv4/supervised/1")
WEIGHTS = Path("runs/pretrain/shapes/conv4/supervised/1/backbone.safetensors")


@pytest.fixture
def supervised(project_copy: Path, rr: RunRr) -> Path:
    """Return a project with a supervised network, and with `others`, a second dataset of ten classes."""

    def add_dataset(params: dict) -> None:
        params["datasets"]["others"] = params["datasets"]["shapes"]

    write_params(project_copy, add_dataset)
    assert rr("pretrain", *RUN).code == 0
    return project_copy


def test_linear_evaluation_also_tests_the_trained_network(supervised: Path, rr: RunRr) -> None:
    assert rr("extract", *RUN, "--target", "shapes").code == 0
    assert rr("evaluate", *RUN, "--target", "shapes", "--protocol", "linear").code == 0
    metrics = json.loads((FOLDER / "shapes/linear/metrics.json").read_text())
    assert next(iter(metrics)) == "accuracy"

    state = load_file(WEIGHTS)
    layer = nn.Linear(64, 10)
    layer.load_state_dict({key.split(".")[1]: state.pop(key) for key in sorted(CLASSIFIER_KEYS)})
    backbone = backbones.build("conv4")
    backbone.load_state_dict(state)
    test = Beton(supervised / "data/beton/shapes/test.beton", threads=1)
    assert test.images is not None
    images = torch.from_numpy(test.images).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
    with torch.no_grad():
        predictions = layer(backbone.eval()(images)).argmax(1).numpy()
    assert metrics["trained_classifier_accuracy"] == np.mean(predictions == test.labels)
    assert metrics["trained_classifier_accuracy"] != metrics["accuracy"]
    # The other protocols do not report it.
    assert rr("evaluate", *RUN, "--target", "shapes", "--protocol", "knn").code == 0
    assert "trained" not in (FOLDER / "shapes/knn/metrics.json").read_text()


def test_trained_network_is_not_tested_on_another_dataset(supervised: Path, rr: RunRr) -> None:
    for stage in ("fetch", "convert"):
        assert rr(stage, "--dataset", "others").code == 0
    assert rr("extract", *RUN, "--target", "others").code == 0
    assert rr("evaluate", *RUN, "--target", "others", "--protocol", "linear").code == 0
    assert "trained" not in (FOLDER / "others/linear/metrics.json").read_text()


def test_network_of_former_classes_raises(supervised: Path) -> None:
    """If the dataset has changed since training, the network's classes are not those of the images."""
    save_backbone(load_backbone(WEIGHTS), WEIGHTS, layers={"trained_classifier": nn.Linear(64, 7)})
    betons = {split: Path(f"data/beton/shapes/{split}.beton") for split in ("train", "test")}
    target = TargetDataset(
        "shapes", golden.PARAMS.datasets["shapes"], betons, [f"class {label}" for label in range(10)]
    )
    run = EvaluationPaths(PretrainPaths("shapes", "conv4", "supervised", 1), "shapes", "linear")
    extract(WEIGHTS, target, run.extraction.features, device="cpu", threads=1)
    with pytest.raises(UserError, match=r"trained with 7 classes of shapes, which now has 10: run rr pretrain again"):
        evaluate(golden.PARAMS.protocols["linear"], target, run, seed=1, device="cpu", threads=1)
    assert not run.folder.exists()


def test_exported_and_imported_files_have_the_classifier(supervised: Path, rr: RunRr) -> None:
    expected = load_backbone(WEIGHTS).state_dict()
    for command in ("export", "--format", "safetensors"), ("import", "--backbone", "conv4"):
        outcome = rr(command[0], WEIGHTS, *command[1:], "--output", "output.safetensors")
        assert outcome.code == 0, outcome.err
        backbone = load_backbone(supervised / "output.safetensors")
        assert load_classifier(supervised / "output.safetensors") is not None
        assert all(torch.equal(value, expected[key]) for key, value in backbone.state_dict().items())
