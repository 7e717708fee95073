"""Corrupt bytes and trees of values at random with a fixed seed, for the fuzz tests.

The RR_FUZZ environment variable sets the number of rounds (40 by default, 1000 with RR_LONG=1). RR_FUZZ_SEED sets the
seed. A failing test reports its round. The same values of both variables reproduce the failure.
"""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

DEFAULT_ROUNDS = int(os.environ.get("RR_FUZZ") or (1000 if os.environ.get("RR_LONG") else 40))
SEED = int(os.environ.get("RR_FUZZ_SEED", "0"))

UNUSUAL_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**30, 0.0, -0.5, 1e-300, 1e300, float("inf"), float("nan"),
    "", "x", "1", "../x", "~nobody/x", "a b;$(touch x)'\"", "\u202eé\U0001f600", "\ud800", "a\nb", "a\0b", "k" * 5000,
    [], [[]], [None], [0, 0], {}, {"kind": "random"}, {"x": {"y": {}}}, b"bytes",
]  # fmt: skip


def rounds(name: str, count: int = DEFAULT_ROUNDS) -> Iterator[tuple[int, random.Random]]:
    """Yield the number and the random generator of each round. Each `name` has its own generators."""
    for number in range(count):
        yield number, random.Random(f"{name} {SEED} {number}")


def flip_bit(data: bytes, rng: random.Random, start: int = 0) -> bytes:
    """Return `data` with one random bit flipped, at byte `start` or later."""
    position = rng.randrange(start, len(data))
    return data[:position] + bytes([data[position] ^ 1 << rng.randrange(8)]) + data[position + 1 :]


def damage(data: bytes, rng: random.Random) -> bytes:
    """Return `data` after up to four random mutations: changed bits or bytes, or deleted, repeated or moved parts."""
    for _ in range(rng.randint(1, 4)):
        if len(data) < 8:
            break
        size = min(len(data) // 2, 2 ** rng.randrange(12))
        # File formats have their tables at the start or the end, so more mutations are made there.
        margin = min(len(data) - size, 200)
        start = rng.choice([rng.randint(0, len(data) - size), rng.randint(0, margin), len(data) - size - margin])
        start = max(start, 0)
        part = data[start : start + size]
        data = rng.choice(_MUTATIONS)(data, start, size, part, rng)
    return data


_Mutation = Callable[[bytes, int, int, bytes, random.Random], bytes]
_MUTATIONS: list[_Mutation] = [
    lambda data, start, size, part, rng: flip_bit(data, rng),
    lambda data, start, size, part, rng: flip_bit(data, rng, max(len(data) - 200, 0)),
    lambda data, start, size, part, rng: data[:start] + rng.randbytes(size) + data[start + size :],
    lambda data, start, size, part, rng: data[:start] + bytes(size) + data[start + size :],
    lambda data, start, size, part, rng: data[:start] + b"\xff" * min(size, 8) + data[start + min(size, 8) :],
    lambda data, start, size, part, rng: data[:start] + data[start + size :],
    lambda data, start, size, part, rng: data[:start] + part + data[start:],
    lambda data, start, size, part, rng: data[:start] + data[start + size :] + part,
    lambda data, start, size, part, rng: data[: rng.randrange(len(data))],
]


def alter(tree: Any, rng: random.Random) -> None:
    """Change one or two random nodes in a tree of dicts and lists in place: delete, rename or replace them."""
    for _ in range(rng.randint(1, 2)):
        nodes = list(_nodes(tree))
        if not nodes:
            return
        parent, key = rng.choice(nodes)
        match rng.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[rng.choice([f"{key}x", str(key)[1:], "", "\u202e", "a\0", f"{key}\n", 7])] = parent.pop(key)
            case 2:
                other, index = rng.choice(nodes)
                if index in other if isinstance(other, dict) else index < len(other):
                    parent[key] = other[index]  # may create a cycle
            case 3:
                deep: Any = 1
                for _ in range(rng.choice([3, 100, 1200])):
                    deep = [deep] if rng.random() < 0.5 else {"x": deep}
                parent[key] = deep
            case _:
                parent[key] = rng.choice(UNUSUAL_VALUES)


def alter_slightly(tree: Any, rng: random.Random) -> None:
    """Swap two numbers in a tree of dicts and lists in place, or replace one with a number close to it."""
    numbers = [(parent, key) for parent, key in _nodes(tree) if type(parent[key]) in (int, float)]
    (first, key), (second, index) = rng.choices(numbers, k=2)
    if rng.random() < 0.5:
        first[key], second[index] = second[index], first[key]
    else:
        value = first[key]
        first[key] = value + rng.choice([-1, 1]) if isinstance(value, int) else value * rng.uniform(0.9, 1.1)


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every node of a tree, as its parent and its key or index in the parent. Cycles are visited only once."""
    visited, todo = set(), [tree]
    while todo:
        parent = todo.pop()
        if id(parent) in visited:
            continue
        visited.add(id(parent))
        for key in list(parent) if isinstance(parent, dict) else range(len(parent)):
            yield parent, key
            if isinstance(parent[key], dict | list):
                todo.append(parent[key])
