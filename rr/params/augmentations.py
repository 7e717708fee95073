"""An augmentation in `params.yaml`, whose strengths must not be given without their operation."""

from typing import Annotated, Any

from pydantic import ConfigDict, ValidatorFunctionWrapHandler, WrapValidator

from rr.views.augmentation import Augmentation, check_given_fields


def _validate(value: Any, validate_fields: ValidatorFunctionWrapHandler) -> Augmentation:
    if isinstance(value, dict):
        # The validator receives Python values. For these, a strict model does not accept lists in place of tuples.
        value = {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
    augmentation: Augmentation = validate_fields(value)
    if isinstance(value, dict):
        check_given_fields(value)
    return augmentation


Augmentation.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]
AugmentationConfig = Annotated[Augmentation, WrapValidator(_validate)]
