"""Load a user-defined class, named by a `kind` in params.yaml such as `simsiam:SimSiam`.

The `simsiam` module is a file or a package in the project's `workflow/extensions` folder. Loading the class imports the
module, which usually imports torch.
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from pydantic import TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator

from rr.params.base import StrictModel
from rr.paths import EXTENSIONS_DIR

Config = TypeVar("Config", bound=StrictModel)

_KIND = re.compile(r"([A-Za-z_]\w*)((?:\.\w+)*):([A-Za-z_]\w*)")


def is_extension_kind(kind: object) -> TypeGuard[str]:
    """Return whether a `kind` names a user-defined class."""
    return isinstance(kind, str) and ":" in kind


def extension_module_files(kind: str) -> list[Path]:
    """Return the files of the module or package named by `kind`, as paths relative to the project root.

    Raises:
        ValueError: if `kind` does not have the form `module:Class`, or if there is no such module.
    """
    match = _KIND.fullmatch(kind)
    if match is None:
        raise ValueError(f"'{kind}' is not of the form module:Class, such as simsiam:SimSiam")
    path = EXTENSIONS_DIR / match[1]
    module = path.with_suffix(".py")
    # Like Python, prefer a package to a module, and a module to a folder without __init__.py.
    if module.is_file() and not (path / "__init__.py").is_file():
        return [module]
    if files := sorted(path.rglob("*.py")):
        return files
    raise ValueError(f"{module} does not exist: create it, or fix the name of the module")


def load_class(kind: str) -> Any:
    """Import the module that a `kind` names, and return the class.

    Raises:
        ValueError: if the module cannot be imported, has no such class, or imports another extension.
    """
    files = extension_module_files(kind)
    module_name, _, class_name = kind.partition(":")
    if other := next((name for file in files for name in _imported_extension_modules(file)), None):
        raise ValueError(
            f"{module_name} imports {other} from {EXTENSIONS_DIR}, but rr does not track changes to {other}: "
            "move both into one package"
        )
    folder = str(EXTENSIONS_DIR.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ValueError(f"{module_name} cannot be imported ({type(error).__name__}: {error}): fix it") from error
    if not (module.__file__ and Path(module.__file__).is_relative_to(folder)):
        raise ValueError(f"another module named {module_name} is installed: rename the one in {EXTENSIONS_DIR}")
    if not hasattr(module, class_name):
        raise ValueError(f"{files[0]} does not define {class_name}: fix the name of the class")
    return getattr(module, class_name)


def load_config_class(kind: str, base: type[Config]) -> type[Config]:
    """Return the `Config` class that checks the entry of a user-defined class in params.yaml.

    Raises:
        ValueError: if the class cannot be loaded, if it has no `Config` that is a subclass of `base`, if `Config`
            contains a set, or if the class lacks what the class variables of `base` require.
    """
    own_class = load_class(kind)
    config_class = getattr(own_class, "Config", None)
    if not (isinstance(config_class, type) and issubclass(config_class, base)):
        raise ValueError(f"{kind} has no class Config that is a subclass of rr.params.{base.__name__}: add it")
    if '"uniqueItems"' in json.dumps(config_class.model_json_schema()):
        raise ValueError(f"{kind}.Config contains a set, whose order differs between runs: use a list")
    if function := getattr(base, "required_function", None):
        _check_own_class(kind, own_class, base, function)
    return config_class


def _check_own_class(kind: str, own_class: Any, base: Any, function: str) -> None:
    """Raise ValueError unless a class has a function, and what the other class variables of `base` require.

    The function must be static, unless `base` has a `required_class`, whose function it must override.
    """
    required_class: str | None = getattr(base, "required_class", None)
    inherited: Any = None
    if required_class:
        module, _, name = required_class.rpartition(".")
        parent = getattr(import_module(module), name)
        if not (isinstance(own_class, type) and issubclass(own_class, parent)):
            raise ValueError(f"{kind} is not a subclass of {required_class}: make it one")
        inherited = getattr(parent, function)
        try:
            inspect.signature(own_class).bind(*base.constructor_arguments)
        except TypeError as error:
            arguments = ", ".join(base.constructor_arguments)
            raise ValueError(f"{kind}.__init__ must accept the arguments self, {arguments} ({error})") from error
    own_function = getattr(own_class, function, None)
    if not callable(own_function) or own_function is inherited:
        raise ValueError(f"{kind} has no function {function}: add it")
    if not required_class and next(iter(inspect.signature(own_function).parameters), "") == "self":
        raise ValueError(f"{kind}.{function} must be static: add @staticmethod, and remove self")


def accept_extensions(builtin: Any, base: type[StrictModel]) -> WrapValidator:
    """Return a validator for a params.yaml entry whose type is built in (`builtin`) or a user-defined class."""
    adapter = TypeAdapter[Any](builtin)

    def validate_entry(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        if not isinstance(value, dict):
            return validate(value)
        # Validate JSON instead of Python objects: a list may then stand for a tuple, but "3" may not stand for 3.
        text, kind = json.dumps(value), value.get("kind")
        if is_extension_kind(kind):
            return load_config_class(kind, base).model_validate_json(text)
        return adapter.validate_json(text)

    return WrapValidator(validate_entry)


def _imported_extension_modules(file: Path) -> Iterator[str]:
    """Yield the names of other modules in the extensions folder that a file imports."""
    own_name = file.relative_to(EXTENSIONS_DIR).parts[0].removesuffix(".py")
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # importing the module will raise this error
        return
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in (name.partition(".")[0] for name in names):
            path = EXTENSIONS_DIR / name
            if name != own_name and (path.is_dir() or path.with_suffix(".py").is_file()):
                yield name
