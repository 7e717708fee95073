"""Which versions of the code made the figures, and a warning where one stage's figures come from several."""

from collections import Counter
from collections.abc import Sequence

from rr.report.inputs.collect import Run, Score
from rr.report.inputs.files import Record
from rr.report.sections.runs import letter
from rr.report.tables import unique

_NAMED = 6  # runs of a version that the sentence names


def letters(made: Sequence[Run | Score]) -> list[str]:
    """The version of each run's code, as a letter: equal hashes, equal letter."""
    different = _different(made)
    return [letter(different.index(one.record.code)) for one in made]


def mixed(stage: str, made: Sequence[Run | Score]) -> str:
    """A warning where the runs of one stage were made by several versions of its code; else empty."""
    different = _different(made)
    if len(different) < 2:
        return ""
    files = sorted({path for code in different for path in code})
    files = [path for path in files if len({code.get(path) for code in different}) > 1]
    versions = letters(made)
    groups = []
    for version in unique(versions):
        # Their folders without runs/pretrain/ or runs/evaluate/: names that the command line knows.
        names = ["/".join(one.cell.folder.parts[2:]) for one, own in zip(made, versions, strict=True) if own == version]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        groups.append(f"{version} made {', '.join(names[:_NAMED])}{more}")
    return (
        f"{stage} mixes {len(different)} versions of the code, so figures may differ for that reason alone. "
        f"What differs: {', '.join(files)}. {'; '.join(groups)}."
    )


def commits(records: Sequence[Record]) -> str:
    """The commits that made the runs and how many each made, in words."""
    counted: Counter[str] = Counter()
    for one in records:
        changed = ", with changes that are in no commit" if one.commit and one.commit.changed else ""
        counted[f"{one.commit.id[:12]}{changed}" if one.commit else "not recorded"] += 1
    return "; ".join(f"{words} ({count} run{'' if count == 1 else 's'})" for words, count in counted.items())


def _different(made: Sequence[Run | Score]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for one in made:
        if one.record.code not in found:
            found.append(one.record.code)
    return found
