"""`rr import`: convert a checkpoint from the authors' code or another program to a backbone file."""

import json
import re
import shutil
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rr import backbones
from rr.backbones.weights import find_non_finite, load_backbone, load_classifier, read_metadata, save_backbone
from rr.data.image_decoding import identify_unreadable_content
from rr.data.preprocessing import Preprocessing
from rr.data.printable_names import printable
from rr.errors import UserError, raise_if_lfs_pointer
from rr.evaluate.relation_head import load_relation_head
from rr.params import ExtensionBackboneConfig, load_params
from rr.params.backbones import BUILTIN_BACKBONES, check_backbone_name, is_known_backbone
from rr.paths import PARAMS_FILE
from rr.runtime.atomic import atomic_write
from rr.runtime.channel_values import parse_channel_values
from rr.runtime.formatting import format_count
from rr.runtime.hashing import file_sha256
from rr.runtime.output_path import check_output_path

_MAX_DEPTH = 100  # maximum depth of nested containers in a checkpoint


class Candidate(NamedTuple):
    """Tensors of a state dict whose names match those of a backbone.

    Attributes:
        path: the keys that lead to the state dict in the file, joined with dots.
        prefix: common prefix of the tensor names in the file; the names in the backbone do not have it.
        state: the tensors, by their names in the backbone.
        names: their names in the state dict.
        missing: names of the weights that the state dict lacks.
        mismatches: descriptions of the tensors whose shape or type differs from the backbone's.
        unexpected: names of additional tensors in the backbone's layers.
    """

    path: str
    prefix: str
    state: dict[str, Tensor]
    names: set[str]
    missing: list[str]
    mismatches: list[str]
    unexpected: list[str]

    @property
    def num_differences(self) -> int:
        """Number of differences from the backbone; 0 if the tensors match."""
        return len(self.missing) + len(self.mismatches) + len(self.unexpected)

    def describe_differences(self, max_names: int) -> str:
        """Return the number of differences of each kind and the first names, for a message."""
        kinds = {
            "missing": self.missing,
            "of a different shape or type": self.mismatches,
            "unexpected": self.unexpected,
        }
        return "; ".join(
            f"{format_count(len(names), 'tensors')} {'is' if len(names) == 1 else 'are'} {kind}: "
            f"{_abbreviate_names(names, max_names)}"
            for kind, names in kinds.items()
            if names
        )

    @property
    def key(self) -> str:
        """The path and the prefix as printable text, as the `--key` option expects them; "." if both are empty."""
        return printable(".".join(filter(None, [self.path, self.prefix.removesuffix(".")])) or ".")


@dataclass(frozen=True)
class Architecture:
    """The arguments of `rr.backbones.build`, and what can be computed from them."""

    name: str
    image_size: int | None = None
    config: ExtensionBackboneConfig | None = None

    def build(self) -> backbones.Backbone:
        """Create the backbone with random weights."""
        return backbones.build(self.name, self.image_size, self.config)

    @cached_property
    def network(self) -> backbones.Backbone:
        """The backbone with meaningless weights. For this project's backbones, they are on the meta device."""
        with torch.device("cpu" if self.config else "meta"):  # a user's class may need the values of its weights
            return self.build()

    @cached_property
    def expected_weights(self) -> dict[str, Tensor]:
        """The backbone's state dict, of which only the shapes and dtypes are used."""
        return self.network.state_dict()

    @cached_property
    def removed_layers(self) -> list[str]:
        """The names of the layers in a torchvision or timm network that were replaced by the identity."""
        if self.name in BUILTIN_BACKBONES:
            return []
        modules = self.network.named_modules()
        names = [name for name, module in modules if isinstance(module, nn.Identity)]
        return names if self.config else [name.removeprefix("network.") for name in names]

    @cached_property
    def weight_name_variants(self) -> list[dict[str, str]]:
        """The names that the weights have in different programs, keyed by their names in the backbone.

        They include the names in the backbone itself, the names for Conv-4 in the authors' code, and the names in a
        `torch.nn.Sequential` of the layers, with and without the layers that have no weights.
        """
        names = list(self.expected_weights)
        variants = [{name: name for name in names}]
        if self.name not in BUILTIN_BACKBONES:
            return variants
        layers = list(self.network.named_children())
        weighted_layers = [name for name, layer in layers if layer.state_dict()]
        if self.name == "conv4":
            variants.append({name: _name_in_authors_code(name) for name in names})
        for order in ([name for name, _ in layers], weighted_layers):
            renamed = {name: f"{order.index(_top_level_layer(name))}.{name.partition('.')[2]}" for name in names}
            variants.append(renamed)
        return variants


