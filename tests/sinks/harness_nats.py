"""A nats-server with JetStream on disk, and one stream for everything that shall arrive."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import nats
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from evoflask.dev.nats_server import NatsServer
from evoflask.settings import Settings
from evoflask.sinks import load
from evoflask.sinks.base import Delivery, Sink, Target
from tests.sinks.harness import Harness, ServerHarness, delivery, settings, target

T = TypeVar("T")
AUTH = ("evoflask", "p@ss/wörd")


async def no_noise(_: Exception) -> None:
    return


def at(url: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """Something by a client of the test's own, on a loop of its own."""

    async def run() -> T:
        client = await nats.connect(
            url, user=AUTH[0], password=AUTH[1], error_cb=no_noise, name="test"
        )
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


class NatsHarness(ServerHarness):
    name = "nats"

    def __init__(self, folder: Path) -> None:
        self.server = NatsServer(folder / "nats", auth=AUTH, monitor=True)
        self._arrived: list[tuple[str, str]] = []

    def settings(self) -> Settings:
        return settings(nats_uri=self.server.url)

    def good(self, sid: str = "good", *, timeout: float = 10.0) -> Target:
        return target("nats", sid=sid, timeout=timeout, subject="good.{instance}.{event}")

    def refused(self) -> Target:
        return target("nats", sid="refused", subject="nobody.{event}")

    def rejected(self) -> Delivery:
        large = b'"' + b"x" * 1_100_000 + b'"'
        return delivery(self.good("rejected"), "rejected", data=large)

    def broken(self) -> Target:
        return target("nats", sid="broken", subject="good.*")

    def wrong_credentials(self) -> tuple[Sink, Target, str]:
        uri = f"nats://evoflask:not-let-in@127.0.0.1:{self.server.port}"
        return load("nats")(settings(nats_uri=uri)), self.good("locked"), "not-let-in"

    def arrived(self) -> list[tuple[str, str]]:
        at(f"nats://127.0.0.1:{self.server.port}", self._read)
        return list(self._arrived)

    async def _read(self, client: Client) -> None:
        """What came since the last look; the stream keeps it all."""
        js = client.jetstream()
        total = (await js.stream_info("GOOD")).state.messages
        first = len(self._arrived) + 1
        if total < first:
            return
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=first,
            ack_policy=AckPolicy.NONE,
        )
        reader = await js.pull_subscribe("", stream="GOOD", config=config)
        while len(self._arrived) < total:
            with contextlib.suppress(TimeoutError):
                for msg in await reader.fetch(total - len(self._arrived), timeout=1):
                    assert msg.headers is not None
                    sha = hashlib.sha256(msg.data).hexdigest()
                    self._arrived.append((msg.headers["Nats-Msg-Id"], sha))

    def connections(self) -> int:
        return self.server.connections("evoflask")


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Harness]:
    """The server, running, with the stream."""
    harness = NatsHarness(folder)
    with harness.server as server:

        async def prepare(client: Client) -> None:
            await client.jetstream().add_stream(name="GOOD", subjects=["good.>"])

        at(f"nats://127.0.0.1:{server.port}", prepare)
        yield harness
