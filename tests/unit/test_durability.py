"""The state of Redis' disk, and what would be lost now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evoflask import durability
from evoflask.durability import AILING, FAILING, WELL, Stalls, judge
from evoflask.outbox.disk import Disk
from evoflask.outbox.totals import Server
from evoflask.outbox.usage import Usage

GOOD = Disk(appendonly=True, snapshot_at=900.0)
SERVER = Server("7.0.15", "master", "everysec", "noeviction", Usage(), disk=GOOD)


@pytest.mark.parametrize(
    ("server", "stalled", "state", "words"),
    [
        (SERVER, 0, WELL, "in the last second, two at most"),
        (replace(SERVER, fsync="always"), 0, WELL, "A power cut loses nothing"),
        (replace(SERVER, fsync=None), 0, WELL, "ask its operator"),
        (replace(SERVER, disk=Disk()), 0, WELL, "no append-only file"),
        (replace(SERVER, policy="allkeys-lru"), 0, WELL, "Set it to noeviction"),
        (SERVER, 3, AILING, "3 fsyncs"),
        (replace(SERVER, disk=replace(GOOD, rewrites=False)), 0, AILING, "rewrite"),
        (replace(SERVER, disk=replace(GOOD, snapshots=False)), 0, AILING, "snapshot failed"),
        (replace(SERVER, disk=replace(GOOD, appends=False, unwritten=7)), 0, FAILING, "7 bytes"),
        (replace(SERVER, refusal="disk full"), 0, FAILING, "refuses all writes: disk full"),
        (replace(SERVER, disk=Disk(snapshot_at=900.0), refusal="x"), 0, FAILING, "100 seconds ago"),
    ],
)
def test_the_risk_follows_from_the_state_of_the_disk(
    server: Server, stalled: int, state: str, words: str
) -> None:
    risk = judge(server, stalled=stalled, now=1000.0)

    assert risk.disk == state
    assert words in risk.words


def test_stalls_are_counted_for_a_minute_each(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(durability.time, "monotonic", lambda: now)
    stalls = Stalls()

    counts = []
    for delayed in range(6):
        counts.append(stalls.note("run", delayed))
        now += 25.0

    assert counts == [0, 1, 2, 3, 3, 3]


def test_old_stalls_of_a_new_run_and_late_reports_are_not_counted() -> None:
    stalls = Stalls()

    assert stalls.note("run", 40) == 0
    assert stalls.note("run", 42) == 2
    assert stalls.note("run", 41) == 2  # read earlier by another thread
    assert stalls.note("run", 42) == 2
    assert stalls.note("new", 5) == 2
