"""Whose bodies are read next: nobody who can start waits for those who start a few at a time."""

from __future__ import annotations

from typing import Any, cast

from evoflask.configuration import LaneSettings
from evoflask.delivery.held import Lane, Policies, Standing, Station
from evoflask.delivery.holds import Hold
from evoflask.delivery.reads import FEW, Reads
from evoflask.delivery.retry import Policy
from evoflask.outbox import Held
from evoflask.settings import Settings
from evoflask.sinks.base import Sink, Target


class Endpoint:
    """What a station asks of a sink."""

    batch_size = depth = 1


def station() -> Station:
    return Station("webhook", cast(Sink, Endpoint()), Settings.from_env({}))


def lane(at: Station, *, proven: bool, name: str = "s") -> Lane:
    """One with a single event in hand."""
    ids = [("0000000000001-0000000000:10:a", 0)]
    held = Held(0, name, "token", "outbox", ("1", "e"), False, proven, {}, ids)
    target = Target(name, 1, "i", "webhook", "standard", 30.0, {})
    policy = Policy((1.0,), 0.0, 60.0)
    settings = LaneSettings(target, 8, False, None, 1, "i", "webhook")
    hold = Hold(0, name, "token", 1e9)
    return Lane(held, settings, Policies(policy, policy), at, hold)


def waiting(reads: Reads, lanes: list[Lane]) -> None:
    for each in lanes:
        assert reads.add(each)


def read(reads: Reads) -> list[Any]:
    """The lanes of the next round trip."""
    batch, crowded = reads.collect()
    assert crowded == []
    return [each for each, _, _ in batch]


def test_of_the_unproven_as_many_are_read_as_will_start_soon() -> None:
    reads, at = Reads(), station()
    many = [lane(at, proven=False) for _ in range(100)]
    waiting(reads, many)

    first = read(reads)
    at.turns[Standing.UNPROVEN].extend(first)  # they were read, and wait to be started

    assert first == many[:FEW]
    assert read(reads) == []
    for _ in range(3):  # some started
        at.turns[Standing.UNPROVEN].popleft()
    assert read(reads) == many[FEW : FEW + 3]
    assert reads.waiting(Standing.UNPROVEN) == 100 - FEW - 3


def test_a_proven_one_is_read_beside_a_thousand_that_are_not() -> None:
    reads, at = Reads(), station()
    waiting(reads, [lane(at, proven=False) for _ in range(1000)])
    at.turns[Standing.UNPROVEN].extend(lane(at, proven=False) for _ in range(FEW))
    healthy = lane(at, proven=True)
    waiting(reads, [healthy])

    assert read(reads) == [healthy]


def test_one_that_proves_itself_does_not_go_on_waiting_among_the_others() -> None:
    reads, at = Reads(), station()
    many = [lane(at, proven=False) for _ in range(100)]
    waiting(reads, many)
    at.turns[Standing.UNPROVEN].extend(lane(at, proven=False) for _ in range(FEW))
    assert read(reads) == []

    last = many[-1]
    assert not reads.add(last)  # known
    last.work.proven = True

    assert reads.add(last)
    assert read(reads) == [last]
    at.turns[Standing.UNPROVEN].clear()
    rest = [each for _ in range(10) for each in read(reads)]
    assert rest == many[:-1]  # once each, and it not again
    assert not reads


def test_a_lane_that_was_given_up_holds_up_nobody_behind_it() -> None:
    reads, at = Reads(), station()
    gone, next_ = lane(at, proven=False), lane(at, proven=False)
    waiting(reads, [gone, next_])
    gone.gone = True

    assert read(reads) == [next_]


def test_a_slow_one_that_succeeds_waits_for_no_unproven_one() -> None:
    reads, at = Reads(), station()
    waiting(reads, [lane(at, proven=False) for _ in range(100)])
    at.turns[Standing.UNPROVEN].extend(lane(at, proven=False) for _ in range(FEW))
    slow = lane(at, proven=True)
    slow.slow = 1
    waiting(reads, [slow])

    assert read(reads) == [slow]
