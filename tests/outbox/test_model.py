"""The verbs under random schedules: see model.py."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
import redis

from evoflask.dev.redis_server import RedisServer
from tests.outbox.model import run_schedule

SHORT, LONG = 100, int(os.environ.get("SCHEDULES", "2000"))
"""Schedules of the quick and of the slow test. One takes 0.2 s of a processor."""
PROCESSES, PARTS = 2, 4


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_in_25_random_schedules(redis_client: redis.Redis, part: int) -> None:
    for seed in range(part, SHORT, PARTS):
        run_schedule(redis_client, seed)


@pytest.mark.slow
@pytest.mark.beside
@pytest.mark.timeout(2400)
def test_nothing_is_lost_in_2000_random_schedules(tmp_path: Path) -> None:
    shares = [(tmp_path / str(n), n) for n in range(PROCESSES)]

    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        done = pool.starmap(run_share, shares)

    assert sum(done) == LONG


def run_share(folder: Path, share: int) -> int:
    """Every PROCESSES-th schedule, on a Redis of its own; how many."""
    folder.mkdir()
    os.nice(10)  # who runs beside it has bounds to keep
    seeds = range(SHORT + share, SHORT + LONG, PROCESSES)
    with RedisServer(folder, socket=folder / "s") as server, server.client() as client:
        for seed in seeds:
            run_schedule(client, seed)
    return len(seeds)
