"""Parse an emit's envelope: the fields of an event, with `data` left as it was given.

msgspec checks that `data` is JSON and returns its bytes. It is never parsed into Python, and the
receiver gets exactly these bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import msgspec
import orjson

from evoflask import events, jsonspans
from evoflask.errors import BadInput
from evoflask.ids import EVENT_ID, event_id
from evoflask.plurals import counted
from evoflask.spelling import is_slip, shown

SINKS: Final = ("webhook", "websocket", "rabbitmq", "nats", "sqs", "pusher")
TOO_DEEP: Final = "The body is nested too deep."
_CUT: Final = 64
"""Bytes of `data` above which it is cut out before keys are looked for twice, and below which
only where it may have keys."""


class _Known(msgspec.Struct):
    event: str
    data: msgspec.Raw = msgspec.Raw()
    id: str | None = None
    sender: str | None = None
    dateTime: str | None = None
    serverUrl: str | None = None
    origin: str | None = None
    apiKey: str | None = None
    local: bool | None = None
    integration: list[str] | None = None


GATEWAY: Final = (
    "instance", "instanceName", "instanceId", "destination", "date_time", "server_url", "apikey",
    "api_key", "timestamp", "server", "dataType", "extra", "isLatest", "progress",
    "webhookVerifyToken", "awaitResponse", "test", "replay", "cursor", "retained", "subscriptions",
)  # fmt: skip
"""Fields of bodies that gateways, or evoflask itself, send. An emit ignores them in silence."""


class _Data(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()


# Unknown fields cost nothing where there are none: msgspec finds them while it reads.
_Body = cast(
    "type[_Known]",
    msgspec.defstruct(
        "_Body",
        [(name, msgspec.Raw, msgspec.Raw()) for name in GATEWAY],
        bases=(_Known,),
        forbid_unknown_fields=True,
    ),
)
_decode: Callable[[bytes], _Known] = msgspec.json.Decoder(_Body).decode
_decode_any: Callable[[bytes], _Known] = msgspec.json.Decoder(_Known).decode
_decode_data: Callable[[bytes], _Data] = msgspec.json.Decoder(_Data).decode
_names: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode
_split: Callable[[bytes], list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw]).decode
_OWN: Final = tuple(name for name in _Known.__struct_fields__ if name != "data")
FIELDS: Final = _Known.__struct_fields__
_OWN_AND_GATEWAY: Final = frozenset((*FIELDS, *GATEWAY))
OTHER_WORDS: Final = frozenset({"_id", "locale", "integrationId", "integration_id"})
"""Fields of a producer's own that resemble ours. `_id` is the key of a document of MongoDB."""
_MEANT: Final = tuple(name for name in FIELDS if name != "apiKey")
"""Fields that a slip loses. `apiKey` has no effect, so a slip for it has none."""
MAX_STRANGE: Final = 5
"""Unknown fields of an event that are judged, to bound the work."""
FREE_BYTES: Final = 256 * 1024
"""Bytes beside `data` that may hold any number of values."""
MAX_VALUES: Final = 100_000
"""Values beside `data` in a larger body. Each becomes an object, of many times its bytes."""
_BYTE: Final = re.compile(r"\(byte (\d+)\)")
HALF: Final = "Has half of a surrogate pair, which is no character."
LENGTHS: Final = {"sender": 256, "dateTime": 64, "serverUrl": 2048, "origin": 256, "apiKey": 512}


@dataclass(frozen=True, slots=True)
class Event:
    """A valid event on its way in."""

    id: str
    given: bool
    """The id is the caller's. A repeat with the same content is answered, not kept."""
    name: str
    """In the catalogue's spelling."""
    data: bytes
    meta: bytes
    """JSON of sender, dateTime, serverUrl, origin, and of local and integration where they left
    something out, as far as they were given."""
    local: bool
    integration: frozenset[str] | None
    warnings: tuple[str, ...] = ()
    """Sentences about fields that were ignored."""


def fingerprint(event: Event) -> bytes:
    """Return 12 bytes that are equal for equal event names and `data` bytes."""
    digest = hashlib.blake2b(event.name.encode() + b" ", digest_size=12)
    digest.update(event.data)
    return digest.digest()


