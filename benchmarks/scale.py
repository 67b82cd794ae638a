"""One worker process and two, on the same machine, with the same events waiting."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from benchmarks import mix
from benchmarks.measures import Run
from benchmarks.ours import house
from benchmarks.scene import cpu, scene

HEADING = "Worker processes"
NAMES = ("workers", "to", "events/s", "workers us", "Redis us", "receiver us", "cores used")


SLOW = 50
"""Milliseconds that many receivers take: then a worker waits, and its slots are its limit."""


def section(run: Run) -> None:
    """In turns, to receivers that answer at once and to those that take their time."""
    count = 60_000 if run.full else 30_000
    for n in range(run.rounds):
        for key, path, events in (
            ("two_workers", "/ok", count),
            ("two_workers_slow", f"/slow/{SLOW}", 40_000),
        ):
            order = random.Random(n).sample([1, 2], 2)
            rates = {workers: _rate(run, workers, events, path) for workers in order}
            run.tell(key, rates[2] / rates[1])


def _rate(run: Run, workers: int, count: int, path: str) -> float:
    """From a half to nine tenths of what arrives: neither their start, nor the seconds in which a
    second one is called and takes its share, nor their end."""
    with scene(workers, 100) as here:
        webhook = {"url": here.receiver.url(path), "headers": {}, "byEvents": False}
        with house(here, subscription=webhook | {"base64": False}) as ours:
            ours.stage.fill(list(ours.tenants.values()), count, mix.bodies())
            running = ours.start(web=False)
            pids = [[p.pid for p in running[:workers]], [here.redis.process.pid]]
            groups = [*pids, [here.receiver.pid]]
            first = _until(here.receiver.count, count // 2)
            at, before = time.perf_counter(), [cpu(group) for group in groups]
            last = _until(here.receiver.count, count * 9 // 10)
            seconds, done = time.perf_counter() - at, last - first
            used = [cpu(g) - b for g, b in zip(groups, before, strict=True)]
    micros = (u / done * 1e6 for u in used)
    run.row(HEADING, NAMES, workers, path, done / seconds, *micros, sum(used) / seconds)
    return done / seconds


def _until(count: Callable[[], int], wanted: int) -> int:
    end = time.monotonic() + 300
    while (found := count()) < wanted:
        assert time.monotonic() < end, f"{found} of {wanted} arrived"
        time.sleep(0.01)
    return found
