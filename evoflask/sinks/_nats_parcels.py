"""What a subscription and its events become on NATS, and how many of them are under way on one
connection, each with a reply subject of its own, by which its answer finds it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import nats.errors
from nats.aio.msg import Msg

from evoflask import formats, signing
from evoflask.plurals import counted
from evoflask.sinks._nats_link import Address, Link
from evoflask.sinks._nats_streams import no_stream, short
from evoflask.sinks.base import Attempt, Delivery, Outcome

_FLUSHED = Attempt(Outcome.DELIVERED, "flushed")
_DEAF = Attempt(
    Outcome.REFUSED,
    "permission",
    "the server does not let this user subscribe to its inbox, where JetStream answers: allow "
    "_INBOX.>",
)
_FIXED_HEADERS = {"Content-Type": "application/json"}
_SUBJECT = re.compile(r"[!-)+-\-/-=?-~]+(\.[!-)+-\-/-=?-~]+)*", re.ASCII)  # no . * > in a word


@dataclass(slots=True)
class Destination:
    """What stays the same from event to event of a subscription."""

    version: int
    format: formats.Format
    template: str
    jetstream: bool
    create: bool
    reference: bool = False
    """Send a reference to an event that is too large, instead of rejecting it."""
    subjects: dict[str, str] = field(default_factory=dict)

    def subject_of(self, event: str) -> str:
        """Raises `BadSubjectError`: nats-py would let wildcards and gaps pass."""
        subject = self.subjects.get(event)
        if subject is None:
            subject = self.format.subject(self.template, event)
            if not _SUBJECT.fullmatch(subject):
                raise nats.errors.BadSubjectError
            self.subjects[event] = subject
        return subject


NOWHERE = Destination(0, formats.Standard(""), "", False, False)
"""Of what cannot be prepared."""


class Parcel:
    """One delivery as a message, and what came of it: an attempt, or else an answer, or an
    error, or nothing in time."""

    __slots__ = (
        "answer", "attempt", "body", "copy", "delivery", "destination", "error", "headers",
        "is_reference", "sent", "sid", "subject",
    )  # fmt: skip

    def __init__(
        self, subject: str, body: bytes, delivery: Delivery, destination: Destination
    ) -> None:
        self.subject = subject
        self.destination = destination
        self.sid = delivery.target.sid
        self.delivery = delivery
        self.is_reference = False
        self._write(body)
        self.sent = False
        self.attempt: Attempt | None = None
        self.answer: bytes | None = None
        self.error: Exception | None = None
        self.copy: tuple[str, int] | None = None
        """Stream and number of the message that this one is said to repeat."""

    def _write(self, body: bytes) -> None:
        self.body, event_id = body, self.delivery.event_id
        self.headers = {"Nats-Msg-Id": _message_id(self.delivery), **_FIXED_HEADERS}
        if self.delivery.mark:
            self.headers[f"webhook-{self.delivery.mark}"] = "true"
        keys = self.delivery.target.keys
        self.headers |= signing.headers(keys, event_id, int(time.time()), body)

    def refer(self) -> bool:
        """Replace a body that is too large by a reference, once, if the subscription wants it.

        Return True if the body was replaced.
        """
        if self.is_reference or not self.destination.reference:
            return False
        self._write(self._reference())
        self.is_reference = True
        return True

    def says(self, body: bytes) -> bool:
        """Return True if a stored body is this message's, or the reference to its event."""
        return body == self.body or (self.destination.reference and body == self._reference())

    def _reference(self) -> bytes:
        if self.is_reference:
            return self.body
        instance = self.delivery.target.instance
        return formats.reference(instance, self.delivery, len(self.body))

    def forget(self) -> None:
        """What came of it, before it is sent again."""
        self.sent = False
        self.attempt = self.answer = self.error = self.copy = None

    def is_over(self, most: int) -> bool:
        """Return True if the message has more than `most` bytes. Cheap for small bodies."""
        return len(self.body) + 1024 > most and self.size > most

    @property
    def size(self) -> int:
        """As the server counts it against `max_payload`: the header block, then the body."""
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers.items())
        return len(b"NATS/1.0\r\n") + lines + len(b"\r\n") + len(self.body)


def _message_id(delivery: Delivery) -> str:
    """A stream takes no id twice: that of a replay says which one it is."""
    if not delivery.again:
        return delivery.event_id
    return f"{delivery.event_id}/{delivery.again}"


