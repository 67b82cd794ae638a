"""The client that obeys the guard, apart from any sink."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import aiohttp
import pytest

from evoflask.dev.receiver import Receiver
from evoflask.net.http import ForbiddenAddress, GuardedResolver, session

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
