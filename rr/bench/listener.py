"""A stand-in for `rr.runtime.progress.Progress` that reports every training step. Imports nothing slow."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

OnStep = Callable[[int], None]


def listening(on_step: OnStep) -> Any:
    """A class to stand where `Progress` is; `on_step` is told the units of each step."""

    class Listener:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> "Listener":
            return self

        def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
            pass

        def advance(self, count: int, note: str | None = None) -> None:
            if count:  # the end of an epoch reports nothing done
                on_step(count)

    return Listener
