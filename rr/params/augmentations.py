"""An augmentation in `params.yaml`, with checks beyond those of the `Augmentation` class."""

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


def _check_effect(augmentation: Augmentation) -> None:
    """Raise ValueError if an operation is on, but its strengths leave every image as it is."""
    a = augmentation
    if a.crop == "padded" and not a.padding:
        raise ValueError("crop: padded has no effect, because padding is 0: raise padding, or set crop to none")
    if a.crop == "resized" and a.scale == (1, 1) and a.ratio[0] <= 1 <= a.ratio[1]:
        raise ValueError(
            "crop: resized has no effect, because scale is [1, 1] and ratio includes 1: lower the first value of "
            "scale, or set crop to none"
        )
    if a.jitter and not any((a.brightness, a.contrast, a.saturation, a.hue)):
        raise ValueError(
            "jitter has no effect, because brightness, contrast, saturation and hue are 0: raise one of them, or set "
            "jitter to 0.0"
        )
    if a.affine and a.zoom == (1, 1) and not any((a.degrees, a.translate, a.shear)):
        raise ValueError(
            "affine has no effect, because degrees, translate and shear are 0 and zoom is [1, 1]: change one of them, "
            "or set affine to 0.0"
        )
    if a.erase and a.erase_area in (0, 1):
        reason = "0" if not a.erase_area else "1, and a square as large as the image is never erased"
        remedy = "raise" if not a.erase_area else "lower"
        raise ValueError(f"erase has no effect, because erase_area is {reason}: {remedy} it, or set erase to 0.0")


def _validate(value: Any, validate_fields: ValidatorFunctionWrapHandler) -> Augmentation:
    if isinstance(value, dict):
        # The validator receives Python values. For these, a strict model does not accept lists in place of tuples.
        value = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
    augmentation: Augmentation = validate_fields(value)
    if isinstance(value, dict):
        _check_given_keys(value)
    _check_effect(augmentation)
    return augmentation


Augmentation.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
AugmentationConfig = Annotated[Augmentation, WrapValidator(_validate)]