class _Wait:
    """Some parcels that are under way together, until the last has ended."""

    __slots__ = ("done", "left")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.left = 1  # the sender's own, so that answers cannot end it while it sends

    def down(self) -> None:
        self.left -= 1
        if not self.left:
            self.give_up()

    def give_up(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Carrier(Link):
    """A connection and the parcels that are under way on it. `lost`: is called when it ends by
    itself."""

    def __init__(self, address: Address, lost: Callable[[Carrier], None]) -> None:
        super().__init__(address)
        self._lost = lost
        self._waiting: dict[str, tuple[Parcel, _Wait]] = {}
        self._count = 0
        self.useful = False
        """Something was delivered by it."""
        self.fault: Attempt | None = None
        """Why there is no JetStream on this server, believed until `fault_until`."""
        self.fault_until = 0.0

    async def send(self, parcels: Sequence[Parcel], end: float) -> None:
        """Publishes those that have no attempt yet, and waits until each has one, or `end`."""
        loop = asyncio.get_running_loop()
        wait = _Wait(loop.create_future())
        first = self._count
        timer = loop.call_at(end, wait.give_up)
        try:
            flushed = False
            for parcel in parcels:
                if parcel.attempt is None:
                    await self._publish(parcel, wait)
                    flushed |= not parcel.destination.jetstream
            if flushed:
                self.spawn(functools.partial(self._flush, first, self._count, wait))
            wait.down()
            await wait.done
        finally:
            timer.cancel()
            self._forget(first, self._count, wait)

    async def _publish(self, parcel: Parcel, wait: _Wait) -> None:
        """Does not wait: nats-py's writer takes it from here."""
        most = self.client.max_payload
        if parcel.is_over(most) and not (parcel.refer() and not parcel.is_over(most)):
            parcel.attempt = _too_large(parcel.size, most)
            return
        reply = ""
        if parcel.destination.jetstream:
            if self.deaf:
                parcel.attempt = _DEAF
                return
            reply = f"{self.prefix}{self._count}"
        try:
            await self.client.publish(parcel.subject, parcel.body, reply, parcel.headers)
        except Exception as error:
            parcel.error = error
            return
        parcel.sent = True
        self._waiting[str(self._count)] = (parcel, wait)
        self._count += 1
        wait.left += 1

    async def _flush(self, first: int, last: int, wait: _Wait) -> None:
        """Ends core messages when a PONG proves that the server has read them."""
        await self.round_trip()
        for n in range(first, last):
            found = self._waiting.get(str(n))
            if found is not None and found[1] is wait and not found[0].destination.jetstream:
                self._end(str(n), _FLUSHED)

    def _end(self, key: str, attempt: Attempt) -> None:
        parcel, wait = self._waiting.pop(key)
        parcel.attempt = attempt
        wait.down()

    def _forget(self, first: int, last: int, wait: _Wait) -> None:
        """What was not answered in time; a late answer finds nobody."""
        if wait.left > 0:
            for n in range(first, last):
                found = self._waiting.get(str(n))
                if found is not None and found[1] is wait:
                    del self._waiting[str(n)]

    # what the connection tells

    def answered(self, name: str, msg: Msg) -> None:
        found = self._waiting.pop(name, None)
        if found is None:
            return
        parcel, wait = found
        if msg.headers is None:
            parcel.answer = msg.data
        else:  # no answer but the server's word that nobody is there to give one
            parcel.attempt = no_stream(parcel.subject, parcel.destination.template)
        wait.down()

    def denied(self, quoted: str) -> None:
        """Where two are under way that differ by case only, the stream's silence will tell, and
        core messages are not known to have got by."""
        found = {
            key: parcel
            for key, (parcel, _) in self._waiting.items()
            if json.dumps(parcel.subject).lower() == quoted
        }
        one = len({parcel.subject for parcel in found.values()}) == 1
        for key, parcel in found.items():
            attempt = _not_allowed(parcel.subject)
            if one:
                self._end(key, attempt)
            elif not parcel.destination.jetstream:
                self._end(key, Attempt(Outcome.AMBIGUOUS, attempt.code, attempt.detail))

    def ended(self) -> None:
        """Everything under way has an unknown end."""
        error = self.error
        for parcel, wait in self._waiting.values():
            parcel.error = error
            wait.down()
        self._waiting.clear()

    def lost(self) -> None:
        self._lost(self)


def _too_large(size: int, most: int) -> Attempt:
    """Sending it would end the connection. Pure."""
    detail = (
        f"the message has {counted(size, 'byte')} with its headers, and the server takes {most}; "
        f"{formats.OVERSIZE_HINT}"
    )
    return Attempt(Outcome.REJECTED, "too-large", detail)


def _not_allowed(subject: str) -> Attempt:
    """The server's permissions do not allow it. Pure."""
    detail = f"the server does not let this user publish to {subject}: permissions violation"
    return Attempt(Outcome.REFUSED, "permission", short(detail))