def parse(body: bytes) -> Event:
    """One event from its JSON. Raises `BadInput` with sentences that name the field."""
    try:
        if not body.isascii():
            body.decode()
        try:
            raw, warnings = _read(body)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            return _parse_halves(body)
    except UnicodeDecodeError:
        raise BadInput("The body is not UTF-8.") from None
    except RecursionError:
        raise BadInput(TOO_DEEP) from None
    except msgspec.ValidationError as error:
        raise BadInput(_sentence(str(error))) from None
    except msgspec.DecodeError as error:
        if not body.strip():
            raise BadInput("The body is empty. Send JSON.") from None
        raise BadInput(f"The body is not JSON: {error}.") from None
    data = bytes(raw.data)
    refuse_twice(body, data)
    return _event(raw, data, warnings)


def _read(text: bytes) -> tuple[_Known, tuple[str, ...]]:
    """Read a body, and warn of unknown fields. Raises `BadInput` if a field is a slip for one of
    ours that the body does not have, and msgspec's errors."""
    try:
        known = _decode(text)
        _check_values(text, known.data)
        return known, ()
    except msgspec.ValidationError as error:
        if not str(error).startswith("Object contains unknown field"):
            raise
    _check_values(text, _decode_data(text).data)
    names = _names(text)
    strange = [name for name in names if name not in _OWN_AND_GATEWAY]
    meant = [_slip_for(name[:100]) for name in strange[:MAX_STRANGE]]
    if slips := [
        f'{shown(name)}: Unknown field; did you mean "{own}"?'
        for name, own in zip(strange, meant, strict=False)
        if own is not None and own not in names
    ]:
        raise BadInput(*slips)
    more = len(strange) - MAX_STRANGE
    warnings = [
        f"{shown(name)}: Ignored: an emit has no such field." for name in strange[:MAX_STRANGE]
    ]
    if more > 0:
        warnings.append(
            f"{counted(more, 'more unknown field is', 'more unknown fields are')} ignored."
        )
    return _decode_any(text), tuple(warnings)


def _check_values(text: bytes, raw: msgspec.Raw) -> None:
    """Raise `BadInput` if there are too many values beside `data`, to bound memory."""
    if len(text) - memoryview(raw).nbytes <= FREE_BYTES:
        return
    data = bytes(raw)
    if sum(text.count(each) - data.count(each) for each in (b",", b":", b"[")) > MAX_VALUES:
        raise BadInput(f"The body has more than {MAX_VALUES:,} values beside data.")


@lru_cache(maxsize=1024)
def _slip_for(name: str) -> str | None:
    """Return the field of ours that an unknown field is a slip for, or None."""
    if name in OTHER_WORDS:
        return None
    return next((each for each in _MEANT if is_slip(name, each)), None)


def _parse_halves(body: bytes) -> Event:
    """Parse an event that has halves of surrogate pairs.

    In `data` and in unread fields the halves stay as they are. Raises as `parse` does, and
    msgspec's errors.
    """
    text = jsonspans.readable(body)
    raw, warnings = _read(text)
    refuse_twice(text, bytes(raw.data))
    spans = jsonspans.members(text)
    own = {name: body[slice(*spans[name])] for name in _OWN if name in spans}
    broken = [name for name, value in own.items() if not jsonspans.is_readable(value)]
    if broken:
        raise BadInput(*(f"{name}: {HALF}" for name in broken))
    pairs = (orjson.dumps(name) + b":" + value for name, value in own.items())
    raw = _decode(b"{" + b",".join(pairs) + b"}")
    data = body[slice(*spans["data"])] if "data" in spans else b""
    return _event(raw, data, warnings)


def split(body: bytes) -> list[bytes]:
    """Return the elements of a JSON array, unparsed. Raises `BadInput` if the body is no array.

    An element that is not UTF-8, is too deep or has half of a surrogate pair is returned as well:
    `parse` refuses that element alone.
    """
    text = body
    try:
        body.decode()
    except UnicodeDecodeError:
        text = jsonspans.ascii_only(body)
    try:
        try:
            raws = _split(text)
        except msgspec.DecodeError:
            text = jsonspans.readable(text)
            raws = _split(text)
    except RecursionError:
        parts = [body[slice(*span)] for span in jsonspans.elements_of_any_depth(text) or ()]
        if not any(part.lstrip().startswith(b"{") for part in parts):
            raise BadInput(TOO_DEEP) from None  # no event among them
        return parts
    except msgspec.MsgspecError as error:
        raise BadInput(_where(text, str(error))) from None
    if text is body:
        return [bytes(raw) for raw in raws]
    return [body[start:end] for start, end in jsonspans.elements(text, raws)]