def find_architecture(name: str, image_size: int | None, params_file: Path, prefix: str = "") -> Architecture:
    """Return the architecture with this name, which may be in the `backbones` section of a parameter file.

    Args:
        name: name of a backbone.
        image_size: height and width of the images in pixels; ignored for backbones that accept images of any size.
        params_file: the parameter file, which need not exist.
        prefix: start of the error message for an unknown name.

    Raises:
        UserError: if the name is unknown. The message includes mistakes in the parameter file.
    """
    own_backbones = {}
    if not is_known_backbone(name) and params_file.exists():
        try:
            own_backbones = load_params(params_file).backbones
        except UserError as error:
            prefix = f"{error}\n{prefix}"
    check_backbone_name(name, own_backbones, prefix)
    return Architecture(name, None if name in BUILTIN_BACKBONES else image_size, own_backbones.get(name))


def import_backbone(
    file: Path,
    backbone_name: str,
    output: Path | None = None,
    key: str | None = None,
    *,
    image_size: int | None = None,
    mean: str | None = None,
    std: str | None = None,
    params_file: Path = PARAMS_FILE,
) -> str:
    """Convert the weights in `file` to a backbone file with float32 weights.

    The weights may be in any dict of a checkpoint, even inside lists and tuples, and their names may have any prefix.
    Other tensors are ignored. A backbone file of this project is copied.

    Args:
        file: checkpoint written by `torch.save`, or safetensors file. The weights are named as in this project, the
            authors' code, torchvision or timm, or as in a `torch.nn.Sequential` of the layers.
        backbone_name: architecture of the backbone. It may be a user-defined backbone in `params_file`.
        output: file to write; defaults to `<file>-<backbone_name>.safetensors` in the folder that contains `file`. If
            the default file exists with other contents, it is not replaced.
        key: `Candidate.key` of the weights, or its last parts, if `file` contains several backbones.
        image_size: height and width of the images in pixels. It is needed for a backbone built for one size, and with
            `mean` and `std`.
        mean: mean of each channel with which the backbone's input is normalized, such as "0.5,0.5,0.5". With it and
            `std`, the new file can be used without a dataset.
        std: standard deviation of each channel.
        params_file: the parameter file, which need not exist.

    Returns:
        A message for the user, with the lines to add to params.yaml.

    Raises:
        UserError: if `backbone_name` is unknown, if `image_size` is missing or not needed, if `mean` or `std` is
            missing, invalid or not needed, if `file` is missing or damaged, or contains Python objects that could run
            code, if `output` cannot be written or its default exists with other contents, if the weights do not match
            the architecture, contain NaN or infinite values or give useless features, or if `key` is missing or wrong.
    """
    architecture = find_architecture(backbone_name, image_size, params_file, f"--backbone {backbone_name}: ")
    preprocessing = _parse_preprocessing(image_size, mean, std)
    _check_image_size(backbone_name, image_size, preprocessing)
    if file.is_dir():
        raise UserError(f"{file} is a folder: use the path of a checkpoint")
    if not file.is_file():
        raise UserError(f"{file} does not exist or is not a file: use the path of a checkpoint")
    is_default, output = output is None, output or file.with_name(f"{file.stem}-{backbone_name}.safetensors")
    check_output_path("--output", output, [".safetensors"], file, must_be_utf8=True)
    is_backbone_file = key is None and _contains_backbone(file, architecture)
    if is_backbone_file and preprocessing:
        raise UserError(
            f"--mean, --std: {file} is already a backbone file: omit these options, or import the original checkpoint "
            "with them"
        )
    if is_backbone_file:
        backbone, details = load_backbone(file), ""
        load_classifier(file)  # this checks the layers that are copied with the backbone
        load_relation_head(file)
    else:
        backbone, details = _convert_checkpoint(file, architecture, key)
    _check_weights(file, backbone)
    with _write_output(output, is_default) as temporary:
        if is_backbone_file:
            shutil.copyfile(file, temporary)  # keeps the layers and preprocessing saved with the backbone
        else:
            save_backbone(backbone, temporary, preprocessing)
    return _describe_imported(output, backbone, details)


