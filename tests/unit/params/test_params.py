"""params.yaml: closed, typed, and with messages that lead to the mistake."""

from pathlib import Path

import pytest
from helpers import SMALL, write_params

from rr.errors import UserError
from rr.params import Params, load
from rr.workflow import grid

ROOT = Path(__file__).parents[3]


def put(params: dict, where: str, value: object) -> None:
    *folders, key = where.split(".")
    for folder in folders:
        params = params[folder]
    params[key] = value


@pytest.mark.parametrize(  # a table: each mistake on one line
    ("where", "value", "expected"),
    [
        ("methods.relational.vews", 4, "methods.relational.vews: unknown key; did you mean 'views'?"),
        ("methods.relational.views", "4", 'methods.relational.views: input should be a valid integer (given: "4")'),
        ("methods.relational.views", True, "methods.relational.views: input should be a valid integer (given: true)"),
        ("methods.relational.views", 1, "methods.relational.views: input should be greater than or equal to 2 (given: 1)"),
        ("methods.relational.loss", "foca", "methods.relational.loss: input should be 'focal' or 'bce' (given: \"foca\")"),
        ("methods.relational.kind", "relatonal", "methods.relational.kind: unknown 'relatonal'; known: relational,"),
        ("methods.relational.augmentation.grey", 0.2, "methods.relational.augmentation.grey: unknown key; known: affine,"),
        ("methods.relational.augmentation.scale", [0.5, 2.0], "methods.relational.augmentation: scale must be"),
        ("methods.relational.learning_rate", float("inf"), "methods.relational.learning_rate: input should be a"),
        ("datasets.shapes.source.seed", -1, "datasets.shapes.source.seed: input should be greater than or equal to 0"),
        ("datasets.shapes.source", {"kind": "parquet", "path": ""}, "datasets.shapes.source.path: string should have at least 1"),
        ("datasets.shapes.source.trian", 5, "datasets.shapes.source.trian: unknown key; did you mean 'train'?"),
        ("datasets.shapes.source", {"kind": "cifar11"}, "datasets.shapes.source.kind: unknown 'cifar11'; known: shapes, cifar10,"),
        ("datasets.shapes.std", [0.5, 0.0, 0.5], "datasets.shapes.std.1: input should be greater than or equal to 0.001"),
        ("datasets.shapes.std", [0.5, 0.5], "datasets.shapes.std.2: this key is missing"),
        ("grid.method", ["random", "relationl"], "grid.method: unknown 'relationl'; did you mean 'relational'?"),
        ("grid.dataset", ["shape"], "grid.dataset: unknown 'shape'; did you mean 'shapes'?"),
        ("grid.protocol", ["liner"], "grid.protocol: unknown 'liner'; did you mean 'linear'?"),
        ("grid.backbone", ["conv5"], "grid.backbone.0: input should be 'conv4', 'resnet8', "),
        ("grid.seed", [], "grid.seed: the list is empty"),
        ("grid.seed", [1, 1], "grid.seed: a value stands twice"),
        ("grid.seed", [-1], "grid.seed.0: input should be greater than or equal to 0"),
        ("methods.rm -rf /", {"kind": "random"}, "methods.rm -rf /: string should match pattern"),
        ("gird", {}, "gird: unknown key; did you mean 'grid'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_path(tmp_path: Path, where: str, value: object, expected: str) -> None:
    write_params(tmp_path, lambda params: put(params, where, value))
    with pytest.raises(UserError) as caught:
        load(tmp_path / "params.yaml")
    assert f"{tmp_path / 'params.yaml'}: {expected}" in str(caught.value)


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    def change(params: dict) -> None:
        put(params, "threads", "two")
        del params["datasets"]["shapes"]["side"]

    write_params(tmp_path, change)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "params.yaml")
    assert "threads: input should be a valid integer" in str(caught.value)
    assert "datasets.shapes.side: this key is missing" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grid: [", "is not valid YAML"),
        ("a: 1\na: 2", "is not valid YAML"),
        ("", "holds no sections"),
        ("- 1", "holds no sections"),
        ("grid: !!python/object/apply:os.system [true]", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=expected):
        load(tmp_path / "params.yaml")


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run this in the project's root"):
        load(tmp_path / "params.yaml")


def test_a_target_outside_data_is_refused(tmp_path: Path) -> None:
    def change(params: dict) -> None:
        params["datasets"]["other"] = params["datasets"]["shapes"]
        params["grid"]["target"] = ["other"]

    write_params(tmp_path, change)
    with pytest.raises(UserError, match=r"grid\.data: add other"):
        load(tmp_path / "params.yaml")


def test_a_variant_by_merge_key_keeps_the_rest(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("\nprotocols:", "\n  relational_k4:\n    <<: *relational\n    views: 4\n\nprotocols:")
    (tmp_path / "params.yaml").write_text(text)
    methods = load(tmp_path / "params.yaml").methods
    assert methods["relational_k4"] == methods["relational"].model_copy(update={"views": 4})


def test_the_shipped_file_is_valid_and_unfolds_to_its_product() -> None:
    params = load(ROOT / "params.yaml")
    (axes,) = params.grid
    runs = list(grid.pretrainings(params))
    assert len(set(runs)) == len(axes.dataset) * len(axes.backbone) * len(axes.method) * len(axes.seed)
    assert len(set(grid.evaluations(params))) == len(runs) * len(axes.target) * len(axes.protocol)


def test_a_stage_depends_on_its_own_parameters_alone() -> None:
    import json

    before = Params.model_validate_json(json.dumps(SMALL))
    changed = json.loads(json.dumps(SMALL))
    changed["methods"]["relational"]["views"] = 16
    after = Params.model_validate_json(json.dumps(changed))

    def spec(params: Params, method: str) -> dict:
        return grid.parameters(params, "pretrain", dataset="shapes", method=method)

    assert spec(before, "relational") != spec(after, "relational")
    assert spec(before, "supervised") == spec(after, "supervised")
