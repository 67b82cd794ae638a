"""A lane in a drain's hands: what may start next, and what is to be settled. Pure.

Rules that it keeps, in any order of calls:
- events with one order key are never under way together, and start in the order of their
  entries (a retry that is due goes before what was not tried yet);
- with a `concurrency` of 1 all events count as of one key, so they start in that order;
- at most `concurrency` deliveries are under way; on a lane without a success yet, or whose
  last attempts failed, one new event and one retry;
- ids are handed out by Redis in order, so what is in hand is a beginning of the lane.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from evoflask.outbox.members import entry_of, key_of
from evoflask.outbox.verbs import Ended, Held, Want

WINDOW = 256
"""Ids that one call asks for."""
LOW_WATER = 128
"""Below so many ids in hand that did not start, more are asked for."""
AHEAD = 16
"""How deep in a key's queue bodies are read ahead."""
_NONE: Mapping[str, str] = {}
ONE_QUEUE = ""
"""The queue of a lane with a `concurrency` of 1."""
IN_HAND = 2048
"""Ids in hand at most: as long as a busy key holds up the others, more are looked at."""


class Item:
    """One delivery in hand. `tries`: attempts that failed so far."""

    __slots__ = ("dropped", "early", "entry", "key", "load", "member", "queue", "reading", "tries")

    def __init__(self, member: str, tries: int, early: str = "") -> None:
        self.member = member
        self.tries = tries
        self.early = early
        """Cause of a try before its date, or "" for a scheduled one."""
        self.key = key_of(member)
        self.queue = self.key
        """Items of one queue are never under way together."""
        self.entry = entry_of(member)
        self.load: object | None = None
        """What the drain read for it; not this module's business."""
        self.reading = False
        self.dropped = False
        """Put back: what is read for it is of no use."""


