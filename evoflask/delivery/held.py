"""What a drain remembers of a held lane, of its sink, and of a delivery in hand."""

from __future__ import annotations

import enum
import random
import time
from collections import deque
from dataclasses import dataclass

from evoflask.configuration import LaneSettings
from evoflask.delivery import breaker, outcomes
from evoflask.delivery.breaker import State
from evoflask.delivery.holds import Hold
from evoflask.delivery.lanes import Item, LaneWork
from evoflask.delivery.pace import Pace
from evoflask.delivery.retry import Policy
from evoflask.delivery.slots import Slot, Slots
from evoflask.outbox import Held, Settled
from evoflask.outbox.verbs import Call
from evoflask.settings import Settings
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink


@dataclass(frozen=True, slots=True)
class Policies:
    """When a lane's events are tried again, and how long it pauses when its destination seems
    to be gone (by the same schedule; by the server's where that is empty)."""

    retries: Policy
    pauses: Policy


class Standing(enum.IntEnum):
    """What a lane's last deliveries say of it, best first: those of one standing take turns, and
    none waits for a worse one."""

    QUICK = 0
    """They succeeded, and nothing has been under way for long."""
    SLOW = 1
    """They succeeded, and something has been under way for over a second."""
    UNPROVEN = 2
    """No success yet, or the last ones failed."""


class Load:
    """What was read for an item: its delivery (None: the entry is gone) and its room."""

    __slots__ = ("delivery", "slot")

    def __init__(self, delivery: Delivery | None, slot: Slot) -> None:
        self.delivery = delivery
        self.slot = slot


class Station:
    """A sink in this drain: its connection, its room, and whose turn it is."""

    def __init__(self, name: str, sink: Sink, settings: Settings) -> None:
        self.name = name
        self.sink = sink
        quick = settings.quick_slots * sink.depth
        self.slots = Slots(quick, settings.slow_slots, settings.drain_bytes)
        self.turns: dict[Standing, deque[Lane]] = {each: deque() for each in Standing}
        self.pace = Pace(least=max(8, sink.batch_size))
        self.started = 0
        """Deliveries of the unproven that were started in this turn of the loop."""
        self.flight_free = False
        """The delivery that just ended can carry the next batch: no new task is made."""
        self.next_batch: list[tuple[Lane, Item]] | None = None
        self.crowded = False
        """Several lanes had a backlog when this was last looked at."""
        self.gathering = False
        """What can start waits for the end of this turn of the loop, to share calls."""


class Lane:
    """A held lane."""

    def __init__(
        self,
        held: Held,
        settings: LaneSettings,
        policies: Policies,
        station: Station,
        hold: Hold,
    ) -> None:
        self.held = held
        self.settings = settings
        self.policies = policies
        self.station = station
        self.hold = hold
        self.work = LaneWork(held, settings.concurrency, wait=settings.wait)
        state = State.from_fields(held.breaker)
        self.state = state if state != breaker.FRESH else breaker.FRESH
        self.revision = held.revision
        self.facts: dict[str, str | int] = {}
        self.totals: dict[str, int] = {}
        self.loaded = 0
        """Items in hand, not started, whose body is here or on its way."""
        self.slow = 0
        """Deliveries that left the quick slots."""
        self.halted = False
        """Stopped, deleted, or the process ends: nothing more is started."""
        self.gone = False
        """Given up or lost: whatever comes back is ignored."""
        self.stale = 0
        """Reads of its row under way: its configuration is another one by now."""
        self.turning = self.queued = False
        self.reading: Standing | None = None
        """Among whom it waits to be read, if it does."""
        self.pending: tuple[Call[Settled], bool, int] | None = None
        """A settle without an answer yet: (call, gives the lane up, ids asked)."""
        self.sent = 0.0
        self.ended_at = 0.0
        self.asked_at = time.monotonic()

    @property
    def ahead(self) -> int:
        """How many bodies are read ahead; more are read when half of them are gone."""
        return max(32, 2 * self.settings.concurrency) if self.work.proven else 2

    @property
    def standing(self) -> Standing:
        if not self.work.proven:
            return Standing.UNPROVEN
        return Standing.SLOW if self.slow else Standing.QUICK

    @property
    def quick(self) -> bool:
        """Whether its deliveries go into the pool of the proven."""
        return self.standing is Standing.QUICK

    @property
    def busy(self) -> bool:
        """Whether it has more to do than it can have under way, and no trouble doing it."""
        return self.quick and not self.halted and self.work.backlog

    def changed_since(self, item: Item) -> bool:
        """Whether the subscription is another one than the item was sent by."""
        assert isinstance(item.load, Load)
        sent = item.load.delivery
        return sent is not None and sent.target.version != self.settings.target.version

    def note(self, item: Item, attempt: Attempt, *, now: float, threshold: int) -> None:
        """What the attempt says of the destination."""
        if attempt.outcome is Outcome.DELIVERED and self.state is breaker.FRESH:
            self.work.proven = True
            return
        if attempt.outcome not in breaker.ALIVE and item.early == outcomes.PROBE:
            self._note_by_hand(attempt, now)
            return
        old = self.state
        self.state = breaker.record(
            old,
            item.entry,
            attempt,
            policy=self.policies.pauses,
            threshold=threshold,
            now=now,
            luck=random.random(),
        )
        if self.state is not old:
            self.facts |= outcomes.breaker_facts(self.state)
        if attempt.outcome is Outcome.DELIVERED:
            self.work.proven = True
        elif self.state.failures:
            self.work.proven = False
        if attempt.outcome is not Outcome.DELIVERED:
            self.facts |= outcomes.error_facts(attempt, now)
        self.work.stopping = self.halted or self.state.paused(now)

    def _note_by_hand(self, attempt: Attempt, now: float) -> None:
        """Note that a try by hand failed. The breaker stays as it was."""
        self.facts |= outcomes.error_facts(attempt, now)
        if self.held.broke:
            self.state = breaker.go_on(self.state, self.held.broke)
            self.facts |= outcomes.breaker_facts(self.state)
            self.halted = self.work.stopping = True  # another hold may probe
