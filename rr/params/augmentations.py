"""An augmentation in `params.yaml`, whose strengths must not be given without their operation."""

from typing import Annotated, Any

from pydantic import ConfigDict, ValidatorFunctionWrapHandler, WrapValidator

from rr.views.augmentation import Augmentation

# For each operation with strengths: the keys of the strengths, each with an example of the operation's value.
_STRENGTHS = {
    "crop": {"scale": "resized", "ratio": "resized", "padding": "padded"},
    "jitter": dict.fromkeys(("brightness", "contrast", "saturation", "hue"), "0.8"),
    "blur": {"blur_sigma": "0.5"},
    "affine": dict.fromkeys(("degrees", "translate", "zoom", "shear"), "0.5"),
    "erase": {"erase_area": "0.5"},
}


def _check_given_keys(given: dict[str, Any]) -> None:
    """Raise ValueError if a strength is given without its operation, which is off by default.

    An operation that is switched off explicitly may have strengths, so that a variant can be made with YAML's merge
    key: `{<<: *paper, jitter: 0.0}`.
    """
    for operation, strengths in _STRENGTHS.items():
        names = [name for name in strengths if name in given]
        if names and operation not in given:
            verb = "has" if len(names) == 1 else "have"
            off = "none" if operation == "crop" else "0.0"
            raise ValueError(
                f"{' and '.join(names)} {verb} no effect without {operation}: add {operation}, such as "
                f"`{operation}: {strengths[names[0]]}`, or `{operation}: {off}` if it is meant to be off"
            )


def _validate(value: Any, validate_fields: ValidatorFunctionWrapHandler) -> Augmentation:
    if isinstance(value, dict):
        # The validator receives Python values. For these, a strict model does not accept lists in place of tuples.
        value = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
    augmentation: Augmentation = validate_fields(value)
    if isinstance(value, dict):
        _check_given_keys(value)
    return augmentation


Augmentation.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
AugmentationConfig = Annotated[Augmentation, WrapValidator(_validate)]
