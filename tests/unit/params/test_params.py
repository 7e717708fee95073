"""Tests for params.yaml: types are strict, and error messages point to the mistake."""

import json
import time
from pathlib import Path

import pytest
from helpers import ROOT, SMALL_PARAMS, write_params
from pydantic import BaseModel

from rr.errors import UserError
from rr.params import Params, datasets, load_params, methods, protocols, schema
from rr.params.base import RENAMED_KEYS
from rr.params.optimizers import AdamConfig, LARSConfig, SGDConfig, StepsScheduleConfig
from rr.workflow import grid, stage_runs


def set_value(params: dict, path: str, value: object) -> None:
    *sections, key = path.split(".")
    for section in sections:
        params = params[section]
    params[key] = value


@pytest.mark.parametrize(  # one mistake per line
    ("path", "value", "expected"),
    [
        ("methods.relational.vews", 4, "{path}: unknown key; did you mean 'views'?"),
        ("methods.relational.views", "4", '{path}: input should be a valid integer (given: "4")'),
        ("methods.relational.views", True, "{path}: input should be a valid integer (given: true)"),
        ("methods.relational.views", 1, "{path}: input should be greater than or equal to 2 (given: 1)"),
        ("methods.relational.loss", "foca", "{path}: input should be 'focal' or 'bce' (given: \"foca\")"),
        ("methods.relational.kind", "relatonal", "{path}: unknown 'relatonal'; did you mean 'relational'?"),
        ("methods.relational.augmentation.grey", 0.2, "{path}: unknown key; known: affine,"),
        ("methods.relational.augmentation.scale", [0.5, 2.0], "methods.relational.augmentation: scale must be"),
        ("methods.relational.learning_rate", float("inf"), "{path}: input should be a"),
        ("datasets.shapes.source.seed", -1, "{path}: input should be greater than or equal to 0"),
        ("datasets.shapes.source", {"kind": "parquet", "path": ""}, "{path}.path: string should have at least 1"),
        ("datasets.shapes.source.trian", 5, "{path}: unknown key; did you mean 'train'?"),
        ("datasets.shapes.source", {"kind": "coco"}, "{path}.kind: unknown 'coco'; known: cifar10, cifar100,"),
        ("datasets.shapes.std", [0.5, 0.0, 0.5], "{path}.1: input should be greater than or equal to 0.001"),
        ("datasets.shapes.std", [0.5, 0.5], "{path}.2: this key is missing"),
        ("datasets.shapes.stored_size", 4, "{path}: input should be greater than or equal to 8"),
        ("datasets.shapes.stored_size", 24, "datasets.shapes: stored_size must be at least image_size, got 24 and 32"),
        ("datasets.shapes.quality", "rw", "{path}: must be the JPEG quality, an integer from 1 to 100, or raw"),
        ("datasets.shapes.quality", 90, "datasets.shapes: quality applies only to photographs with a stored_size"),
        ("datasets.shapes.std", None, "datasets.shapes: mean is set without std: add std, or remove mean"),
        ("grid.method", ["random", "relationl"], "{path}: unknown 'relationl'; did you mean 'relational'?"),
        ("grid.dataset", ["shape"], "{path}: unknown 'shape'; did you mean 'shapes'?"),
        ("grid.protocol", ["liner"], "{path}: unknown 'liner'; did you mean 'linear'?"),
        ("grid.backbone", ["conv5"], "{path}: unknown backbone 'conv5'; did you mean 'conv4'?"),
        ("grid.seed", [], "{path}: the list is empty"),
        ("grid.seed", [1, 1], "{path}: duplicate value 1; remove one"),
        ("grid.seed", [-1], "{path}.0: input should be greater than or equal to 0"),
        ("methods.rm -rf /", {"kind": "random"}, "{path}: invalid name; use letters, digits, - and _"),
        ("gird", {}, "{path}: unknown key; did you mean 'grid'?"),
        ("dynamics.every", 1, "{path}: this key is now called 'every_n_epochs'"),
        ("datasets.shapes.side", 32, "{path}: this key is now called 'image_size'"),
        ("methods.relational.labelled", 0.1, "{path}: this key is now called 'label_fraction'"),
        ("methods.relational.mean", "of-logs", "{path}: this key is now called 'loss'"),
        ("methods.relational.depths", [1], "{path}: unknown key; did you mean 'epochs'?"),
        ("grid.backbone", ["mobilenet-v2"], "{path}: unknown backbone 'mobilenet-v2'; did you mean 'mobilenet_v2'?"),
        ("grid.backbone", ["squeezenet1_0"], "{path}: unknown backbone 'squeezenet1_0'; known: conv4, resnet8, "),
        ("grid.backbone", ["timm/vit_tiny"], "{path}: write timm-vit_tiny, without a slash, because"),
        ("methods.supervised.momentum", 0.9, "{path}: this key is now called 'optimizer.momentum'"),
        ("methods.supervised.milestones", [0.5], "{path}: this key is now called 'schedule.milestones'"),
        ("protocols.finetune.lr_decay", 0.1, "{path}: this key is now called 'schedule.lr_decay'"),
        ("protocols.finetune.weight_decay", 0.1, "{path}: this key is now called 'optimizer.weight_decay'"),
        ("methods.relational.optimizer", {"kind": "sdg"}, "{path}.kind: unknown 'sdg'; did you mean 'sgd'?"),
        ("methods.supervised.optimizer.nesterov", True, "{path}: unknown key; known: kind, momentum, weight_decay"),
        ("methods.supervised.schedule.warmup", 1, "{path}: unknown key; did you mean 'warmup_epochs'?"),
        (
            "methods.supervised.schedule.warmup_epochs", 20,
            "methods.supervised: schedule.warmup_epochs must be less than epochs (2), got 20: lower warmup_epochs, or ",
        ),
        ("protocols.finetune.schedule.warmup_epochs", 200, "protocols.finetune: schedule.warmup_epochs must be less"),
        ("methods.supervised.second_augmentation", {"flip": 0.5}, "methods.supervised: second_augmentation needs at"),
        ("grid.seed", 1, "{path}: must be a list, such as [1]"),
        ("grid.backbone", "conv4", '{path}: must be a list, such as ["conv4"]'),
        ("datasets.shapes.mean", 0.5, "{path}: must be a list"),
        ("methods.relational.second_augmentation", {"blr": 0.5}, "{path}.blr: unknown key; did you mean 'blur'?"),
    ],
)  # fmt: skip
def test_mistake_is_reported_with_its_path(tmp_path: Path, path: str, value: object, expected: str) -> None:
    write_params(tmp_path, lambda params: set_value(params, path, value))
    with pytest.raises(UserError) as caught:
        load_params(tmp_path / "params.yaml")
    assert f"{tmp_path / 'params.yaml'}: {expected.format(path=path)}" in str(caught.value)


