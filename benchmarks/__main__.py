"""`make bench`: events per second and CPU per event, ours beside a bare loop, in one run.

CPU is that of the process that does the work. Times differ from machine to machine and from
minute to minute; the ratio to the bare loop, measured before and after in the same run, is
what to look at.
"""

from __future__ import annotations

import argparse

from benchmarks import drain, emit, rows, sinks
from benchmarks.stage import DATABASES, Cost


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Cost per event.")
    parser.add_argument("--events", type=int, default=20_000, help="of each row")
    parser.add_argument("--databases", action="store_true", help="SQLite beside PostgreSQL alone")
    parser.add_argument("--deep", action="store_true", help="also 1,000,000 waiting events")
    options = parser.parse_args()
    n: int = options.events
    print(f"{'':42}{'events':>10}{'events/s':>10}{'CPU us':>8}{'of bare':>9}")
    for database in DATABASES:
        beside(database, n)
    if options.databases:
        return
    for cost in emit.run(max(1000, n // 10), n):
        show(cost, None)
    for lanes in (1, 100):
        compare(drain.run(lanes, n, n))
    for lanes in (100, 10_000):
        compare(drain.run(lanes, 100_000, n))
    for sink in sinks.BROKERS:
        compare(sinks.run(sink, 100, n))
    if options.deep:
        compare(drain.run(100, 1_000_000, n))


def beside(database: str, n: int) -> None:
    """What the database has to do with, and what it ought to have nothing to do with."""
    print(f"on {database}:")
    for cost in rows.run(database, max(200, n // 100), n // 4):
        show(cost, None)
    for cost in emit.run(max(1000, n // 10), n, database):
        show(cost, None)
    compare(drain.run(100, n, n, database))


def compare(costs: list[Cost]) -> None:
    """The bare loop before and after, and what stands between them."""
    before, ours, after = costs
    bare = (before.rate + after.rate) / 2
    show(before, None)
    show(ours, ours.rate / bare)
    show(after, None)


def show(cost: Cost, share: float | None) -> None:
    """One row."""
    of_bare = "" if share is None else f"{share:.0%}"
    row = f"{cost.name:42}{cost.events:>10,}{cost.rate:>10,.0f}{cost.micros:>8.0f}{of_bare:>9}"
    print(row, flush=True)


if __name__ == "__main__":
    main()
