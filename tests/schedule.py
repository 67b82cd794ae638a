"""The order in which pytest-xdist gives out tests: what takes longest begins first.

A file that begins last and takes a minute keeps one process busy while the others have nothing
left. pytest-xdist sorts files by their number of tests, which puts long ones last.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

LONG: Final = (
    "outbox/test_model.py",
    "system/test_soak.py",
    "system/test_kills.py",
    "system/test_store_faults.py",
    "system/test_upgrade.py",
    "system/test_postgres_faults.py",
    "system/test_memory.py",
    "system/test_database_moves.py",
    "system/test_redis_faults.py",
    "system/test_rabbitmq_restart.py",
    "system/test_destination_faults.py",
    "system/test_clock_faults.py",
    "system/test_broker_restarts.py",
    "system/test_sentinel.py",
    "system/test_quarantine.py",
    "system/test_large.py",
    "system/test_million_letters.py",
    "system/test_platform.py",
    "system/test_peers_defects.py",
    "system/test_newcomers.py",
    "house/test_make_run.py",
    "system/test_redis_disk.py",
    "system/test_lanes.py",
    "system/test_attacker.py",
    "system/test_redis_roads.py",
    "system/test_recovery.py",
    "system/test_memory_of_others.py",
    "system/test_many.py",
    "system/test_replay.py",
    "system/test_slow_clients.py",
    "system/test_six_sinks.py",
    "system/test_wait_aof.py",
    "system/test_traces.py",
    "system/test_by_hand.py",
    "system/test_operations.py",
    "system/test_changes.py",
    "system/test_sharing.py",
    "system/test_stopping.py",
    "system/test_configuration.py",
    "system/test_order.py",
    "sinks/test_rabbitmq.py",
    "gateway/",
    "system/",
    "house/",
    "sinks/",
)
"""Beginnings of paths below `tests`, the longest file first. Other files take seconds."""

APART: Final = (
    "outbox/test_model.py",
    "system/test_broker_restarts.py",
    "system/test_by_hand.py",
    "system/test_changes.py",
    "system/test_clock_faults.py",
    "system/test_database_moves.py",
    "system/test_destination_faults.py",
    "system/test_kills.py",
    "system/test_lanes.py",
    "system/test_memory.py",
    "system/test_memory_of_others.py",
    "system/test_million_letters.py",
    "system/test_newcomers.py",
    "system/test_operations.py",
    "system/test_postgres_faults.py",
    "system/test_rabbitmq_restart.py",
    "system/test_recovery.py",
    "system/test_redis_disk.py",
    "system/test_redis_faults.py",
    "system/test_redis_roads.py",
    "system/test_secrets.py",
    "system/test_sentinel.py",
    "system/test_sharing.py",
    "system/test_slow_clients.py",
    "system/test_store_faults.py",
    "system/test_upgrade.py",
    "system/test_wait_aof.py",
)
"""Files whose tests share no server. Each of their tests may run in another process."""


def file_of(nodeid: str) -> str:
    """Return the file's path below `tests`."""
    return nodeid.partition("::")[0].removeprefix("tests/")


def rank(file: str) -> int:
    """Return a file's place in the order."""
    places = (n for n, beginning in enumerate(LONG) if file.startswith(beginning))
    return next(places, len(LONG))


class LongestFirst(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out files, and single tests of the files in `APART`, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = file_of(nodeid)
        return nodeid if file in APART else file

    def _reschedule(self, node: Any) -> None:
        """Keep one test behind the one that runs, not two: a long test would hold up both."""
        waits = self._pending_of(self.assigned_work[node]) > 1
        if not self.workqueue or not waits:
            super()._reschedule(node)
