"""What every sink keeps to, against a real server that is stopped, paused and killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from evoflask.sinks import SINKS, delivering, load
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink
from tests.sinks.harness import Harness, delivery, running, start_of

BUILT = sorted(delivering())
T = TypeVar("T")

# A server dies with the thread that started it: this one lasts.
HANDS = ThreadPoolExecutor(1)

BODIES = {
    "tiny": b"0",
    "null": b"null",
    "empty object": b"{}",
    "empty text": b'""',
    "unicode": '{"text":"\\u0000 ü 🎉 \u2028 \\ud83d\\ude00"}'.encode(),
    "half a surrogate pair": b'{"text":"\\ud83d x \\uDE00","\\udfff":["\\ud83d\\ud83d"]}',
    "spaces": b'{ "a" : 1.0 , "a" : 1e3 }',
}


@pytest.fixture(params=BUILT, scope="module")
def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Harness]:
    with running(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


def with_sink(sink: Sink, work: Callable[[Sink], Awaitable[T]]) -> T:
    """Something on a loop, the sink closed afterwards."""

    async def run() -> T:
        try:
            return await work(sink)
        finally:
            await sink.close()

    return asyncio.run(run())


def run(sink: Sink, *batches: Sequence[Delivery]) -> list[list[Attempt]]:
    async def all_of_them(sink: Sink) -> list[list[Attempt]]:
        return [await sink.deliver(batch) for batch in batches]

    return with_sink(sink, all_of_them)


async def insist(sink: Sink, batch: Sequence[Delivery], seconds: float = 30) -> None:
    """As a lane does: what did not get through is tried again, until it does."""
    left = list(batch)
    end = time.monotonic() + seconds
    while left:
        attempts: list[Attempt] = []
        for n in range(0, len(left), sink.batch_size):
            attempts += await sink.deliver(left[n : n + sink.batch_size])
        assert all(each.outcome is not Outcome.REJECTED for each in attempts), attempts
        pairs = zip(left, attempts, strict=True)
        left = [one for one, attempt in pairs if attempt.outcome is not Outcome.DELIVERED]
        if left:
            assert time.monotonic() < end, attempts[-1]
            await asyncio.sleep(0.1 * random.random())


async def beside(work: Callable[[], T]) -> T:
    """Something that blocks, without blocking the loop."""
    return await asyncio.get_running_loop().run_in_executor(HANDS, work)


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not await beside(condition):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


def test_the_registry_knows_the_six_sinks() -> None:
    assert list(SINKS) == ["webhook", "websocket", "rabbitmq", "nats", "sqs", "pusher"]
    assert "websocket" not in BUILT


@pytest.mark.parametrize("sink", BUILT)
def test_every_sink_has_a_harness(sink: str) -> None:
    start_of(sink)


def test_a_sink_without_lanes_cannot_be_loaded() -> None:
    with pytest.raises(KeyError):
        load("websocket")


def test_delivered_is_readable_at_the_destination_with_its_id_to_the_byte(
    harness: Harness,
) -> None:
    one = delivery(harness.good(), "to-the-byte")

    [[attempt]] = run(harness.sink(), [one])

    assert attempt.outcome is Outcome.DELIVERED, attempt
    arrived = [body for event_id, body in harness.arrived() if event_id == one.event_id]
    assert arrived == [harness.hash_of(one)]


@pytest.mark.parametrize("kind", [*BODIES, "large"])
def test_every_kind_of_data_arrives_to_the_byte(harness: Harness, kind: str) -> None:
    data = BODIES.get(kind) or b'"' + b"x" * (harness.largest - 2) + b'"'
    one = delivery(harness.good(), f"body-{kind.replace(' ', '-')}", data=data)

    [[attempt]] = run(harness.sink(), [one])

    assert attempt.outcome is Outcome.DELIVERED, attempt
    assert (one.event_id, harness.hash_of(one)) in harness.arrived()


def test_a_refusal_and_a_rejection_are_told_apart_in_words(harness: Harness) -> None:
    refused = harness.refused()
    batches = [[harness.rejected()], *([[delivery(refused)]] if refused else [])]

    attempts = [attempt for [attempt] in run(harness.sink(), *batches)]

    expected = [Outcome.REJECTED, Outcome.REFUSED][: len(attempts)]
    assert [each.outcome for each in attempts] == expected, attempts
    assert all(each.code and 0 < len(each.detail) <= 300 for each in attempts)


def test_settings_that_cannot_work_end_as_unreachable_or_rejected(harness: Harness) -> None:
    [[attempt]] = run(harness.sink(), [delivery(harness.broken())])

    assert attempt.outcome in (Outcome.UNREACHABLE, Outcome.REJECTED)
    assert attempt.detail


def test_wrong_credentials_are_told_in_words_without_the_secret(harness: Harness) -> None:
    found = harness.wrong_credentials()
    if found is None:
        return
    sink, target, secret = found

    [[attempt]] = run(sink, [delivery(target, "locked-out")])

    assert attempt.outcome in (Outcome.REFUSED, Outcome.REJECTED, Outcome.UNREACHABLE)
    assert attempt.detail
    assert secret not in repr(attempt)


def test_a_batch_has_one_attempt_a_delivery_in_its_order(harness: Harness) -> None:
    sink = harness.sink()
    bad = harness.rejected()
    good = [delivery(harness.good(), f"batch-{n}") for n in range(max(3, sink.batch_size - 1))]
    batch = [good[0], bad, *good[1:]][: max(3, sink.batch_size)]

    [attempts] = run(sink, batch)

    expected = [Outcome.REJECTED if each is bad else Outcome.DELIVERED for each in batch]
    assert [each.outcome for each in attempts] == expected, attempts
    arrived = {event_id for event_id, _ in harness.arrived()}
    assert {each.event_id for each in batch if each is not bad} <= arrived


def test_two_lanes_leave_as_many_connections_open_as_their_sink_says(harness: Harness) -> None:
    async def work(sink: Sink) -> int:
        before = await beside(harness.connections)
        for n in range(6):
            lane = harness.good(f"lane-{n % 2}")
            await insist(sink, [delivery(lane, f"shared-{n}")])
        return await beside(harness.connections) - before

    assert with_sink(harness.sink(), work) == harness.kept


def test_many_at_once_arrive_each_once(harness: Harness) -> None:
    async def work(sink: Sink) -> list[Attempt]:
        batches = [
            [delivery(harness.good(f"lane-{b}"), f"many-{b}-{n}") for n in range(sink.batch_size)]
            for b in range(20)
        ]
        return [each for got in await asyncio.gather(*map(sink.deliver, batches)) for each in got]

    attempts = with_sink(harness.sink(), work)

    assert {each.outcome for each in attempts} == {Outcome.DELIVERED}
    arrived = [event_id for event_id, _ in harness.arrived() if event_id.startswith("many-")]
    assert len(arrived) == len(set(arrived)) == len(attempts)


def test_a_server_that_is_down_is_unreachable_and_reached_when_it_is_back(
    harness: Harness,
) -> None:
    async def work(sink: Sink) -> Attempt:
        await insist(sink, [delivery(harness.good(), "before-down")])
        await beside(harness.kill)
        try:
            # Whoever had a connection learns of its end by using it.
            for n in range(3):
                [attempt] = await sink.deliver([delivery(harness.good(), f"down-{n}")])
                assert attempt.outcome is not Outcome.DELIVERED
        finally:
            await beside(harness.start)
        await insist(sink, [delivery(harness.good(), "after-down")])
        return attempt

    attempt = with_sink(harness.sink(), work)

    assert attempt.outcome is Outcome.UNREACHABLE, attempt
    assert attempt.detail
    assert {"before-down", "after-down"} <= {event_id for event_id, _ in harness.arrived()}


def test_a_new_sink_beside_a_server_that_is_down_is_unreachable(harness: Harness) -> None:
    harness.kill()
    try:
        [[attempt]] = run(harness.sink(), [delivery(harness.good(timeout=5), "never-up")])
    finally:
        harness.start()

    assert attempt.outcome is Outcome.UNREACHABLE, attempt


def test_a_silent_server_is_ambiguous_in_time_and_served_when_it_speaks_again(
    harness: Harness,
) -> None:
    async def work(sink: Sink) -> tuple[Attempt, float]:
        await insist(sink, [delivery(harness.good(), "before-silence")])
        await beside(harness.pause)
        began = time.monotonic()
        try:
            [attempt] = await sink.deliver([delivery(harness.good(timeout=3), "silence")])
            took = time.monotonic() - began
        finally:
            await beside(harness.resume)
        await insist(sink, [delivery(harness.good(), "silence")])
        return attempt, took

    attempt, took = with_sink(harness.sink(), work)

    assert attempt.outcome is Outcome.AMBIGUOUS, attempt
    assert took < 15  # its timeout, and five times more for a busy machine
    assert "silence" in {event_id for event_id, _ in harness.arrived()}


def test_a_server_killed_in_the_middle_loses_nothing_and_repeats_carry_the_id(
    harness: Harness,
) -> None:
    count = 400

    async def work(sink: Sink) -> list[Attempt]:
        lanes = [harness.good(f"lane-{n}") for n in range(8)]
        events = [delivery(lanes[n % 8], f"killed-{n}", key=f"k{n}") for n in range(count)]
        size = sink.batch_size

        async def some(batch: Sequence[Delivery]) -> list[Attempt]:
            return await sink.deliver(batch)

        tasks = [asyncio.create_task(some(events[n : n + size])) for n in range(0, count, size)]
        await until(lambda: any(e.startswith("killed-") for e, _ in harness.arrived()))
        await beside(harness.kill)
        attempts = [each for got in await asyncio.gather(*tasks) for each in got]
        await beside(harness.start)
        pairs = zip(events, attempts, strict=True)
        left = [each for each, a in pairs if a.outcome is not Outcome.DELIVERED]
        await insist(sink, left)
        return attempts

    attempts = with_sink(harness.sink(), work)

    assert {each.outcome for each in attempts} <= harness.outcomes_of_a_kill(), attempts
    arrived = {event_id for event_id, _ in harness.arrived()}
    assert {f"killed-{n}" for n in range(count)} <= arrived


def test_what_is_cancelled_is_let_go(harness: Harness) -> None:
    async def work(sink: Sink) -> bool:
        await insist(sink, [delivery(harness.good(), "before-cancel")])
        await beside(harness.pause)
        try:
            task = asyncio.create_task(
                sink.deliver([delivery(harness.good(timeout=30), "cancelled")])
            )
            await asyncio.sleep(0)
            task.cancel()
            [result] = await asyncio.gather(task, return_exceptions=True)
        finally:
            await beside(harness.resume)
        return isinstance(result, asyncio.CancelledError)

    assert with_sink(harness.sink(), work)


def test_a_sink_is_made_without_a_loop_and_closed_twice(harness: Harness) -> None:
    sink = harness.sink()

    async def close_twice() -> None:
        await sink.deliver([delivery(harness.good(), "before-close")])
        await sink.close()
        await sink.close()

    asyncio.run(close_twice())
