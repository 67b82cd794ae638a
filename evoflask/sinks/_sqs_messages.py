"""What a subscription and its events become on SQS: where and as whom to send, the entries of a
call with their limits, and which of them fit into one. Pure, but for what it remembers.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from evoflask import formats, signing
from evoflask.net import aws
from evoflask.plurals import counted
from evoflask.settings import Settings
from evoflask.sinks._sqs_clients import ClientKey
from evoflask.sinks.base import Attempt, Delivery, Outcome, Target, host_in

MAX_BYTES = 1_048_576
"""Of one message, its attributes counted in, and of one call: 1 MiB each since August 2025."""
A_CALL = 10
"""Messages that a call may have."""
MAX_GROUP = 128
"""Characters of a message group or deduplication id."""
CONNECT_SECONDS = 5.0


@dataclass(slots=True)
class Destination:
    """What stays the same from event to event of a subscription."""

    version: int
    key: Hashable
    """Queue, credentials and timeout: who has it in common shares calls."""
    instance: str
    timeout: float
    format: formats.Format
    url: str = ""
    host: str = ""
    fifo: bool = False
    reference: bool = False
    """Send a reference to an event that is too large, instead of rejecting it."""
    client: ClientKey = field(default_factory=lambda: ClientKey("", "", 1.0, None))
    keys: tuple[str, str] | None = None
    """The subscription's own access key id and secret."""
    fault: Attempt | None = None
    """Why nothing can be sent."""
    attributes: dict[str, tuple[dict[str, Any], int]] = field(default_factory=dict)
    """By event: the message attributes but the id, and their size."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """What must not be shown when an answer repeats it."""
        return self.keys or ()

    def message(self, at: int, delivery: Delivery) -> Message | Attempt:
        """The delivery `at` this place as an entry, or why there can be none."""
        if self.fault is not None:
            return self.fault
        body = _allowed(self.format.body(delivery))
        attributes, size = self._attributes(delivery, body)
        if size > MAX_BYTES and self.reference:
            body = formats.reference(self.instance, delivery, len(body))
            attributes, size = self._attributes(delivery, body)
        if size > MAX_BYTES:
            return Attempt(
                Outcome.REJECTED,
                "too-large",
                f"the message has {counted(size, 'byte')} with its attributes, SQS takes "
                f"{MAX_BYTES}; {formats.OVERSIZE_HINT}",
            )
        entry: dict[str, Any] = {
            "Id": str(at),
            "MessageBody": body.decode(),
            "MessageAttributes": attributes,
        }
        if self.fifo:
            entry["MessageGroupId"] = group_id(self.instance, delivery.key)
            entry["MessageDeduplicationId"] = deduplication_id(
                self.instance, delivery.event_id, delivery.again
            )
        return Message(self, at, entry, size, body)

    def _attributes(self, delivery: Delivery, body: bytes) -> tuple[dict[str, Any], int]:
        """Return the message attributes, and the bytes of the message as SQS counts them."""
        constant, size = self._attributes_of(delivery.event)
        marks = _MARKS[delivery.mark]
        size += len(body) + len(delivery.event_id) + _ID_BYTES + len(marks) * _MARK_BYTES
        signed = signing.headers(delivery.target.keys, delivery.event_id, int(time.time()), body)
        size += sum(len(name) + len("String") + len(text) for name, text in signed.items())
        strings = {name: _string(text) for name, text in signed.items()}
        return {**constant, "id": _string(delivery.event_id), **marks, **strings}, size

    def _attributes_of(self, event: str) -> tuple[dict[str, Any], int]:
        found = self.attributes.get(event)
        if found is None:
            texts = self.format.attributes(event)
            size = sum(len(k) + len("String") + len(v.encode()) for k, v in texts.items())
            found = {name: _string(text) for name, text in texts.items()}, size
            self.attributes[event] = found
        return found


class Message(NamedTuple):
    """One delivery, ready to be sent."""

    destination: Destination
    at: int
    """Its place in the batch, and its id in a call."""
    entry: Mapping[str, Any]
    size: int
    """Bytes as SQS counts them."""
    body: bytes


_ID_BYTES = len("id") + len("String")


_MARK_BYTES = len("replay") + len("String") + len("true")
"""At most."""


def _string(text: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": text}


_MARKS = {mark: {mark: _string("true")} if mark else {} for mark in formats.MARKS}
"""By mark: the message attributes that say so."""


def prepare(target: Target, settings: Settings) -> Destination:
    """What a subscription says. One that cannot be used has a `fault`, and is not raised."""
    found = Destination(
        version=target.version,
        key=target.sid,
        instance=target.instance,
        timeout=target.timeout,
        format=formats.FORMATS[target.format](target.instance),
    )
    own = target.settings
    found.reference = own.get("oversize") == "reference"
    try:
        queue = aws.read_queue(str(own.get("queueUrl") or ""), settings.sqs_endpoint_url)
    except aws.NotAQueue as error:
        found.fault = Attempt(Outcome.UNREACHABLE, "url", f"queueUrl: {error}")
        return found
    region = queue.region or settings.sqs_region
    if not region:
        found.fault = Attempt(Outcome.UNREACHABLE, "region", "SQS_REGION is not set on the server")
        return found
    if own.get("accessKeyId") and own.get("secretAccessKey"):
        found.keys = (str(own["accessKeyId"]), str(own["secretAccessKey"]))
    found.url, found.fifo = queue.url, queue.fifo
    found.host = host_in(settings.sqs_endpoint_url or queue.origin)
    found.client = ClientKey(
        region=region,
        endpoint=settings.sqs_endpoint_url or queue.origin,
        # By whole seconds, so that few timeouts make few clients.
        connect_seconds=min(CONNECT_SECONDS, 0.8 * max(1, int(target.timeout))),
        credentials=found.keys and hashlib.sha256("\0".join(found.keys).encode()).hexdigest(),
        proxy="" if settings.sqs_endpoint_url else settings.outbound_proxy,
    )
    found.key = (queue.url, found.client.credentials, target.timeout)
    return found


def _allowed(body: bytes) -> bytes:
    """The body without U+FFFE and U+FFFF, which SQS refuses: a JSON text has them only inside
    its strings, where an escape means the same."""
    if b"\xef\xbf\xbe" in body or b"\xef\xbf\xbf" in body:
        body = body.replace(b"\xef\xbf\xbe", b"\\ufffe").replace(b"\xef\xbf\xbf", b"\\uffff")
    return body


_GROUP_KEY = re.compile(r"[\x21-\x7e]*", re.ASCII)
_DRAWN = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.ASCII
)
"""An event id of ours, UUIDv7: the same nowhere else."""


def group_id(instance: str, key: str) -> str:
    """The message group of an order key: `<instance>:<key>`, or `<instance>#` and a hash where
    that is too long or has characters that a group has not. Pure."""
    found = f"{instance}:{key}"
    if len(found) <= MAX_GROUP and _GROUP_KEY.fullmatch(key):
        return found
    return f"{instance}#{hashlib.sha256(key.encode()).hexdigest()[:27]}"


def deduplication_id(instance: str, event_id: str, again: str = "") -> str:
    """The event's id where we drew it; a caller's own is an id within its instance only, so
    it is `<instance>:<id>`; with `again` behind it for a replay, which is not to be dropped as a
    repeat; hashed where that is too long. Pure."""
    found = event_id if _DRAWN.fullmatch(event_id) else f"{instance}:{event_id}"
    if again:
        found += f"/{again}"
    return found if len(found) <= MAX_GROUP else hashlib.sha256(found.encode()).hexdigest()


def pieces(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The messages of one queue in calls that SQS takes, in their order."""
    piece: list[Message] = []
    size = 0
    for message in messages:
        if piece and (size + message.size > MAX_BYTES or len(piece) == A_CALL):
            yield piece
            piece, size = [], 0
        piece.append(message)
        size += message.size
    if piece:
        yield piece
