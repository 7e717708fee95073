"""Find weights by path or name: released weights are in `rr/weights`, others are on the Hugging Face Hub."""

import os
from pathlib import Path

from rr.errors import UserError
from rr.paths import expand_user

FOLDER = Path(__file__).parents[1] / "weights"
HUB_PREFIX = "hf-hub:"  # as in timm
_HUB_FILE = "backbone.safetensors"
_NOT_A_REPOSITORY = "not the name of a repository: use hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION"


def find_weights(weights: str | os.PathLike[str]) -> Path:
    """Return the path of a weights file.

    Args:
        weights: a path, the name of released weights, or `hf-hub:OWNER/NAME[@REVISION]`, a repository on the Hugging
            Face Hub. Its backbone.safetensors is downloaded once. A file in the current folder takes precedence over
            released weights with the same name.

    Raises:
        UserError: if `weights` is a folder or an ONNX model, if it looks like a name but no released weights have this
            name, or if the file cannot be downloaded.
    """
    if os.fspath(weights).startswith(HUB_PREFIX):
        return _download(os.fspath(weights))
    path = expand_user(weights)
    if path.is_dir():
        raise UserError(f"{path} is a folder: use the backbone.safetensors from a run, or another file")
    if path.suffix.lower() == ".onnx":
        raise UserError(f"{path} is an ONNX model: use the backbone.safetensors from which it was exported")
    if path.exists() or len(path.parts) > 1 or path.suffix:
        return path
    released = FOLDER / f"{path}.safetensors"
    if not released.is_file():
        names = sorted(file.stem for file in FOLDER.glob("*.safetensors"))
        raise UserError(
            f"{path} does not exist and is not the name of released weights ({', '.join(names)}): use the "
            "backbone.safetensors from a run, a file written by rr import, or one of these names"
        )
    return released


def _download(name: str) -> Path:
    """Return the path of a backbone file from the Hugging Face Hub, in the cache of huggingface_hub."""
    repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if repository.count("/") != 1:
        raise UserError(f"{name}: {_NOT_A_REPOSITORY}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            f"{name}: downloads from the Hugging Face Hub need huggingface_hub: pip install huggingface_hub"
        ) from error
    try:
        return Path(
            hf_hub_download(repository, _HUB_FILE, revision=revision or None, library_name="relational-reasoning")
        )
    except Exception as error:  # besides its own errors, huggingface_hub raises those of its HTTP library
        raise UserError(f"{name}: {_explain_download_error(error, revision)}") from error


def _explain_download_error(error: Exception, revision: str) -> str:
    from huggingface_hub import errors

    # Subclasses come before their base classes.
    explanations = {
        errors.GatedRepoError: "access is restricted: request it on the repository's page, and run `hf auth login`",
        errors.RepositoryNotFoundError: "no such repository, or it is private: check the owner and the name, or run "
        "`hf auth login`",
        errors.RevisionNotFoundError: f"no such revision: replace {revision} with a branch, a tag or a commit",
        errors.LocalEntryNotFoundError: f"{_HUB_FILE} is not in the cache, and the Hugging Face Hub cannot be reached: "
        "check the network, and whether HF_HUB_OFFLINE is set",
        errors.EntryNotFoundError: f"the repository contains no {_HUB_FILE}: use a different repository or revision",
        errors.HFValidationError: _NOT_A_REPOSITORY,
    }
    for kind, explanation in explanations.items():
        if isinstance(error, kind):
            return explanation
    reason = str(error).partition("\n")[0] or type(error).__name__
    return f"cannot download {_HUB_FILE} ({reason}): check the network, and run the same command again"
