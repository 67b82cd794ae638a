"""What 100,000 tenants cost that do nothing: CPU of all processes together, Redis' memory."""

from __future__ import annotations

import time

import redis

from benchmarks.measures import Run
from benchmarks.ours import house
from benchmarks.scene import cpu, scene
from evoflask.dev.process import wait_for

HEADING = "Idle"
NAMES = (
    "tenants",
    "seconds",
    "web %",
    "workers %",
    "clock %",
    "Redis %",
    "all %",
    "bytes a tenant",
)
SETTLE = 5.0
"""Seconds after what the clock does once at its start."""


def section(run: Run) -> None:
    """One house, looked at several times. In short with fewer, of which nothing is told."""
    count, seconds = (100_000, 60.0) if run.full else (10_000, 10.0)
    tell = run.tell if run.full else lambda key, value: None
    with scene(2, count) as here, redis.Redis(port=here.redis.port) as client:
        before = int(client.info("memory")["used_memory"])
        with house(here, web=1) as ours:
            memory = (int(client.info("memory")["used_memory"]) - before) / count
            tell("idle_memory", memory)
            web, worker, other, clock = ours.start()
            groups = [[web.pid], [worker.pid, other.pid], [clock.pid], [here.redis.process.pid]]
            wait_for(lambda: "was pushed" in clock.output(), 600, "the clock's first round", 0.5)
            time.sleep(SETTLE)
            for _ in range(run.rounds):
                at, began = [cpu(each) for each in groups], time.perf_counter()
                time.sleep(seconds)
                took = time.perf_counter() - began
                used = [(cpu(e) - a) / took * 100 for e, a in zip(groups, at, strict=True)]
                run.row(HEADING, NAMES, count, took, *used, sum(used), memory)
                tell("idle_cpu", sum(used))
