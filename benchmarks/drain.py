"""The drain's cost per event, beside a bare aiohttp loop that posts the same bodies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp

from benchmarks.stage import Cost, Stage, Tenant, data, stage
from evoflask.delivery.drain import Drain

FLIGHTS = 64
"""Requests under way at once in the bare loop."""


async def measured(name: str, events: int, work: Callable[[], Awaitable[None]]) -> Cost:
    """The cost of some work in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    await work()
    return Cost(name, events, time.perf_counter() - wall, time.process_time() - cpu)


async def bare(url: str, events: int) -> Cost:
    """aiohttp and nothing else: one session, `FLIGHTS` posts under way."""
    bodies = [
        b'{"event":"MESSAGES_UPSERT","instance":"bare","data":' + data(n) + b"}" for n in range(100)
    ]
    headers = {"Content-Type": "application/json", "webhook-id": "bare"}
    left = iter(range(events))

    async def post(session: aiohttp.ClientSession) -> None:
        for n in left:
            async with session.post(url, data=bodies[n % 100], headers=headers) as answer:
                await answer.read()

    async def work() -> None:
        connector = aiohttp.TCPConnector(limit=FLIGHTS)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(post(session) for _ in range(FLIGHTS)))

    return await measured("bare aiohttp loop", events, work)


async def drained(
    stage: Stage, name: str, tenants: list[Tenant], waiting: int, events: int
) -> Cost:
    """The first `events` of those that wait, by one drain that has seen each tenant once."""
    drain = Drain(stage.settings, ["webhook"])
    await drain.start()

    async def work(count: int) -> None:
        came = stage.receiver.count()
        job = asyncio.ensure_future(drain.drain_until_quiet(600, 1))
        await asyncio.to_thread(stage.wait_for, came + count, 600)
        job.cancel()

    await asyncio.to_thread(stage.fill, tenants, len(tenants))
    await work(len(tenants))
    await asyncio.to_thread(stage.fill, tenants, waiting)
    cost = await measured(name, events, lambda: work(events))
    await drain.stop(10)
    return cost


def run(lanes: int, waiting: int, events: int, database: str = "sqlite") -> list[Cost]:
    """One stage: the bare loop, the drain, the bare loop again, on the same receiver."""
    with stage(database) as here:
        url = here.receiver.url("/ok")
        asyncio.run(bare(url, 500))  # warm
        tenants = here.tenants(lanes, "webhook", here.webhook)
        before = asyncio.run(bare(url, events))
        name = f"drain, {lanes:,} lanes, {waiting:,} waiting"
        ours = asyncio.run(drained(here, name, tenants, waiting, events))
        return [before, ours, asyncio.run(bare(url, events))]