def _where(text: bytes, error: str) -> str:
    """Return the sentence that says where an array stops being JSON."""
    found = _BYTE.search(error)
    n = jsonspans.element_at(text, int(found[1]) if found else len(text))
    place = "" if n is None else f", in element {n} (the first is 0)"
    return (
        f"The body is not JSON: {error}{place}. Nothing was accepted. "
        "As NDJSON, a malformed line is refused alone."
    )


def of(fields: dict[str, Any]) -> Event:
    """Return one event of Python values, as `parse` would of their JSON. Raises `BadInput`."""
    try:
        return parse(_dumped(fields))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"data: is not JSON: {error}.") from None


def _dumped(fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except orjson.JSONEncodeError:
        if not isinstance(fields["data"], str | list | dict):
            raise
        # Only json writes a text with half of a surrogate pair.
        return json.dumps(fields, allow_nan=False, separators=(",", ":")).encode()


def _event(raw: _Known, data: bytes, warnings: tuple[str, ...] = ()) -> Event:
    problems: list[str] = []
    name = events.canonical(raw.event) if len(raw.event) <= 100 else None
    if name is None:
        problems.append(f"event: {events.unknown(raw.event)}")
    if not data:
        problems.append("data: Missing data for required field.")
    if raw.id is not None and not EVENT_ID.fullmatch(raw.id):
        problems.append("id: Must be 1 to 128 printable ASCII characters without space.")
    for field, limit in LENGTHS.items():
        value = getattr(raw, field)
        if value is not None and (len(value) > limit or not value.isprintable()):
            problems.append(f"{field}: Must be at most {limit} printable characters.")
    unknown = [sink for sink in raw.integration or () if sink not in SINKS]
    if unknown:
        problems.append(
            f"integration: {unknown[0][:60]!r} is no sink; there are: {', '.join(SINKS)}."
        )
    if problems:
        raise BadInput(*problems)
    assert name is not None
    named = None if raw.integration is None else tuple(sorted(set(raw.integration)))
    return Event(
        id=raw.id if raw.id is not None else event_id(),
        given=raw.id is not None,
        name=name,
        data=data,
        meta=_meta(raw.sender, raw.dateTime, raw.serverUrl, raw.origin, raw.local, named),
        local=raw.local is not False,
        integration=None if named is None else frozenset(named),
        warnings=warnings,
    )


@lru_cache(maxsize=512)
def _meta(
    sender: str | None,
    date_time: str | None,
    server_url: str | None,
    origin: str | None,
    local: bool | None,
    integration: tuple[str, ...] | None,
) -> bytes:
    named: dict[str, Any] = {
        "sender": sender,
        "dateTime": date_time,
        "serverUrl": server_url,
        "origin": origin,
        "local": False if local is False else None,
        "integration": integration,
    }
    return orjson.dumps({name: value for name, value in named.items() if value is not None})


def _sentence(error: str) -> str:
    """msgspec's words as ours: `event: Expected `str`, got `int``."""
    text, _, path = error.partition(" - at `$")
    where = path.rstrip("`").lstrip(".")
    if text.startswith("Object missing required field"):
        return f"{text.split('`')[1]}: Missing data for required field."
    return f"{where}: {text}." if where else f"The body must be a JSON object: {text}."


def refuse_twice(body: bytes, data: bytes) -> None:
    """A key of the envelope that is there twice: whoever checks one may use the other. The
    bytes of `data` are cut out first, what they hold is the caller's own affair."""
    if len(data) > _CUT or b"{" in data:
        at = body.rfind(data)
        body = body[:at] + b"null" + body[at + len(data) :]
    if _same(body):
        return
    try:
        _look(body.decode())
    except (RecursionError, ValueError):
        raise BadInput(TOO_DEEP) from None


def _same(body: bytes) -> bool:
    """Whether it is, to the byte, what is written of what is read of it: a key that is there twice
    is written once. Most envelopes are, and it costs a tenth of looking at each key."""
    try:
        return orjson.dumps(orjson.loads(body)) == body
    except orjson.JSONDecodeError:
        return False


def _top(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) != len(pairs) and "event" in found:
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"The body has the key {json.dumps(twice[:60])} twice.")
    return found


_look: Final = json.JSONDecoder(object_pairs_hook=_top).decode
