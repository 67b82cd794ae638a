"""`make bench`, `make bench-full`, `make bench-check`.

    python -m benchmarks [--full] [--check] [--rounds n] [section ...]

Writes RESULTS.md and the pictures, from what was measured now and, where only some sections ran,
from what the others said before. With `--check` nothing is written: ratios are compared with the
committed ones, those that fell behind are measured up to twice more, and if they stay behind it
fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import (
    accept,
    drain,
    flat,
    idle,
    latency,
    report,
    scale,
    sinks,
    stages,
    versus,
    workloads,
)
from benchmarks.measures import Run, behind

SECTIONS: dict[str, Callable[[Run], None]] = {
    "accept": accept.section,
    "drain": drain.section,
    "sinks": sinks.section,
    "scale": scale.section,
    "latency": latency.section,
    "flat": flat.section,
    "idle": idle.section,
    "versus": versus.section,
    "workloads": workloads.section,
    "stages": stages.section,
}
CHECKS: dict[str, tuple[Callable[[Run], None], tuple[str, ...]]] = {
    "accept": (accept.section, ("accept_batches", "accept_single")),
    "drain": (drain.section, ("drain",)),
    **{
        sink: (partial(sinks.section, brokers=[sink]), (sink,))
        for sink in ("nats", "sqs", "pusher")
    },
}
"""Sections that the gate measures, each with the names of its ratios. RabbitMQ's is not gated."""
TURNS = 3
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """What was asked for. Answers the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="everything, at length: an hour")
    parser.add_argument("--check", action="store_true", help="compare with what is committed")
    parser.add_argument("--rounds", type=int, help="of each section")
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS])
    asked = parser.parse_args()
    if asked.check:
        return check(asked.rounds or 3)
    file = RESULTS / ("full.json" if asked.full else "short.json")
    RESULTS.mkdir(exist_ok=True)
    for name in asked.sections or SECTIONS:
        run = Run(asked.full, asked.rounds or (5 if asked.full else 3))
        measured(name, SECTIONS[name], run)
        run.save(file, report.machine())
    report.write(file)
    draw = [str(versus.PEERS / "bin" / "python"), "-m", "benchmarks.pictures", str(file)]
    return subprocess.run(draw, check=False).returncode


def measured(name: str, section: Callable[[Run], None], run: Run) -> None:
    """One section, with its time."""
    print(f"{name}:", flush=True)
    began = time.perf_counter()
    section(run)
    print(f"    {time.perf_counter() - began:.0f} s", flush=True)


def check(rounds: int) -> int:
    """The short form against the committed one. What fell back is measured again, up to twice, for
    a noisy minute is not a slower program; all its values count then."""
    run = Run(False, rounds)
    committed = RESULTS / "short.json"
    again = list(CHECKS)
    for _ in range(TURNS):
        for name in again:
            measured(name, CHECKS[name][0], run)
        found = behind(committed, list(run.measures.values()))
        again = [name for name, (_, keys) in CHECKS.items() if found.keys() & set(keys)]
        if not again:
            return 0
    for sentence in found.values():
        print(f"behind: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
