"""What is measured, what it should be, and what came out: ratios of one run, a value a round."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ALLOWED: Final = 0.2
"""How far a ratio may fall behind the committed one before the gate fails."""


@dataclass(frozen=True, slots=True)
class Goal:
    """`more`: a larger value is a better one. `gated`: compared by `make bench-check`, which
    only a ratio can be: times are the machine's."""

    key: str
    says: str
    wanted: float
    unit: str = ""
    more: bool = True
    gated: bool = True

    def met(self, value: float) -> bool:
        return value >= self.wanted if self.more else value <= self.wanted

    def worse(self, value: float, before: float) -> float:
        """The share by which it is worse than before; below zero where it is better."""
        return (before - value) / before if self.more else (value - before) / before


BARE = "of the bare client in its best mode"
GOALS: Final = (
    Goal("accept_batches", "accept, batches of 100, one web process, of bare pipelined XADD", 0.5),
    Goal("accept_single", "accept, one by one, 2 web processes, of a constant on Flask", 0.6),
    Goal("drain", "drain, one worker, of bare aiohttp to the same receiver", 0.7),
    Goal("versus_rq", "end to end, times rq-naive", 40),
    Goal("versus_celery", "end to end, times celery", 10),
    Goal("versus_axios", "end to end, times bullmq with axios", 2),
    Goal("versus_axios_cpu", "CPU an event, of bullmq with axios", 0.5, more=False),
    # Its server is the limit of both, so the ratio is that server's minute: not gated.
    Goal("rabbitmq", f"drain to RabbitMQ, {BARE}", 0.7, gated=False),
    Goal("nats", f"drain to JetStream, {BARE}", 0.7),
    Goal("sqs", f"drain to SQS, {BARE}", 0.7),
    Goal("pusher", f"drain to Pusher, {BARE}", 0.7),
    Goal("lone_p50", "accept to delivered, alone, p50", 5, "ms", more=False, gated=False),
    Goal("lone_p99", "accept to delivered, alone, p99", 20, "ms", more=False, gated=False),
    Goal("half_p99", "accept to delivered at 50 % load, p99", 50, "ms", more=False, gated=False),
    Goal("flat_backlog", "CPU an event, dearest backlog to cheapest", 1.15, more=False),
    Goal("flat_tenants", "CPU an event on 10 lanes, dearest number of tenants to cheapest", 1.15,
         more=False),
    Goal("flat_spread", "CPU an event spread over all tenants, dearest to cheapest", 1.15,
         more=False),
    Goal("idle_cpu", "CPU with 100,000 idle tenants, all processes", 2, "% of a core", more=False,
         gated=False),
    Goal("idle_memory", "Redis' memory for an idle tenant", 2048, "bytes", more=False, gated=False),
    Goal("two_workers", "drain, two workers, times one", 1.6),
    Goal("two_workers_slow", "the same to receivers that take 50 ms", 1.6),
)  # fmt: skip


@dataclass(slots=True)
class Measure:
    """A goal and the value of each round."""

    goal: Goal
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> str:
        """Of a table in Markdown."""
        goal = self.goal
        sign = ">=" if goal.more else "<="
        spread = f"{shown(min(self.values))} to {shown(max(self.values))}"
        verdict = "yes" if goal.met(self.median) else "**no**"
        return (
            f"| {goal.says} | {sign} {shown(goal.wanted)} {goal.unit} | "
            f"{shown(self.median)} {goal.unit} | {spread} | {len(self.values)} | {verdict} |"
        )


@dataclass(slots=True)
class Run:
    """One run of the bench. `full`: with everything that takes long."""

    full: bool
    rounds: int
    measures: dict[str, Measure] = field(default_factory=dict)
    tables: dict[str, list[list[Any]]] = field(default_factory=dict)
    """What stands behind the measures, by heading: rows of figures, the names first."""

    def tell(self, key: str, value: float) -> None:
        """A measure's value of one round."""
        goal = next(one for one in GOALS if one.key == key)
        self.measures.setdefault(key, Measure(goal)).values.append(value)
        print(f"    {goal.says}: {shown(value)} {goal.unit}", flush=True)

    def row(self, heading: str, names: Sequence[str], *values: Any) -> None:
        """A row of a table."""
        self.tables.setdefault(heading, [list(names)]).append(list(values))
        print("    " + ", ".join(f"{n} {shown(v)}" for n, v in zip(names, values, strict=True)),
              flush=True)  # fmt: skip

    def save(self, path: Path, machine: Mapping[str, str]) -> None:
        """Beside what other sections said before, whose figures stay."""
        known = json.loads(path.read_text()) if path.exists() else {}
        measures = known.get("measures", {}) | {
            key: {"median": each.median, "values": each.values}
            for key, each in self.measures.items()
        }
        tables = known.get("tables", {}) | self.tables
        found = {"machine": dict(machine), "measures": measures, "tables": tables}
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def read(path: Path) -> tuple[dict[str, str], list[Measure], dict[str, list[list[Any]]]]:
    """What was saved: machine, measures in the order of the goals, tables."""
    found = json.loads(path.read_text())
    known = found["measures"]
    measures = [Measure(g, known[g.key]["values"]) for g in GOALS if g.key in known]
    return found["machine"], measures, found["tables"]


def shown(value: Any) -> str:
    """Three digits that say something."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def behind(path: Path, measures: Sequence[Measure], allowed: float = ALLOWED) -> dict[str, str]:
    """A sentence for each gated ratio that fell back by more than is allowed, by its key.

    A measure that is not in the file yet is nobody's regression.
    """
    before = json.loads(path.read_text())["measures"]
    found = {}
    for each in measures:
        known = before.get(each.goal.key)
        if known is None or not each.goal.gated:
            continue
        by = each.goal.worse(each.median, known["median"])
        if by > allowed:
            found[each.goal.key] = (
                f"{each.goal.says}: {shown(each.median)} now, {shown(known['median'])} before,"
                f" {by:.0%} worse"
            )
    return found
