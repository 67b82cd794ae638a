"""SQLite beside PostgreSQL: what the database has to do with, and what it ought to have nothing to
do with.

    python -m benchmarks.databases --events 20000

CPU is that of the process that does the work.
"""

from __future__ import annotations

import argparse

from benchmarks import drain, emit, rows
from benchmarks.stage import DATABASES, Cost


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="of each row")
    n: int = parser.parse_args().events
    print(f"{'':42}{'events':>10}{'events/s':>10}{'CPU us':>8}")
    for database in DATABASES:
        print(f"on {database}:")
        for cost in rows.run(database, max(200, n // 100), n // 4):
            show(cost)
        for cost in emit.run(max(1000, n // 10), n, database):
            show(cost)
        for cost in drain.run(100, n, n, database):
            show(cost)


def show(cost: Cost) -> None:
    """One row."""
    print(f"{cost.name:42}{cost.events:>10,}{cost.rate:>10,.0f}{cost.micros:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
