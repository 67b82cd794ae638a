"""NATS: JetStream on disk, and nats-py with its acks gathered."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nats
from nats.js.api import PubAck

from evoflask.dev.nats_server import NatsServer

UNDER_WAY = 512
"""Acks that the bare client waits for at once; more did not make it faster."""


class NatsBroker:
    """A stream for the sink and one for the bare client, which stores the same bytes."""

    def __init__(self, server: NatsServer) -> None:
        self.settings: dict[str, Any] = {"nats_uri": server.url}
        self.subscription: dict[str, Any] = {
            "subject": "bench.{instance}.{event}",
            "jetstream": True,
            "createStream": False,
        }
        self._url = server.url
        self._sent = 0

    async def prepare(self) -> None:
        """Makes the streams."""
        client = await nats.connect(self._url)
        for name in ("bench", "bare"):
            await client.jetstream().add_stream(name=name, subjects=[f"{name}.>"])
        await client.close()

    async def bare(self, bodies: Sequence[bytes], events: int) -> None:
        """`publish_async`, which is faster than gathering `publish`: no task an event."""
        client = await nats.connect(self._url)
        try:
            js = client.jetstream(publish_async_max_pending=UNDER_WAY * 2)
            acks: deque[asyncio.Future[PubAck]] = deque()
            for n in range(events):
                self._sent += 1
                headers = {"Nats-Msg-Id": f"b{self._sent}", "Content-Type": "application/json"}
                body = bodies[n % len(bodies)]
                acks.append(await js.publish_async("bare.demo.event", body, headers=headers))
                if len(acks) >= UNDER_WAY:
                    await acks.popleft()
            while acks:
                await acks.popleft()
        finally:
            await client.close()


@contextlib.contextmanager
def start(folder: Path) -> Iterator[NatsBroker]:
    """A server of its own, with the streams."""
    with NatsServer(folder / "nats") as server:
        broker = NatsBroker(server)
        asyncio.run(broker.prepare())
        yield broker
