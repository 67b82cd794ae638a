"""Order keys: which events of a lane keep their order among themselves. Pure.

A subscription's `orderBy` is `"conversation"`, a list of dotted paths, or null. The catalogue
says where each event names its conversation. `data` stays bytes: msgspec decodes the fields on
the way to the key and skips the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Protocol

import msgspec
import orjson

from evoflask import events, jsonspans

CONVERSATION: Final = "conversation"
LEGACY_CONVERSATION: Final = "data.key.remoteJid"
"""The default path of releases before `"conversation"`. They read it from a row with that."""

OrderBy = str | list[str] | None
"""`orderBy` as a body says it: `"conversation"`, dotted paths, or null for no order."""


class Event(Protocol):
    """The parts of an event that an order key is made of."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def meta(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Order:
    """Orders the events of one subscription. Equal orders give equal keys.

    `paths` is None for the order by conversation. It is empty for no order: each event has a key of
    its own. `total`: all events share one key.
    """

    paths: tuple[str, ...] | None = None
    total: bool = False

    @property
    def is_none(self) -> bool:
        """Return True if every event may pass every other."""
        return self.paths == () and not self.total

    def key(self, event: Event) -> bytes | None:
        """Return the event's key as bytes, equal for events that keep their order.

        None is the key that events about the instance share, and all events of a `total` order.
        Do not call it if `is_none`.
        """
        if self.total:
            return None
        if self.paths is None:
            found = _conversation(event)
            if found is not None:
                return found
        for path in self.paths or ():
            found = _at(event, path)
            if found is not None:
                return found
        return None if event.name in events.OF_THE_INSTANCE else event.name.encode()


def compiled(order_by: OrderBy, concurrency: int) -> Order:
    """Return the order of a subscription. No order, one at a time, is a total order: a FIFO
    queue then gets one message group."""
    if order_by is None:
        return Order((), total=concurrency == 1)
    return Order(None if isinstance(order_by, str) else tuple(order_by))


# -- as a row stores it -------------------------------------------------------------------------


def to_row(order_by: OrderBy) -> tuple[str | None, str]:
    """Return the columns `order_by` and `order_rule`.

    Releases before `order_rule` read and write `order_by` alone, so it holds the path that is
    nearest to the rule.
    """
    return _nearest(order_by), orjson.dumps(order_by).decode()


def of_row(order_by: str | None, rule: str | None) -> tuple[OrderBy, bool]:
    """Return `orderBy`, and True if the row's null means one event at a time, as it once did.

    A rule that does not fit `order_by` is outdated: a process of an older release has changed the
    row since. Its path counts then.
    """
    if rule is not None:
        found: OrderBy = orjson.loads(rule)
        if _nearest(found) == order_by:
            return found, False
    if order_by is None:
        return None, True
    return (CONVERSATION if order_by == LEGACY_CONVERSATION else [order_by]), False


def _nearest(order_by: OrderBy) -> str | None:
    if isinstance(order_by, list):
        return order_by[0]
    return None if order_by is None else LEGACY_CONVERSATION


# -- by conversation ----------------------------------------------------------------------------

_PHONE: Final = ("@s.whatsapp.net", "@c.us", "@hosted")
_LID: Final = ("@lid", "@hosted.lid")
_SPACE: Final = b" \t\r\n"
_Decode = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Decodes the jids at one tuple of the catalogue's paths."""

    paths: tuple[str, ...]
    """Each is followed by its `…Alt`."""
    jids: Callable[[Any], Iterable[str | None]]
    """Returns the values at the paths, in turn, of what was decoded."""
    one: _Decode
    """Decodes an object."""
    only: _Decode
    """Decodes an array of one object. It raises at a second element, which is not decoded."""


_text: Final[_Decode] = msgspec.json.Decoder(str).decode
_first: Final[_Decode] = msgspec.json.Decoder(tuple[msgspec.Raw]).decode


def _make_reader(paths: tuple[str, ...]) -> _Reader:
    paths = tuple(each for path in paths for each in (path, f"{path}Alt"))
    kind: Any = _struct([path.split(".") for path in paths])
    names = (".".join(f"{name}_" for name in path.split(".")) for path in paths)
    one, only = msgspec.json.Decoder(kind), msgspec.json.Decoder(tuple[kind])
    return _Reader(paths, attrgetter(*names), one.decode, only.decode)


def _struct(paths: Sequence[Sequence[str]]) -> Any:
    """Return a msgspec structure with texts at these paths. Each may be missing."""
    below: dict[str, list[Sequence[str]]] = {}
    for name, *rest in paths:
        below.setdefault(name, []).extend([rest] if rest else [])
    fields: list[Any] = []
    for name, more in below.items():
        part = _struct(more) if more else None
        # The underscore is needed: `from` is a keyword of Python.
        fields.append((f"{name}_", part, part()) if part else (f"{name}_", str | None, None))
    return msgspec.defstruct("Part", fields, frozen=True, rename=lambda name: name[:-1])


