"""Fixtures for the tests of methods."""

from collections.abc import Iterator

import pytest

from rr.compute.torch_threads import single_threaded


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, because a second one costs more than it saves on data this small."""
    with single_threaded():
        yield
