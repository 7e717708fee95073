"""What the tables say, in a sentence that claims no more than their figures do."""

from collections.abc import Iterable

from rr.report.statistics import Spread
from rr.report.tables import Row, Table, over, percent


def finding(found: list[Table]) -> str:
    """One finding for the whole page: of the only table, or counted over several, or that there is none."""
    if not found:
        return "This grid holds no classification, so there is no accuracy to compare."
    if len(found) == 1:
        return sentence(found[0])
    compared = [(table, protocol) for table in found for protocol in table.titles if best_row(table, protocol)]
    parts = []
    for role, words in (("lower bound", "is above the random one"), ("upper bound", "reaches the supervised one")):
        wins = [_compare(t, p, role) for t, p in compared]
        known = [win for win in wins if win is not None]
        if known:
            reached = sum(win > 0 or (win == 0 and role == "upper bound") for win in known)
            parts.append(f"in {reached} of {len(known)} it {words}")
    if not parts:
        return "This grid has nothing to compare: it needs a self-supervised method beside random or supervised."
    text = f"Taking the best self-supervised method of each table and protocol: {'; '.join(parts)}. "
    return text + caution(cell.value.count for one in found for row in one.rows for cell in row.cells.values())


def sentence(table: Table) -> str:
    """The best self-supervised method under the first protocol that has any, between its bounds."""
    protocol = next((title for title in table.titles if best_row(table, title)), table.protocol)
    best = best_row(table, protocol)
    if best is None:
        return "This grid holds no self-supervised method, so the table shows bounds alone."
    accuracy = best.cells[protocol].value
    text = f"On {table.target}, {best.method} classifies {_words(accuracy)} of the test pictures correctly ({protocol})"
    relations = []
    for role in ("lower bound", "upper bound"):
        bound, order = _bound(table, protocol, role), _compare(table, protocol, role)
        if bound and order is not None:
            word = {1: "above", 0: "equal to", -1: "below"}[order]
            relations.append(f"{word} {bound.method} ({percent(bound.cells[protocol].value.mean)} %)")
    if relations:
        text += f", {' and '.join(relations)}"
    text += _share_of_gap(table, protocol, accuracy.mean)
    return f"{text}. {caution([accuracy.count])}"


def _share_of_gap(table: Table, protocol: str, accuracy: float) -> str:
    """How far `accuracy` lies on the way between the bounds; empty where it does not lie between them."""
    lower, upper = (_bound(table, protocol, role) for role in ("lower bound", "upper bound"))
    if not (lower and upper):
        return ""
    low, high = lower.cells[protocol].value.mean, upper.cells[protocol].value.mean
    if not low < accuracy < high:
        return ""
    return f": {100 * (accuracy - low) / (high - low):.0f} % of the way from the one to the other"


def _words(accuracy: Spread) -> str:
    deviation = "" if accuracy.deviation is None else f" ± {percent(accuracy.deviation)}"
    return f"{percent(accuracy.mean)}{deviation} %"


def caution(counts: Iterable[int]) -> str:
    """What the numbers of seeds behind some figures say about them."""
    found = set(counts)
    if found == {1}:
        return "It is one seed alone, so how far another would differ is not known."
    return f"Means are over {over(found)}."


def best_row(table: Table, protocol: str) -> Row | None:
    """The best self-supervised method under a protocol; the first of equals."""
    return next((row for row in table.rows if protocol in row.cells and row.cells[protocol].best), None)


def _bound(table: Table, protocol: str, role: str) -> Row | None:
    return next((row for row in table.rows if row.role == role and protocol in row.cells), None)


def _compare(table: Table, protocol: str, role: str) -> int | None:
    """1, 0 or −1 where the best method is above, equal to (as printed) or below the bound; None where one is absent."""
    best, bound = best_row(table, protocol), _bound(table, protocol, role)
    if not (best and bound):
        return None
    ours, theirs = (float(percent(row.cells[protocol].value.mean)) for row in (best, bound))
    return (ours > theirs) - (ours < theirs)
