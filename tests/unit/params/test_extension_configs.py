"""Test methods from a user's own module: the method of the guide, its parameters, and mistakes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ROOT, SIMSIAM, RunRr, python_blocks, write_params, write_simsiam
from ruamel.yaml import YAML

from rr import backbones, methods
from rr.errors import UserError
from rr.methods.requirements import Requirements, data_requirements
from rr.params import MethodConfig, load_params
from rr.params.extensions import extension_files

EMPTY_METHOD = """
from typing import ClassVar
from rr.methods.base import Method
from rr.params import ExtensionConfig

class Mine(Method):
    class Config(ExtensionConfig):
        label_fraction: ClassVar[float] = 0.5
"""


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


def test_entry_of_the_guide_is_valid(extensions: Path) -> None:
    write_simsiam(extensions)
    guide = (ROOT / "docs/guides/add-a-method.md").read_text(encoding="utf-8")
    example = YAML(typ="safe").load(guide.split("```yaml\n")[1].split("```")[0])

    def change(params: dict) -> None:
        params["methods"].update(example["methods"])
        params["grid"].update(example["grid"])

    write_params(Path(), change)
    assert load_params(Path("params.yaml")).methods["simsiam"].kind == "simsiam:SimSiam"


def test_class_in_a_package_has_all_files_of_the_package(extensions: Path) -> None:
    for name in ("__init__", "mine", "helper", "deep/more"):
        path = extensions / f"package/{name}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(EMPTY_METHOD if name == "mine" else "")
    entry = {key: value for key, value in SIMSIAM.items() if not key.endswith("_dim")}
    write_params(Path(), lambda params: params["methods"].update(mine=entry | {"kind": "package.mine:Mine"}))
    loaded = load_params(Path("params.yaml")).methods["mine"]
    assert data_requirements(loaded) == Requirements(label_fraction=0.5)
    folder = Path("workflow/extensions/package")
    names = ["__init__.py", "deep/more.py", "helper.py", "mine.py"]
    assert extension_files("package.mine:Mine") == [folder / name for name in names]


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
        ("broken", "1 / 0", "broken cannot be imported (ZeroDivisionError: division by zero): correct it"),
        ("broken", "import nothing_of_that_name", "broken cannot be imported (ModuleNotFoundError: "),
        ("broken", "import simsiam", "broken imports simsiam from workflow/extensions"),
        ("broken", "from simsiam import SimSiam", "broken imports simsiam from workflow/extensions"),
        ("json", EMPTY_METHOD, "another module named json is installed: rename the one in workflow/extensions"),
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
