"""The metrics as one long Parquet table, for whoever wants to compute further."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rr.report.inputs.collect import Score
from rr.runtime.atomic import replacing

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("backbone", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("target", pa.string()),
        ("protocol", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)


def write(scores: list[Score], target: Path) -> None:
    """Write one row per evaluation × metric."""
    rows = []
    for score in scores:
        run = score.cell.pretraining
        cell = (run.dataset, run.backbone, run.method, run.seed, score.cell.target, score.cell.protocol)
        rows += [dict(zip(SCHEMA.names, (*cell, *metric), strict=True)) for metric in score.metrics.items()]
    with replacing(target) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)
