"""NATS, SQS and soketi killed and stopped under load, all at one house. RabbitMQ has a file of
its own (test_rabbitmq_restart.py)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from evoflask.dev.nats_server import NatsServer
from evoflask.dev.process import wait_for, whole_lines
from evoflask.dev.server import Server
from evoflask.dev.soketi_server import SoketiServer
from evoflask.dev.sqs_server import SqsServer
from evoflask.errors import Misconfigured
from tests.conftest import missing
from tests.sinks.harness_pusher import RECORDER
from tests.system.conftest import MakeHouse
from tests.system.house import House, Threads, message
from tests.system.reliability import Row, Table

pytestmark = [pytest.mark.slow, pytest.mark.beside, pytest.mark.timeout(600)]

PRODUCERS = 4
PAUSE = 0.05
"""Seconds between two events of one."""
QUEUE = "all"
SCHEDULE = "0.5,0.5" + ",1" * 90
"""Longer than a server is away."""
AT_ONCE = 8 * 10
"""Deliveries under way at most when a server dies: `concurrency` conversations, which may share
calls of ten."""


class Servers:
    """The three, and what arrived at each."""

    def __init__(self, folder: Path) -> None:
        self.nats = NatsServer(folder / "nats")
        self.sqs = SqsServer(folder / "sqs", forget=True)
        self.soketi = SoketiServer(
            folder / "soketi", "1001", "app-key", "app-secret", preload=[RECORDER]
        )
        self.all: list[Server] = [self.nats, self.sqs, self.soketi]

    def settings(self) -> dict[str, object]:
        return {
            "nats_uri": self.nats.url,
            "sqs_endpoint_url": self.sqs.endpoint,
            "sqs_region": "us-east-1",
            "aws_access_key_id": "demo",
            "aws_secret_access_key": "demo",
            "pusher_host": "127.0.0.1",
            "pusher_port": self.soketi.port,
        }

    def sinks(self) -> dict[str, object]:
        app = {"appId": "1001", "key": "app-key", "secret": "app-secret"}
        return {
            "nats": {"enabled": True, "createStream": True},
            "sqs": {"enabled": True, "queueUrl": self.sqs.url(QUEUE)},
            "pusher": {"enabled": True, **app, "cluster": "local", "useTLS": False},
        }

    def restart(self, server: Server) -> None:
        """As it comes back; moto's queues were in its memory."""
        server.start()
        if server is self.sqs:
            self.sqs.create(QUEUE)

    def arrived(self) -> dict[str, list[str]]:
        """Ids by sink, repeats included."""
        accepted = whole_lines(self.soketi.data / "accepted")
        return {
            "nats": asyncio.run(self._stored()),
            "sqs": [event_id for event_id, _ in self.sqs.accepted()],
            "pusher": [line.split()[0] for line in accepted],
        }

    async def _stored(self) -> list[str]:
        """What lies in the one stream, which drops repeats by the id."""
        client = await nats.connect(self.nats.url)
        try:
            js = client.jetstream()
            (info,) = await js.streams_info()
            name = str(info.config.name)
            first, last = info.state.first_seq, info.state.last_seq
            found = [await js.get_msg(name, n) for n in range(first, last + 1)]
            return [str((each.headers or {})["Nats-Msg-Id"]) for each in found]
        finally:
            await client.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    with contextlib.ExitStack() as stack:
        for server in made.all:
            try:
                server.prepare()
            except Misconfigured as error:
                missing(str(error))
            stack.enter_context(server)
        made.sqs.create(QUEUE)
        yield made


class Accepted:
    """What was answered 2xx."""

    def __init__(self, house: House) -> None:
        self.ids: set[str] = set()
        self._house, self._lock, self._over = house, threading.Lock(), False
        self.threads = Threads([lambda k=k: self._pour(k) for k in range(PRODUCERS)])

    def _pour(self, k: int) -> None:
        client, n = self._house.client(), 0
        while not self._over:
            event_id = f"{k}-{n}"
            event = {"event": "CALL", "id": event_id, "data": message(n, f"chat{k}-{n % 3}")}
            client.insist("/event/emit/a", event)
            with self._lock:
                self.ids.add(event_id)
            n += 1
            time.sleep(PAUSE)  # its pace

    def stop(self) -> None:
        self._over = True
        self.threads.join()


def test_servers_killed_and_stopped_under_load_have_every_event_in_the_end(
    make_house: MakeHouse, servers: Servers, table: Table
) -> None:
    house = make_house(workers=2, retry_schedule=SCHEDULE, **servers.settings())
    client = house.client()
    client.create("a")
    client.good("POST", "/event/set/a", servers.sinks())
    accepted = Accepted(house)

    for n, server in enumerate(servers.all * 2):
        seen = len(accepted.ids)
        wait_for(lambda s=seen: len(accepted.ids) > s + 50, 60, "events under way")
        if n < len(servers.all):
            server.kill9()
        else:
            server.stop()
        seen = len(accepted.ids)
        wait_for(lambda s=seen: len(accepted.ids) > s + 50, 60, f"events without {server.name}")
        servers.restart(server)
    accepted.stop()
    house.wait_quiet(120)
    # A server that is up and has no such queue yet is asked again.
    assert client.good("GET", "/deadletter")["letters"] == []

    for sink, arrived in servers.arrived().items():
        lost = accepted.ids - set(arrived)
        repeats = len(arrived) - len(set(arrived))
        assert not lost, f"{sink} lost {len(lost)}: {sorted(lost)[:5]}"
        assert repeats <= 2 * AT_ONCE
        why = ["under way when it was done"] if repeats else []
        if sink == "nats":
            assert repeats == 0
            why.append("the stream drops repeats by their id")
        done = "killed, and later stopped, under load"
        name = {"nats": "NATS", "sqs": "SQS", "pusher": "soketi"}[sink]
        table.write(Row(f"{name} restarted", done, len(accepted.ids), 0, repeats, "; ".join(why)))
    assert house.audit()[0] == 0
