"""RabbitMQ: one persistent message an event, to a durable topic exchange.

Delivered means: the broker confirmed the message (`basic.ack`). Because it was published
`mandatory` and was not returned, it lies in at least one queue, on disk where that queue is
durable, on a majority of its members where it is a quorum queue. With `mandatory` false a
confirm is all that it means: where no queue is bound the broker drops the message.

One connection a process, in the drain's loop, and a channel an exchange: what the broker
closes a channel for (an exchange that is of another type, no permission, a message that is
too large) is the matter of that exchange alone. What it said is remembered for `REMEMBERED`
seconds, so that a wrong exchange is not declared again for each event.

Confirms are gathered: all messages of a call are written at once and end by one future,
whatever number of acks they come in. A broker under a memory or disk alarm blocks its
publishers; then nothing more is sent and deliveries wait for as long as they have, which
fills the drain's slots and leaves the events on their lanes: backpressure, and no attempt is
charged before its time is over.

A lost connection is built again by the delivery that needs it; after a failure that waits,
and what comes meanwhile ends at once with the last reason.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import re
import socket
import ssl
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pika import exceptions
from pika.adapters.utils import connection_workflow as workflow

from evoflask import formats, signing
from evoflask.net import story
from evoflask.net.story import Story
from evoflask.plurals import counted
from evoflask.settings import Settings
from evoflask.sinks._rabbitmq_channel import (
    Busy,
    Ended,
    Exchange,
    Flight,
    Message,
    Nacked,
    Returned,
    TooLarge,
)
from evoflask.sinks._rabbitmq_frames import Properties
from evoflask.sinks._rabbitmq_link import REMEMBERED, BadUri, Link, server_of
from evoflask.sinks._schemes import is_plain_port, no_tls
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink, Target, host_in

EXCHANGE = "evolution-events"
"""Where the subscription names none."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 5.0
"""Seconds between a failed connection and the next one: doubled each time."""
STEADY = 1.0
"""Seconds after which a connection that is lost was a good one: the next is tried at once."""
MAX_DETAIL = 300
"""Characters of an attempt's detail."""
CACHED = 20_000
"""Destinations kept prepared."""

MAX_EXCHANGE, MAX_KEY = 127, 255
"""AMQP's own limits, bytes."""
_QUOTED = re.compile(r"""\(\d+\) (['"])(.*)\1""", re.S)


