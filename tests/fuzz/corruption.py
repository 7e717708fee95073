"""How many seeded accidents each fuzz test makes, and the accidents themselves.

RR_FUZZ=1000 makes a long run; RR_FUZZ_SEED another one. A failure names its round: the same two numbers repeat it.
"""

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

COUNT = int(os.environ.get("RR_FUZZ", "40"))
SEED = int(os.environ.get("RR_FUZZ_SEED", "0"))

STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**30, 0.0, -0.5, 1e-300, 1e300, float("inf"), float("nan"),
    "", "x", "1", "../x", "~nobody/x", "a b;$(touch x)'\"", "\u202eé\U0001f600", "\ud800", "a\nb", "a\0b", "k" * 5000,
    [], [[]], [None], [0, 0], {}, {"kind": "random"}, {"x": {"y": {}}}, b"bytes",
]  # fmt: skip


def rounds(name: str, count: int = COUNT) -> Iterator[tuple[int, random.Random]]:
    """Number and generator of each round; `name` keeps the tests' numbers apart."""
    for number in range(count):
        yield number, random.Random(f"{name} {SEED} {number}")


def flipped(data: bytes, chance: random.Random, start: int = 0) -> bytes:
    """One bit of `data`, behind `start`, is another."""
    position = chance.randrange(start, len(data))
    return data[:position] + bytes([data[position] ^ 1 << chance.randrange(8)]) + data[position + 1 :]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Up to four accidents: bits, bytes, runs of zeros, a number of all ones, a part lost, doubled or moved, a cut."""
    for _ in range(chance.randint(1, 4)):
        if len(data) < 8:
            break
        size = min(len(data) // 2, 2 ** chance.randrange(12))
        # Formats keep their tables at either end, so half of the accidents happen there.
        near = min(len(data) - size, 200)
        place = chance.choice([chance.randint(0, len(data) - size), chance.randint(0, near), len(data) - size - near])
        place = max(place, 0)
        part = data[place : place + size]
        data = chance.choice(_ACCIDENTS)(data, place, size, part, chance)
    return data


_Accident = Callable[[bytes, int, int, bytes, random.Random], bytes]
_ACCIDENTS: list[_Accident] = [
    lambda data, place, size, part, chance: flipped(data, chance),
    lambda data, place, size, part, chance: flipped(data, chance, max(len(data) - 200, 0)),
    lambda data, place, size, part, chance: data[:place] + chance.randbytes(size) + data[place + size :],
    lambda data, place, size, part, chance: data[:place] + bytes(size) + data[place + size :],
    lambda data, place, size, part, chance: data[:place] + b"\xff" * min(size, 8) + data[place + min(size, 8) :],
    lambda data, place, size, part, chance: data[:place] + data[place + size :],
    lambda data, place, size, part, chance: data[:place] + part + data[place:],
    lambda data, place, size, part, chance: data[:place] + data[place + size :] + part,
    lambda data, place, size, part, chance: data[: chance.randrange(len(data))],
]


def altered(tree: Any, chance: random.Random) -> None:
    """One or two nodes of a tree of dicts and lists lose their key, change it, or become something strange."""
    for _ in range(chance.randint(1, 2)):
        nodes = list(_nodes(tree))
        if not nodes:
            return
        holder, key = chance.choice(nodes)
        match chance.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[chance.choice([f"{key}x", str(key)[1:], "", "\u202e", "a\0", f"{key}\n", 7])] = holder.pop(key)
            case 2:
                other, place = chance.choice(nodes)
                if place in other if isinstance(other, dict) else place < len(other):
                    holder[key] = other[place]  # perhaps within itself
            case 3:
                deep: Any = 1
                for _ in range(chance.choice([3, 100, 1200])):
                    deep = [deep] if chance.random() < 0.5 else {"x": deep}
                holder[key] = deep
            case _:
                holder[key] = chance.choice(STRANGE)


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Each place in a tree: what holds it, and its key there; a tree that holds itself is walked once."""
    seen, todo = set(), [tree]
    while todo:
        holder = todo.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], dict | list):
                todo.append(holder[key])
