"""Each broker sink beside its bare client, on the same server in the same run."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import mix
from benchmarks.brokers import Broker, start_of
from benchmarks.drain import envelopes, measured
from benchmarks.measures import Run
from benchmarks.stage import Cost, Stage, Tenant, stage
from evoflask.delivery.drain import Drain

BROKERS = ("rabbitmq", "nats", "sqs", "pusher")


def run(sink: str, lanes: int, events: int) -> list[Cost]:
    """The bare client, the drain, the bare client again."""
    with (
        tempfile.TemporaryDirectory() as name,
        start_of(sink)(Path(name)) as broker,
        stage(**broker.settings) as here,
    ):
        data = mix.bodies(media=False)
        bodies = envelopes(data)
        asyncio.run(broker.bare(bodies, 500))  # warm
        tenants = here.tenants(lanes, sink, broker.subscription)
        before = asyncio.run(_bare(broker, sink, bodies, events))
        ours = asyncio.run(_drained(here, sink, tenants, events, data))
        return [before, ours, asyncio.run(_bare(broker, sink, bodies, events))]


async def _bare(broker: Broker, sink: str, bodies: list[bytes], events: int) -> Cost:
    return await measured(f"bare client of {sink}", events, lambda: broker.bare(bodies, events))


async def _drained(
    here: Stage, sink: str, tenants: Sequence[Tenant], events: int, data: Sequence[bytes]
) -> Cost:
    drain = Drain(here.settings, [sink], chores=False)
    await drain.start()
    job = asyncio.ensure_future(drain.drain_until_quiet(600, 600))

    async def work(count: int) -> None:
        while here.delivered(sink) < count:  # noqa: ASYNC110 - Redis is asked
            await asyncio.sleep(0.05)

    await asyncio.to_thread(here.fill, tenants, len(tenants), data)
    await work(len(tenants))
    # Filled while nobody drains, so that both start with all of it waiting.
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await asyncio.to_thread(here.fill, tenants, events, data)
    job = asyncio.ensure_future(drain.drain_until_quiet(600, 600))
    name = f"drain to {sink}, {len(tenants):,} lanes"
    cost = await measured(name, events, lambda: work(len(tenants) + events))
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    await drain.stop(10)
    return cost


HEADING = "Draining to brokers, one process"
NAMES = ("what", "events/s", "CPU us")


def section(run_of: Run, brokers: Sequence[str] = BROKERS) -> None:
    """Each with its bare client before and after. Without media, which not all of them take."""
    count = 20_000 if run_of.full else 5_000
    for _ in range(run_of.rounds):
        for sink in brokers:
            costs = run(sink, 100, count)
            for cost in costs:
                run_of.row(HEADING, NAMES, cost.name, cost.rate, cost.micros)
            run_of.tell(sink, costs[1].rate / ((costs[0].rate + costs[2].rate) / 2))
