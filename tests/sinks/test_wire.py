"""Posts over kept connections, against servers that answer as no library would."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import pytest
from yarl import URL

from evoflask.net import pool
from evoflask.net.answers import Answer
from evoflask.net.http import Door
from evoflask.net.pool import Wires
from evoflask.net.wire import NotHttp

LOOPBACK = (ipaddress.IPv4Network("127.0.0.0/8"),)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Raw:
    """A server that does `talk` with each connection."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> URL:
        return URL(f"http://127.0.0.1:{self.port}/")

    async def request(self, reader: asyncio.StreamReader) -> None:
        """Reads one to its end. Raises IncompleteReadError where none comes."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head + await reader.readexactly(_length(head)))


def _length(head: bytes) -> int:
    return int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])


@contextlib.asynccontextmanager
async def served(talk: Callable[[Raw], Talk]) -> AsyncIterator[tuple[Raw, Wires]]:
    """Yield a server, and wires to it."""
    raw = Raw()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.connections += 1
        with contextlib.suppress(OSError, EOFError):
            await talk(raw)(reader, writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    raw.port = server.sockets[0].getsockname()[1]
    door = Door(LOOPBACK, connect_timeout=10)
    wires = Wires(door)
    try:
        async with asyncio.timeout(60):
            yield raw, wires
    finally:
        wires.close()
        await door.close()
        server.close()


def answering(*answers: bytes) -> Callable[[Raw], Talk]:
    """Answers one request after the other with these, and waits then until the client goes."""

    def of(raw: Raw) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in answers:
                await raw.request(reader)
                writer.write(answer)
            await reader.read()

        return talk

    return of


async def post(
    wires: Wires, url: URL, content: bytes = b"{}", *, spare: int = 100, owner: str = "a"
) -> Answer:
    """Send one request, and give its wire back."""
    one = await wires.wire(owner, url.origin())
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
    try:
        answer = await one.post(head, content, keep=8, most=1000, spare=spare)
        await one.rest(2)
    finally:
        wires.give_back(one)
    return answer


def test_a_connection_is_used_again_until_the_answer_says_that_it_ends() -> None:
    async def run() -> None:
        last = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        async with served(answering(OK, OK, last)) as (raw, wires):
            for _ in range(4):
                answer = await post(wires, raw.url)
                assert (answer.status, answer.body, answer.whole) == (200, b"ok", True)

            assert (len(raw.requests), raw.connections) == (4, 2)

    asyncio.run(run())


@pytest.mark.parametrize(
    "second",
    [b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"H", b"nonsense"],
)
def test_what_follows_an_answer_is_nobodys(second: bytes) -> None:
    async def run() -> None:
        async with served(answering(OK + second)) as (raw, wires):
            for _ in range(3):
                assert (await post(wires, raw.url)).status == 200

            assert raw.connections == 3  # no one of them is trusted again

    asyncio.run(run())


def test_an_answer_that_comes_before_its_request_is_not_taken_for_it() -> None:
    def of(raw: Raw) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await raw.request(reader)
            writer.write(OK)
            if raw.connections == 1:
                await writer.drain()
                await ahead.wait()
                writer.write(b"HTTP/1.1 204 Forged\r\n\r\n")
                await writer.drain()
                sent.set()
            await reader.read()

        return talk

    ahead, sent = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        async with served(of) as (raw, wires):
            await post(wires, raw.url)
            ahead.set()
            await sent.wait()
            assert (await post(wires, raw.url)).status == 200
            assert raw.connections == 2

    asyncio.run(run())


def test_what_is_said_in_between_is_no_answer() -> None:
    async def run() -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3
        async with served(answering(b"HTTP/1.1 100 Continue\r\n\r\n" + hints + OK)) as (raw, wires):
            answer = await post(wires, raw.url)

            assert (answer.status, answer.header(b"link")) == (200, None)

    asyncio.run(run())


def test_an_upgrade_nobody_asked_for_ends_the_connection() -> None:
    async def run() -> None:
        upgrade = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw"
        async with served(answering(upgrade)) as (raw, wires):
            assert (await post(wires, raw.url)).status == 101
            assert (await post(wires, raw.url)).status == 101
            assert raw.connections == 2

    asyncio.run(run())


@pytest.mark.parametrize(("status", "taken"), [(200, 1000), (500, 100)])
def test_a_body_beyond_its_bound_ends_the_connection(status: int, taken: int) -> None:
    async def run() -> None:
        head = b"HTTP/1.1 %d Well\r\nContent-Length: 5000\r\n\r\n" % status
        async with served(answering(head + b"x" * 5000)) as (raw, wires):
            answer = await post(wires, raw.url)

            assert (answer.status, answer.whole) == (status, False)
            assert answer.size > taken
            assert len(answer.body) <= 100
            await post(wires, raw.url)
            assert raw.connections == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok", aiohttp.ClientPayloadError),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
            aiohttp.ClientPayloadError,
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Le", aiohttp.ClientConnectionError),
        (b"", aiohttp.ServerDisconnectedError),
        (b"SSH-2.0-OpenSSH\r\n", NotHttp),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            NotHttp,
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
            NotHttp,
        ),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2_100 + b"\r\n", NotHttp),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000 + b"\r\n\r\n", NotHttp),
    ],
)
def test_an_answer_that_is_none(answer: bytes, raised: type[Exception]) -> None:
    def of(raw: Raw) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await raw.request(reader)
            writer.write(answer)
            await writer.drain()

        return talk

    async def run() -> None:
        async with served(of) as (raw, wires):
            with pytest.raises(raised):
                await post(wires, raw.url)
            assert raw.requests
            assert not wires.idle

    asyncio.run(run())


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    def of(raw: Raw) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await raw.request(reader)
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nas it is")
            await writer.drain()

        return talk

    async def run() -> None:
        async with served(of) as (raw, wires):
            answer = await post(wires, raw.url)

            assert (answer.body, answer.whole) == (b"as it is", True)

    asyncio.run(run())


def test_a_large_request_stops_where_the_answer_comes_first() -> None:
    def of(raw: Raw) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            await read_on.wait()

        return talk

    read_on = asyncio.Event()

    async def run() -> None:
        async with served(of) as (raw, wires):
            answer = await post(wires, raw.url, b"x" * 30_000_000)

            assert answer.status == 413
            assert not wires.idle  # half a request is under way on it
            read_on.set()

    asyncio.run(run())


def test_a_large_request_arrives_whole() -> None:
    async def run() -> None:
        async with served(answering(OK, OK)) as (raw, wires):
            body = bytes(range(256)) * 20_000
            assert (await post(wires, raw.url, body)).status == 200
            assert (await post(wires, raw.url)).status == 200

            assert raw.requests[0].endswith(body)
            assert raw.connections == 1

    asyncio.run(run())


def test_one_that_is_given_up_closes_its_connection() -> None:
    gone = asyncio.Event()

    def of(raw: Raw) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await raw.request(reader)
            with contextlib.suppress(OSError):
                await reader.read()
            gone.set()

        return talk

    async def run() -> None:
        async with served(of) as (raw, wires):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await post(wires, raw.url)
            await gone.wait()
            assert not wires.idle

    asyncio.run(run())


def test_a_connection_that_rests_too_long_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEEPALIVE_SECONDS", 0.2)
    gone = asyncio.Event()

    def of(raw: Raw) -> Talk:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await raw.request(reader)
            writer.write(OK)
            with contextlib.suppress(OSError):
                await reader.read()
            gone.set()

        return talk

    async def run() -> None:
        async with served(of) as (raw, wires):
            await post(wires, raw.url)
            await gone.wait()
            assert not wires.idle

    asyncio.run(run())
