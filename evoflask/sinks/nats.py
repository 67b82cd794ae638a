"""NATS: one message an event, kept by a JetStream stream, or sent by core NATS.

Delivered means, with JetStream: a stream answered that it has stored the message, or that it
had it already. With `jetstream: false`: the server answered a PING that was sent after the
message, so it has read it and passed it to whoever listened then, maybe to nobody.

One connection serves all subscriptions of a process. Every message names a reply subject of
its own below one inbox, so many are under way and each answer finds its own. nats-py's own
reconnecting is off: it would keep what is published meanwhile and send it later, behind our
back. A connection that ends is replaced by the next delivery, not before `FIRST_WAIT` to
`LONGEST_WAIT` seconds have passed where it could not be made.

`Nats-Msg-Id` is the event's id, by which a stream drops repeats. Ids are unique within an
instance only, and a stream may serve many instances and subscriptions; so what a stream calls
a duplicate is compared with what it has, and when that is somebody else's it is sent again
under an id that names the subscription, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import nats.errors
import nats.js.errors
import orjson

from evoflask import formats
from evoflask.net import story
from evoflask.net.story import Story
from evoflask.settings import Settings
from evoflask.sinks._answers import head
from evoflask.sinks._nats_link import Address
from evoflask.sinks._nats_parcels import NOWHERE, Carrier, Destination, Parcel
from evoflask.sinks._nats_streams import no_stream, not_created, short, stream_config
from evoflask.sinks._schemes import is_plain_port, no_tls
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink, Target, host_in

FIRST_WAIT = 0.2
"""Seconds between two tries to connect, doubled by each, up to `LONGEST_WAIT`."""
LONGEST_WAIT = 5.0
ASK_SECONDS = 5.0
"""How long the answer to "is there JetStream at all" is believed."""
CACHED = 20_000
"""Destinations kept prepared."""

_DELIVERED = Attempt(Outcome.DELIVERED, "stored")
_REPEATED = Attempt(Outcome.DELIVERED, "duplicate")
_LATE = Attempt(Outcome.AMBIGUOUS, "timeout", "the server did not answer in time")
_SLOW = Attempt(Outcome.UNREACHABLE, "connect-timeout", "no connection to the server in time")


class NatsSink(Sink):
    """Publishes events. `ssl_context`: instead of the system's certificates."""

    batch_size = 64

    def __init__(self, settings: Settings, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._uri = settings.nats_uri
        self._host, self._hidden = _known(settings.nats_uri)
        self._delivered = _DELIVERED.told(self._host)
        self._shows = settings.attempts_log == "all"
        self._ssl_context = ssl_context
        self._destinations: dict[str, Destination] = {}
        self._link: Carrier | None = None
        self._links: set[Carrier] = set()
        self._connecting: asyncio.Task[None] | None = None
        self._failed = _SLOW
        self._failures = 0
        self._not_before = 0.0

    def batch_key(self, target: Target) -> Hashable:
        """One server is everybody's; what differs is what is waited for, and how long."""
        config = target.settings
        created = config.get("createStream", False)
        return (config.get("jetstream", True), created, config.get("subject"), target.timeout)

    async def deliver(self, batch: Sequence[Delivery]) -> list[Attempt]:
        loop = asyncio.get_running_loop()
        end = loop.time() + min(each.target.timeout for each in batch)
        parcels = [self._parcel(each) for each in batch]
        told = story.current()
        if told is not None:
            self._tell(told, parcels[0])
        link = self._link
        if link is None or not link.alive or link.retiring:
            found = await self._connected(end)
            if isinstance(found, Attempt):
                return [self._told(each, found) for each in parcels]
            link = found
        if told is not None:
            told.server, told.address = link.server, link.peer
            told.step("connect")
        await _send(link, parcels, end)
        if any(each.attempt is not _DELIVERED for each in parcels):
            await _mend(link, parcels, end)
        if told is not None:
            told.step("answer")
        return [self._told(each, _LATE) for each in parcels]

    def _told(self, parcel: Parcel, rest: Attempt) -> Attempt:
        """With the server and, where that is shown, what a stream answered: its name and the
        message's number in it. `rest`: of a parcel without an attempt."""
        attempt = parcel.attempt or rest
        if parcel.answer is not None and (self._shows or attempt is not _DELIVERED):
            return attempt.told(self._host, head(parcel.answer, self._hidden))
        return self._delivered if attempt is _DELIVERED else attempt.told(self._host)

    async def close(self) -> None:
        task = self._connecting
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        links, self._link = list(self._links), None
        await asyncio.gather(*(each.close() for each in links))

    def _tell(self, told: Story, parcel: Parcel) -> None:
        with contextlib.suppress(ValueError):
            address = Address.of(self._uri)
            told.server, told.hidden = ",".join(address.servers), address.hidden
        told.sends(
            subject=parcel.subject,
            jetstream=parcel.destination.jetstream,
            headers=parcel.headers,
            body=parcel.body,
        )

    def _parcel(self, delivery: Delivery) -> Parcel:
        target = delivery.target
        destination = self._destinations.get(target.sid)
        try:
            if destination is None or destination.version != target.version:
                destination = self._prepare(target)
            subject = destination.subject_of(delivery.event)
            body = destination.format.body(delivery)
        except Exception as error:
            parcel = Parcel("", b"", delivery, NOWHERE)
            parcel.attempt = translate(error, sent=False)
            return parcel
        return Parcel(subject, body, delivery, destination)

    def _prepare(self, target: Target) -> Destination:
        config = target.settings
        made = Destination(
            version=target.version,
            format=formats.FORMATS[target.format](target.instance),
            template=config["subject"],
            jetstream=config.get("jetstream", True),
            create=config.get("createStream", False),
            reference=config.get("oversize") == "reference",
        )
        self._destinations.pop(target.sid, None)
        if len(self._destinations) >= CACHED:
            del self._destinations[next(iter(self._destinations))]
        self._destinations[target.sid] = made
        return made

    # connecting

    async def _connected(self, end: float) -> Carrier | Attempt:
        """A connection that works, or why there is none."""
        loop = asyncio.get_running_loop()
        if self._connecting is None and loop.time() >= self._not_before:
            self._connecting = loop.create_task(self._connect())
        link = self._link
        if link is not None and link.alive:
            return link  # about to be closed by its server: good until there is another
        if self._connecting is None:
            return self._failed
        await asyncio.wait({self._connecting}, timeout=max(0.0, end - loop.time()))
        if self._link is not None and self._link.alive:
            return self._link
        return self._failed if self._connecting is None else _SLOW

    async def _connect(self) -> None:
        """Makes the connection, or notes why not and until when nobody needs to try."""
        link: Carrier | None = None
        try:
            link = Carrier(Address.of(self._uri), self._lost)
            await link.open(self._ssl_context)
            self._link = link
            self._links = {each for each in self._links if each.alive} | {link}
        except Exception as error:
            self._put_off(_explain(link, error, sent=False))
        finally:
            self._connecting = None

    def _put_off(self, why: Attempt) -> None:
        self._failed = why
        wait = min(FIRST_WAIT * 2**self._failures, LONGEST_WAIT)
        self._failures = min(self._failures + 1, 10)
        self._not_before = asyncio.get_running_loop().time() + wait

    def _lost(self, link: Carrier) -> None:
        """A connection ended that had worked at least as far as the greeting. It stays in
        `_links` until the next is made: its tasks may still be ending."""
        if self._link is link:
            self._link = None
        if link.useful:
            self._failures, self._not_before = 0, 0.0
        else:
            self._put_off(_explain(link, link.error, sent=False))


def _known(uri: str) -> tuple[str, tuple[str, ...]]:
    """Of `NATS_URI` what may be shown, and what must not."""
    try:
        address = Address.of(uri)
    except ValueError:
        return "", ()
    return ", ".join(filter(None, map(host_in, address.servers))), address.hidden


async def _send(link: Carrier, parcels: Sequence[Parcel], end: float) -> None:
    """Sends those that have no attempt yet, and says what came of them."""
    await link.send(parcels, end)
    for parcel in parcels:
        if parcel.attempt is None:
            parcel.attempt = _judge(link, parcel)
        link.useful |= parcel.attempt.outcome is Outcome.DELIVERED


def _judge(link: Carrier, parcel: Parcel) -> Attempt:
    if parcel.answer is not None:
        attempt, parcel.copy = read_answer(parcel.answer)
        return attempt
    if parcel.error is not None:
        return _explain(link, parcel.error, sent=parcel.sent)
    link.check_pulse()
    return _LATE


def _explain(link: Carrier | None, error: Exception, *, sent: bool) -> Attempt:
    """Without the password, whatever a server repeats."""
    attempt = translate(error, sent=sent)
    return attempt if link is None else link.address.hide(attempt)


async def _mend(link: Carrier, parcels: Sequence[Parcel], end: float) -> None:
    """Send refused messages again that the stream may take in another form.

    These are messages without a stream, duplicates of other messages, and messages too large that
    may become references.
    """
    lacking = [each for each in parcels if each.attempt and each.attempt.code == "no-stream"]
    if lacking:
        await _provide(link, lacking, end)
    for each in parcels:
        if each.copy is not None and not await _is_same(link, each, end):
            each.headers["Nats-Msg-Id"] += f"/{each.sid}"
            each.attempt = None
        elif each.attempt and each.attempt.code in _STREAM_LIMITS and each.refer():
            each.attempt = None
    again = [each for each in parcels if each.attempt is None]
    for each in again:
        each.forget()
    if again:
        await _send(link, again, end)


# What JetStream is asked


async def _provide(link: Carrier, parcels: Sequence[Parcel], end: float) -> None:
    """Makes a stream for those without one that want it, so that they can be sent again;
    tells the others how, or that there is no JetStream."""
    fault = await _jetstream_fault(link, end)
    made: dict[str, Attempt | None] = {}
    for parcel in parcels:
        destination = parcel.destination
        if fault is not None:
            parcel.attempt = fault
        elif destination.create:
            if destination.template not in made:
                made[destination.template] = await _create(link, destination.template, end)
            parcel.attempt = made[destination.template]
        else:
            parcel.attempt = no_stream(parcel.subject, destination.template)


async def _jetstream_fault(link: Carrier, end: float) -> Attempt | None:
    """Why there is no JetStream here. Without it, no stream answers either."""
    loop = asyncio.get_running_loop()
    if loop.time() >= link.fault_until:
        link.fault = None
        try:
            left = max(0.001, min(end - loop.time(), 1.0))
            await link.client.jetstream(timeout=left).account_info()
        except Exception as error:
            found = translate(error, sent=False)
            link.fault = found if found.code == "no-jetstream" else None
        link.fault_until = loop.time() + ASK_SECONDS
    return link.fault


async def _create(link: Carrier, template: str, end: float) -> Attempt | None:
    """The stream of `stream_config`; who finds it there already has made it."""
    left = max(0.001, end - asyncio.get_running_loop().time())
    try:
        await link.client.jetstream(timeout=left).add_stream(stream_config(template))
    except Exception as error:
        return not_created(template, translate(error, sent=False))
    return None


async def _is_same(link: Carrier, parcel: Parcel, end: float) -> bool:
    """Return True if the stream has this message, or its reference, under its id.

    A stored message that cannot be read counts as this one, because the stream reported so.
    """
    assert parcel.copy is not None
    stream, number = parcel.copy
    left = max(0.001, end - asyncio.get_running_loop().time())
    try:
        kept = await link.client.jetstream(timeout=left).get_msg(stream, number)
    except Exception:
        return True
    return kept.subject == parcel.subject and parcel.says(kept.data or b"")


# What an ending means


def read_answer(data: bytes) -> tuple[Attempt, tuple[str, int] | None]:
    """What a stream answered to a message; for a duplicate also which message it repeats.
    Pure."""
    try:
        answer = orjson.loads(data)
        error = answer.get("error")
        if error is not None:
            return classify(error), None
        kept = (str(answer["stream"]), int(answer["seq"]))
    except (ValueError, TypeError, AttributeError, KeyError):
        return Attempt(Outcome.AMBIGUOUS, "bad-answer", "the answer is not JetStream's"), None
    return (_REPEATED, kept) if answer.get("duplicate") else (_DELIVERED, None)


_TOO_LARGE = frozenset({10054, 10097})
"""JetStream's numbers: a message, or its headers, beyond what the stream takes."""
_STREAM_LIMITS = frozenset(map(str, _TOO_LARGE))
_NO_JETSTREAM = frozenset({10039, 10076})
_FULL = frozenset({10077})


def classify(error: Mapping[str, Any]) -> Attempt:
    """What JetStream's no means: `code`, `err_code` and `description`. Pure."""
    number = error.get("err_code") or error.get("code") or 0
    words = str(error.get("description") or "no reason given")
    if number in _TOO_LARGE:
        detail = f"the stream says: {words}; {formats.OVERSIZE_HINT}"
        return Attempt(Outcome.REJECTED, str(number), short(detail))
    if number in _NO_JETSTREAM:
        return Attempt(
            Outcome.REFUSED,
            "no-jetstream",
            short(f"JetStream is off: {words}; switch it on, or set jetstream to false"),
        )
    who = "the stream is full" if number in _FULL else "JetStream says no"
    return Attempt(Outcome.REFUSED, str(number), short(f"{who}: {words}"))


class _Ending(NamedTuple):
    kind: type[BaseException]
    code: str
    sentence: str
    outcome: Outcome = Outcome.UNREACHABLE
    """Where nothing was sent."""
    sent: Outcome = Outcome.AMBIGUOUS


_CLOSED = "the connection was closed"
# The first that fits. A test walks nats-py's exceptions and finds each of them here.
_ENDINGS = (
    _Ending(nats.errors.BadSubjectError, "subject", "the subject cannot be published to"),
    _Ending(nats.errors.BadHeaderError, "settings", "the event's id cannot be sent as a header"),
    _Ending(
        nats.errors.MaxPayloadError,
        "too-large",
        "the message is larger than the server takes",
        Outcome.REJECTED,
    ),
    _Ending(nats.errors.AuthorizationError, "auth", "the server does not accept the credentials"),
    _Ending(nats.errors.InvalidUserCredentialsError, "auth", "the credentials cannot be read"),
    _Ending(nats.errors.SecureConnRequiredError, "tls", "the server asks for TLS"),
    _Ending(
        nats.errors.SecureConnWantedError,
        "tls",
        no_tls("nats", "tls", "NATS_URI"),
    ),
    _Ending(nats.errors.SecureConnFailedError, "tls", "no TLS connection"),
    _Ending(nats.errors.NoServersError, "connect", "no connection to the server"),
    _Ending(nats.errors.ServerNotInPoolError, "connect", "no connection to the server"),
    _Ending(nats.errors.UnexpectedEOF, "closed", "the server closed the connection"),
    _Ending(nats.errors.StaleConnectionError, "silent", "the server stopped answering"),
    _Ending(nats.errors.ConnectionClosedError, "closed", _CLOSED),
    _Ending(nats.errors.ConnectionDrainingError, "closed", _CLOSED),
    _Ending(nats.errors.ConnectionReconnectingError, "closed", _CLOSED),
    _Ending(nats.errors.OutboundBufferLimitError, "closed", _CLOSED),
    _Ending(nats.errors.NoRespondersError, "no-stream", "no stream answers", Outcome.REFUSED),
    _Ending(
        nats.js.errors.NoStreamResponseError, "no-stream", "no stream answers", Outcome.REFUSED
    ),
    _Ending(nats.js.errors.Error, "jetstream", "JetStream cannot be used", Outcome.REFUSED),
    _Ending(TimeoutError, "timeout", "no answer in time"),
    _Ending(nats.errors.ProtocolError, "protocol", "the server does not speak NATS"),
    _Ending(nats.errors.JsonParseError, "protocol", "the server does not speak NATS"),
    _Ending(ssl.SSLError, "tls", "no TLS connection"),
    _Ending(ConnectionRefusedError, "refused", "connection refused"),
    _Ending(OSError, "connect", "the connection failed"),
    _Ending(UnicodeError, "settings", "NATS_URI or the subscription's settings cannot be used"),
    _Ending(ValueError, "settings", "NATS_URI or the subscription's settings cannot be used"),
)
_NO_TLS = no_tls("ws", "wss", "NATS_URI")
"""A `tls` URL begins in plain text, so only a websocket meets a handshake that fails."""
_REST = (
    _Ending(nats.errors.Error, "client", "the server or its client says no"),
    _Ending(Exception, "internal", "the message failed in this process"),
)
_WORDS = {
    "authorization violation": nats.errors.AuthorizationError,
    "authentication": nats.errors.AuthorizationError,
    "invalid publish subject": nats.errors.BadSubjectError,
    "expecting info": nats.errors.JsonParseError,
    "info message": nats.errors.JsonParseError,
    "tls": nats.errors.SecureConnRequiredError,
}
"""nats-py tells what the server said as a plain error with its words."""


def translate(error: BaseException, *, sent: bool) -> Attempt:
    """The one door for what nats-py, asyncio, sockets and TLS raise. Pure."""
    if isinstance(error, nats.js.errors.APIError):
        return _translate_api(error)
    if type(error) is nats.errors.Error:
        said = str(error).lower()
        kind = next((kind for words, kind in _WORDS.items() if words in said), None)
        error = kind() if kind is not None else error
    ending = next(one for one in (*_ENDINGS, *_REST) if isinstance(error, one.kind))
    why = _why(error)
    outcome = ending.sent if sent else ending.outcome
    detail = f"{ending.sentence}: {why}" if why else ending.sentence
    return Attempt(outcome, ending.code, short(detail))


def _translate_api(error: nats.js.errors.APIError) -> Attempt:
    number = getattr(error, "err_code", None)
    words = getattr(error, "description", None)
    if isinstance(error, nats.js.errors.ServiceUnavailableError) and not number:
        return classify({"err_code": 10076, "description": "nobody answers on this server"})
    return classify({"err_code": number, "description": words, "code": error.code})


def _why(error: BaseException) -> str:
    """What the system or the server says."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(getattr(error, "verify_message", ""))
    if isinstance(error, ssl.SSLError):
        inner = getattr(error, "os_error", error)  # aiohttp's, of a websocket
        words = (getattr(inner, "reason", None) or "").replace("_", " ").lower()
        return f"{words}; {_NO_TLS}" if is_plain_port(inner) else words
    if isinstance(error, ConnectionRefusedError | TimeoutError):
        return ""
    if isinstance(error, OSError):
        return error.strerror or ""
    if type(error) is nats.errors.Error:
        return str(error).removeprefix("nats: ").strip("'")
    if not isinstance(error, nats.errors.Error | ValueError):
        return type(error).__name__
    return ""
