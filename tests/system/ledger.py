"""What was accepted, beside what arrived: nothing lost, and the order of first arrivals."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from evoflask.dev.receiver import Received, Receiver


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
