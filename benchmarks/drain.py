"""The drain's cost per event, beside a bare aiohttp loop that posts the same bodies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

from benchmarks import mix
from benchmarks.measures import Run
from benchmarks.stage import Cost, Stage, Tenant, stage
from evoflask.delivery.drain import Drain

FLIGHTS = 64
"""Requests under way at once in the bare loop."""


async def measured(name: str, events: int, work: Callable[[], Awaitable[None]]) -> Cost:
    """The cost of some work in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return Cost(name, events, time.perf_counter() - wall, time.process_time() - cpu)


def envelopes(data: Sequence[bytes]) -> list[bytes]:
    """As the drain posts them, about."""
    head = b'{"event":"MESSAGES_UPSERT","instance":"bare","data":'
    tail = b',"timestamp":"2026-01-01T00:00:00.000Z","sender":null,"id":"bare"}'
    return [head + one + tail for one in data]


async def bare(url: str, events: int, bodies: Sequence[bytes]) -> Cost:
    """aiohttp and nothing else: one session, `FLIGHTS` posts under way."""
    headers = {"Content-Type": "application/json", "webhook-id": "bare"}
    left = iter(range(events))

    async def post(session: aiohttp.ClientSession) -> None:
        for n in left:
            body = bodies[n % len(bodies)]
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()

    async def work() -> None:
        connector = aiohttp.TCPConnector(limit=FLIGHTS)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(post(session) for _ in range(FLIGHTS)))

    return await measured("bare aiohttp loop", events, work)


async def drained(
    stage: Stage,
    name: str,
    tenants: Sequence[Tenant],
    waiting: int,
    events: int,
    bodies: Sequence[bytes],
) -> Cost:
    """The first `events` of those that wait, by one drain that has seen each tenant once."""
    drain = Drain(stage.settings, ["webhook"], chores=False)
    await drain.start()

    async def work(count: int) -> None:
        came = stage.receiver.count()
        job = asyncio.ensure_future(drain.drain_until_quiet(600, 1))
        await asyncio.to_thread(stage.wait_for, came + count, 600)
        job.cancel()

    await asyncio.to_thread(stage.fill, tenants, len(tenants), bodies)
    await work(len(tenants))
    await asyncio.to_thread(stage.fill, tenants, waiting, bodies)
    cost = await measured(name, events, lambda: work(events))
    await drain.stop(10)
    return cost


def run(lanes: int, waiting: int, events: int, database: str = "sqlite") -> list[Cost]:
    """One stage: the bare loop, the drain, the bare loop again, on the same receiver."""
    data = mix.bodies()
    with stage(database) as here:
        url, posted = here.receiver.url("/ok"), envelopes(data)
        asyncio.run(bare(url, 500, posted))  # warm
        tenants = here.tenants(lanes, "webhook", here.webhook)
        before = asyncio.run(bare(url, events, posted))
        name = f"drain, {lanes:,} lanes, {waiting:,} waiting"
        ours = asyncio.run(drained(here, name, tenants, waiting, events, data))
        return [before, ours, asyncio.run(bare(url, events, posted))]


HEADING = "Draining to webhooks, one process"
NAMES = ("what", "events/s", "CPU us")


def section(run_of: Run) -> None:
    """A bare loop before and after each drain."""
    count = 20_000 if run_of.full else 8_000
    for _ in range(run_of.rounds):
        costs = run(100, count, count)
        for cost in costs:
            run_of.row(HEADING, NAMES, cost.name, cost.rate, cost.micros)
        run_of.tell("drain", costs[1].rate / ((costs[0].rate + costs[2].rate) / 2))