_READERS: Final = {
    event: _make_reader(paths)  # events with equal paths do not share one: there are few
    for event, paths in events.CONVERSATION.items()
}


def _conversation(event: Event) -> bytes | None:
    reader = _READERS.get(event.name)
    if reader is None:
        return None
    data = event.data.lstrip(_SPACE)
    try:
        try:
            jids = _strictly(reader, data)
        except msgspec.ValidationError:
            jids = _leniently(reader, data)
        except msgspec.DecodeError:
            jids = _leniently(reader, jsonspans.readable(data))
    except RecursionError:
        return None
    jid = _preferred(jids)
    # Quoted like the value at a path, so a jid keeps the key that older releases gave it.
    return None if jid is None else f'"{_without_device(jid)}"'.encode()


def _strictly(reader: _Reader, data: bytes) -> Iterable[str | None]:
    """Return the jids of data in its usual shape. Raises what msgspec raises."""
    if data.startswith(b"{"):
        return reader.jids(reader.one(data))
    if not data.startswith(b"["):
        return (_text(data),)
    if data[1:64].lstrip(_SPACE).startswith(b"{"):
        return reader.jids(reader.only(data)[0])
    return (_text(bytes(_first(data)[0])),)


def _leniently(reader: _Reader, data: bytes) -> Iterable[str | None]:
    """Return the jids of data that has a value of another type on the way.

    Examples are a number for a jid, and a text for an object.
    """
    if data.startswith(b"["):
        try:
            data = bytes(_first(data)[0])
        except msgspec.MsgspecError:
            return ()
    if not data.startswith(b"{"):
        return (_as_text(data),)
    return [_as_text(_picked(data, path)) for path in reader.paths]


def _as_text(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else str(_text(raw))
    except msgspec.MsgspecError:
        return None


def _preferred(jids: Iterable[str | None]) -> str | None:
    """Return the first jid. If it is a `@lid`, prefer a phone number behind it."""
    first = None
    for jid in jids:
        if not jid:
            continue
        if first is None:
            if not jid.endswith(_LID):
                return jid
            first = jid
        elif jid.endswith(_PHONE):
            return jid
    return first


def _without_device(jid: str) -> str:
    """Return `55119@s.whatsapp.net` for `55119:12@s.whatsapp.net`."""
    if ":" in jid:
        user, at, server = jid.rpartition("@")
        number, colon, device = user.rpartition(":")
        if at and colon and device.isascii() and device.isdigit():
            return f"{number}@{server}"
    return jid


# -- by path ------------------------------------------------------------------------------------


def _at(event: Event, path: str) -> bytes | None:
    """Return the value at `path` as bytes, equal for equal values, or None."""
    if path == "event":
        return event.name.encode()
    if path == "sender":
        sender = orjson.loads(event.meta).get("sender")
        return None if sender is None else str(sender).encode()
    if path == "data":
        return event.data
    names = path.split(".", 1)
    return _picked(event.data, names[1]) if names[0] == "data" and len(names) == 2 else None


@lru_cache(maxsize=256)
def _picker(path: str) -> _Decode | None:
    """Return a decoder of the value at a dotted path, which parses nothing else."""
    if not {'"', "\\"}.isdisjoint(path):
        return None  # no path that may be stored now; msgspec would raise for it
    kind: Any = msgspec.Raw
    for name in reversed(path.split(".")):
        kind = msgspec.defstruct(
            "Level",
            [("value", kind | None if kind is not msgspec.Raw else kind, None)],
            rename={"value": name},
        )
    decode: _Decode = msgspec.json.Decoder(kind).decode
    return decode


def _picked(data: bytes, path: str) -> bytes | None:
    picker = _picker(path)
    if picker is None:
        return None
    try:
        value = _decoded(picker, data)
        for _ in range(path.count(".") + 1):
            value = None if value is None else value.value
    except (msgspec.MsgspecError, RecursionError):
        return None  # something on the path is no object
    found = b"null" if value is None else bytes(value)
    if found == b"null":
        return None
    return _plain(found) if b"\\" in found else found


def _plain(found: bytes) -> bytes:
    """Remove needless escapes, so that two spellings of a text are equal."""
    try:
        return orjson.dumps(orjson.loads(found))
    except (ValueError, TypeError):
        return found  # half an emoji, or nested deeper than orjson writes


def _decoded(decode: _Decode, data: bytes) -> Any:
    try:
        return decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return decode(jsonspans.readable(data))
