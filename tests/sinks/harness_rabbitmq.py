"""A private broker with a durable queue, bound for `MESSAGES_UPSERT` of the instance demo."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from evoflask.dev.rabbitmq_server import RabbitmqServer
from evoflask.settings import Settings
from evoflask.sinks import load
from evoflask.sinks.base import Delivery, Sink, Target
from tests.sinks.harness import Harness, ServerHarness, delivery, settings, target

EXCHANGE = "evolution-events"


class RabbitmqHarness(ServerHarness):
    name = "rabbitmq"
    largest = 16_000_000

    def __init__(self, folder: Path, config: str = "") -> None:
        self.server = RabbitmqServer(folder / "server", config=config)
        self._read: list[tuple[str, str]] = []
        self._channel: BlockingChannel | None = None

    def settings(self) -> Settings:
        return settings(rabbitmq_uri=self.server.url)

    def good(self, sid: str = "good", *, timeout: float = 10.0) -> Target:
        return target("rabbitmq", sid=sid, timeout=timeout, exchange=EXCHANGE)

    def refused(self) -> Target:
        return target("rabbitmq", sid="refused", exchange="of-another-type")

    def rejected(self) -> Delivery:
        return delivery(self.good("rejected"), "rejected", event="CALL")

    def broken(self) -> Target:
        return target("rabbitmq", sid="broken", exchange="x" * 300)

    def wrong_credentials(self) -> tuple[Sink, Target, str]:
        secret = "not-let-in"
        uri = self.server.url_of("guest", secret)
        return load("rabbitmq")(settings(rabbitmq_uri=uri)), self.good("locked"), secret

    def arrived(self) -> list[tuple[str, str]]:
        channel = self.channel()
        while True:
            method, properties, body = channel.basic_get("arrived", auto_ack=True)
            if method is None:
                return self._read
            self._read.append((properties.message_id, hashlib.sha256(body).hexdigest()))

    def channel(self) -> BlockingChannel:
        """A channel of the test's own, on a connection without heartbeat."""
        if self._channel is not None:
            with contextlib.suppress(AMQPError):
                self._channel.connection.process_data_events(0)
                if self._channel.is_open:
                    return self._channel
        self._channel = pika.BlockingConnection(
            pika.URLParameters(self.server.url + "?heartbeat=0")
        ).channel()
        return self._channel

    def connections(self) -> int:
        self.channel()
        lines = self.server.ctl("list_connections", "pid", "state").splitlines()
        return sum(line.split()[-1] == "running" for line in lines if line.startswith("<"))

    def prepare(self) -> None:
        """What subscribers declare."""
        channel = self.channel()
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.exchange_declare("of-another-type", "fanout", durable=True)
        channel.queue_declare("arrived", durable=True)
        channel.queue_bind("arrived", EXCHANGE, "evolution.demo.messages_upsert")
        self.server.keep()


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Harness]:
    """The broker, running."""
    harness = RabbitmqHarness(folder)
    with harness.server:
        harness.prepare()
        yield harness
