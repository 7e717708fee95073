"""Compare published files with their records, and the records with each other. `make results` runs this script.

usage: python workflow/check_records.py FOLDER...

Each folder contains records (run.json) and some of the files that they list; it does not need a grid. The script checks
the digest of each record and the hash of each file that is present. It also checks whether each beton, backbone and
feature file that a run has read has the same hash as in the record of the run that wrote it, and whether each accuracy
follows from the predictions.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq

from rr.errors import UserError
from rr.runtime.hashing import file_sha256
from rr.workflow.records import load_record


def check_records(folders: list[Path]) -> tuple[str, list[str]]:
    """Return what was checked, and one message per mismatch."""
    records, mismatches = [], []
    for folder in folders:
        for file in sorted(folder.rglob("run.json")):
            try:
                records.append((folder, file, load_record(file.parent)))
            except UserError as error:  # its digest is wrong
                mismatches.append(str(error))
    if not records:
        mismatches.append(f"no record (run.json) in {', '.join(map(str, folders))}")
    written = defaultdict(set)
    for _, _, record in records:
        for name, sha256 in record["outputs"].items():
            written[name].add(sha256)
    counts: Counter[str] = Counter()
    for folder, file, record in records:
        for name, sha256 in (*record["outputs"].items(), *record["inputs"].items()):
            if (folder / name).is_file():
                counts["files"] += 1
                if file_sha256(folder / name) != sha256:
                    mismatches.append(f"{folder / name} differs from its hash in {file}")
        for name, sha256 in record["inputs"].items():
            # The commits that wrote the records have different formats of the index, which is a Parquet file.
            if Path(name).suffix == ".parquet":
                continue
            counts["inputs" if written[name] else "unknown inputs"] += 1
            if written[name] and sha256 not in written[name]:
                mismatches.append(f"{file} has read a different {name} than any record states")
        if accuracies := find_accuracies(file.parent):
            counts["accuracies"] += 1
            if accuracies[0] != accuracies[1]:
                mismatches.append(f"{file.parent}: the accuracy is {accuracies[0]}, but {accuracies[1]} in predictions")
    summary = (
        f"{len(records):,} records, {counts['files']:,} files, {counts['inputs']:,} inputs and "
        f"{counts['accuracies']:,} accuracies were checked; {counts['unknown inputs']:,} inputs were not, because no "
        "record of their origin is published"
    )
    return summary, mismatches


def find_accuracies(folder: Path) -> tuple[float, float] | None:
    """Return the accuracy in a run's metrics and that of its predictions, or None if these files are missing."""
    metrics, predictions = folder / "metrics.json", folder / "predictions.parquet"
    if not (metrics.is_file() and predictions.is_file() and "prediction" in pq.read_schema(predictions).names):
        return None
    table = pq.read_table(predictions, columns=["label", "prediction"])
    is_correct = table["label"].to_numpy() == table["prediction"].to_numpy()
    return json.loads(metrics.read_text())["accuracy"], float(is_correct.mean())


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python workflow/check_records.py FOLDER...")
    summary, mismatches = check_records([Path(folder) for folder in sys.argv[1:]])
    print(summary)
    if mismatches:
        sys.exit("\n".join(mismatches))
    print("all match")
