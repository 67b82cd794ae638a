"""Each broker sink beside its bare client, on the same server in the same run."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.brokers import Broker, start_of
from benchmarks.drain import measured
from benchmarks.stage import Cost, Stage, Tenant, data, stage
from evoflask.delivery.drain import Drain
from evoflask.outbox import totals

BROKERS = ("rabbitmq", "nats", "sqs", "pusher")


def run(sink: str, lanes: int, events: int) -> list[Cost]:
    """The bare client, the drain, the bare client again."""
    with (
        tempfile.TemporaryDirectory() as name,
        start_of(sink)(Path(name)) as broker,
        stage(**broker.settings) as here,
    ):
        bodies = [_envelope(n) for n in range(100)]
        asyncio.run(broker.bare(bodies, 500))  # warm
        tenants = here.tenants(lanes, sink, broker.subscription)
        before = asyncio.run(_bare(broker, sink, bodies, events))
        ours = asyncio.run(_drained(here, sink, tenants, events))
        return [before, ours, asyncio.run(_bare(broker, sink, bodies, events))]


def _envelope(n: int) -> bytes:
    head = b'{"event":"MESSAGES_UPSERT","instance":"bare","data":'
    return head + data(n) + b',"timestamp":"2026-01-01T00:00:00.000Z","sender":null,"id":"bare"}'


async def _bare(broker: Broker, sink: str, bodies: list[bytes], events: int) -> Cost:
    return await measured(f"bare client of {sink}", events, lambda: broker.bare(bodies, events))


async def _drained(here: Stage, sink: str, tenants: list[Tenant], events: int) -> Cost:
    drain = Drain(here.settings, [sink])
    await drain.start()
    job = asyncio.ensure_future(drain.drain_until_quiet(600, 600))

    def delivered() -> int:
        return totals.read(here.outbox, [sink], 1).of(sink, "delivered")

    async def work(count: int) -> None:
        while delivered() < count:  # noqa: ASYNC110 - Redis is asked
            await asyncio.sleep(0.05)

    await asyncio.to_thread(here.fill, tenants, len(tenants))
    await work(len(tenants))
    # Filled while nobody drains, so that both start with all of it waiting.
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await asyncio.to_thread(here.fill, tenants, events)
    job = asyncio.ensure_future(drain.drain_until_quiet(600, 600))
    name = f"drain to {sink}, {len(tenants):,} lanes"
    cost = await measured(name, events, lambda: work(len(tenants) + events))
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await drain.stop(10)
    return cost
