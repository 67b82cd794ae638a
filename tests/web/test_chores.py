"""What the clock asks each second costs the same however many tenants and letters there are."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import redis

from evoflask import db
from evoflask.delivery.chores import Chores
from evoflask.dev.process import wait_for
from evoflask.settings import Settings
from tests.web.conftest import Request

pytestmark = pytest.mark.databases


def test_an_idle_tick_looks_through_no_table(
    instance: str, settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    chores = Chores(settings())
    chores.tick()  # the first one pushes everything, and forgets what is old
    chores.tick()

    with caplog.at_level(logging.DEBUG, "peewee"):
        chores.tick()

    asked = [record.msg for record in caplog.records if record.name == "peewee"]
    # Without a condition it is a page of the oldest.
    reads = [(sql, values) for sql, values in asked if sql.startswith("SELECT") and "WHERE" in sql]
    assert any('"deleted_at" <' in sql for sql, _ in reads)
    plans = {sql: _plan(sql, values) for sql, values in reads}
    assert {sql: plan for sql, plan in plans.items() if _whole(plan)} == {}


def test_the_clock_corrects_stored_bytes_of_each_instance_and_of_all(
    call: Request, settings: Callable[..., Settings], redis_client: redis.Redis
) -> None:
    for name in "abc":
        call("POST", "/instance/create", {"instanceName": name, "websocket": {"enabled": True}})
        call("POST", f"/event/emit/{name}", [{"event": "CALL", "data": n} for n in range(250)])
    right = _stored(redis_client)
    for i in right:
        redis_client.zincrby("evo:{p0}:stored", 5_000, i)
    redis_client.incrby("evo:{p0}:storing", 20_000)
    chores = Chores(settings())

    wait_for(lambda: chores.tick() or _stored(redis_client) == right, 60)
    wait_for(lambda: chores.tick() or _storing(redis_client) == sum(right.values()), 60)


def _stored(client: redis.Redis) -> dict[str, float]:
    rows: Any = client.zrange("evo:{p0}:stored", 0, -1, withscores=True)
    return {i.decode(): bytes_ for i, bytes_ in rows}


def _storing(client: redis.Redis) -> int:
    found: Any = client.get("evo:{p0}:storing")
    return int(found)


def _plan(sql: str, values: list[object]) -> str:
    if db.is_sqlite():
        found = db.database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
    else:
        # A table of a few rows is read as a whole where an index would do for a million.
        db.database.execute_sql("SET enable_seqscan = off")
        found = db.database.execute_sql(f"EXPLAIN {sql}", values).fetchall()
        db.database.execute_sql("RESET enable_seqscan")
    return "\n".join(str(row[-1]) for row in found)


def _whole(plan: str) -> bool:
    """Whether a table is read from its first row to its last."""
    return any(
        "Seq Scan" in line or re.match(r"SCAN (?!CONSTANT ROW)(?!.* USING .*INDEX)", line)
        for line in plan.splitlines()
    )
