"""The verbs under random schedules: see model.py."""

from __future__ import annotations

import pytest
import redis

from tests.outbox.model import run_schedule

SHORT, LONG = 100, 5000


def test_nothing_is_lost_in_100_random_schedules(redis_client: redis.Redis) -> None:
    for seed in range(SHORT):
        run_schedule(redis_client, seed)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nothing_is_lost_in_5000_random_schedules(redis_client: redis.Redis) -> None:
    for seed in range(SHORT, SHORT + LONG):
        run_schedule(redis_client, seed)
