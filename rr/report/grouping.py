"""Functions that group or deduplicate items and keep their order."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def unique(values: Iterable[Item]) -> list[Item]:
    """Return the distinct values in order of first appearance. The values need not be hashable."""
    distinct: list[Item] = []
    for value in values:
        if value not in distinct:
            distinct.append(value)
    return distinct


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group the items by key. The groups and the items in each group keep the order of `items`."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