def _check_image_size(backbone_name: str, image_size: int | None, preprocessing: Preprocessing | None) -> None:
    """Raise UserError if `--image-size` is missing, or if neither the backbone nor the preprocessing needs it."""
    if backbone_name in BUILTIN_BACKBONES and image_size is not None and preprocessing is None:
        raise UserError(f"--image-size {image_size}: {backbone_name} accepts images of any size; omit this option")
    if backbone_name not in BUILTIN_BACKBONES and image_size is None:
        raise UserError(
            f"--backbone {backbone_name}: this network is built for images of one size: pass your dataset's image_size "
            "with --image-size"
        )


def _convert_checkpoint(file: Path, architecture: Architecture, key: str | None) -> tuple[backbones.Backbone, str]:
    """Return a backbone with the weights in a checkpoint, and the part of the message about their place in the file.

    Raises:
        UserError: if the file cannot be loaded, or if it does not contain exactly one matching set of weights.
    """
    state_dicts = _find_state_dicts(_load_tensors(file))
    if not state_dicts:
        raise UserError(
            f"{file} does not contain a state dict (searched: lists, tuples, and dicts whose keys are text, up to "
            f"{_MAX_DEPTH} levels deep): use a file with a dict that maps names to tensors (not NumPy arrays, or "
            "tensors on the meta device, which have no values), at the top level or under a key such as 'state_dict', "
            "'model' or 'backbone'"
        )
    weights = _choose_candidate(file, architecture, state_dicts, key)
    backbone = architecture.build()
    backbone.load_state_dict(backbone.state_dict() | weights.state)
    place = "" if weights.key == "." else f", from the weights under '{_shorten(weights.key)}'"
    return backbone, f"{place}{_describe_ignored(weights, state_dicts)}"


def _check_weights(file: Path, backbone: backbones.Backbone) -> None:
    """Raise UserError if a weight is NaN or infinite, or if the features of different images do not differ."""
    if name := find_non_finite(backbone):
        raise UserError(f"{file}: {name} contains NaN or infinite values; use an earlier checkpoint")
    for name, value in backbone.state_dict().items():
        if name.endswith("running_var") and (value < 0).any():
            raise UserError(f"{file}: {name} is a variance, but contains negative values; use another checkpoint")
    size = backbone.image_size or 32
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = backbone.eval()(images)
    if torch.equal(first, second):
        raise UserError(
            f"{file}: with these weights, different images have the same features, as if the weights were zero; use "
            "another checkpoint"
        )


@contextmanager
def _write_output(output: Path, is_default: bool) -> Iterator[Path]:
    """Yield a temporary path that replaces `output`, like `atomic_write`.

    Raises:
        UserError: if `output` is the default path and exists with other contents.
    """
    with atomic_write(output, concurrent=True) as temporary:
        yield temporary
        if is_default and output.is_file() and file_sha256(output) != file_sha256(temporary):
            raise UserError(
                f"{output} already exists with other contents: pass a different path with --output, or this path to "
                "replace the file"
            )


def _parse_preprocessing(image_size: int | None, mean: str | None, std: str | None) -> Preprocessing | None:
    """Return the preprocessing that `--image-size`, `--mean` and `--std` specify, or None without a mean and a std.

    Raises:
        UserError: if an option is missing or invalid.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None or image_size is None:
        raise UserError("--mean, --std: pass both, and the size of the images with --image-size")
    values = {}
    for name, text in (("mean", mean), ("std", std)):
        try:
            values[name] = parse_channel_values(name, text.split(","))
        except ValueError as error:
            raise UserError(
                f"--{name} {text}: {error}: separate the numbers with commas, as in 0.5,0.5,0.5 (for pixel values in "
                "[0, 255], divide them by 255)"
            ) from error
    return Preprocessing(image_size, values["mean"], values["std"])


def _contains_backbone(file: Path, architecture: Architecture) -> bool:
    """Return whether a file was written by this project and contains this backbone for images of this size."""
    try:
        metadata = read_metadata(file)
        config = architecture.config.model_dump(mode="json") if architecture.config else None
        expected = (architecture.name, architecture.image_size, config)
        return (metadata["backbone"], metadata.get("image_size"), metadata.get("config")) == expected
    except (UserError, KeyError, TypeError):
        return False


def _describe_imported(output: Path, backbone: backbones.Backbone, details: str) -> str:
    """Return the message for the user, with the lines to add to params.yaml."""
    # Stages run in the project folder. In any other folder, a relative path would be wrong, so print an absolute one.
    path = output if PARAMS_FILE.is_file() else output.resolve()
    return (
        f"{output}: {backbone.name}, {backbone.num_features} features{details}. "
        "To use this file in the workflow, add a method with these lines to params.yaml:\n"
        f"    kind: imported\n    path: {json.dumps(str(path), ensure_ascii=False)}\n    sha256: {file_sha256(output)}"
    )


class _IgnoredObject:
    """Replaces an object other than a tensor in a checkpoint, and ignores the object's values."""

    def __new__(cls, *_: Any) -> "_IgnoredObject":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# Python objects that are often saved together with weights. Harmless objects are created in their place.
