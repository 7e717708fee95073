"""Whether a picture can be read is found out once, when it enters the project."""

import sys
from typing import Literal

from rr.data import raw
from rr.errors import UserError


def readable(data: bytes, name: str, unreadable: Literal["stop", "skip"]) -> bytes | None:
    """Return `data` when it decodes. Otherwise raise UserError that names it, or say so and return None."""
    try:
        raw.decode(data)
    except ValueError as error:
        if unreadable == "stop":
            raise UserError(
                f"{name}: not a readable picture ({error}); mend or remove it, or set 'unreadable: skip' in the source"
            ) from error
        print(f"skipped {name}: not a readable picture ({error})", file=sys.stderr)
        return None
    return data