class LaneWork:
    """The state of one held lane. No clock, no I/O."""

    def __init__(self, held: Held, concurrency: int, *, wait: bool) -> None:
        self.held = held
        self.concurrency = concurrency
        self.wait = wait
        self.proven = held.proven
        self.exhausted = False
        """Redis had no more ids than it gave; an event that comes is told (hungry)."""
        self.stopping = False
        """Nothing is started any more: paused, stopped, or the process ends."""
        self.ended: list[Ended] = []
        self.flying: dict[str, Item] = {}
        self._queues: dict[str, deque[Item]] = {}
        self._ready: deque[str] = deque()
        self._known: dict[str, int] = {}
        self._cursor = ""
        self._asking = False
        """Redis was asked for ids and did not answer yet."""
        self._void = False
        """What it answers was asked for before `put_back`: it may begin too late."""
        self._retries_flying = 0
        self.unstarted = 0
        asked = WINDOW if held.proven else 2
        self.feed(held.ids, 1 if held.probe else asked, held.early)

    # -- what comes in -----------------------------------------------------------------------

    def feed(
        self, ids: Sequence[tuple[str, int]], asked: int, early: Mapping[str, str] = _NONE
    ) -> None:
        """Take the ids that Redis handed out, of `asked` wanted ones. `early`: see `Held`."""
        void, self._asking, self._void = self._void, False, False
        if void:
            return
        self.exhausted = len(ids) < asked
        retries = [
            Item(m, tries, early.get(m, "")) for m, tries in ids if tries and m not in self._known
        ]
        for item in reversed(retries):
            self._put(item, first=True)
        for member, tries in ids:
            if not tries:
                self._cursor = max(self._cursor, member)
                if member not in self._known:
                    self._put(Item(member, 0, early.get(member, "")), first=False)

    def _put(self, item: Item, *, first: bool) -> None:
        self._known[item.member] = item.tries
        self.unstarted += 1
        if self.concurrency == 1:
            item.queue = ONE_QUEUE
        queue = self._queues.get(item.queue)
        if queue is None:
            queue = self._queues[item.queue] = deque()
            (self._ready.appendleft if first else self._ready.append)(item.queue)
        if not first:
            queue.append(item)
            return
        # Retries that became due at different times go in the order of their entries.
        at = 0
        while at < len(queue) and queue[at].tries and queue[at].member < item.member:
            at += 1
        queue.insert(at, item)

    # -- what may start ----------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many deliveries may start now, were their keys free."""
        if self.stopping:
            return 0
        if self.proven:
            return self.concurrency - len(self.flying)
        new = len(self.flying) - self._retries_flying
        return min(self.concurrency - len(self.flying), (not new) + (not self._retries_flying))

    def upcoming(self, n: int) -> Iterator[Item]:
        """Items that start soon and were not read yet, soonest first, at most `n`."""
        return islice((i for i in self._soonest() if i.load is None and not i.reading), max(0, n))

    def _soonest(self) -> Iterator[Item]:
        """The heads that may start, then what stands behind: what follows on a busy key starts
        as soon as its turn comes."""
        for key in self._ready:
            yield self._queues[key][0]
        for depth in range(AHEAD):
            behind = [queue[depth] for queue in self._queues.values() if len(queue) > depth]
            if not behind:
                return
            yield from behind

    def start(self, *, loaded: bool = True) -> Item | None:
        """The next delivery, now under way; None when nothing may start. With `loaded`, only
        one whose body was read."""
        if self.room <= 0:
            return None
        for _ in range(len(self._ready)):
            key = self._ready.popleft()
            item = self._queues[key][0]
            if (loaded and item.load is None) or not self._may(item):
                self._ready.append(key)
                continue
            self._queues[key].popleft()
            self.unstarted -= 1
            self.flying[item.member] = item
            self._retries_flying += item.tries > 0
            return item
        return None

    @property
    def ready(self) -> bool:
        """A body was read that may start now, as far as this lane goes."""
        if self.room <= 0:
            return False
        for key in self._ready:
            item = self._queues[key][0]
            if item.load is not None and self._may(item):
                return True
        return False

    def _may(self, item: Item) -> bool:
        if self.proven:
            return True
        if item.tries:
            return not self._retries_flying
        return len(self.flying) == self._retries_flying

    # -- what ended --------------------------------------------------------------------------

    def end(self, item: Item, ended: Ended) -> None:
        """An attempt is over. Its outcome is settled after those that ended before it. On a
        lane that waits for what failed the caller puts back what did not start."""
        del self.flying[item.member]
        self._retries_flying -= item.tries > 0
        self.ended.append(ended)
        queue = self._queues[item.queue]
        if queue:
            self._ready.append(item.queue)
        else:
            del self._queues[item.queue]

    def put_back(self) -> list[Item]:
        """Forget what did not start: it is still on the lane, and comes again in its turn.
        Answers what was forgotten."""
        dropped = [item for queue in self._queues.values() for item in queue]
        for queue in self._queues.values():
            for item in queue:
                del self._known[item.member]
                item.dropped = True
            queue.clear()
        if self.concurrency > 1:  # later items are distinguished by their keys again
            for item in self.flying.values():
                item.queue = item.key
        self._queues = {item.queue: deque() for item in self.flying.values()}
        self._ready.clear()
        self.unstarted = 0
        self._cursor = ""
        self._void = self._asking
        self.exhausted = False
        return dropped

    # -- settling ----------------------------------------------------------------------------

    def take_ended(self) -> list[Ended]:
        """The outcomes to settle now; they leave the hand."""
        ended, self.ended = self.ended, []
        for e in ended:
            del self._known[e.member]
        return ended

    @property
    def hungry(self) -> bool:
        """More ids would let more start."""
        if self.stopping or self.exhausted or len(self._known) >= IN_HAND:
            return False
        low = LOW_WATER if self.proven else 1
        return self.unstarted < low or len(self._ready) < self.room

    def want(self) -> Want:
        """What to ask for, once `take_ended` was called."""
        old = sum(1 for tries in self._known.values() if tries) if self._known else 0
        new = len(self._known) - old if self._cursor else 0
        n = min(WINDOW, IN_HAND - len(self._known)) if self.hungry else 0
        if n and not self.proven:
            n = min(n, 2 + len(self._known))
        self._asking, self._void = n > 0, False
        return Want(max(n, 0), self._cursor, new, old)

    @property
    def backlog(self) -> bool:
        """More is in hand than can be under way."""
        return self.unstarted > self.concurrency

    @property
    def idle(self) -> bool:
        """Nothing is under way, and nothing in hand may start: settle, and give the lane up."""
        if self.flying:
            return False
        return self.stopping or (not self.unstarted and self.exhausted)