def test_duplicate_claims_are_rejected() -> None:
    claim = {
        "method": "relational", "above": "random", "dataset": "shapes", "backbone": "conv4", "target": "shapes",
        "protocol": "knn", "margin": 1.0, "assumed": {"difference": 2.0, "std": [1.0, 1.0], "source": "a pilot run"},
    }  # fmt: skip
    claims = [claim, claim | {"margin": 1.5}, claim | {"assumed": None}]
    validate_grid(claims=claims)
    with pytest.raises(ValueError, match=r"grid\.claims: duplicate value ClaimConfig\(method='relational', .*; remove"):
        validate_grid(claims=[*claims, claim])


def test_many_seeds_are_checked_quickly() -> None:
    start = time.process_time()
    validate_grid(seed=list(range(60_000)))
    assert time.process_time() - start < 5  # comparing every two seeds would take several times as long


def validate_grid(**changes: object) -> None:
    Params.model_validate_json(json.dumps(SMALL_PARAMS | {"grid": SMALL_PARAMS["grid"] | changes}))


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_sources_of_own_images_have_defaults(tmp_path: Path, kind: str) -> None:
    source = {"kind": kind, "path": "x"}
    write_params(tmp_path, lambda params: set_value(params, "datasets.shapes.source", source))
    loaded = load_params(tmp_path / "params.yaml")
    columns = {"image": None, "label": None} if kind == "parquet" else {}
    defaults = {"splits": "auto", "labels": "auto", "test_fraction": 0.2, "on_unreadable": "raise", "exclude": None}
    assert loaded.datasets["shapes"].source.model_dump() == source | defaults | columns
    # The record of `rr fetch` contains the defaults.
    recorded = stage_runs.stage_params(loaded, "fetch", dataset="shapes")
    assert recorded["datasets.shapes.source"] == source | defaults | columns
    source["splits"] = {"train": "a", "test": "b"}
    write_params(tmp_path, lambda params: set_value(params, "datasets.shapes.source", source))
    loaded_source = load_params(tmp_path / "params.yaml").datasets["shapes"].source
    assert loaded_source.model_dump()["splits"] == {"train": "a", "test": "b"}