class RabbitmqSink(Sink):
    """Publishes events to the broker of `RABBITMQ_URI`."""

    batch_size = 64
    # The broker confirms some 20 ms after it read a message: 256 under way keep it half busy.
    depth = 4

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._host = host_in(settings.rabbitmq_uri)
        self._delivered = DELIVERED.told(self._host)
        self._link: Link | None = None
        self._prepared: dict[str, _Prepared] = {}
        self._failures = 0
        """Connections that failed in a row."""
        self._until = 0.0
        """When the next one may be tried, by the loop's clock."""
        self._last: BaseException = ConnectionError()
        # pika logs every failure several times, at ERROR and with its objects' addresses;
        # the reason is in the attempt. Whoever sets a level of his own gets it.
        logger = logging.getLogger("pika")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)

    def batch_key(self, target: Target) -> Hashable:
        return target.settings.get("exchange") or EXCHANGE, target.timeout

    async def deliver(self, batch: Sequence[Delivery]) -> list[Attempt]:
        calls: dict[Hashable, list[int]] = {}
        for n, delivery in enumerate(batch):
            calls.setdefault(self.batch_key(delivery.target), []).append(n)
        if len(calls) == 1:
            return await self._publish(batch)
        ended: list[Attempt | None] = [None] * len(batch)
        parts = [[batch[n] for n in places] for places in calls.values()]
        for places, attempts in zip(
            calls.values(), await asyncio.gather(*map(self._publish, parts)), strict=True
        ):
            for n, attempt in zip(places, attempts, strict=True):
                ended[n] = attempt
        return [attempt for attempt in ended if attempt is not None]

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _publish(self, batch: Sequence[Delivery]) -> list[Attempt]:
        """Of one exchange and timeout."""
        flight = Flight(len(batch))
        rest = DELIVERED
        try:
            async with asyncio.timeout(batch[0].target.timeout):
                flight.messages = [self._message(delivery) for delivery in batch]
                told = story.current()
                if told is not None:
                    self._tell(told, batch[0])
                exchange = await self._ready(self._known(batch[0].target).exchange, flight)
                exchange.publish(flight)
                await flight.done
                if told is not None:
                    told.step("answer")
        except TimeoutError as error:
            rest = translate(_Blocked() if flight.waits else error, sent=flight.sent)
        except Exception as error:
            rest = translate(error, sent=flight.sent)
        finally:
            # A confirm that never comes (a quorum queue without a majority) keeps no bodies.
            flight.messages = []
        if rest is not DELIVERED:
            rest = rest.told(self._host)
        worked = self._delivered
        attempts = [rest if n in flight.left else worked for n in range(len(batch))]
        for n, why in flight.failed.items():
            attempts[n] = translate(why, sent=True).told(self._host)
        return attempts

    async def _ready(self, name: str, flight: Flight) -> Exchange:
        """An exchange to which one may publish now. Raises `Ended`."""
        while True:
            link, told = self._connected(), story.current()
            await link.gate.passed()
            if told is not None:
                told.address = link.address
                told.step("connect")
            exchange = link.exchange(name)
            await exchange.gate.passed()
            if told is not None:
                told.step("exchange")
            if not link.unblocked.is_set():
                flight.waits = True
                await link.unblocked.wait()
                flight.waits = False
            elif exchange.open:
                return exchange

    def _connected(self) -> Link:
        """The connection, which may not be open yet. Raises `Ended` while none may be tried."""
        if self._link is None or self._link.ended.is_set():
            if asyncio.get_running_loop().time() < self._until:
                raise Ended(self._last)
            self._link = Link(self._settings.rabbitmq_uri, self._on_end)
        return self._link

    def _on_end(self, link: Link, error: BaseException) -> None:
        now = asyncio.get_running_loop().time()
        self._last = error
        if link.opened_at and now - link.opened_at > STEADY:
            self._failures, self._until = 0, now
            return
        wait = min(FIRST_WAIT * 2**self._failures, LONGEST_WAIT)
        self._failures = min(self._failures + 1, 16)
        self._until = now + wait * (0.8 + 0.4 * random.random())

    def _message(self, delivery: Delivery) -> Message:
        known, target = self._known(delivery.target), delivery.target
        body = known.format.body(delivery)
        signed = signing.headers(target.keys, delivery.event_id, int(time.time()), body)
        return Message(
            known.key(delivery.event),
            known.mandatory,
            delivery.event_id,
            Properties(delivery.event_id, int(delivery.at), delivery.mark, signed),
            body,
        )

    def _tell(self, told: Story, delivery: Delivery) -> None:
        known = self._known(delivery.target)
        told.server = server_of(self._settings.rabbitmq_uri)
        told.sends(
            exchange=known.exchange,
            routingKey=known.key(delivery.event),
            mandatory=known.mandatory,
            messageId=delivery.event_id,
            headers={delivery.mark: True} if delivery.mark else {},
            signed=bool(delivery.target.keys),
            body=known.format.body(delivery),
        )

    def _known(self, target: Target) -> _Prepared:
        found = self._prepared.get(target.sid)
        if found is None or found.version != target.version:
            found = _prepare(target)
            self._prepared.pop(target.sid, None)
            if len(self._prepared) >= CACHED:
                del self._prepared[next(iter(self._prepared))]
            self._prepared[target.sid] = found
        return found


@dataclass(slots=True)
class _Prepared:
    """What stays the same from event to event of a subscription."""

    version: int
    exchange: str
    mandatory: bool
    format: formats.Format
    keys: dict[str, str] = field(default_factory=dict)

    def key(self, event: str) -> str:
        key = self.keys.get(event)
        if key is None:
            key = self.keys[event] = self.format.routing_key(event)
        return key


def _prepare(target: Target) -> _Prepared:
    """Raises `ValueError` for a name that AMQP cannot carry: the schema lets none through."""
    exchange = str(target.settings.get("exchange") or EXCHANGE)
    if len(exchange.encode()) > MAX_EXCHANGE:
        raise ValueError("exchange")
    return _Prepared(
        version=target.version,
        exchange=exchange,
        mandatory=bool(target.settings.get("mandatory", True)),
        format=formats.FORMATS[target.format](target.instance),
    )


