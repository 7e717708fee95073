"""Test user-defined classes: those from the guides, their parameters, and mistakes."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import NO_DYNAMICS, write_images
from helpers import (
    ROOT,
    SIMSIAM,
    RunRr,
    python_blocks,
    use_own_classes,
    write_own_classes,
    write_params,
    write_simsiam,
)
from ruamel.yaml import YAML

from rr import backbones, methods
from rr.errors import UserError
from rr.methods.requirements import Requirements, data_requirements
from rr.params import MethodConfig, load_params
from rr.params.extensions import extension_module_files
from rr.paths import PretrainFolder
from rr.pretrain import Job, pretrain
from rr.workflow.stage_runs import iter_stage_runs

MINIMAL_METHOD = """
from typing import ClassVar
from rr.methods.base import Method
from rr.params import ExtensionConfig

class Mine(Method):
    class Config(ExtensionConfig):
        label_fraction: ClassVar[float] = 0.5

    def __init__(self, config, backbone):
        super().__init__(backbone)

    def loss(self, views, labels, random_inputs):
        return self.backbone(views).square().mean(), {"accuracy": (0, 1)}
"""
LARGE_BATCH_METHOD = MINIMAL_METHOD.replace(
    "label_fraction: ClassVar[float] = 0.5",
    "min_batch_size: ClassVar[int] = 5; drop_last: ClassVar[bool] = DROP_LAST",
).replace(
    "        return",
    "        assert len(views) == 2 * len(labels) >= 2 * self.Config.min_batch_size\n        return",
)


def load(changes: dict[str, Any]) -> MethodConfig:
    write_params(Path(), lambda params: params["methods"].update(mine={**SIMSIAM, **changes}))
    return load_params(Path("params.yaml")).methods["mine"]


def test_method_of_the_guide_is_short_and_built(extensions: Path) -> None:
    write_simsiam(extensions)
    assert len(python_blocks("docs/guides/add-a-method.md")[0].splitlines()) < 60
    config = load({})
    assert config.kind == "simsiam:SimSiam"
    torch.manual_seed(0)
    method: Any = methods.build(config, backbones.build("conv4"), 0)
    assert type(method).__name__ == "SimSiam"
    # The loss is the mean of the negative cosines, computed here row by row.
    views = torch.rand(8, 3, 32, 32)
    loss, metrics = method.loss(views, torch.full((4,), -1), ())
    with torch.no_grad():
        z = method.projector(method.backbone(views))
        p = method.predictor(z)
    cosines = [float(p[row] @ z[(row + 4) % 8] / p[row].norm() / z[(row + 4) % 8].norm()) for row in range(8)]
    assert loss.item() == pytest.approx(-sum(cosines) / 8, abs=1e-5)
    assert metrics["accuracy"][1] == 8


@pytest.mark.parametrize("guide", ["add-a-method", "backbones", "datasets", "evaluation"])
def test_entry_of_the_guide_is_valid(extensions: Path, guide: str) -> None:
    write_simsiam(extensions)
    write_own_classes(extensions)
    text = (ROOT / f"docs/guides/{guide}.md").read_text(encoding="utf-8")
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("grid"))

    def change(params: dict) -> None:
        for section, entries in YAML(typ="safe").load(example).items():
            params[section].update(entries)

    write_params(Path(), change)
    params = load_params(Path("params.yaml"))
    ((section, entries),) = (
        (name, values) for name, values in YAML(typ="safe").load(example).items() if name != "grid"
    )
    ((name, entry),) = entries.items()
    loaded = getattr(params, section)[name]
    kind = entry["source"]["kind"] if section == "datasets" else entry["kind"]
    assert (loaded.source if section == "datasets" else loaded).kind == kind
    assert any(name in values for values in params.grid[0].model_dump().values())


def test_folder_next_to_a_module_does_not_hide_its_file(extensions: Path) -> None:
    write_simsiam(extensions)
    folder = Path("workflow/extensions")
    (folder / "simsiam/__pycache__").mkdir(parents=True)
    (folder / "simsiam/notes.py").write_text("")
    assert extension_module_files("simsiam:SimSiam") == [folder / "simsiam.py"]
    (folder / "simsiam/__init__.py").write_text("")  # Python now imports the package
    files = [folder / "simsiam/__init__.py", folder / "simsiam/notes.py"]
    assert extension_module_files("simsiam:SimSiam") == files
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^workflow/extensions/empty\.py does not exist: create it, or fix the name"):
        extension_module_files("empty:SimSiam")


@pytest.mark.parametrize("annotation", ["set[str]", "list[frozenset[int]] | None"])
def test_set_in_a_config_raises(extensions: Path, annotation: str) -> None:
    write_simsiam(extensions)
    file = extensions / "simsiam.py"
    text = file.read_text()
    start = "    class Config(ExtensionConfig):\n"
    assert start in text
    file.write_text(text.replace(start, f"{start}        names: {annotation}\n"))
    with pytest.raises(UserError, match=r"simsiam:SimSiam\.Config contains a set, whose order differs between runs"):
        load({"names": []})


def test_class_in_a_package_has_all_files_of_the_package(extensions: Path) -> None:
    for name in ("__init__", "mine", "helper", "deep/more"):
        path = extensions / f"package/{name}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(MINIMAL_METHOD if name == "mine" else "")
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")}
    write_params(Path(), lambda params: params["methods"].update(mine=entry | {"kind": "package.mine:Mine"}))
    loaded = load_params(Path("params.yaml")).methods["mine"]
    assert data_requirements(loaded) == Requirements(label_fraction=0.5)
    folder = Path("workflow/extensions/package")
    names = ["__init__.py", "deep/more.py", "helper.py", "mine.py"]
    assert extension_module_files("package.mine:Mine") == [folder / name for name in names]


@pytest.mark.parametrize(
    ("drop_last", "batch_size", "expected"),
    [
        (True, 28, [56, 56]),
        (True, 61, "needs at least one full mini-batch, but batch_size is 61"),
        (False, 28, "the last mini-batch contains 4 of the 60 training images"),
        (False, 55, [110, 10]),
    ],
)
def test_class_variables_determine_the_mini_batches(
    extensions: Path, drop_last: bool, batch_size: int, expected: list[int] | str
) -> None:
    (extensions / "mine.py").write_text(LARGE_BATCH_METHOD.replace("DROP_LAST", str(drop_last)))
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")}
    entry |= {"kind": "mine:Mine", "batch_size": batch_size, "epochs": 1}
    write_params(Path(), lambda params: params["methods"].update(mine=entry))
    params = load_params(Path("params.yaml"))
    job = Job(params.datasets["shapes"], "conv4", params.methods["mine"], 10, 1, "float32", NO_DYNAMICS, "test")
    Path("run").mkdir()
    outputs = PretrainFolder("shapes", "conv4", "mine", 1, Path("run"))
    steps: list[int] = []
    with nullcontext() if isinstance(expected, list) else pytest.raises(UserError, match=expected):
        pretrain(job, write_images(Path("x.beton"), 60), outputs, device="cpu", threads=1, on_step=steps.append)
    assert steps == (expected if isinstance(expected, list) else [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_dim": 1}, "methods.mine.hiden_dim: unknown key; did you mean 'hidden_dim'?"),
        ({"zzz": 1.0}, "methods.mine.zzz: unknown key; known: augmentation, batch_size"),
        ({"hidden_dim": "32"}, 'methods.mine.hidden_dim: input should be a valid integer (given: "32")'),
        ({"views": 3}, "methods.mine.views: input should be 2 (given: 3)"),
        ({"augmentation": {"flop": 0.5}}, "methods.mine.augmentation.flop: unknown key; did you mean 'flip'?"),
        ({"kind": "simsiam"}, "methods.mine.kind: unknown 'simsiam'"),
        ({"kind": "simsiam:"}, "methods.mine: 'simsiam:' is not of the form module:Class"),
        ({"kind": "../x:SimSiam"}, "methods.mine: '../x:SimSiam' is not of the form module:Class"),
        ({"kind": "os:system"}, "methods.mine: workflow/extensions/os.py does not exist"),
        ({"kind": "simsiam:Method2"}, "methods.mine: workflow/extensions/simsiam.py does not define Method2"),
        ({"kind": "simsiam:Tensor"}, "methods.mine: simsiam:Tensor has no class Config that is a subclass of"),
    ],
)
def test_mistakes_in_an_entry_have_the_path_of_the_key(extensions: Path, changes: dict, message: str) -> None:
    write_simsiam(extensions)
    with pytest.raises(UserError) as error:
        load(changes)
    assert f"params.yaml: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("module", "code", "message"),
    [
        ("broken", "def", "broken cannot be imported (SyntaxError: "),
        ("broken", "raise SystemExit", "broken cannot be imported (SystemExit: "),
        ("broken", "1 / 0", "broken cannot be imported (ZeroDivisionError: division by zero): fix it"),
        ("broken", "import nothing_of_that_name", "broken cannot be imported (ModuleNotFoundError: "),
        ("broken", "import simsiam", "broken imports simsiam from workflow/extensions"),
        ("broken", "from simsiam import SimSiam", "broken imports simsiam from workflow/extensions"),
        (
            "broken",
            MINIMAL_METHOD.replace("(Method)", ""),
            "broken:Mine is not a subclass of rr.methods.base.Method: make",
        ),
        ("broken", MINIMAL_METHOD.replace("def loss", "def los"), "broken:Mine has no function loss: add it"),
        (
            "broken",
            MINIMAL_METHOD.replace("self, config, backbone", "self, backbone"),
            "broken:Mine.__init__ must accept the arguments self, config, backbone (too many",
        ),
        ("json", MINIMAL_METHOD, "another module named json is installed: rename the one in workflow/extensions"),
    ],
)
def test_mistakes_in_a_module_are_user_errors(
    extensions: Path, module: str, code: str, message: str, rr: RunRr
) -> None:
    write_simsiam(extensions)
    (extensions / f"{module}.py").write_text(code)
    write_params(Path(), lambda params: params["methods"].update(mine={**SIMSIAM, "kind": f"{module}:Mine"}))
    outcome = rr("plan", "--views-per-second", "1000")
    assert outcome.code == 2
    assert outcome.err.startswith(f"rr: params.yaml: methods.mine: {message}")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("backbones.separable.wdith", 1, "backbones.separable.wdith: unknown key; did you mean 'width'?"),
        ("backbones.separable.width", "8", 'backbones.separable.width: input should be a valid integer (given: "8")'),
        ("backbones.separable.kind", "conv4", "backbones.separable: kind: must name the class of a user-defined"),
        ("backbones.separable.kind", "separable:nn", "backbones.separable: separable:nn has no class Config that is a"),
        ("backbones.separable", "conv4", "backbones.separable: must be a mapping with the `kind` key"),
        ("backbones.resnet18", {"kind": "separable:Separable", "width": 8, "blocks": 2}, "backbones.resnet18: this is"),
        ("grid.backbone", ["seprable"], "grid.backbone: unknown backbone 'seprable'; did you mean 'separable'?"),
        ("datasets.own.source.clases", [], "datasets.own.source.clases: unknown key; did you mean 'classes'?"),
        ("datasets.own.source.kind", "medmnist:Path", "datasets.own.source: medmnist:Path has no class Config that is"),
        ("datasets.own.source.kind", "shaps", "datasets.own.source.kind: unknown 'shaps'; did you mean 'shapes'?"),
        ("datasets.own.source.path", 1, "datasets.own.source.path: input should be a valid string (given: 1)"),
        ("protocols.nearest-mean.temprature", 1, "temprature: unknown key; did you mean 'temperature'?"),
        ("protocols.nearest-mean.temperature", 0, "temperature: input should be greater than 0 (given: 0)"),
        ("protocols.nearest-mean.kind", "separable:Separable", "is a subclass of rr.params.ExtensionProtocolConfig"),
    ],
)
def test_mistakes_in_entries_of_other_classes(extensions: Path, path: str, value: object, message: str) -> None:
    write_own_classes(extensions)

    def change(params: dict) -> None:
        use_own_classes(params)
        *parents, key = path.split(".")
        for parent in parents:
            params = params[parent]
        params[key] = value

    write_params(Path(), change)
    with pytest.raises(UserError) as error:
        load_params(Path("params.yaml"))
    assert message in str(error.value)


def test_runs_contain_only_the_entries_and_files_that_they_use(extensions: Path) -> None:
    write_own_classes(extensions)
    write_params(Path())
    before = list(iter_stage_runs(load_params(Path("params.yaml"))))
    write_params(Path(), use_own_classes)
    after = list(iter_stage_runs(load_params(Path("params.yaml"))))
    assert [run for run in before if run.stage in ("fetch", "convert", "pretrain")] == [
        run for run in after if run.folder in {run.folder for run in before} and run.stage != "report"
    ]
    for run in after:
        parts = run.folder.parts
        is_fetch, is_evaluation = run.stage == "fetch" and "own" in parts, "nearest-mean" in parts
        names = ["medmnist"] * is_fetch + ["nearest_mean"] * is_evaluation
        names += ["separable"] * ("separable" in parts)
        assert [path.stem for path in run.extension_module_files] == names, run.folder
        assert ("backbones.separable" in run.params) == (run.stage == "pretrain" and "separable" in parts)


@pytest.mark.slow
def test_own_classes_run_through_all_stages(extensions: Path, rr: RunRr) -> None:
    write_own_classes(extensions)

    def change(params: dict) -> None:
        use_own_classes(params)
        params["grid"].update(
            data=["own"], dataset=["own"], backbone=["separable"], method=["relational"],
            protocol=["nearest-mean", "embedding"],
        )  # fmt: skip

    write_params(Path(), change)
    run = ("--dataset", "own", "--backbone", "separable", "--method", "relational", "--seed", "1")
    protocols = [("--target", "own", "--protocol", name) for name in ("nearest-mean", "embedding")]
    commands = [("fetch", "--dataset", "own"), ("convert", "--dataset", "own"), ("plan",), ("pretrain", *run)]
    commands += [("extract", *run, "--target", "own"), *(("evaluate", *run, *rest) for rest in protocols)]
    for command in (*commands, ("report",), ("verify",)):
        outcome = rr(*command)
        assert outcome.code == 0, outcome.err
    assert "## Your own protocols" in Path("report/report.md").read_text()
    assert re.search(r"nearest-mean.*\n\n.*accuracy", Path("report/report.md").read_text())
    weights = "runs/pretrain/own/separable/relational/1/backbone.safetensors"
    outcome = rr("export", weights, "--output", "model.pt", "--format", "torchscript")
    assert outcome.code == 0, outcome.err
    outcome = rr("verify", "--recompute")
    assert "bit for bit" in outcome.out

    # The weights cannot be loaded without their class.
    (extensions / "separable.py").rename("separable.py")
    outcome = rr("embed", ".", "--output", "features.parquet", "--weights", weights)
    assert outcome.code == 2
    assert f"{weights} contains a backbone of kind separable:Separable, which cannot be loaded" in outcome.err
    assert "work in the folder of the project that trained it" in outcome.err


@pytest.mark.parametrize(
    ("module", "function", "message"),
    [
        ("medmnist", "read_dataset", "datasets.own.source: medmnist:MedMnist has no function read_dataset: add it"),
        ("nearest_mean", "evaluate", "protocols.nearest-mean: nearest_mean:NearestMean has no function evaluate: add"),
    ],
)
def test_missing_function_is_a_user_error(extensions: Path, module: str, function: str, message: str) -> None:
    write_own_classes(extensions)
    file = extensions / f"{module}.py"
    file.write_text(file.read_text().replace(f"def {function}", f"def other_{function}"))
    write_params(Path(), use_own_classes)
    with pytest.raises(UserError, match=message):
        load_params(Path("params.yaml"))


def test_local_copy_of_a_source_without_a_path_is_an_error(extensions: Path, rr: RunRr) -> None:
    write_own_classes(extensions)
    file = extensions / "medmnist.py"
    file.write_text(file.read_text().replace("        path: str\n", ""))

    def change(params: dict) -> None:
        use_own_classes(params)
        del params["datasets"]["own"]["source"]["path"]

    write_params(Path(), change)
    outcome = rr("fetch", "--dataset", "own", "--from", "workflow/images.npz")
    assert outcome.code == 2
    assert "the source of own does not support a local copy: omit --from" in outcome.err
    outcome = rr("fetch", "--dataset", "own")
    assert outcome.code == 2
    assert "rr: None: no such file: download it" in outcome.err
