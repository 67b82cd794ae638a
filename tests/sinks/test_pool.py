"""Kept connections belong to one subscription, also if a server sends unasked answers."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import threading
import time
from asyncio import sslproto
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from yarl import URL

from evoflask.net import pool, tls
from evoflask.net.http import Door
from evoflask.net.pool import Sessions, Wires
from evoflask.net.wire import Wire
from evoflask.sinks.base import Attempt, Outcome
from evoflask.sinks.webhook import WebhookSink
from tests.certificates import self_signed
from tests.sinks.answers import OK, proxying, read_request, server
from tests.sinks.harness import LOOPBACK, delivery, settings, target

NO = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
PATIENCE = 30.0


# Another tenant's answer


def two_faced(connection: socket.socket) -> None:
    """Answer `/late/<ms>` twice, the second time `ms` later. Answer `/victim` by 503."""
    while True:
        path = read_request(connection).split(b" ")[1]
        if path.endswith(b"/victim"):
            connection.sendall(NO)
            continue
        connection.sendall(OK)
        time.sleep(int(path.rpartition(b"/")[2]) / 1000)
        connection.sendall(OK)


@pytest.mark.parametrize("through", ["directly", "proxy"])
@pytest.mark.parametrize("late", [1, 5, 50, 200])
def test_an_answer_that_another_tenants_server_was_not_asked_for_is_never_ours(
    late: int, through: str
) -> None:
    ended: list[Attempt] = []

    async def run(sink: WebhookSink, port: int) -> None:
        end = time.monotonic() + 1.5
        base = f"http://127.0.0.1:{port}"
        attacker = target("webhook", sid="a", url=f"{base}/late/{late}", timeout=PATIENCE)
        victim = target("webhook", sid="b", url=f"{base}/victim", timeout=PATIENCE)
        while time.monotonic() < end:
            await sink.deliver([delivery(attacker)])
            await asyncio.sleep(late / 1000 * 0.98)
            ended.extend(await sink.deliver([delivery(victim)]))
        await sink.close()

    with server(two_faced) as port, server(proxying) as proxy:
        over = f"http://127.0.0.1:{proxy}" if through == "proxy" else ""
        sink = WebhookSink(settings(webhook_connect_timeout=PATIENCE, outbound_proxy=over))
        asyncio.run(run(sink, port))

    assert ended
    assert {(one.outcome, one.code) for one in ended} == {(Outcome.REFUSED, "503")}


def failing_twice(connection: socket.socket) -> None:
    """Answer 503 and, 20 ms later, a 200 that no request asked for."""
    while read_request(connection):
        connection.sendall(NO)
        time.sleep(0.02)
        connection.sendall(OK)


def test_a_late_success_behind_a_failure_is_not_the_answer_to_the_next_request() -> None:
    async def run(sink: WebhookSink, port: int) -> list[Attempt]:
        made = target("webhook", sid="a", url=f"http://127.0.0.1:{port}/", timeout=PATIENCE)
        ended = []
        for _ in range(20):
            ended.extend(await sink.deliver([delivery(made)]))
            await asyncio.sleep(0.018)
        await sink.close()
        return ended

    with server(failing_twice) as port:
        sink = WebhookSink(settings(webhook_connect_timeout=PATIENCE))
        ended = asyncio.run(run(sink, port))

    assert {(one.outcome, one.code) for one in ended} == {(Outcome.REFUSED, "503")}


def test_redirects_of_two_tenants_to_one_place_share_no_connection() -> None:
    connections: dict[bytes, set[socket.socket]] = {}

    def talk(connection: socket.socket) -> None:
        while True:
            path = read_request(connection).split(b" ")[1]
            connections.setdefault(path, set()).add(connection)
            if path.startswith(b"/from"):
                place = b"/to" + path[5:]
                head = b"HTTP/1.1 307 Moved\r\nLocation: " + place + b"\r\n"
                connection.sendall(head + b"Content-Length: 0\r\n\r\n")
            else:
                connection.sendall(OK)

    async def run(port: int) -> None:
        sink = WebhookSink(settings(webhook_connect_timeout=PATIENCE))
        for n in range(6):
            name = "ab"[n % 2]
            url = f"http://127.0.0.1:{port}/from/{name}"
            await sink.deliver([delivery(target("webhook", sid=name, url=url))])
        await sink.close()

    with server(talk) as port:
        asyncio.run(run(port))

    of_a, of_b = (connections[b"/from/" + n] | connections[b"/to/" + n] for n in (b"a", b"b"))
    assert len(of_a) == len(of_b) == 1
    assert not of_a & of_b


# An answer before its request was sent


def answering_first(status: bytes, served: int) -> Callable[[socket.socket], None]:
    """Read whole requests, `served` of them, then answer the next one at its head."""

    def talk(connection: socket.socket) -> None:
        for _ in range(served):
            read_request(connection)
            connection.sendall(OK)
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        time.sleep(0.5)
        while connection.recv(1_000_000):
            pass

    return talk


@pytest.mark.parametrize(
    ("status", "served", "outcome", "code"),
    [
        (b"200 OK", 0, Outcome.AMBIGUOUS, "early-answer"),
        (b"204 OK", 1, Outcome.AMBIGUOUS, "early-answer"),
        (b"413 No", 0, Outcome.REJECTED, "413"),
        (b"410 No", 1, Outcome.AMBIGUOUS, "early-answer"),
    ],
)
def test_an_answer_before_the_whole_request_was_sent_proves_nothing(
    status: bytes, served: int, outcome: Outcome, code: str
) -> None:
    async def run(port: int) -> Attempt:
        sink = WebhookSink(settings(webhook_connect_timeout=PATIENCE))
        to = target("webhook", url=f"http://127.0.0.1:{port}/", timeout=PATIENCE)
        for _ in range(served):
            assert (await sink.deliver([delivery(to)]))[0].outcome is Outcome.DELIVERED
        large = delivery(to, data=b'"' + b"x" * 30_000_000 + b'"')
        [attempt] = await sink.deliver([large])
        await sink.close()
        return attempt

    with server(answering_first(status, served)) as port:
        attempt = asyncio.run(run(port))

    assert (attempt.outcome, attempt.code) == (outcome, code)


# Within a pool


@contextlib.asynccontextmanager
async def pooled(context: ssl.SSLContext | None = None, **bounds: int) -> AsyncIterator[Wires]:
    door = Door((LOOPBACK,), connect_timeout=PATIENCE, ssl_context=context)
    wires = Wires(door, **bounds)
    try:
        yield wires
    finally:
        wires.close()
        await door.close()


async def ask(wires: Wires, owner: str, origin: URL) -> Wire:
    """Send a request and give its connection back. Return the connection."""
    wire = await wires.wire(owner, origin)
    try:
        head = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n"
        answer = await wire.post(head, b"{}", keep=100, most=1_000, spare=100)
        assert answer.status == 200
    finally:
        wires.give_back(wire)
    return wire


@pytest.mark.parametrize("more", [b"H", OK, b""], ids=["a byte", "an answer", "the end"])
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_a_connection_with_something_in_the_kernel_is_not_used_again(
    more: bytes, secured: bool, tmp_path: Path
) -> None:
    """The loop is blocked meanwhile, so asyncio has delivered nothing."""
    go = threading.Event()
    certificate = self_signed(tmp_path, together=True)[0]
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)

    def talk(connection: socket.socket) -> None:
        if secured:
            connection = serving.wrap_socket(connection, server_side=True)
        read_request(connection)
        connection.sendall(OK)
        assert go.wait(PATIENCE)
        if more:
            connection.sendall(more)
        else:
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(1_000):
            pass

    async def run(port: int) -> None:
        trusting = ssl.create_default_context(cafile=str(certificate))
        origin = URL(f"{'https' if secured else 'http'}://127.0.0.1:{port}")
        async with pooled(trusting) as wires:
            first = await ask(wires, "a", origin)
            assert wires.idle == 1
            watched = select.poll()
            watched.register(first._transport.get_extra_info("socket").fileno(), select.POLLIN)
            go.set()
            assert watched.poll(PATIENCE * 1000)

            second = await wires.wire("a", origin)

            assert second is not first
            wires.give_back(second)

    with server(talk) as port:
        asyncio.run(run(port))


def keeping(connection: socket.socket) -> None:
    """Answer every request."""
    while True:
        read_request(connection)
        connection.sendall(OK)


def test_an_owner_keeps_a_bounded_number_of_connections() -> None:
    async def run(port: int) -> None:
        origin = URL(f"http://127.0.0.1:{port}")
        async with pooled(each=3) as wires:
            busy = [await wires.wire("a", origin) for _ in range(6)]
            for wire in busy:
                wires.give_back(wire)

            assert wires.idle == 3
            assert [each.free for each in busy] == [False] * 3 + [True] * 3

    with server(keeping) as port:
        asyncio.run(run(port))


def test_of_all_connections_the_one_that_was_idle_longest_goes_first() -> None:
    async def run(port: int) -> None:
        origin = URL(f"http://127.0.0.1:{port}")
        async with pooled(most=10) as wires:
            made = [await ask(wires, f"s{n}", origin) for n in range(10)]
            await ask(wires, "s0", origin)
            assert wires.idle == 10

            more = [await wires.wire(f"t{n}", origin) for n in range(4)]

            assert wires.idle == 6
            assert [each.free for each in made] == [True] + [False] * 4 + [True] * 5
            for wire in more:
                wires.give_back(wire)
            assert wires.idle == 10

    with server(keeping) as port:
        asyncio.run(run(port))


def test_a_door_closes_while_requests_are_under_way() -> None:
    async def run(port: int) -> None:
        door = Door((LOOPBACK,), connect_timeout=PATIENCE)
        wires = Wires(door)
        wire = await wires.wire("a", URL(f"http://127.0.0.1:{port}"))
        wires.close()
        async with asyncio.timeout(PATIENCE):
            await door.close()
        assert wire.free
        wire.close()

    with server(keeping) as port:
        asyncio.run(run(port))


def test_connections_in_use_are_never_closed_for_room() -> None:
    async def run(port: int) -> None:
        origin = URL(f"http://127.0.0.1:{port}")
        async with pooled(most=2) as wires:
            busy = [await wires.wire(f"s{n}", origin) for n in range(5)]
            assert all(each.free for each in busy)
            for wire in busy:
                wires.give_back(wire)
            assert wires.idle == 2

    with server(keeping) as port:
        asyncio.run(run(port))


# TLS


class Secured:
    """A TLS server that counts which handshakes resumed a session."""

    def __init__(self, folder: Path, version: ssl.TLSVersion) -> None:
        certificate = self_signed(folder, together=True)[0]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._context.maximum_version = version
        self.trusting = ssl.create_default_context(cafile=str(certificate))
        self.resumed: list[bool] = []

    def talk(self, connection: socket.socket) -> None:
        with self._context.wrap_socket(connection, server_side=True) as secured:
            read_request(secured)
            self.resumed.append(bool(secured.session_reused))
            secured.sendall(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            with contextlib.suppress(OSError):
                secured.unwrap()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("through", ["directly", "tunnel"])
def test_a_tls_session_is_resumed_for_its_own_subscription_alone(
    tmp_path: Path, version: ssl.TLSVersion, through: str
) -> None:
    secured = Secured(tmp_path, version)

    async def run(sink: WebhookSink, port: int) -> None:
        for sid in ("a", "a", "b", "b", "a", "b"):
            to = target("webhook", sid=sid, url=f"https://127.0.0.1:{port}/", timeout=PATIENCE)
            assert (await sink.deliver([delivery(to)]))[0].outcome is Outcome.DELIVERED
        await sink.close()

    with server(secured.talk) as port, server(proxying) as proxy:
        over = f"http://127.0.0.1:{proxy}" if through == "tunnel" else ""
        config = settings(webhook_connect_timeout=PATIENCE, outbound_proxy=over)
        asyncio.run(run(WebhookSink(config, ssl_context=secured.trusting), port))

    assert secured.resumed == [False, True, False, True, True, True]


def test_a_test_of_a_subscription_resumes_nothing(tmp_path: Path) -> None:
    from evoflask.delivery.trials import send

    secured = Secured(tmp_path, ssl.TLSVersion.TLSv1_3)

    async def run(sink: WebhookSink, port: int) -> None:
        one = delivery(target("webhook", url=f"https://127.0.0.1:{port}/", timeout=PATIENCE))
        await sink.deliver([one])
        told = await send(sink, one)
        assert told["tls"]["certificate"]["subject"]
        await sink.close()

    with server(secured.talk) as port:
        config = settings(webhook_connect_timeout=PATIENCE)
        asyncio.run(run(WebhookSink(config, ssl_context=secured.trusting), port))

    assert secured.resumed == [False, False]


def test_sessions_are_forgotten_by_age_and_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secured = Secured(tmp_path, ssl.TLSVersion.TLSv1_3)
    monkeypatch.setattr(pool, "SESSIONS", 2)

    async def run(port: int) -> None:
        origin = URL(f"https://127.0.0.1:{port}")
        sessions = Sessions()
        async with pooled(secured.trusting) as wires:
            for owner in "abc":
                wire = await ask(wires, owner, origin)
                assert wire.secured is not None
                sessions.put(owner, origin, wire.secured)
        assert [sessions.get(owner, origin) is not None for owner in "abc"] == [False, True, True]
        monkeypatch.setattr(pool, "SESSION_SECONDS", -1.0)
        assert sessions.get("b", origin) is None

    with server(secured.talk) as port:
        asyncio.run(run(port))


def test_a_tls_connection_holds_a_small_buffer(tmp_path: Path) -> None:
    secured = Secured(tmp_path, ssl.TLSVersion.TLSv1_3)

    async def run(port: int) -> int:
        async with pooled(secured.trusting) as wires:
            wire = await wires.wire("a", URL(f"https://127.0.0.1:{port}"))
            found = wire._transport._ssl_protocol  # type: ignore[attr-defined]
            assert isinstance(found, sslproto.SSLProtocol)
            wires.give_back(wire)
            return len(found._ssl_buffer)  # type: ignore[attr-defined]

    with server(secured.talk) as port:
        assert asyncio.run(run(port)) <= tls.BUFFER