@pytest.mark.parametrize(
    "splits", [None, True, 1, "train", ["train", "test"], {}, {"test": "a"}, {"train": ""}, {"train": 1},
               {"train": "a", "tset": "b"}, {"test": None, "train": "a"}],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_wrong_type_of_splits_is_one_clear_line(tmp_path: Path, kind: str, splits: object) -> None:
    source = {"kind": kind, "path": "x", "splits": splits}
    write_params(tmp_path, lambda params: set_value(params, "datasets.shapes.source", source))
    with pytest.raises(UserError) as caught:
        load_params(tmp_path / "params.yaml")
    assert str(caught.value) == (
        f"{tmp_path / 'params.yaml'}: datasets.shapes.source.splits: must be auto, none, or the names of the splits: "
        f"{{train: NAME}} or {{train: NAME, test: NAME}} (given: {json.dumps(splits)})"
    )


def test_every_renamed_key_has_a_valid_replacement() -> None:
    models = [model for module in (datasets, methods, protocols, schema) for model in vars(module).values()]
    fields = [set(model.model_fields) for model in models if isinstance(model, type) and issubclass(model, BaseModel)]
    sections = {"optimizer": (AdamConfig, SGDConfig, LARSConfig), "schedule": (StepsScheduleConfig,)}
    for old, new in RENAMED_KEYS.items():
        section, _, key = new.partition(".")
        assert any(section in names for names in fields)
        assert not key or any(key in model.model_fields for model in sections[section])
        assert not any({old, new} <= names for names in fields)


def test_runs_with_equal_names_in_dvc_are_refused(tmp_path: Path) -> None:
    """DVC joins the values of the axes with hyphens, and drops all but one of the runs with the same name."""

    def change(params: dict) -> None:
        params["protocols"] |= {"shapes-knn": params["protocols"]["knn"], "a": params["protocols"]["knn"]}
        params["datasets"]["shapes-shapes"] = params["datasets"]["shapes"]
        params["datasets"]["shapes-conv4"] = params["datasets"]["shapes"]
        params["methods"]["conv4-random"] = params["methods"]["random"]
        params["grid"].update(data=[*params["datasets"]], target=["shapes", "shapes-shapes"], protocol=protocols)
        params["grid"].update(dataset=datasets, method=["random", "conv4-random"])

    datasets, protocols = ["shapes"], ["knn", "a"]
    write_params(tmp_path, change)
    load_params(tmp_path / "params.yaml")
    datasets = ["shapes", "shapes-conv4"]
    write_params(tmp_path, change)
    with pytest.raises(
        UserError, match=r"\(shapes, conv4, conv4-random, 1\) and \(shapes-conv4, conv4, random, 1\) the"
    ):
        load_params(tmp_path / "params.yaml")
    datasets = ["shapes"]
    protocols = ["knn", "shapes-knn"]
    write_params(tmp_path, change)
    message = (
        r"DVC would give the runs \(shapes, conv4, random, 1, shapes, shapes-knn\) and "
        r"\(shapes, conv4, random, 1, shapes-shapes, knn\) the same name, shapes-conv4-random-1-shapes-shapes-knn: "
    )
    with pytest.raises(UserError, match=message):
        load_params(tmp_path / "params.yaml")


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    def change(params: dict) -> None:
        set_value(params, "threads", "two")
        del params["datasets"]["shapes"]["image_size"]

    write_params(tmp_path, change)
    with pytest.raises(UserError) as caught:
        load_params(tmp_path / "params.yaml")
    assert "threads: input should be a valid integer" in str(caught.value)
    assert "datasets.shapes.image_size: this key is missing" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grid: [", "is not valid YAML"),
        ("a: 1\na: 2", 'is not valid YAML: line 2: found duplicate key "a"'),
        (
            "a: [1, 2\nb: 3",
            r"line 2: expected ',' or '\]', but got ':' \(while parsing a flow sequence, which starts on line 1\)",
        ),
        ("grid:\n\tseed: [1]", "is not valid YAML: line 2: found a tab: indent with spaces"),
        (
            "a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n",
            "params.yaml, line 2: git could not merge two versions of this file: choose one of them, and delete",
        ),
        ("", "is empty or not a mapping: it needs the sections grid, threads,"),
        ("- 1", "is empty or not a mapping"),
        ("grid: !!python/object/apply:os.system [true]", "is not valid YAML"),
        ("grid: {seed: [1, 2024-01-01]}", r"grid\.seed\.1: unsupported value 2024-01-01 \(type date\): use only text"),
        ("grid: {2024-01-01: 1}", "grid: the key 2024-01-01 is not text; put it in quotes"),
        ("10: 5", "top level: the key 10 is not text; put it in quotes"),
        ("methods: {null: {}}", "methods: the key None is not text; put it in quotes"),
        (f"threads: {2**64}", "threads: the number has more than 64 bits"),
        ("threads: 0x" + "f" * 5000, "threads: the number has more than 64 bits"),
    ],
)
def test_invalid_file_raises(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=expected):
        load_params(tmp_path / "params.yaml")


