"""The words of `GET /ws`: what a client may say, and every message that it gets. Pure.

client                                       server
{"action": "join-instance",                  {"type": "joined", "instance", "cursor"}
 "instance": "a", "after": "<cursor>"}       {"type": "evolution-event", "cursor", …}
{"action": "leave-instance",                 {"type": "left", "instance", "cursor"}
 "instance": "a"}                            {"type": "gap", "instance", "after", …}
{"action": "join-instance",                  {"type": "global-event", "cursor", …}
 "instance": "*"}                            {"type": "error", "code", "error", "message"}
"""

from __future__ import annotations

import functools
import re
import struct
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson

from evoflask.formats import FORMATS, Format, utc
from evoflask.ids import name_fault
from evoflask.outbox.feed import Entry, Position, text
from evoflask.spelling import shown, suggestion

ALL: Final = "*"
"""What a socket with the global key joins for the events of all instances."""
ACTIONS: Final = ("join-instance", "leave-instance")
MAX_FRAME: Final = 4096
"""Bytes of a client's message: an action takes some hundred."""

GOING_AWAY: Final = 1001
TOO_BIG: Final = 1009
RESTART: Final = 1012
KEY_REVOKED: Final = 4001
TOO_SLOW: Final = 4008
SILENT: Final = 4009

_CURSOR: Final = re.compile(r"([0-9a-z]{1,32})\.(\d{1,15})-(\d{1,19})\.(\d{1,15})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in one outbox: after the entry `id`, the `number`th that websockets got of it.

    It names the outbox, not the instance: an instance that was deleted and made again under
    its name has another, and what was missed of the old one is a gap.
    """

    outbox: str
    id: Position
    number: int

    def __str__(self) -> str:
        return f"{self.outbox}.{text(self.id)}.{self.number}"


@dataclass(frozen=True, slots=True)
class Join:
    """The socket wants the events of an instance, or of all: those after a place, or from now."""

    instance: str
    after: Cursor | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """The socket wants them no longer."""

    instance: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What a client is told about its words or its right. `code`: as an HTTP status."""

    code: int
    message: str
    instance: str | None = None


def parse(said: str | bytes) -> Join | Leave | Fault:
    """A client's message. Never raises."""
    if isinstance(said, bytes):
        return Fault(400, "Messages are JSON in text frames; this one is binary.")
    try:
        body = orjson.loads(said)
    except orjson.JSONDecodeError as error:
        return Fault(400, f"The message is not JSON: {error}.")
    if not isinstance(body, dict):
        return Fault(400, "The message must be a JSON object.")
    instance = body.get("instance")
    action = body.get("action")
    if action not in ACTIONS:
        given = shown(action) if isinstance(action, str) else ""
        end = suggestion(given, ACTIONS)
        return Fault(400, f"action: Must be one of: {', '.join(ACTIONS)}{end}")
    if not isinstance(instance, str):
        return Fault(400, f"instance: Must be the name of an instance, not {shown(instance)}.")
    if instance != ALL and (fault := name_fault(instance)) is not None:
        return Fault(400, f"instance: {fault}")
    return Leave(instance) if action == "leave-instance" else _join(instance, body.get("after"))


def _join(instance: str, after: Any) -> Join | Fault:
    if after is None:
        return Join(instance)
    if instance == ALL:
        return Fault(400, "after: The events of all instances are live only.", instance)
    cursor = parse_cursor(after)
    if cursor is None:
        return Fault(400, "after: Must be the cursor of a message.", instance)
    return Join(instance, cursor)


def parse_cursor(words: object) -> Cursor | None:
    """None where it is no cursor of ours."""
    found = _CURSOR.fullmatch(words) if isinstance(words, str) else None
    if found is None:
        return None
    outbox, ms, seq, number = found.groups()
    return Cursor(outbox, (int(ms), int(seq)), int(number))


# -- messages out -----------------------------------------------------------------------------


def joined(instance: str, cursor: Cursor | None) -> bytes:
    """`cursor`: where the events begin; it resumes as that of an event does."""
    return _frame_of(type="joined", instance=instance, cursor=_text(cursor))


def left(instance: str, cursor: Cursor | None) -> bytes:
    """`cursor`: of the last event that was sent."""
    return _frame_of(type="left", instance=instance, cursor=_text(cursor))


def fault(about: Fault) -> bytes:
    """The words of an error; the socket stays open."""
    return _frame_of(
        type="error",
        code=about.code,
        error=HTTPStatus(about.code).phrase,
        message=[about.message],
        instance=about.instance,
    )


def gap(
    instance: str, after: Cursor | None, missed: int | None, reason: str, until: Cursor | None
) -> bytes:
    """Events between `after` and `until` are not there any more. `missed`: how many; None where
    that is not known."""
    return _frame_of(
        type="gap",
        instance=instance,
        after=_text(after),
        missed=missed,
        since=utc(after.id[0] / 1000) if after else None,
        reason=reason,
        cursor=_text(until),
    )


class Writer:
    """Makes the messages of one instance's events."""

    def __init__(self, instance: str, outbox: str) -> None:
        # The one format there is; a subscription's own would be chosen here.
        self._format: Format = FORMATS["standard"](instance)
        self._outbox = outbox

    def event(self, entry: Entry, kind: str = "evolution-event") -> bytes:
        """A frame with the event; `data` as it was given, to the byte."""
        cursor = str(Cursor(self._outbox, entry.id, entry.number))
        body = self._format.body(_Event(entry))
        return frame(b'{"type":"%b","cursor":"%b",%b' % (kind.encode(), cursor.encode(), body[1:]))


class _Event:
    """An entry as a format reads it."""

    __slots__ = ("at", "data", "date_time", "event", "event_id", "sender", "server_url")
    mark = ""

    def __init__(self, entry: Entry) -> None:
        meta = _meta(entry.meta)
        self.event_id, self.event, self.at = entry.event_id, entry.event, entry.at
        self.data = entry.data
        self.sender: str | None = meta.get("sender")
        self.date_time: str | None = meta.get("dateTime")
        self.server_url: str | None = meta.get("serverUrl")


@functools.lru_cache(maxsize=1024)
def _meta(raw: bytes) -> dict[str, str]:
    found: dict[str, str] = orjson.loads(raw)
    return found


def frame(payload: bytes) -> bytes:
    """A text frame as a server sends it (RFC 6455, 5.2): whole, unmasked. Made once for all the
    sockets that get it, and `data` is never decoded for it."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return b"\x81\x7e%b%b" % (struct.pack("!H", size), payload)
    return b"\x81\x7f%b%b" % (struct.pack("!Q", size), payload)


def _frame_of(**fields: object) -> bytes:
    return frame(orjson.dumps(fields))


def _text(cursor: Cursor | None) -> str | None:
    return None if cursor is None else str(cursor)
