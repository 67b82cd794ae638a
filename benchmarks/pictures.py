"""Pictures of what was measured, by matplotlib, which lives with the peers.

.venv/peers/bin/python -m benchmarks.pictures benchmarks/results/full.json
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "evoflask"
matplotlib.rcParams["svg.fonttype"] = "none"  # letters, not their outlines
Rows = list[dict[str, Any]]


def rows(table: list[list[Any]]) -> Rows:
    """By the names of its columns."""
    names, *values = table
    return [dict(zip(names, each, strict=True)) for each in values]


def medians(found: Rows, by: str, of: str) -> dict[Any, float]:
    """The median of a column for each value of another one."""
    groups: dict[Any, list[float]] = defaultdict(list)
    for row in found:
        groups[row[by]].append(row[of])
    return {key: statistics.median(values) for key, values in groups.items()}


def throughput(tables: dict[str, Any], out: Path) -> None:
    """Events a second of each contender."""
    found = rows(tables["Against what they would use instead"])
    rates = {row["contender"]: float(row["delivered/s"].split()[0]) for row in found}
    figure, axes = plt.subplots(figsize=(7, 3))
    names = sorted(rates, key=rates.__getitem__)
    axes.bar_label(axes.barh(names, [rates[n] for n in names]), fmt="%.0f", padding=3)
    axes.set_xlabel("events a second, handed in to delivered, 100 tenants, 2 cores")
    figure.savefig(out / "throughput.svg", bbox_inches="tight", metadata={"Date": None})


def latency(tables: dict[str, Any], out: Path) -> None:
    """Percentiles, alone and under load."""
    found = rows(tables["From sending to arrival, ms"])
    shares = [name for name in found[0] if name.startswith("p")]
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for what in dict.fromkeys(row["what"] for row in found):
        mine = [row for row in found if row["what"] == what]
        axes.plot(
            shares, [statistics.median(row[s] for row in mine) for s in shares], "o-", label=what
        )
    axes.set_ylabel("ms from sending to arrival")
    axes.set_yscale("log")
    axes.legend()
    figure.savefig(out / "latency.svg", bbox_inches="tight", metadata={"Date": None})


def flat(tables: dict[str, Any], out: Path) -> None:
    """Cost over backlog and over tenants."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for of in ("drain us", "Redis us"):
        costs = medians(rows(tables["Cost over backlog (100 lanes)"]), "waiting", of)
        left.plot(sorted(costs), [costs[x] for x in sorted(costs)], "o-", label=of)
        found = rows(tables["Cost over tenants"])
        for on in dict.fromkeys(row["events on"] for row in found):
            costs = medians([row for row in found if row["events on"] == on], "tenants", of)
            right.plot(
                sorted(costs), [costs[x] for x in sorted(costs)], "o-", label=f"{of}, on {on}"
            )
    for axes, says in ((left, "events waiting"), (right, "tenants")):
        axes.set_xscale("log")
        axes.set_xlabel(says)
        axes.set_ylim(bottom=0)
        axes.legend()
    left.set_ylabel("us of CPU an event")
    figure.savefig(out / "cost.svg", bbox_inches="tight", metadata={"Date": None})


def stages(tables: dict[str, Any], out: Path) -> None:
    """A stacked bar a phase."""
    found = rows(tables["Stages, us of CPU an event"])
    phases = list(dict.fromkeys(row["phase"] for row in found))
    figure, axes = plt.subplots(figsize=(9, 4))
    below = dict.fromkeys(phases, 0.0)
    colours = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    for n, stage in enumerate(dict.fromkeys(row["stage"] for row in found)):
        costs = medians([row for row in found if row["stage"] == stage], "phase", "us")
        left = [below[p] for p in phases]
        axes.barh(
            phases, [costs.get(p, 0) for p in phases], left=left, label=stage, color=colours[n % 20]
        )
        for phase, cost in costs.items():
            below[phase] += cost
    axes.set_xlabel("us of CPU an event")
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize="small")
    figure.savefig(out / "stages.svg", bbox_inches="tight", metadata={"Date": None})


PICTURES = {
    "Against what they would use instead": throughput,
    "From sending to arrival, ms": latency,
    "Cost over tenants": flat,
    "Stages, us of CPU an event": stages,
}

if __name__ == "__main__":
    source = Path(sys.argv[1])
    known = json.loads(source.read_text())["tables"]
    for heading, draw in PICTURES.items():
        if heading in known:
            draw(known, source.parent)
