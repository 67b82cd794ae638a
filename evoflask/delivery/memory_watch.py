"""Watch Redis' memory from the clock: log each change, and send an event to the operator.

Both name the users of the memory. So an operator sees if another application fills Redis.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from evoflask.delivery.watch import operator_event
from evoflask.envelope import Event
from evoflask.outbox import usage
from evoflask.outbox.usage import State, Usage
from evoflask.settings import Settings

log = logging.getLogger(__name__)

STEADY = 60.0
"""Seconds without pressure after which memory counts as enough, to send few events."""


class MemoryWatch:
    """Reports the state of the memory. The clock calls `note` each second."""

    def __init__(self, settings: Settings, tell: Callable[[Sequence[Event]], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._state = State.WELL
        self._well_since = 0.0
        self._unsent: Event | None = None
        """An event that is not on the outbox yet."""

    def note(self, looks: Sequence[Usage]) -> None:
        """Log a change, and send its event. `looks`: the usage in the last ticks.

        Raises `Unavailable`; the next call then sends the event.
        """
        state = min((usage.state(each) for each in looks), default=State.WELL)
        if self._changes(state):
            self._state = state
            self._report(looks[-1])
        if self._unsent is not None:
            self._tell([self._unsent])
            self._unsent = None

    def _changes(self, state: State) -> bool:
        now = time.monotonic()
        if state != State.WELL:
            self._well_since = 0.0
            return state > self._state
        if self._state == State.WELL:
            return False
        self._well_since = self._well_since or now
        return now - self._well_since >= STEADY

    def _report(self, now: Usage) -> None:
        well = self._state == State.WELL
        words = usage.sentence(now)
        name = "memory.recovered" if well else "memory.short"
        log.log(
            logging.INFO if well else logging.WARNING,
            f"{'memory is enough again' if well else usage.EFFECTS[self._state]}. {words}",
            extra=now.users,
        )
        if not self._settings.operator_webhook_url:
            return
        facts = {
            "state": self._state.name.lower(),
            "message": words,
            "bytes": now.users,
            "used": now.used,
            "max": now.limit,
        }
        self._unsent = operator_event(f"op-{name}-{round(time.time() * 1000)}", name, facts)
