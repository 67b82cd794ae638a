"""What was accepted, beside what arrived: nothing lost, and the order of first arrivals; and
when what was done to the product, which must explain each repeat."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from evoflask.dev.receiver import Received, Receiver

REACH = 5.0
"""Seconds for which a delivery that has arrived may not be settled yet, on a busy machine: a
fault that strikes within them explains a repeat."""


@dataclass(frozen=True, slots=True)
class Promise:
    """An event that was answered 2xx. `n`: its place among those of its key and path."""

    path: str
    key: str
    n: int


class Ledger:
    """Safe to share between threads."""

    def __init__(self) -> None:
        self._promises: dict[str, Promise] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._promises)

    def ids(self) -> set[str]:
        """Of all that was promised."""
        with self._lock:
            return set(self._promises)

    def promise(self, id: str, path: str, key: str, n: int) -> None:
        """The event was accepted."""
        with self._lock:
            self._promises[id] = Promise(path, key, n)

    def missing(self, received: Iterable[Received]) -> list[str]:
        """Promised and not arrived where it belongs."""
        arrived = {(one.path, one.id) for one in received}
        return [id for id, p in self._promises.items() if (p.path, id) not in arrived]

    def disorder(self, received: Iterable[Received]) -> list[str]:
        """First arrivals that came after a later one of the same key and path."""
        last: dict[tuple[str, str], int] = defaultdict(lambda: -1)
        seen: set[tuple[str, str]] = set()
        wrong = []
        for one in received:
            promise = self._promises.get(one.id)
            if promise is None or (one.path, one.id) in seen:
                continue
            seen.add((one.path, one.id))
            key = (one.path, promise.key)
            if promise.n < last[key]:
                wrong.append(f"{one.id} came after number {last[key]} of {key}")
            last[key] = max(last[key], promise.n)
        return wrong

    def check(self, receiver: Receiver) -> list[Received]:
        """Asserts both; returns what arrived."""
        received = receiver.received()
        missing, disorder = self.missing(received), self.disorder(received)
        assert not missing, f"{len(missing)} of {len(self)} lost: {missing[:5]}"
        assert not disorder, f"{len(disorder)} out of order: {disorder[:5]}"
        return received


@dataclass(frozen=True, slots=True)
class Fault:
    """`begin` and `end`: Unix seconds."""

    what: str
    begin: float
    end: float


class Faults:
    """What was done to the product, and when."""

    def __init__(self) -> None:
        self._done: list[Fault] = []

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """The fault lasts as long as the block."""
        begin = time.time()
        try:
            yield
        finally:
            self._done.append(Fault(what, begin, time.time()))

    def strike(self, what: str) -> None:
        """It is done in this moment."""
        now = time.time()
        self._done.append(Fault(what, now, now))

    def explain(self, received: Iterable[Received]) -> tuple[list[str], list[str]]:
        """(repeats that a fault explains, those that none does), by the event's id.

        A repeat is explained where, between the arrival before it and itself, a fault struck
        or lasted that found the delivery unsettled: not later than `REACH` after that arrival.
        """
        last: dict[tuple[str, str], float] = {}
        explained, left = [], []
        for one in received:
            before = last.get((one.path, one.id))
            last[one.path, one.id] = one.at
            if before is None:
                continue
            fits = any(f.begin - REACH <= before <= f.end and f.begin <= one.at for f in self._done)
            (explained if fits else left).append(one.id)
        return explained, left
