"""Names of hosts that are looked up for deliveries: no tenant's dead names hold up another's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from evoflask.dev.receiver import Receiver
from evoflask.net import resolver
from evoflask.net.resolver import EACH, LOOKUPS, Lookups, asked_by
from evoflask.sinks.base import Attempt, Outcome
from evoflask.sinks.webhook import WebhookSink
from tests.sinks.harness import delivery, settings, target

PATIENCE = 10.0
DEAD = 300
"""Names on a dead name server: more than there are slots for look-ups."""
assert DEAD > LOOKUPS


class NameServer:
    """Answers `*.good.test` with 127.0.0.1, `*.late.test` with an error after a while, and
    `*.dead.test` never."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._over = threading.Event()
        self.open: dict[str, Any] = {}
        """Clients that wait for an answer about a name."""
        self.most = 0
        """How many of them there were at once."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        """Ask this server as the system's resolver does: by UDP, and with patience."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(60)
            client.sendto(host.encode(), self._socket.getsockname())
            answer = client.recv(100).decode()
        if not answer:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port))]

    def close(self) -> None:
        """Send all clients an error, which ends their threads."""
        self._over.set()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"over", self._socket.getsockname())
        self._thread.join()
        for client in self.open.values():
            self._socket.sendto(b"", client)
        self._socket.close()

    def _run(self) -> None:
        while not self._over.is_set():
            query, client = self._socket.recvfrom(1_000)
            name = query.decode()
            if name.endswith(".good.test"):
                self._socket.sendto(b"127.0.0.1", client)
            elif name.endswith(".late.test"):
                threading.Timer(0.2, self._socket.sendto, (b"", client)).start()
            elif name.endswith(".dead.test"):
                self.open[name] = client
                self.most = max(self.most, len(self.open))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """A name server that the system's resolver asks."""
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # a thread changes what is looked at
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def under_way(*calls: Awaitable[Any]) -> Any:
    """Calls that go on meanwhile."""
    tasks = [asyncio.ensure_future(each) for each in calls]
    try:
        yield tasks
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def looked_up(lookups: Lookups, tenant: str, name: str) -> str:
    with asked_by(tenant):
        infos = await lookups.look_up(name, 80, socket.AF_INET)
    return str(infos[0][4][0])


def test_the_dead_names_of_a_tenant_hold_up_no_other_tenants_first_delivery(
    names: NameServer,
) -> None:
    async def run(sink: WebhookSink, port: int) -> Attempt:
        def to(tenant: str, name: str) -> Any:
            made = target("webhook", sid=name, instance=tenant, url=f"http://{name}.test:{port}/")
            return sink.deliver([delivery(made)])

        async with under_way(*(to("a", f"n{n}.dead") for n in range(DEAD))):
            await until(lambda: len(names.open) >= EACH - EACH // 4)
            [attempt] = await to("b", "b.good")
        await sink.close()
        return attempt

    with Receiver() as receiver:
        sink = WebhookSink(settings(webhook_connect_timeout=PATIENCE))
        attempt = asyncio.run(run(sink, receiver.port))

    assert attempt.outcome is Outcome.DELIVERED, attempt
    assert names.most <= EACH


def test_names_that_were_slow_leave_half_of_the_slots_to_the_others(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound holds for all slots, and for the slots of one tenant."""
    monkeypatch.setattr(resolver, "SLOW_SECONDS", 0.01)

    async def run() -> list[str]:
        lookups = Lookups(most=4, each=2)
        slow = [(f"t{n}", f"{n}.late.test") for n in range(4)]
        await asyncio.gather(*(looked_up(lookups, *each) for each in slow), return_exceptions=True)
        monkeypatch.setattr(socket, "getaddrinfo", dead_or(names.getaddrinfo))

        async with under_way(*(looked_up(lookups, *each) for each in slow)):
            await until(lambda: len(names.open) == 2)
            async with asyncio.timeout(PATIENCE):
                return [await looked_up(lookups, t, f"{t}.good.test") for t in ("b", "t0", "t3")]

    def dead_or(ask: Any) -> Any:
        return lambda host, *more, **named: ask(host.replace(".late.", ".dead."), *more, **named)

    assert asyncio.run(run()) == ["127.0.0.1"] * 3
    assert names.most == 2


def test_dead_names_that_are_new_leave_slots_to_names_that_answered_before(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "CACHE_SECONDS", 0.0)

    async def run() -> str:
        lookups = Lookups(most=4, each=2)
        await looked_up(lookups, "b", "b.good.test")
        dead = (looked_up(lookups, f"t{n}", f"{n}.dead.test") for n in range(8))

        async with under_way(*dead):
            await until(lambda: len(names.open) >= 3)
            async with asyncio.timeout(PATIENCE):
                return await looked_up(lookups, "b", "b.good.test")

    assert asyncio.run(run()) == "127.0.0.1"
    assert names.most == 3


def test_a_name_that_waits_for_its_tenants_slots_holds_up_no_other_tenant(
    names: NameServer,
) -> None:
    async def run() -> str:
        lookups = Lookups(each=2)
        dead = [looked_up(lookups, "a", f"{n}.dead.test") for n in range(2)]

        async with under_way(*dead):
            await until(lambda: len(names.open) == 2)
            async with under_way(looked_up(lookups, "a", "shared.good.test")), asyncio.timeout(9):
                return await looked_up(lookups, "b", "shared.good.test")

    assert asyncio.run(run()) == "127.0.0.1"


def test_a_look_up_that_is_given_up_keeps_its_slot_until_it_is_answered(
    names: NameServer,
) -> None:
    """Its thread cannot be stopped, so a new one would come on top."""

    async def run() -> None:
        lookups = Lookups(each=2)
        for _ in range(3):
            async with under_way(*(looked_up(lookups, "a", f"{n}.dead.test") for n in range(4))):
                await until(lambda: len(names.open) >= 2)
                await looked_up(lookups, "b", f"{id(object())}.good.test")

    asyncio.run(run())

    assert names.most == 2


def test_an_answer_is_kept_for_a_while_and_addresses_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def answer(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", answer)

    async def run() -> list[str]:
        lookups = Lookups()
        first = [await looked_up(lookups, t, "a.test") for t in "abc"]
        monkeypatch.setattr(resolver, "CACHE_SECONDS", 0.0)
        await looked_up(lookups, "a", "b.test")
        await looked_up(lookups, "a", "b.test")
        return first

    found = asyncio.run(run())

    assert asked == ["a.test", "b.test", "b.test"]
    assert set(found) == {"127.0.0.1", "127.0.0.2"}
