"""What the delivery log costs: a drain with it and without it, in turns, and a clock beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from benchmarks import mix
from benchmarks.drain import drained
from benchmarks.stage import Cost, Stage, stage
from evoflask.models import DeliveryLog

ROUNDS = 4
LANES = 20


@contextlib.contextmanager
def clock(here: Stage) -> Iterator[None]:
    """The clock's own process, as it runs in a house."""
    env = {
        "PATH": os.environ["PATH"],
        "EVOFLASK_HOME": str(here.settings.home),
        "REDIS_URL": here.settings.redis_url,
        "DATABASE_URL": here.settings.database_url,
        "AUTHENTICATION_API_KEY": "bench",
        "ENCRYPTION_KEY": ",".join(here.settings.encryption_key),
        "LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-m", "workers.clock"], env=env)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def run(events: int, rounds: int = ROUNDS) -> dict[str, list[Cost]]:
    """Rounds of each way, in turns, on one stage."""
    found: dict[str, list[Cost]] = {"off": [], "failures": [], "all": []}
    with stage() as here, clock(here):
        server = here.settings
        for _ in range(rounds):
            for keep, costs in found.items():
                tenants = here.tenants(LANES, "webhook", here.webhook)
                here.settings = replace(server, attempts_log=keep)
                name = f"attempts {keep}"
                costs.append(
                    asyncio.run(drained(here, name, tenants, events, events, mix.bodies()))
                )
        print(f"{DeliveryLog.select().count()} attempts are in the log")
    return found


def main(events: int = 10_000) -> None:
    """Prints the median of each way."""
    for keep, costs in run(events).items():
        rate = statistics.median(cost.rate for cost in costs)
        micros = statistics.median(cost.micros for cost in costs)
        print(f"{keep:>9}: {rate:7,.0f} events/s, {micros:5.0f} µs of CPU each")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