_REPLACEMENTS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *(
        (_IgnoredObject, name)
        for name in (
            "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray", "argparse.Namespace",
            "pathlib.PosixPath", "pathlib._local.PosixPath", "datetime.datetime", "datetime.date", "datetime.timedelta",
        )
    ),
    (lambda *_: {}, "collections.defaultdict"),
    (dict, "builtins.dict"),
    (list, "builtins.list"),
    (int, "builtins.int"),
    (float, "builtins.float"),
]  # fmt: skip


def _load_tensors(file: Path) -> Any:
    """Return the contents of a file without running any code from it."""
    raise_if_lfs_pointer(file)
    with open(file, "rb") as opened:
        is_safetensors = opened.read(9)[8:] == b"{"
    try:
        # A pickle can run code. With weights_only=True, torch runs only functions that are needed to create tensors.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_REPLACEMENTS):
            warnings.simplefilter("ignore")  # torch warns about a damaged file before it raises an error
            return load_file(file) if is_safetensors else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various exceptions for damaged files
        raise UserError(_explain_load_error(file, error)) from error


def _explain_load_error(file: Path, error: Exception) -> str:
    """Return the message for a file that safetensors or torch cannot load: what it is, and how to import it."""
    if isinstance(error, SafetensorError):
        return f"{file} is damaged ({error}): copy or download it again"
    text = str(error)
    if "TorchScript" in text:
        return (
            f"{file} is a TorchScript program: save its weights with torch.save(torch.jit.load(FILE).state_dict(), "
            "NEW_FILE), and import the new file"
        )
    if "locating file data.pkl" in text:
        return (
            f"{file} is a zip archive, but not a checkpoint. If torch.export saved it, save its weights with "
            "torch.save(torch.export.load(FILE).state_dict, NEW_FILE), and import the new file"
        )
    if forbidden := re.search(r"GLOBAL (\S+)", text):
        return (
            f"{file} contains more than tensors: loading it would run code ({forbidden[1]}), so it was not loaded. "
            "If you trust this file, load it yourself with weights_only=False, save only the state_dict() of the "
            "backbone, and import the saved file"
        )
    with open(file, "rb") as opened:
        start = opened.read(1024)
    if re.match(rb"\x08[\x01-\x20][\x12\x3a]", start):  # version and producer, or version and graph
        return (
            f"{file} is an ONNX model, from which rr cannot read weights: import the PyTorch checkpoint from which "
            "the model was exported, or use the original backbone.safetensors if rr export wrote the model"
        )
    if start.startswith(b"\x93NUMPY") or _is_numpy_archive(file):
        return (
            f"{file} contains NumPy arrays: save a state dict instead, with torch.save({{NAME: "
            "torch.from_numpy(ARRAY), …}, NEW_FILE), and import the new file"
        )
    # torch.save writes zip archives, so a file that starts like one may be a damaged checkpoint.
    if not start.startswith(b"PK") and (content := identify_unreadable_content(start)):
        return f"{file} is not a checkpoint ({content[0]}): use another file"
    reason = text.split("\n")[0].split(". ")[0] or type(error).__name__
    return f"{file} is damaged or not a checkpoint ({reason}): copy or download it again, or use another file"


