"""The console blocks in README.md and in the docs/ pages that a user follows."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("index", "start", "install", "faq", "known-issues", "experiments")),
    *sorted((ROOT / "docs/guides").glob("*.md")),
]
# A comment above a block specifies which test file runs the block, or why it is not run.
# tests/engines/test_documented_commands.py runs all other blocks.
NOTE = re.compile(r"<!-- (?:run by (?P<test>\S+)|not run: (?P<reason>.+)) -->")


class Block(NamedTuple):
    """A console block: its commands, and the note above it (None if there is no note)."""

    page: Path
    commands: list[str]
    note: re.Match[str] | None


def read_blocks(page: Path) -> Iterator[Block]:
    """Yield the console blocks on a page."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        above = text[: match.start() - 1].rpartition("\n")[2]
        commands: list[str] = []
        continued = False
        for line in match[1].splitlines():
            if continued:
                commands[-1] += "\n" + line
            elif line.startswith("$ "):
                commands.append(line[2:])
            continued = (continued or line.startswith("$ ")) and line.endswith("\\")
        yield Block(page, commands, NOTE.fullmatch(above))


def find_block(page: str, first_line: str) -> list[str]:
    """Return the commands of the block on a page whose first command starts with `first_line`."""
    [commands] = [b.commands for b in read_blocks(ROOT / page) if b.commands[0].startswith(first_line)]
    return commands
