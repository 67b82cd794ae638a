"""Watch Redis' disk from the clock: log each change, and send an event to the operator.

While Redis refuses writes, no event can be appended. The event then goes straight to the operator's
webhook, in the same format and with the same signature, until it is delivered.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from evoflask import configuration, db, durability, sinks
from evoflask.delivery.watch import operator_event
from evoflask.durability import AILING, FAILING, WELL, Risk
from evoflask.envelope import Event
from evoflask.errors import EvoflaskError
from evoflask.log import Repeats
from evoflask.outbox import Outbox, totals
from evoflask.outbox.alarms import Alarm, Alarms
from evoflask.settings import Settings
from evoflask.sinks.base import Delivery, Outcome, Target

log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0
"""Seconds between two tries of a direct event. The wait doubles with each try."""
TRIES = 50
"""Tries of a direct event."""
STEADY = 10.0
"""Seconds without a fault after which the disk counts as well, to send few events."""

_NAMES = {FAILING: "redis.failing", AILING: "redis.ailing", WELL: "redis.recovered"}


class DiskWatch:
    """Reports the state of Redis' disk.

    The clock that has the lease calls `look` each second. While Redis refuses writes no clock can
    take the lease, so every clock calls it.

    Redis keeps the last change, so the next clock goes on from there. A change is stored before its
    event is sent. While Redis refuses writes, each clock keeps "failing" in memory and sends the
    event directly. The first clock that can write then stores that change. The id follows from the
    change before, so all clocks send one id.
    """

    def __init__(
        self, settings: Settings, outbox: Outbox, tell: Callable[[Sequence[Event]], bool]
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._tell = tell
        self._alarms = Alarms(outbox, "disk")
        self._stalls = durability.Stalls()
        self._well_since = 0.0
        self._unstored: tuple[Alarm, Alarm | None] | None = None
        """A change that Redis cannot store yet, and the change before it."""
        self._direct = _Direct(settings)

    def look(self) -> None:
        """Log a change, and send its event. Raises `Unavailable`; the next look goes on."""
        server = totals.server(self._outbox)
        stalled = self._stalls.note(server.run_id, server.disk.delayed)
        risk = durability.judge(server, stalled=stalled, now=time.time())
        stored = self._alarms.read()
        last = self._last(stored)
        # A better state waits until the event before it is sent.
        if self._changes(last.state, risk.disk) and (last.facts is None or risk.failing):
            last = self._change(risk, stored, server.run_id)
            self._log(risk)
            if risk.failing:
                self._unstored = last, stored
                if last.facts is not None:
                    self._direct.send(operator_event(last.id, last.name, last.facts))
            else:
                self._alarms.write(last)
        self._direct.go_on()
        if not risk.failing:
            self._settle(last)

    def _last(self, stored: Alarm | None) -> Alarm:
        """Return the last change. Drop an unstored one if another clock stored a change since."""
        if self._unstored is not None:
            change, before = self._unstored
            if (before and before.id) == (stored and stored.id):
                return change
            self._unstored = None
            self._direct.forget()
        return stored or Alarm(WELL)

    def _settle(self, last: Alarm) -> None:
        """Store a change that Redis refused, and send an event through the outbox."""
        if self._unstored is not None:
            last = last if self._direct.pending else last.sent
            self._alarms.write(last)
            self._unstored = None
            self._direct.forget()
        if last.facts is not None and self._tell([operator_event(last.id, last.name, last.facts)]):
            self._alarms.write(last.sent)

    def _changes(self, last: str, state: str) -> bool:
        now = time.monotonic()
        if state != WELL or last == WELL:
            self._well_since = 0.0
            return state != last
        self._well_since = self._well_since or now
        return now - self._well_since >= STEADY

    def _log(self, risk: Risk) -> None:
        level = {FAILING: logging.ERROR, AILING: logging.WARNING}.get(risk.disk, logging.INFO)
        log.log(level, f"Redis' disk is {risk.disk}: {risk.words}")

    def _change(self, risk: Risk, before: Alarm | None, run_id: str) -> Alarm:
        name = _NAMES[risk.disk]
        if risk.failing:
            previous = before.id.rpartition("-")[2] if before else run_id[:16]
            id = f"op-{name}-{previous}"
        else:
            id = f"op-{name}-{round(time.time() * 1000)}"
        facts = {"disk": risk.disk, "message": risk.words}
        wanted = self._settings.operator_webhook_url
        return Alarm(risk.disk, id, name, facts if wanted else None)


class _Direct:
    """Sends one event at a time without the outbox, in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._event: Event | None = None
        self._tries = 0
        self._due = 0.0
        self._thread: threading.Thread | None = None
        self._failures = Repeats(log)

    def send(self, event: Event) -> None:
        """Try from now on until it is delivered, `forget` is called, or `TRIES` failed."""
        self._event, self._tries, self._due = event, 0, 0.0

    @property
    def pending(self) -> bool:
        """Return True if the event is not delivered yet, and has tries left."""
        return self._event is not None

    def forget(self) -> None:
        self._event = None

    def go_on(self) -> None:
        """Start the next try if one is due."""
        busy = self._thread is not None and self._thread.is_alive()
        if self._event is None or busy or time.monotonic() < self._due:
            return
        if self._tries >= TRIES:
            self._event = None
            return
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**self._tries) * random.uniform(0.8, 1.2)
        self._tries += 1
        self._due = time.monotonic() + wait
        self._thread = threading.Thread(
            target=self._try, args=(self._event,), name="operator", daemon=True
        )
        self._thread.start()

    def _try(self, event: Event) -> None:
        try:
            target = configuration.operator_target()
            if target is not None:
                outcome = asyncio.run(_deliver(self._settings, target, event))
                if outcome != Outcome.DELIVERED:
                    self._failures.write(f"the operator's webhook did not take an event: {outcome}")
                    return
            if self._event is event:
                self._event = None
            self._failures.over("the operator's webhook took an event")
        except (EvoflaskError, OSError) as error:
            self._failures.tell("the operator's webhook cannot be asked", error)
        finally:
            db.close()


async def _deliver(settings: Settings, target: Target, event: Event) -> str:
    """Return the outcome of one attempt."""
    sink = sinks.load(target.sink)(settings)
    delivery = Delivery(
        target=target,
        event_id=event.id,
        event=event.name,
        data=event.data,
        at=time.time(),
        tries=0,
        key="",
    )
    try:
        (attempt,) = await sink.deliver([delivery])
    finally:
        await sink.close()
    return attempt.outcome