def _is_numpy_archive(file: Path) -> bool:
    """Return whether a file was written by `numpy.savez`."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # zipfile raises various exceptions for damaged files
        return False


def _find_state_dicts(content: Any) -> dict[str, dict[str, Tensor]]:
    """Return all dicts in a checkpoint that contain named tensors, each by its path.

    A path consists of the keys of dicts and the positions in lists and tuples, joined with dots.
    """
    found: dict[str, dict[str, Tensor]] = {}
    visited: set[int] = set()

    def collect_state_dicts(value: Any, path: str, depth: int) -> None:
        if not isinstance(value, (dict, list, tuple)) or id(value) in visited or depth > _MAX_DEPTH:
            return
        visited.add(id(value))
        if isinstance(value, dict):
            items = {key: item for key, item in value.items() if isinstance(key, str)}
            if tensors := {key: item for key, item in items.items() if _is_dense(item)}:
                found[path] = tensors
        else:
            items = {str(position): item for position, item in enumerate(value)}
        for key, item in items.items():
            collect_state_dicts(item, f"{path}.{key}" if path else key, depth + 1)

    collect_state_dicts(content, "", 0)
    return found


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _choose_candidate(
    file: Path, architecture: Architecture, state_dicts: dict[str, dict[str, Tensor]], key: str | None
) -> Candidate:
    """Return the weights in the file that match a backbone.

    Raises:
        UserError: if no weights match, or if several sets of weights match but differ.
    """
    candidates = find_candidates(architecture, state_dicts)
    matches = [candidate for candidate in candidates if not candidate.num_differences]
    if not matches:
        raise UserError(_describe_mismatch(file, architecture, state_dicts, candidates))
    if key is not None:
        selected = [match for match in matches if match.key == key]
        selected = selected or [match for match in matches if match.key.endswith(f".{key}")]
        if not selected:
            remedy = "pass one of these keys" if len(matches) > 1 else "omit --key"
            raise UserError(
                f"--key {key}: {file} has no weights of {architecture.name} under this key, only under "
                f"{_list_keys(matches)}: {remedy}"
            )
        matches = selected
    if not all(_are_equal(match.state, matches[0].state) for match in matches[1:]):
        raise UserError(
            f"{file} contains several {architecture.name} backbones, under {_list_keys(matches)}: choose one of them "
            "with --key"
        )
    return matches[0]


def _list_keys(matches: list[Candidate]) -> str:
    return " and ".join(f"'{match.key}'" for match in matches)


def _are_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two sets of weights are identical, apart from batch counts, which may be missing."""
    return all(torch.equal(value, second[name]) for name, value in first.items() if not _is_batch_count(name))


def find_candidates(architecture: Architecture, state_dicts: dict[str, dict[str, Tensor]]) -> list[Candidate]:
    """Return all sets of tensors with weights for at least half of the backbone's layers, best match first."""
    candidates = []
    for names in architecture.weight_name_variants:
        known = set(names.values())
        num_layers = len({_top_level_layer(name) for name in known})
        for path, tensors in state_dicts.items():
            candidates += [
                _make_candidate(architecture, names, path, prefix, tensors)
                for prefix, layers in _layers_by_prefix(tensors, known).items()
                if len(layers) >= num_layers / 2
            ]
    return sorted(candidates, key=lambda candidate: (candidate.num_differences, -len(candidate.names)))


def _layers_by_prefix(tensor_names: Iterable[str], weight_names: set[str]) -> dict[str, set[str]]:
    """Return the top-level layers that have weights in a state dict, by the prefix of their names.

    For example, `model.layer1.weight` belongs to `layer1` with the prefix `model.` if `layer1.weight` is a weight.
    """
    layers: dict[str, set[str]] = defaultdict(set)
    for name in tensor_names:
        parts = name.split(".")
        for start in range(len(parts)):
            if (weight := ".".join(parts[start:])) in weight_names:
                layers[name.removesuffix(weight)].add(_top_level_layer(weight))
    return layers