# What an ending means


class _Blocked(Exception):
    """The broker asked for silence, and the time was over before it took that back."""


DELIVERED: Final = Attempt(Outcome.DELIVERED, "ack")
NACKED: Final = Attempt(
    Outcome.REFUSED, "nack", "the broker did not take the message: a queue is full or failed"
)


def returned(code: int, text: str, key: str) -> Attempt:
    """What `basic.return` means. Pure."""
    if code == 312:
        detail = f"unroutable: no queue is bound to the exchange for {key}"
        return Attempt(Outcome.REJECTED, "unroutable", _short(detail))
    return Attempt(Outcome.REFUSED, str(code), _short(f"the broker returned the message: {text}"))


def too_large(size: int, limit: int) -> Attempt:
    """What it means that a message is over the broker's limit. Pure."""
    detail = f"the message has {counted(size, 'byte')}, the broker takes {limit} (max_message_size)"
    return Attempt(Outcome.REJECTED, "too-large", detail)


class _Ending(NamedTuple):
    kind: type[BaseException]
    code: str
    sentence: str


_NO_AMQP: Final = "what answered is no AMQP 0-9-1; a port that speaks TLS needs amqps://"
# The first that fits. A test walks pika's exceptions and finds each of them here.
_ENDINGS = (
    _Ending(_Blocked, "blocked", "the broker takes no messages: a memory or disk alarm"),
    _Ending(Busy, "busy", "the broker does not take what was sent before"),
    _Ending(BadUri, "uri", "RABBITMQ_URI cannot be used"),
    _Ending(exceptions.ChannelClosedByBroker, "channel", "the broker closed the channel"),
    _Ending(exceptions.ConnectionClosedByBroker, "connection", "the broker closed the connection"),
    _Ending(exceptions.ConnectionClosed, "closed", "the connection was closed here"),
    _Ending(exceptions.ProbableAuthenticationError, "login", "the broker refused the login"),
    _Ending(exceptions.AuthenticationError, "login", "the broker knows no way to log in"),
    _Ending(exceptions.ProbableAccessDeniedError, "vhost", "the broker refused the virtual host"),
    _Ending(exceptions.IncompatibleProtocolError, "protocol", _NO_AMQP),
    _Ending(exceptions.AMQPHeartbeatTimeout, "heartbeat", "the broker fell silent"),
    _Ending(exceptions.ConnectionBlockedTimeout, "blocked", "the broker blocked for too long"),
    _Ending(exceptions.NoFreeChannels, "channels", "more exchanges at once than channels"),
    _Ending(exceptions.ConnectionOpenAborted, "closed", "the connection was closed here"),
    _Ending(exceptions.StreamLostError, "reset", "the connection broke"),
    _Ending(exceptions.ConnectionWrongStateError, "reset", "the connection is closed"),
    _Ending(exceptions.ChannelError, "channel", "the channel cannot be used"),
    _Ending(exceptions.AMQPChannelError, "channel", "the channel is closed"),
    _Ending(exceptions.MethodNotImplemented, "protocol", "the broker knows no confirms"),
    _Ending(exceptions.ProtocolSyntaxError, "protocol", "the broker spoke what is no AMQP"),
    _Ending(exceptions.ShortStringTooLong, "settings", "a name is longer than AMQP can carry"),
    _Ending(exceptions.InvalidChannelNumber, "channel", "the channel cannot be used"),
    _Ending(exceptions.ReentrancyError, "internal", "the message failed in this process"),
    _Ending(workflow.AMQPConnectorStackTimeout, "connect-timeout", "no connection in time"),
    _Ending(workflow.AMQPConnectorException, "connect", "no connection"),
    _Ending(exceptions.AMQPConnectionError, "connect", "no connection"),
    _Ending(ssl.SSLError, "tls", "no TLS connection"),
    _Ending(socket.gaierror, "dns", "the name cannot be resolved"),
    _Ending(TimeoutError, "timeout", "no confirm in time"),
    _Ending(OSError, "connect", "the connection broke"),
    _Ending(exceptions.AMQPError, "amqp", "the message failed"),
    _Ending(ValueError, "settings", "the subscription's settings cannot be sent"),
    _Ending(Exception, "internal", "the message failed in this process"),
)
_ERRNO = {
    errno.ECONNREFUSED: ("refused", "connection refused"),
    errno.EHOSTUNREACH: ("no-route", "no route to the host"),
    errno.ENETUNREACH: ("no-route", "no route to the network"),
    errno.EMFILE: ("local", "this process has no file descriptor left"),
    errno.EADDRNOTAVAIL: ("local", "this machine has no port left"),
}
_REFUSING = (exceptions.ChannelClosedByBroker, exceptions.NoFreeChannels, _Blocked, Busy)
_NO_TLS: Final = no_tls("amqp", "amqps", "RABBITMQ_URI")
_NAMES_NO_ONE = frozenset({403, 404})
"""What the broker says of the exchange as a whole: nothing that was under way got through."""


