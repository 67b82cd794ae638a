"""An exchange's channel: declared, in confirm mode, and which message each confirm is for.

Nothing here knows what an ending means: a message ends well, or by an exception, and what that
says of an attempt is for `rabbitmq.translate`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from pika import exceptions, spec
from pika.channel import Channel

from evoflask.sinks._rabbitmq_frames import Connection, Properties

MAX_UNSENT = 64 * 1024 * 1024
"""Bytes handed over and not yet taken by the broker, above which nothing is added."""
_TOO_LARGE = re.compile(r"message size \d+.* max\w* (?:message )?size (\d+)")


class Ended(Exception):
    """It could not be tried: `error` is why. Made anew for each who asks, since what is raised
    keeps the stacks of all who raised it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Busy(Exception):
    """The broker does not read."""


class Nacked(Exception):
    """The broker did not take the message."""


class Returned(Exception):
    """The broker found no place for the message, and said so by `basic.return`."""

    def __init__(self, code: int, text: str, key: str) -> None:
        self.code, self.text, self.key = code, text, key


class TooLarge(Exception):
    """The message is larger than the broker takes, in bytes."""

    def __init__(self, size: int, limit: int) -> None:
        self.size, self.limit = size, limit


class Message(NamedTuple):
    key: str
    mandatory: bool
    id: str
    properties: Properties
    body: bytes


class Flight:
    """The messages of one call, from their writing to the last confirm."""

    __slots__ = ("done", "failed", "left", "messages", "sent", "waits")

    def __init__(self, size: int) -> None:
        self.messages: list[Message] = []
        """None once nobody waits for them any more."""
        self.left = set(range(size))
        """Those that have not ended."""
        self.failed: dict[int, BaseException] = {}
        """Why, of those that ended otherwise than by an ack."""
        self.sent = False
        self.waits = False
        """Whether the broker asked for silence."""
        self.done = asyncio.get_running_loop().create_future()

    def end(self, n: int, error: BaseException | None = None) -> None:
        """How one of them ended; the first word counts."""
        if n not in self.left:
            return
        self.left.remove(n)
        if error is not None:
            self.failed[n] = error
        if not self.left and not self.done.done():
            self.done.set_result(None)


class Gate:
    """What has to happen first, or why it did not. Waited for by any number of calls, each of
    which may be cancelled."""

    __slots__ = ("_error", "_event")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._error: BaseException | None = None

    @property
    def is_open(self) -> bool:
        return self._event.is_set() and self._error is None

    def open(self) -> None:
        self._event.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._event.set()

    async def passed(self) -> None:
        if not self._event.is_set():
            await self._event.wait()
        if self._error is not None:
            raise Ended(self._error)


class Exchange:
    """An exchange, declared, and the channel on which it is published to.

    `on_end` is called when it ends, with why and whether the broker would say the same again.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        on_end: Callable[[Exchange, BaseException, bool], None],
    ) -> None:
        self.name = name
        self.gate = Gate()
        self.open = False
        self._connection, self._on_end = connection, on_end
        self._passive = False
        self._under_way: dict[int, tuple[Flight, int]] = {}
        """By delivery tag, in order."""
        self._next = 1
        self._lowest = 1
        """Below it all are confirmed."""
        self._returned = 0
        """The tag that was returned last: returns come in the order of publishing."""
        self._begin()

    @property
    def idle(self) -> bool:
        return self.open and not self._under_way

    def publish(self, flight: Flight) -> None:
        """All of them at once; each ends by its confirm."""
        limit, publish = self._connection.limit, self._channel.basic_publish
        if self._connection.unsent > MAX_UNSENT:
            raise Ended(Busy())
        for n, (key, mandatory, _, properties, body) in enumerate(flight.messages):
            if limit is not None and len(body) > limit:
                flight.end(n, TooLarge(len(body), limit))
                continue
            publish(self.name, key, body, properties, mandatory)
            flight.sent = True
            self._under_way[self._next] = flight, n
            self._next += 1

    def fail(self, error: BaseException) -> None:
        """The channel is gone."""
        was_open, self.open = self.gate.is_open, False
        by_broker = isinstance(error, exceptions.ChannelClosedByBroker)
        limit = _limit_of(error)
        if limit is not None:
            self._connection.limit = limit
        # What worked may work again at once, but for a permission that was taken away: without
        # the right to write a declaration may succeed each time, and nothing after it.
        refused = not was_open or getattr(error, "reply_code", 0) == 403
        self._on_end(self, error, by_broker and refused and limit is None)
        self.gate.fail(error)
        under_way, self._under_way = self._under_way, {}
        for flight, n in under_way.values():
            if flight.messages:
                size = len(flight.messages[n].body)
                large = limit is not None and size > limit
                flight.end(n, TooLarge(size, limit or 0) if large else error)

    def close(self) -> None:
        """Of an idle one."""
        self.open = False
        with contextlib.suppress(exceptions.AMQPError):
            self._channel.close()

    def _begin(self) -> None:
        self._channel: Channel = self._connection.channel(on_open_callback=self._on_open)
        self._channel.add_on_close_callback(self._on_close)
        self._channel.add_on_return_callback(self._on_return)

    def _on_open(self, channel: Channel) -> None:
        channel.exchange_declare(
            self.name, "topic", passive=self._passive, durable=True, callback=self._on_declared
        )

    def _on_declared(self, _: Any) -> None:
        self._channel.confirm_delivery(self._on_confirm, self._on_selected)

    def _on_selected(self, _: Any) -> None:
        self.open = True
        self.gate.open()

    def _on_close(self, _: Channel, error: BaseException) -> None:
        denied = isinstance(error, exceptions.ChannelClosedByBroker) and error.reply_code == 403
        if denied and not self._passive and not self.open and self._connection.is_open:
            # Who may not declare may still publish to what somebody else has declared.
            self._passive = True
            self._begin()
            return
        self.fail(error)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        error = Nacked() if isinstance(method, spec.Basic.Nack) else None
        tag, under_way = method.delivery_tag, self._under_way
        if method.multiple:
            for each in range(self._lowest, tag + 1):
                if (found := under_way.pop(each, None)) is not None:
                    found[0].end(found[1], error)
            self._lowest = max(self._lowest, tag + 1)
        elif (found := under_way.pop(tag, None)) is not None:
            found[0].end(found[1], error)
            if tag == self._lowest:
                self._lowest += 1

    def _on_return(self, _: Channel, method: Any, properties: Any, body: bytes) -> None:
        """Comes before the confirm of the same message."""
        wanted = properties.message_id, method.routing_key
        for tag in range(max(self._lowest, self._returned + 1), self._next):
            flight, n = self._under_way.get(tag, (None, 0))
            if flight is None or not flight.messages:
                continue
            message = flight.messages[n]
            if message.mandatory and (message.id, message.key) == wanted:
                self._returned = tag
                flight.end(n, Returned(method.reply_code, method.reply_text, message.key))
                return


def _limit_of(error: BaseException) -> int | None:
    if not isinstance(error, exceptions.ChannelClosedByBroker):
        return None
    found = _TOO_LARGE.search(error.reply_text)
    return int(found[1]) if found else None
