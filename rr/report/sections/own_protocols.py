"""The `own_protocols` section: the metrics of user-defined protocols."""

from rr.params.extensions import is_extension_kind
from rr.report.formatting import format_any_number
from rr.report.grouping import unique
from rr.report.inputs.collect import GridResults
from rr.report.result_tables import MetricColumn, ResultTable, result_table, split_by_target_and_protocol

_MAX_METRICS = 5
_SIZES = ("test_images", "train_images", "classes")


def build_own_protocols(results: GridResults) -> list[ResultTable]:
    """Return one table per dataset, backbone, target and protocol, with the first five metrics of the protocol.

    A protocol may return different metrics for different methods.
    """
    tables = []
    for runs in split_by_target_and_protocol([run for run in results.evaluations if is_extension_kind(run.kind)]):
        metrics = unique(name for run in runs for name in run.metrics if name not in _SIZES)[:_MAX_METRICS]
        columns = [
            MetricColumn(name.replace("_", " "), runs[0].paths.protocol, name, format_any_number, marks_best=False)
            for name in metrics
        ]
        tables.append(result_table(runs, columns))
    return [table for table in tables if table.columns]
