"""What every sink keeps to, against a real destination."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from evoflask.sinks import SINKS, built, load
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink
from tests.sinks.harness import HARNESSES, Harness, delivery

BUILT = sorted(name for name in SINKS if built(name))


def run(sink: Sink, *batches: Sequence[Delivery]) -> list[list[Attempt]]:
    async def all_of_them() -> list[list[Attempt]]:
        try:
            return [await sink.deliver(batch) for batch in batches]
        finally:
            await sink.close()

    return asyncio.run(all_of_them())


@pytest.fixture(params=BUILT, scope="module")
def _started(request: pytest.FixtureRequest) -> Iterator[Harness]:
    with HARNESSES[request.param]() as harness:
        yield harness


@pytest.fixture
def harness(_started: Harness) -> Harness:
    return _started


def test_every_built_sink_has_a_harness() -> None:
    assert set(BUILT) == set(HARNESSES)


def test_the_registry_knows_the_six_sinks() -> None:
    assert list(SINKS) == ["webhook", "websocket", "rabbitmq", "nats", "sqs", "pusher"]


def test_a_sink_that_is_not_built_cannot_be_loaded() -> None:
    for name in set(SINKS) - set(BUILT):
        with pytest.raises(KeyError):
            load(name)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_attempt_ends_with_what_is_known(harness: Harness, outcome: Outcome) -> None:
    [[attempt]] = run(harness.sink(), [delivery(harness.target(outcome))])

    assert attempt.outcome is outcome
    assert attempt.code
    assert len(attempt.detail) <= 300
    assert attempt.detail or outcome is Outcome.DELIVERED


def test_a_batch_has_one_attempt_a_delivery_in_its_order(harness: Harness) -> None:
    outcomes = [Outcome.DELIVERED, Outcome.REFUSED, Outcome.DELIVERED, Outcome.UNREACHABLE]

    [attempts] = run(
        harness.sink(), [delivery(harness.target(outcome), f"b-{outcome}") for outcome in outcomes]
    )

    assert [attempt.outcome for attempt in attempts] == outcomes


def test_what_is_delivered_arrived_once_with_its_id_and_its_data_to_the_byte(
    harness: Harness,
) -> None:
    one = delivery(harness.target(Outcome.DELIVERED), "to-the-byte")

    run(harness.sink(), [one])

    arrived = [digest for event_id, digest in harness.arrived() if event_id == one.event_id]
    assert arrived == [harness.body_hash(one)]


def test_settings_that_cannot_work_end_as_unreachable(harness: Harness) -> None:
    [[attempt]] = run(harness.sink(), [delivery(harness.broken())])

    assert attempt.outcome is Outcome.UNREACHABLE


def test_a_sink_is_made_without_a_loop_and_closed_twice(harness: Harness) -> None:
    sink = harness.sink()

    async def close_twice() -> None:
        await sink.close()
        await sink.close()

    asyncio.run(close_twice())


def test_what_is_cancelled_is_let_go(harness: Harness) -> None:
    sink = harness.sink()

    async def cancelled() -> bool:
        task = asyncio.create_task(sink.deliver([delivery(harness.target(Outcome.AMBIGUOUS))]))
        await asyncio.sleep(0)
        task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        await sink.close()
        return isinstance(result, asyncio.CancelledError)

    assert asyncio.run(cancelled())