def _make_candidate(
    architecture: Architecture, names: dict[str, str], path: str, prefix: str, tensors: dict[str, Tensor]
) -> Candidate:
    """Compare the tensors whose names start with `prefix` with the weights of a backbone (see `Candidate`).

    `names` maps each weight's name in the backbone to its name in the file, without the prefix.
    """
    missing, mismatches, state = [], [], {}
    for name, expected in architecture.expected_weights.items():
        actual_name = prefix + names[name]
        actual = tensors.get(actual_name)
        if actual is not None and _is_batch_count(name) and actual.shape == expected.shape:
            # If all tensors were converted to another type, so were the counts. In float16, they may be infinite.
            actual = actual.double().nan_to_num(posinf=0).round().long()
        if actual is None:
            missing += [] if _is_batch_count(name) else [actual_name]
        elif actual.shape != expected.shape or actual.is_floating_point() != expected.is_floating_point():
            mismatches.append(f"{actual_name} ({_describe_tensor(actual)} instead of {_describe_tensor(expected)})")
        else:
            state[name] = actual
    used = {prefix + name for name in names.values()} & tensors.keys()
    # Any additional tensor in one of the backbone's layers belongs to a larger backbone, unless it belongs to the
    # classifier, which the backbone does not have. All other tensors are ignored.
    removed = tuple(f"{prefix}{layer}." for layer in architecture.removed_layers)
    layers = tuple({f"{prefix}{_top_level_layer(name)}." for name in names.values()})
    unexpected = [
        name for name in tensors if name not in used and name.startswith(layers) and not name.startswith(removed)
    ]
    return Candidate(path, prefix, state, used, missing, mismatches, unexpected)


def _top_level_layer(name: str) -> str:
    """Return the first part of a weight's name, such as `layer1` for `layer1.0.conv1.weight`."""
    return name.partition(".")[0]


def _is_batch_count(name: str) -> bool:
    """Return whether a tensor is the batch counter of a batch norm layer. Old checkpoints do not contain it."""
    return name.endswith("num_batches_tracked")


def _name_in_authors_code(name: str) -> str:
    """Return the name of a Conv-4 weight in the authors' code."""
    _, block, layer, rest = name.split(".")
    return f"layer{int(block) + 1}.{('conv', 'bn')[int(layer)]}.{rest}"


def _describe_tensor(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _describe_mismatch(
    file: Path, architecture: Architecture, state_dicts: dict[str, dict[str, Tensor]], candidates: list[Candidate]
) -> str:
    """Return the message for a file without matching weights.

    It lists the backbones whose weights the file contains or, if there are none, the differences from the closest one.
    """
    other_names = [name for name in BUILTIN_BACKBONES if name != architecture.name]
    others = {name: find_candidates(Architecture(name), state_dicts) for name in other_names}
    best = {name: found[0] for name, found in {architecture.name: candidates, **others}.items() if found}

    def describe(name: str, max_names: int) -> str:
        """Return how the weights in the file differ from the backbone `name`."""
        candidate = best.get(name)
        place = f" under '{_shorten(candidate.key)}'" if candidate and candidate.key != "." else ""
        other = "" if name == architecture.name else f" or any other backbone; the closest one is {name}"
        first = next(iter(architecture.expected_weights))
        differences = candidate.describe_differences(max_names) if candidate else f"{first} is missing"
        return f"the weights in {file}{place} do not match {architecture.name}{other}: {differences}"

    if exact := [name for name, candidate in best.items() if not candidate.num_differences]:
        return f"{describe(architecture.name, 1)}; use --backbone {' or '.join(exact)}"
    if close := [name for name, candidate in best.items() if len(candidate.state) > candidate.num_differences]:
        closest = min(close, key=lambda name: best[name].num_differences)
        return (
            f"{describe(closest, 3)}; all other tensors match {closest}: fix the tensors that differ, or use the "
            "original checkpoint"
        )
    present = _abbreviate_names([f"{path}.{name}".lstrip(".") for path, names in state_dicts.items() for name in names])
    return (
        f"{describe(architecture.name, 3)}; pass the architecture of these weights with --backbone (conv4, a ResNet "
        f"such as resnet18, or a torchvision or timm model). The file contains {present}"
    )


def _describe_ignored(weights: Candidate, state_dicts: dict[str, dict[str, Tensor]]) -> str:
    """Return the part of the message that lists the other tensors in the file."""
    names = [name for name in state_dicts[weights.path] if name not in weights.names]
    names += [
        f"{path}.{name}".lstrip(".")
        for path, tensors in state_dicts.items()
        for name in tensors
        if path != weights.path
    ]
    return f"; ignored {format_count(len(names), 'tensors')}: {_abbreviate_names(names)}" if names else ""


def _abbreviate_names(names: list[str], max_names: int = 5) -> str:
    return ", ".join([*map(_shorten, names[:max_names]), *(["…"] if len(names) > max_names else [])])


def _shorten(name: str) -> str:
    """Return a name from a file as printable text, without its middle if it has more than 200 characters."""
    text = printable(name)
    return text if len(text) <= 200 else f"{text[:100]}…{text[-100:]}"
