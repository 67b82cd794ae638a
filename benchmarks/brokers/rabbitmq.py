"""A private broker with one durable queue; bare is pika with confirms gathered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from evoflask.dev.rabbitmq_server import RabbitmqServer

EXCHANGE = "bench"
WINDOW = 2_000
"""Messages without a confirm at most. More made it slower."""
TURN = 64
"""Messages published in one turn of the loop, so that confirms are read between."""


class Broker:
    def __init__(self, server: RabbitmqServer) -> None:
        self._url = server.url
        self.settings: dict[str, Any] = {"rabbitmq_uri": server.url}
        self.subscription: dict[str, Any] = {"exchange": EXCHANGE, "mandatory": True}

    def prepare(self) -> None:
        """A queue for all."""
        connection = pika.BlockingConnection(pika.URLParameters(self._url))
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        # Not bounded: a broker that drops what is too much took half as many again in its time.
        channel.queue_declare("bench", durable=True)
        channel.queue_bind("bench", EXCHANGE, "#")
        connection.close()

    async def bare(self, bodies: Sequence[bytes], events: int) -> None:
        """Mandatory, persistent, confirmed by many acks at once."""
        done = asyncio.get_running_loop().create_future()
        client = _Client(self._url, bodies, events, done)
        await done
        client.connection.close()


class _Client:
    def __init__(
        self, url: str, bodies: Sequence[bytes], events: int, done: asyncio.Future[None]
    ) -> None:
        self._bodies, self._events, self._done = bodies, events, done
        self._sent = self._confirmed = 0
        self._singly = 0
        self._loop = asyncio.get_running_loop()
        self.connection = AsyncioConnection(
            pika.URLParameters(url), on_open_callback=lambda c: c.channel(on_open_callback=self._on)
        )

    def _on(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirm, lambda _: self._publish())

    def _publish(self) -> None:
        stop = min(self._events, self._sent + TURN, self._confirmed + WINDOW)
        while self._sent < stop:
            n = self._sent
            self._channel.basic_publish(
                EXCHANGE,
                "evolution.bench.messages_upsert",
                self._bodies[n % len(self._bodies)],
                pika.BasicProperties(
                    content_type="application/json",
                    delivery_mode=2,
                    message_id=f"bare-{n}",
                    timestamp=1_700_000_000,
                    app_id="bare",
                ),
                mandatory=True,
            )
            self._sent += 1
        if self._sent < self._events:
            self._loop.call_soon(self._publish)

    def _confirm(self, frame: Any) -> None:
        # Acks come in order here, as all goes to one queue; a single one tells of itself.
        if frame.method.multiple:
            self._confirmed = frame.method.delivery_tag
        else:
            self._confirmed += 1
        if self._confirmed >= self._events and not self._done.done():
            self._done.set_result(None)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Broker]:
    """The broker, running, with its queue."""
    with RabbitmqServer(folder / "server") as server:
        broker = Broker(server)
        broker.prepare()
        yield broker
