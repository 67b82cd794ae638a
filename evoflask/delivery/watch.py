"""Watch lanes that fail, pause or recover, and new dead letters, for the operator.

The clock logs each change. With `OPERATOR_WEBHOOK_URL` it also appends an event of the hidden
instance. The event is delivered as any other: with retries, in order per tenant, at least once.
Changes of the hidden instance itself cause no event, so no event can cause another one. The clock
may be killed anywhere: the id of an event follows from its content, so a repeat within an hour
appends nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from evoflask import auditlog, configuration
from evoflask.configuration import Configuration, LaneSettings
from evoflask.deadletters import newest_of
from evoflask.envelope import Event
from evoflask.errors import NotFound
from evoflask.formats import utc
from evoflask.ids import OPERATOR
from evoflask.manager import EventManager
from evoflask.outbox import Outbox, verbs
from evoflask.outbox.timetable import Timetable
from evoflask.outbox.verbs import Failing
from evoflask.settings import Settings

log = logging.getLogger(__name__)

LANES = 100
"""Lanes that one look handles, a partition."""
AGAIN = 5.0
"""Seconds between two looks at a lane that fails."""
FAILING = 3
"""Attempts that failed in a row, after which a subscription is said to fail."""
QUIET = 60.0
"""Seconds between two events that tell of new letters of one lane: a flood is one event."""
REMEMBERED = 10_000
"""Lanes whose last such event is remembered."""
_RANK = {"failing": 1, "paused": 2, "disabling": 2, "disabled": 3}
"""How bad it is what the operator was told; `changed` and nothing: 0."""


class Watch:
    """Built with the chores. `look` and `letters` are bounded, whatever happens."""

    def __init__(
        self, settings: Settings, outbox: Outbox, changes: Configuration, manager: EventManager
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._changes = changes
        self._manager = manager
        self._timetable = Timetable(outbox)
        self._told: dict[str, float] = {}
        self._set = False

    def prepare(self) -> None:
        """Once: the hidden instance follows the settings."""
        if not self._set:
            s = self._settings
            self._changes.set_operator(s.operator_webhook_url, s.operator_webhook_secret)
            self._set = True

    # -- lanes -------------------------------------------------------------------------------

    def look(self, partition: int) -> None:
        """Tell what changed of lanes that fail, and disable those that failed for too long."""
        now, found = self._outbox.run(verbs.failing(partition, n=LANES, again=AGAIN))
        if not found:
            return
        rows = configuration.read_lane_settings([each.lane for each in found])
        for each in found:
            home = rows.get(each.lane)
            if home is not None and home.instance_name != OPERATOR:
                self._look_at(partition, each, home, now)

    def _look_at(self, partition: int, lane: Failing, home: LaneSettings, now: float) -> None:
        if lane.well:
            self._change(partition, lane, home, "recovered", lane.well, note="")
            return
        for state in _worse(lane, now):
            self._change(partition, lane, home, state, lane.since, note=state)
        if lane.told == "disabling" or (lane.works and self._too_long(lane, now)):
            self._disable(partition, lane, home)

    def _change(
        self,
        partition: int,
        lane: Failing,
        home: LaneSettings,
        state: str,
        since: float,
        *,
        note: str,
    ) -> None:
        facts = {
            "failures": lane.fails,
            "failingSince": utc(lane.since) if lane.since else None,
            "pausedUntil": utc(lane.until) if lane.until and state == "paused" else None,
            "lastError": None if state == "recovered" else lane.error or None,
        }
        log.info(
            f"subscription {state}",
            extra={
                "instance": home.instance_name,
                "subscription": home.subscription_name,
                "sink": home.target.sink,
                "failures": lane.fails,
            },
        )
        id = f"op-{lane.lane}-{state}-{round(since * 1000)}"
        self.tell([_event(id, f"subscription.{state}", home, facts)])
        self._outbox.run(verbs.tell(partition, lane.lane, note))

    def _too_long(self, lane: Failing, now: float) -> bool:
        most = self._settings.auto_disable_failures
        long = now - lane.since >= self._settings.auto_disable_seconds
        return bool(most) and lane.fails >= most and long

    def _disable(self, partition: int, lane: Failing, home: LaneSettings) -> None:
        # Said before it is done: a clock that is killed between finds it, and ends it.
        self._outbox.run(verbs.tell(partition, lane.lane, "disabling"))
        row = self._changes.disable_failing(lane.lane, lambda: self._still(partition, lane.lane))
        if row is None:
            self._outbox.run(verbs.tell(partition, lane.lane, "paused"))
            return
        auditlog.note("clock", "subscription.disable", row.instance, row.name, failures=lane.fails)
        self._change(partition, lane, home, "disabled", lane.since, note="disabled")

    def _still(self, partition: int, lane: str) -> bool:
        """A success in the last moment keeps it enabled."""
        (view,) = self._outbox.run(verbs.look(partition, [lane]))
        fails, since = view.count("fails"), view.count("since") / 1000
        return self._too_long(Failing(lane, "", True, fails, since, 0.0, "", 0.0, ""), view.now)

    # -- letters -----------------------------------------------------------------------------

    def letters(self, partition: int) -> None:
        """Tell of letters that were written, by lane, each lane once a minute at most."""
        if not self._settings.operator_webhook_url:
            self._timetable.forget_buried(partition)
            return
        now = time.monotonic()
        self._told = {lane: at for lane, at in self._told.items() if now - at < QUIET}
        counts = self._timetable.buried(partition, LANES)
        counts = {lane: n for lane, n in counts.items() if lane not in self._told}
        if not counts or len(self._told) > REMEMBERED:
            return
        rows = configuration.read_lane_settings(counts)
        for lane, n in counts.items():
            home = rows.get(lane)
            if home is not None and home.instance_name != OPERATOR:
                self._tell_letters(lane, n, home)
                self._told[lane] = now
            self._outbox.run(verbs.reported(partition, lane, n))

    def _tell_letters(self, lane: str, n: int, home: LaneSettings) -> None:
        last = newest_of(lane)
        if last is None:  # deleted since, with its instance
            return
        facts = {
            "letters": n,
            "last": {
                "id": last.id,
                "eventId": last.event_id,
                "event": last.event,
                "reason": last.reason,
                "code": last.code,
                "detail": last.detail,
            },
        }
        self.tell([_event(f"op-{lane}-letters-{last.id}-{n}", "deadletter.created", home, facts)])

    def tell(self, events: Sequence[Event]) -> bool:
        """Append events for the operator, if OPERATOR_WEBHOOK_URL is set. Raises `Unavailable`.

        Return False if the hidden row is missing. The next tick makes the row; repeat then.
        """
        if not self._settings.operator_webhook_url:
            return True
        try:
            self._manager.tell_operator(events)
        except NotFound:
            self._set = False
            return False
        return True


def _worse(lane: Failing, now: float) -> Iterator[str]:
    """What became worse since the operator was told, in its order. Pure."""
    rank = _RANK.get(lane.told, 0)
    if lane.works and lane.fails >= FAILING and rank < _RANK["failing"]:
        yield "failing"
    if lane.works and lane.until > now and rank < _RANK["paused"]:
        yield "paused"


def _event(id: str, name: str, home: LaneSettings, facts: dict[str, Any]) -> Event:
    data = {
        "instance": home.instance_name,
        "subscription": home.subscription_name,
        "sink": home.target.sink,
        **facts,
    }
    return operator_event(id, name, data)


def operator_event(id: str, name: str, data: Mapping[str, Any]) -> Event:
    """Return an event for the operator. Events with an equal id are appended once."""
    return Event(
        id=id,
        given=True,
        name=name,
        data=orjson.dumps(data),
        meta=b"{}",
        local=True,
        integration=None,
    )
