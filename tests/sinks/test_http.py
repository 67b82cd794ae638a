"""The client that obeys the guard, apart from any sink."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import aiohttp
import pytest

from evoflask.dev.receiver import Receiver
from evoflask.net.http import session
from evoflask.net.resolver import ForbiddenAddress, GuardedResolver
from evoflask.sinks._http import translate

LOOPBACK = (ipaddress.IPv4Network("127.0.0.0/8"),)


def get(url: str, allow: tuple[ipaddress.IPv4Network, ...]) -> int:
    async def run() -> int:
        async with (
            session(allow, connect_timeout=5, limit=10) as client,
            client.get(url, allow_redirects=False) as response,
        ):
            return response.status

    return asyncio.run(run())


def test_a_name_whose_addresses_are_all_inside_is_forbidden() -> None:
    async def run() -> None:
        await GuardedResolver(()).resolve("localhost", 80)

    with pytest.raises(ForbiddenAddress):
        asyncio.run(run())


def test_what_is_answered_is_what_is_connected_to() -> None:
    async def run() -> list[str]:
        answers = await GuardedResolver(LOOPBACK).resolve("localhost", 80, socket.AF_INET)
        return [answer["host"] for answer in answers]

    assert set(asyncio.run(run())) == {"127.0.0.1"}


def test_a_name_that_does_not_exist_raises_what_aiohttp_expects() -> None:
    async def run() -> None:
        await GuardedResolver(LOOPBACK).resolve("nobody.invalid", 80)

    with pytest.raises(OSError):
        asyncio.run(run())


def test_a_literal_is_refused_at_the_socket() -> None:
    with Receiver() as receiver:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            get(receiver.url(), ())

        assert isinstance(caught.value.os_error, ForbiddenAddress)
        assert receiver.count() == 0


def test_what_is_allowed_is_reached() -> None:
    with Receiver() as receiver:
        assert get(receiver.url(), LOOPBACK) == 200


def test_a_lookup_that_is_given_up_leaves_nothing_behind() -> None:
    async def run() -> bool:
        task = asyncio.create_task(GuardedResolver(LOOPBACK).resolve("localhost", 80))
        await asyncio.sleep(0)
        task.cancel()
        [result] = await asyncio.gather(task, return_exceptions=True)
        return isinstance(result, asyncio.CancelledError)

    assert asyncio.run(run())


def _told_by(server: str) -> str:
    """Return the detail of an attempt by https at a server that speaks no TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        if server == "plain":
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def run() -> str:
        async with await asyncio.start_server(answer, "127.0.0.1") as listening:
            port = listening.sockets[0].getsockname()[1]
            async with session(LOOPBACK, connect_timeout=60, limit=1) as client:
                try:
                    async with client.get(f"https://127.0.0.1:{port}/"):
                        return ""
                except aiohttp.ClientError as error:
                    return translate(error, sent=False).detail

    return asyncio.run(run())


@pytest.mark.parametrize("server", ["plain", "silent"])
def test_tls_to_a_plain_port_says_so(server: str) -> None:
    detail = _told_by(server)

    if server == "plain":
        assert detail.startswith("no TLS connection: ")
        assert detail.endswith("the port may not speak TLS: try http:// instead of https://")
    else:
        assert detail  # the system decides whether a closed connection is an error of TLS


def test_a_forbidden_address_names_the_setting() -> None:
    assert "WEBHOOK_ALLOW_NETWORKS" in str(ForbiddenAddress("a.example", "private"))
    assert "WEBHOOK_ALLOW_NETWORKS" not in str(ForbiddenAddress("a.example", "metadata service"))
