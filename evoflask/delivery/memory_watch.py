"""Watch Redis' memory from the clock: log each change, and send an event to the operator.

Both name the users of the memory. So an operator sees if another application fills Redis.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from evoflask.delivery.watch import operator_event
from evoflask.envelope import Event
from evoflask.outbox import Outbox, usage
from evoflask.outbox.alarms import Alarm, Alarms
from evoflask.outbox.usage import State, Usage
from evoflask.settings import Settings

log = logging.getLogger(__name__)

STEADY = 60.0
"""Seconds without pressure after which memory counts as enough, to send few events."""


class MemoryWatch:
    """Reports the state of the memory. The clock that has the lease calls `note` each second.

    Redis keeps the last change, so the next clock goes on from there. A change is stored before its
    event is sent. A clock that was killed in between leaves the event to the next clock.
    """

    def __init__(
        self, settings: Settings, outbox: Outbox, tell: Callable[[Sequence[Event]], bool]
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._alarms = Alarms(outbox, "memory")
        self._well_since = 0.0

    def note(self, looks: Sequence[Usage]) -> None:
        """Log a change, and send its event. `looks`: the usage in the last ticks.

        Raises `Unavailable`; the next call then sends the event.
        """
        state = min((usage.state(each) for each in looks), default=State.WELL)
        last = self._alarms.read() or Alarm(State.WELL.name)
        # "Recovered" waits until "short" is sent.
        known = State.__members__.get(last.state, State.WELL)
        if self._changes(known, state) and (last.facts is None or state != State.WELL):
            last = self._change(state, looks[-1])
            self._alarms.write(last)
        if last.facts is not None and self._tell([operator_event(last.id, last.name, last.facts)]):
            self._alarms.write(last.sent)

    def _changes(self, last: State, state: State) -> bool:
        now = time.monotonic()
        if state != State.WELL:
            self._well_since = 0.0
            return state > last
        if last == State.WELL:
            self._well_since = 0.0
            return False
        self._well_since = self._well_since or now
        return now - self._well_since >= STEADY

    def _change(self, state: State, now: Usage) -> Alarm:
        well = state == State.WELL
        words = usage.sentence(now)
        name = "memory.recovered" if well else "memory.short"
        log.log(
            logging.INFO if well else logging.WARNING,
            f"{'memory is enough again' if well else usage.EFFECTS[state]}. {words}",
            extra=now.users,
        )
        if not self._settings.operator_webhook_url:
            return Alarm(state.name)
        facts = {
            "state": state.name.lower(),
            "message": words,
            "bytes": now.users,
            "used": now.used,
            "max": now.limit,
        }
        return Alarm(state.name, f"op-{name}-{round(time.time() * 1000)}", name, facts)