def translate(error: BaseException, *, sent: bool) -> Attempt:
    """The one door for what pika, asyncio, sockets and TLS raise and for what the channel says of
    a message. `sent`: whether any of it was handed to the connection. Shows of an error's text
    only what the broker itself said. Pure."""
    inner = _inner(error)
    match inner:
        case Nacked():
            return NACKED
        case Returned():
            return returned(inner.code, inner.text, inner.key)
        case TooLarge():
            return too_large(inner.size, inner.limit)
    ending = next(one for one in _ENDINGS if isinstance(inner, one.kind))
    code, sentence = _told(inner, ending, sent)
    said = _said(inner)
    detail = _short(f"{sentence}: {said}" if said else sentence)
    if isinstance(inner, _REFUSING) and (not sent or _names_all(inner)):
        # Of an alarm the end is not known, and a look every few seconds is enough.
        wait = REMEMBERED if isinstance(inner, _Blocked | Busy) else None
        return Attempt(Outcome.REFUSED, code, detail, wait)
    return Attempt(Outcome.AMBIGUOUS if sent else Outcome.UNREACHABLE, code, detail)


def _told(error: BaseException, ending: _Ending, sent: bool) -> tuple[str, str]:
    code, sentence = ending.code, ending.sentence
    if isinstance(error, OSError) and error.errno in _ERRNO and ending.code == "connect":
        return _ERRNO[error.errno]
    if isinstance(error, exceptions.ChannelClosedByBroker | exceptions.ConnectionClosedByBroker):
        code = str(error.reply_code)
    elif isinstance(error, TimeoutError) and not sent:
        code, sentence = "connect-timeout", "no connection in time"
    elif ending.code == "internal":
        sentence += f": {type(error).__name__}"
    return code, sentence


def _names_all(error: BaseException) -> bool:
    return getattr(error, "reply_code", 0) in _NAMES_NO_ONE


def _inner(error: BaseException) -> BaseException:
    """What pika wrapped, some three times over."""
    for _ in range(8):
        wrapped: object = None
        if isinstance(error, Ended):
            wrapped = error.error
        elif isinstance(error, workflow.AMQPConnectionWorkflowFailed):
            wrapped = error.exceptions[-1]
        elif isinstance(error, workflow.AMQPConnectorPhaseErrorBase):
            wrapped = error.exception
        elif type(error) is exceptions.AMQPConnectionError and error.args:
            wrapped = error.args[0]
        if not isinstance(wrapped, BaseException):
            break
        error = wrapped
    return error


def _said(error: BaseException) -> str:
    """The broker's own words, or the system's."""
    if isinstance(error, exceptions.ChannelClosed | exceptions.ConnectionClosed):
        return _line(error.reply_text)
    if isinstance(
        error, exceptions.ProbableAuthenticationError | exceptions.ProbableAccessDeniedError
    ):
        found = _QUOTED.search(str(error.args[0]) if error.args else "")
        return _line(found[2]) if found else ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(getattr(error, "verify_message", ""))
    if isinstance(error, ssl.SSLError):
        words = (getattr(error, "reason", None) or "").replace("_", " ").lower()
        return f"{words}; {_NO_TLS}" if is_plain_port(error) else words
    if isinstance(error, OSError) and error.errno not in _ERRNO:
        return error.strerror or ""
    return ""


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _short(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"
