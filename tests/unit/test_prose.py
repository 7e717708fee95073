"""Test that all text in the project avoids the words listed here."""

import re
import subprocess
from pathlib import Path

from helpers import ROOT

READ = {".py", ".md", ".html", ".yaml", ".smk", ".sh", ".toml", ".cff", ".rst", ".sbatch"}
# Words that the project does not use, each with the word that it uses instead.
WORDS = {
    r"pictures?": "image",
    r"anew": "again",
    r"beside": "next to, with",
    r"one's own": "your own",
    r"comes? by": "arrives, is called",
    r"goes on|go on": "continues",
    r"data sets?": "dataset",
    r"\w*colou?rs?(?<=colour)s?": "color",
    r"\w*normalis\w+": "normalize",
    r"\w*optimis\w+": "optimize",
    r"\w*initialis\w+": "initialize",
    r"\w*synchronis\w+": "synchronize",
    r"\w*serialis\w+": "serialize",
    r"behaviours?": "behavior",
    r"grey\w*": "gray",
    r"centres?": "center",
    r"neighbours?": "neighbor",
    r"labelled|unlabelled": "labeled",
    r"is none": "is not valid, is empty",
}
PATTERN = re.compile(r"\b(?:" + "|".join(WORDS) + r")\b")
# Names in file formats and in other programs, and old keys that an error message or the changelog mentions.
EXCEPTIONS = re.compile(
    "|".join(
        (
            "</?picture>", "instead of `picture`", r"\(not picture", "neighbours`", "\"neighbours\"", "'neighbours'",
            r"\blabelled\b.*label_fraction", "unlabelled.*unlabeled", "_unlabelled", r"augmentation\.grey",
        )
    )
)  # fmt: skip


def test_no_text_uses_a_word_of_the_list() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.split()
    found = []
    for name in listed:
        path = ROOT / name
        if path.suffix in READ and path.is_file() and path != Path(__file__):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if (match := PATTERN.search(line)) and not EXCEPTIONS.search(line):
                    found.append(f"{name}:{number}: {match[0]}: {line.strip()}")
    assert not found, "\n".join(found)
