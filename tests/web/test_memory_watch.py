"""The operator's events about memory, over several clocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from evoflask.delivery import memory_watch
from evoflask.delivery.memory_watch import MemoryWatch
from evoflask.envelope import Event
from evoflask.errors import Unavailable
from evoflask.outbox import Outbox
from evoflask.outbox.usage import Usage
from evoflask.settings import Settings

GB = 10**9
FULL = Usage(used=GB * 99 // 100, limit=GB, waiting=GB * 98 // 100, stored=GB * 98 // 100)
ROOMY = Usage(used=GB // 10, limit=GB)


class Operator:
    """Takes events, unless it is `away`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.away = False

    def take(self, events: Sequence[Event]) -> bool:
        if self.away:
            raise Unavailable("The outbox is full.")
        self.events += events
        return True

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.events]


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.setattr(memory_watch, "STEADY", 0.0)
    return Operator()


@pytest.fixture
def clock(
    settings: Callable[..., Settings], outbox: Outbox, operator: Operator
) -> Callable[[], MemoryWatch]:
    """Return a function that starts a clock's watch."""
    given = settings(operator_webhook_url="https://operator.example/hook")
    return lambda: MemoryWatch(given, outbox, operator.take)


def test_each_change_of_the_memory_is_sent_once_over_restarts_of_the_clock(
    clock: Callable[[], MemoryWatch], operator: Operator
) -> None:
    for look in (ROOMY, FULL, FULL, ROOMY, ROOMY, FULL):
        clock().note([look])

    assert operator.names == ["memory.short", "memory.recovered", "memory.short"]


def test_a_clock_that_gets_the_lease_back_repeats_no_change(
    clock: Callable[[], MemoryWatch], operator: Operator
) -> None:
    first, second = clock(), clock()
    first.note([FULL])
    second.note([ROOMY])

    first.note([ROOMY])

    assert operator.names == ["memory.short", "memory.recovered"]


def test_an_event_that_a_clock_could_not_append_is_sent_by_the_next_before_the_recovery(
    clock: Callable[[], MemoryWatch], operator: Operator
) -> None:
    operator.away = True
    with pytest.raises(Unavailable):
        clock().note([FULL])
    with pytest.raises(Unavailable):
        clock().note([ROOMY])
    operator.away = False

    for _ in range(3):
        clock().note([ROOMY])

    assert operator.names == ["memory.short", "memory.recovered"]
