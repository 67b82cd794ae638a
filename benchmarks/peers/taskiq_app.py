"""taskiq on Redis Streams: a task an event and sink, acknowledged when done, by aiohttp.

    PEER_REDIS=<url> python -m benchmarks.peers.taskiq_app produce <file> <pipe>
    PEER_REDIS=<url> taskiq worker benchmarks.peers.taskiq_app:broker --max-async-tasks 64 ...

The asyncio queue of the registries that comes closest to what a webhook fan-out needs: streams with
acknowledgements, retries by its own middleware.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import islice

import aiohttp
from taskiq import SmartRetryMiddleware
from taskiq_redis import RedisStreamBroker

from benchmarks.peers.jobs import Job, produce

POOL = 64
broker = RedisStreamBroker(
    os.environ.get("PEER_REDIS", "redis://127.0.0.1:6379/0"), maxlen=1_000_000
).with_middlewares(SmartRetryMiddleware(default_retry_count=5, use_jitter=True))
_sessions: list[aiohttp.ClientSession] = []


@broker.task(task_name="deliver", retry_on_error=True)
async def deliver(url: str, body: str) -> None:
    """One POST. Raises for whatever is not 2xx."""
    if not _sessions:
        connector = aiohttp.TCPConnector(limit=POOL)
        _sessions.append(aiohttp.ClientSession(connector=connector))
    headers = {"content-type": "application/json"}
    async with _sessions[0].post(url, data=body.encode(), headers=headers) as answer:
        await answer.read()
        answer.raise_for_status()


async def _keep(jobs: list[Job]) -> None:
    await broker.startup()
    left = iter(jobs)
    while some := list(islice(left, POOL)):
        await asyncio.gather(*(deliver.kiq(*job) for job in some))
    await broker.shutdown()


if __name__ == "__main__":
    produce(sys.argv[2], sys.argv[3], lambda jobs: asyncio.run(_keep(jobs)))
