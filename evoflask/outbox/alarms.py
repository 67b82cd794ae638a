"""Keep the last change that the clock reported of each watched thing, for the next clock.

A hash of its own: readers of `evo:chores` from earlier releases take every field there for a date.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import orjson

from evoflask.outbox import keys
from evoflask.outbox.client import Outbox


@dataclass(frozen=True, slots=True)
class Alarm:
    """A change. `id`, `name` and `facts` are of its event."""

    state: str
    id: str = ""
    name: str = ""
    facts: dict[str, Any] | None = None
    """None: no event has to be sent any more."""

    @property
    def sent(self) -> Self:
        """Return the change with its event sent."""
        return replace(self, facts=None)


class Alarms:
    """Reads and writes the last change of one watched thing, `subject`."""

    def __init__(self, outbox: Outbox, subject: str) -> None:
        self._outbox = outbox
        self._subject = subject

    def read(self) -> Alarm | None:
        """Return the last change. Return None if there was none, or if a later release wrote it.

        Raises `OutboxDown`.
        """
        found: Any = self._outbox.ask(lambda r: r.hget(keys.ALARMS, self._subject))
        try:
            return Alarm(**orjson.loads(found)) if found else None
        except (TypeError, ValueError):
            return None

    def write(self, alarm: Alarm) -> None:
        """Keep a change. Raises `OutboxDown` or `OutboxUnwritable`."""
        self._outbox.write("HSET", keys.ALARMS, self._subject, orjson.dumps(alarm).decode())
