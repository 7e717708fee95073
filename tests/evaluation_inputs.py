"""Inputs of the evaluation protocols, for tests."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rr.data.feature_file import SplitFeatures
from rr.evaluate.inputs import EvaluationInputs
from rr.evaluate.target_dataset import TargetDataset
from rr.params import DatasetConfig
from rr.paths import PretrainPaths


def make_inputs(
    train: SplitFeatures,
    test: SplitFeatures,
    betons: Mapping[str, Path],
    dataset: DatasetConfig,
    class_names: list[str],
    *,
    seed: int = 0,
    threads: int = 1,
    **methods: Callable[..., Any],
) -> EvaluationInputs:
    """Return inputs on the CPU, with some of their methods replaced."""
    target = TargetDataset("mine", dataset, dict(betons), class_names)  # type: ignore[arg-type]
    run = PretrainPaths("mine", "conv4", "random", 1)
    return replace_methods(EvaluationInputs(train, test, target, run, seed, "cpu", threads), **methods)


def replace_methods(inputs: EvaluationInputs, **methods: Callable[..., Any]) -> EvaluationInputs:
    """Replace methods of the inputs, which are frozen, and return the inputs."""
    for name, method in methods.items():
        assert callable(getattr(EvaluationInputs, name))
        vars(inputs)[name] = method
    return inputs
