"""Whether an event costs the same, however many wait and however many tenants there are: CPU of
the drain and of Redis together."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

from benchmarks import mix
from benchmarks.measures import Run
from benchmarks.scene import cpu
from benchmarks.stage import Stage, Tenant, stage
from evoflask.delivery.drain import Drain

BACKLOG = "Cost over backlog (100 lanes)"
TENANTS = "Cost over tenants"
EVENTS = 10_000
ACTIVE = 10
"""Tenants that have events while all the others exist."""


def section(run: Run) -> None:
    """Backlogs in another order each round; tenants from few to many. One value each, of the
    medians: a round's dearest and cheapest would be those of its noise."""
    sizes = [1_000, 10_000, 100_000, 1_000_000] if run.full else [1_000, 10_000, 50_000]
    bodies = mix.bodies(media=False)  # a million of them with media would not fit
    backlog: dict[int, list[float]] = {size: [] for size in sizes}
    for n in range(run.rounds):
        for waiting in random.Random(n).sample(sizes, len(sizes)):
            with stage() as here:
                tenants = here.tenants(100, "webhook", here.webhook)
                own, redis = asyncio.run(cost(here, tenants, waiting, bodies))
            backlog[waiting].append(own + redis)
            run.row(BACKLOG, ("waiting", "drain us", "Redis us"), waiting, own, redis)
    run.tell("flat_backlog", _apart(backlog))
    counts = [10, 100, 1_000, 10_000, 100_000] if run.full else [10, 1_000, 10_000]
    few: dict[int, list[float]] = {count: [] for count in counts}
    many: dict[int, list[float]] = {count: [] for count in counts}
    for count in counts:
        with stage() as here:
            tenants = here.tenants(count, "webhook", here.webhook)
            for n in range(run.rounds):
                some = random.Random(n).sample(tenants, min(count, EVENTS))
                for found, who, says in (
                    (few, tenants[:ACTIVE], f"{ACTIVE} of them"),
                    (many, some, "all"),
                ):
                    own, redis = asyncio.run(cost(here, who, EVENTS, bodies))
                    found[count].append(own + redis)
                    names = ("tenants", "events on", "drain us", "Redis us")
                    run.row(TENANTS, names, count, says, own, redis)
    run.tell("flat_tenants", _apart(few))
    run.tell("flat_spread", _apart(many))


def _apart(costs: dict[int, list[float]]) -> float:
    middle = [statistics.median(each) for each in costs.values()]
    return max(middle) / min(middle)


async def cost(
    here: Stage, tenants: Sequence[Tenant], waiting: int, bodies: Sequence[bytes]
) -> tuple[float, float]:
    """Microseconds of CPU an event, of the drain and of Redis, for `EVENTS` of those that wait;
    where fewer wait, they are filled up again and again, which does not count. All of the tenants
    had an event before: what is done once for each is not what an event costs."""
    drain = Drain(here.settings, ["webhook"], chores=False)
    await drain.start()
    await _part(here, drain, tenants, len(tenants), len(tenants), bodies)
    own = redis = 0.0
    done = 0
    while done < EVENTS:
        part = await _part(here, drain, tenants, waiting, min(waiting, EVENTS - done), bodies)
        own, redis, done = own + part[0], redis + part[1], done + part[2]
    await drain.stop(10)
    return own / done * 1e6, redis / done * 1e6


async def _part(
    here: Stage,
    drain: Drain,
    tenants: Sequence[Tenant],
    waiting: int,
    count: int,
    bodies: Sequence[bytes],
) -> tuple[float, float, int]:
    """Seconds of both from the first to the last of so many, and how many came until somebody
    looked."""
    await asyncio.to_thread(here.fill, tenants, waiting, bodies)
    came, redis = here.receiver.count(), cpu([here.redis_pid])
    own = time.process_time()
    job = asyncio.ensure_future(drain.drain_until_quiet(600, 600))
    await asyncio.to_thread(here.wait_for, came + count, 600)
    used = time.process_time() - own, cpu([here.redis_pid]) - redis, here.receiver.count() - came
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    return used
