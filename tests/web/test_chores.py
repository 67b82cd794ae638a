"""What the clock asks each second costs the same however many tenants and letters there are."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest

from evoflask import db
from evoflask.delivery.chores import Chores
from evoflask.settings import Settings

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
