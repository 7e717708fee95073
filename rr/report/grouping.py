"""Functions that group and deduplicate while keeping the order of the grid."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def unique(values: Iterable[Key]) -> list[Key]:
    """Return the distinct values in order of first appearance."""
    return list(dict.fromkeys(values))


def group_by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the items by key. Groups and their items keep the order of `items`."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