def test_file_that_is_not_utf8_raises(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"grid: \xff")
    with pytest.raises(UserError, match=r"is not UTF-8 text .*: save it with UTF-8 encoding"):
        load_params(tmp_path / "params.yaml")


def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found: run rr in the root folder of a project"):
        load_params(tmp_path / "params.yaml")


def test_target_missing_from_data_raises(tmp_path: Path) -> None:
    def change(params: dict) -> None:
        params["datasets"]["other"] = params["datasets"]["shapes"]
        params["grid"]["target"] = ["other"]

    write_params(tmp_path, change)
    with pytest.raises(
        UserError, match=r"grid\.target: grid\.data, .*, does not contain other; set data: \[shapes, other\]"
    ):
        load_params(tmp_path / "params.yaml")


def test_merge_key_keeps_other_values(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("\nprotocols:", "\n  relational_k4:\n    <<: *relational\n    views: 4\n\nprotocols:")
    (tmp_path / "params.yaml").write_text(text)
    methods = load_params(tmp_path / "params.yaml").methods
    assert methods["relational_k4"] == methods["relational"].model_copy(update={"views": 4})


def test_default_file_is_valid_and_expands_to_the_full_grid() -> None:
    params = load_params(ROOT / "params.yaml")
    (axes,) = params.grid
    runs = list(grid.pretrainings(params))
    assert len(set(runs)) == len(axes.dataset) * len(axes.backbone) * len(axes.method) * len(axes.seed)
    assert len(set(grid.evaluations(params))) == len(runs) * len(axes.target) * len(axes.protocol)


def test_stage_depends_only_on_its_own_parameters() -> None:
    before = Params.model_validate_json(json.dumps(SMALL_PARAMS))
    changed = json.loads(json.dumps(SMALL_PARAMS))
    changed["methods"]["relational"]["views"] = 16
    after = Params.model_validate_json(json.dumps(changed))

    def pretrain_params(params: Params, method: str) -> dict:
        return stage_runs.stage_params(params, "pretrain", backbone="conv4", method=method)

    assert pretrain_params(before, "relational") != pretrain_params(after, "relational")
    assert pretrain_params(before, "supervised") == pretrain_params(after, "supervised")
