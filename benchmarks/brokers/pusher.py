"""soketi, and the pusher library's signed requests on one bare aiohttp session.

The library's own backends are slower: its aiohttp one opens a session a call, its requests
one blocks a thread a call (measured beside this one in the same run: two thirds of the rate,
with 4 threads as with 16). So bare here is what is left when everything of ours is taken
away: sign, post ten events, read the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from pusher.pusher_client import PusherClient

from evoflask.dev.soketi_server import SoketiServer

CALLS = 64
"""Calls under way at once; more were not faster."""
BATCH = 10


class _Signed:
    """A backend that hands the signed request back."""

    def __init__(self, client: PusherClient) -> None: ...

    def send_request(self, request: Any) -> Any:
        return request


class PusherBroker:
    """One app of one server."""

    def __init__(self, folder: Path) -> None:
        self.server = SoketiServer(folder, "1", "bench-key", "bench-secret")
        self.settings: dict[str, Any] = {
            "pusher_host": self.server.host,
            "pusher_port": str(self.server.port),
        }
        self.subscription: dict[str, Any] = {
            "appId": "1",
            "key": "bench-key",
            "secret": "bench-secret",
            "cluster": "eu",
            "useTLS": False,
            "oversize": "reject",
        }

    async def bare(self, bodies: Sequence[bytes], events: int) -> None:
        client = PusherClient(
            "1",
            "bench-key",
            "bench-secret",
            ssl=False,
            host=self.server.host,
            port=self.server.port,
            backend=_Signed,
        )
        starts = iter(range(0, events, BATCH))

        async def caller(session: aiohttp.ClientSession) -> None:
            for start in starts:
                batch = [
                    {
                        "channel": "bare",
                        "name": "MESSAGES_UPSERT",
                        "data": bodies[n % len(bodies)].decode(),
                    }
                    for n in range(start, min(start + BATCH, events))
                ]
                request = client.trigger_batch(batch, already_encoded=True)
                async with session.post(
                    request.url, data=request.body, headers=request.headers
                ) as answer:
                    said = await answer.json()
                    if answer.status != 200 or "error" in said:
                        raise RuntimeError(f"{answer.status}: {said}")

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(caller(session) for _ in range(CALLS)))


@contextlib.contextmanager
def start(folder: Path) -> Iterator[PusherBroker]:
    """The server, running."""
    broker = PusherBroker(folder)
    with broker.server:
        yield broker
