"""One connection to the broker: how it is made, its end, and a channel on it for each exchange.

Knows what the broker refused, and nothing of subscriptions and of what an ending means.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable

import pika
from pika import exceptions
from pika.connection import Connection as AnyConnection

from evoflask.sinks._rabbitmq_channel import Ended, Exchange, Gate
from evoflask.sinks._rabbitmq_frames import Connection

HEARTBEAT = 15
"""Seconds, where RABBITMQ_URI says nothing else; after about two of them a silent broker is
taken for lost."""
CONNECT_SECONDS = 10.0
"""For the name, TCP, TLS and the handshake, each address of the broker."""
REMEMBERED = 5.0
"""Seconds for which an exchange is not tried again after the broker refused it."""
CHANNELS = 1000
"""Exchanges that have a channel at once; those not used for longest go first."""
CLOSE_SECONDS = 2.0


class BadUri(Exception):
    """RABBITMQ_URI cannot be used."""


def server_of(uri: str) -> str:
    """Host and port that RABBITMQ_URI names; "": it cannot be used."""
    try:
        parameters = _parameters(uri)
    except BadUri:
        return ""
    return f"{parameters.host}:{parameters.port}"


class Link:
    """One connection and its channels, from the first packet to the end. Not used again."""

    def __init__(self, uri: str, on_end: Callable[[Link, BaseException], None]) -> None:
        parameters = _parameters(uri)
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._exchanges: OrderedDict[str, Exchange] = OrderedDict()
        self._refused: dict[str, tuple[float, BaseException]] = {}
        self.gate = Gate()
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.ended = asyncio.Event()
        self.opened_at = 0.0
        self.connection = Connection(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._loop,
        )
        self.connection.add_on_connection_blocked_callback(self._on_blocked)
        self.connection.add_on_connection_unblocked_callback(self._on_unblocked)

    @property
    def address(self) -> str:
        """The broker's, as far as there is a connection."""
        return self.connection.address

    def exchange(self, name: str) -> Exchange:
        """Its channel, opened where there is none. Raises `Ended`."""
        found = self._exchanges.get(name)
        if found is not None:
            self._exchanges.move_to_end(name)
            return found
        until, error = self._refused.get(name, (0.0, None))
        if error is not None:
            if self._loop.time() < until:
                raise Ended(error)
            del self._refused[name]
        self._make_room()
        made = self._exchanges[name] = Exchange(self.connection, name, self._forget)
        return made

    async def close(self) -> None:
        """Ends it: what is under way is ambiguous."""
        if self.ended.is_set():
            return
        with contextlib.suppress(exceptions.AMQPError):
            self.connection.close()
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.ended.wait()
                    return
            self.connection.drop(exceptions.StreamLostError("closed"))

    def _forget(self, exchange: Exchange, error: BaseException, remember: bool) -> None:
        """Its channel is closed."""
        if self._exchanges.get(exchange.name) is exchange:
            del self._exchanges[exchange.name]
        if remember:
            if len(self._refused) >= CHANNELS:
                del self._refused[next(iter(self._refused))]
            self._refused[exchange.name] = self._loop.time() + REMEMBERED, error

    def _make_room(self) -> None:
        allowed = self.connection.params.channel_max or CHANNELS
        if len(self._exchanges) < min(CHANNELS, max(1, allowed // 2)):
            return
        idle = next((each for each in self._exchanges.values() if each.idle), None)
        if idle is None:
            raise Ended(exceptions.NoFreeChannels())
        del self._exchanges[idle.name]
        idle.close()

    def _on_open(self, _: AnyConnection) -> None:
        self.opened_at = self._loop.time()
        self.gate.open()

    def _on_lost(self, _: AnyConnection, error: BaseException) -> None:
        self.ended.set()
        self._on_end(self, error)
        self.gate.fail(error)
        for each in list(self._exchanges.values()):
            each.fail(error)
        self.unblocked.set()

    def _on_blocked(self, _: AnyConnection, frame: object) -> None:
        self.unblocked.clear()

    def _on_unblocked(self, _: AnyConnection, frame: object) -> None:
        self.unblocked.set()


def _parameters(uri: str) -> pika.URLParameters:
    """Raises `Ended`, without what is in the URI."""
    try:
        parameters = pika.URLParameters(uri)
        if not parameters.host:
            raise ValueError
    except Exception as error:
        raise Ended(BadUri()) from error
    parameters.connection_attempts = 1  # retries are ours
    parameters.socket_timeout = parameters.stack_timeout = CONNECT_SECONDS
    if parameters.heartbeat is None:
        parameters.heartbeat = HEARTBEAT
    if not parameters.client_properties:
        parameters.client_properties = {"connection_name": "evoflask"}
    return parameters
