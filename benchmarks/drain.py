"""The drain's cost per event, beside a bare aiohttp loop that posts the same bodies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp

from benchmarks.stage import Cost, Stage, data, stage
from evoflask.delivery.drain import Drain

FLIGHTS = 64
"""Requests under way at once in the bare loop."""


async def _measured(name: str, events: int, work: Callable[[], Awaitable[None]]) -> Cost:
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

    return await _measured("bare aiohttp loop", events, work)


async def drained(stage: Stage, name: str, events: int) -> Cost:
    """Everything that waits, delivered by one drain."""
    drain = Drain(stage.settings, ["webhook"])
    await drain.start()
    came = stage.receiver.count()

    async def work() -> None:
        job = asyncio.ensure_future(drain.drain_until_quiet(600, 1))
        await asyncio.to_thread(stage.wait_for, came + events, 600)
        job.cancel()

    cost = await _measured(name, events, work)
    await drain.stop(10)
    return cost


def run(lanes: int, events: int, bare_events: int = 0) -> list[Cost]:
    """One stage: the bare loop, then the drain, on the same receiver."""
    costs = []
    with stage() as here:
        if bare_events:
            asyncio.run(bare(here.receiver.url("/ok"), min(1000, bare_events)))  # warm
            costs.append(asyncio.run(bare(here.receiver.url("/ok"), bare_events)))
        tenants = here.tenants(lanes)
        here.fill(tenants, events)
        costs.append(asyncio.run(drained(here, f"drain, {lanes:,} lanes", events)))
        if bare_events:
            costs.append(asyncio.run(bare(here.receiver.url("/ok"), bare_events)))
    return costs
