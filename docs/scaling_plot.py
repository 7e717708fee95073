"""Plot the output of `rr bench scaling --json`: `python docs/scaling_plot.py RESULTS.json PLOT.svg`."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure


def save_plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Plot the time and peak memory of each series against the size."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "scaling"})
    figure = Figure(figsize=(9, 4), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for series in dict.fromkeys(case["facts"]["series"] for case in cases):
        chosen = [case for case in cases if case["facts"]["series"] == series]
        sizes = [case["facts"]["size"] for case in chosen]
        seconds = [case["candidates"][0]["wall"]["median"] for case in chosen]
        label = f"{series} ({chosen[0]['facts']['size_unit']})"
        time_axes.plot(sizes, seconds, marker="o", ms=3, label=label)
        peaks = [case["facts"]["peak_memory_mib"] or math.nan for case in chosen]
        memory_axes.plot(sizes, peaks, marker="o", ms=3, label=label)
    for axes, name in ((time_axes, "seconds"), (memory_axes, "peak memory, MiB")):
        axes.set(xscale="log", yscale="log", xlabel="size", ylabel=name)
        axes.grid(alpha=0.3)
    figure.legend(*time_axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    save_plot(json.loads(Path(sys.argv[1]).read_text())["parts"]["scaling"]["cases"], Path(sys.argv[2]))
