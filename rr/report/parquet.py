"""All metrics of all evaluations as one Parquet table in long form, for further analysis."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rr.report.inputs.collect import EvaluationResult
from rr.runtime.atomic import atomic_write

_NAMES = ("dataset", "backbone", "method", "seed", "target", "protocol", "metric")
_SCHEMA = pa.schema({**dict.fromkeys(_NAMES, pa.string()), "seed": pa.int64(), "value": pa.float64()})


def write_parquet(evaluations: Sequence[EvaluationResult], path: Path) -> None:
    """Write one row per evaluation and metric."""
    rows = []
    for evaluation in evaluations:
        run = evaluation.paths.pretraining
        names = (run.dataset, run.backbone, run.method, run.seed, evaluation.paths.target, evaluation.paths.protocol)
        rows += [dict(zip(_SCHEMA.names, (*names, *metric), strict=True)) for metric in evaluation.metrics.items()]
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)
