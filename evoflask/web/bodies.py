"""Bodies: reading one as strictly as JSON allows, and writing rows in the contract's names."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Final, NoReturn, TypeVar

from flask import request

from evoflask import masks, schemas, signing
from evoflask.configuration import State, common_of, fields_of
from evoflask.errors import BadInput, ProcessFull, TooLarge, Undecipherable, WrongType
from evoflask.models import Instance, Subscription
from evoflask.plurals import counted
from evoflask.reading import HOLD
from evoflask.web import parts, unpacking

T = TypeVar("T")

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 1_000
"""Digits of one number. Python refuses above 4,300, and takes time before that."""

_GZIP: Final = b"\x1f\x8b"
"""First bytes of a gzip stream (RFC 1952). No JSON begins with them."""


# --- in --------------------------------------------------------------------------------------


def json_body(schema: Callable[[dict[str, Any]], T]) -> T:
    """The request's body, a JSON object, through one function of `schemas`.

    Raises `BadInput` for what is not JSON, not an object, ambiguous or too deep, `TooLarge`.
    """
    refuse_type("application/json")
    return schema(parse(b"".join(body_pieces())))


def optional_json_body(schema: Callable[[dict[str, Any]], T]) -> T:
    """Do as `json_body`, but take a missing body as an empty object."""
    return schema({}) if _has_no_body() else json_body(schema)


def _has_no_body() -> bool:
    return not request.content_length and "Transfer-Encoding" not in request.headers


def refuse_type(*mimetypes: str) -> None:
    """Raise `WrongType` for a body of another type than these, and `BadInput` for no body."""
    if request.environ.get("CONTENT_TYPE") in mimetypes:
        return  # the usual spelling
    types = " or ".join(mimetypes)
    if not request.mimetype and _has_no_body():
        raise BadInput(f"The body is missing. Send it with Content-Type: {types}.")
    if request.mimetype not in mimetypes:
        given = f"and not {request.mimetype[:60]!r}" if request.mimetype else "and is missing"
        raise WrongType(f"Content-Type must be {types}, {given}.", types=mimetypes)
    if request.mimetype_params.get("charset", "utf-8").lower() not in {"utf-8", "utf8"}:
        raise WrongType(
            f"The body must be UTF-8: leave out charset, or say {mimetypes[0]}; charset=utf-8.",
            types=mimetypes,
        )


def body_pieces(size: int = 65_536) -> Iterator[bytes]:
    """Yield the request's body in pieces, unpacked and without a byte order mark.

    Raises `TooLarge` for more than `MAX_BODY_BYTES`, packed or unpacked. Raises `WrongType` for an
    unknown Content-Encoding, and `BadInput` if the body ends too early or cannot be unpacked.
    Raises `ProcessFull` if the unpacked bytes exceed what this process may hold.
    """
    pieces = _received(size)
    header = request.environ.get("HTTP_CONTENT_ENCODING")
    if header:
        for coding in unpacking.codings(header):
            pieces = unpacking.unpacked(pieces, coding, parts().settings.max_body_bytes)
        pieces = _held(pieces)
    return _without_mark(pieces)


def _held(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Count unpacked bytes until the request is answered: the server counted the packed ones."""
    hold = request.environ.get(HOLD)
    for piece in pieces:
        if hold is not None and not hold(len(piece)):
            raise ProcessFull
        yield piece


def _without_mark(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Remove the byte order mark that some editors write before UTF-8 (RFC 8259, 8.1)."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(codecs.BOM_UTF8) or not codecs.BOM_UTF8.startswith(head):
            break
    if head.startswith(_GZIP):
        raise BadInput("The body is packed by gzip. Send it with Content-Encoding: gzip.")
    yield head.removeprefix(codecs.BOM_UTF8)
    yield from pieces


def _received(size: int) -> Iterator[bytes]:
    """Yield the request's body as it came.

    Raises `TooLarge` for more than `MAX_BODY_BYTES` and `BadInput` if it ends before the
    length that it announced. werkzeug's own limit does neither under gunicorn: a body of
    unknown length is cut at the limit, and one that broke off counts as whole.
    """
    limit = parts().settings.max_body_bytes
    too_large = TooLarge(f"The body is larger than {counted(limit, 'byte')}.")
    length = request.content_length
    if length is not None and length > limit:
        raise too_large
    # With a length, nobody need be asked where it ends; werkzeug's stream keeps to it, and asks.
    stream = request.stream if length is None else request.environ["wsgi.input"]
    total = 0
    while total != length and (
        piece := _read(stream, size if length is None else min(size, length - total))
    ):
        total += len(piece)
        if total > limit:
            raise too_large
        yield piece
    if length is not None and total < length:
        raise BadInput("The body ended before the length that it announced.")


def _read(stream: IO[bytes], size: int) -> bytes:
    try:
        return stream.read(size)
    except Exception as error:  # the server's own classes: a bad chunk, a lost connection
        raise BadInput("The body could not be read to its end.") from error


def parse(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises `BadInput`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("The body is not UTF-8.") from error
    if not text.strip():
        raise BadInput("The body is empty. Send JSON.")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole
        )
    except RecursionError as error:
        raise BadInput(f"The body is nested deeper than {MAX_DEPTH} levels.") from error
    except json.JSONDecodeError as error:
        raise BadInput(f"The body is not JSON: {error.msg} at position {error.pos}.") from error
    if not isinstance(value, dict):
        raise BadInput("The body must be a JSON object.")
    _check(value)
    return value


def _place_of(text: str, body: dict[str, Any]) -> str:
    """Return the dotted path to the first such text, `webhook.url: `, or "" if it is a key."""
    left: list[tuple[str, Any]] = [("", body)]
    while left:
        path, value = left.pop()
        if value is text:
            return f"{path}: "
        if isinstance(value, dict):
            left += [(f"{path}.{key}" if path else key, each) for key, each in value.items()]
        elif isinstance(value, list):
            left += [(f"{path}.{n}", each) for n, each in enumerate(value)]
    return ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Which of two a reader takes is its own affair: so nobody checks one and uses the other.
        raise BadInput(f"The body has the key {_twice(key for key, _ in pairs)} twice.")
    return found


def _twice(keys: Iterable[str]) -> str:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return json.dumps(key[:60])
        seen.add(key)
    return ""


def _constant(word: str) -> NoReturn:
    raise BadInput(f"The body is not JSON: {word} is no JSON value.")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise BadInput(f"The body has a number of more than {MAX_DIGITS} digits.")
    return int(digits)


def _check(body: dict[str, Any]) -> None:
    """Refuse too much depth, and half of a surrogate pair.

    No database and no socket takes such a half. Only `data` of an emit may have one, and it is not
    read here.
    """
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each.keys()
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str) and not each.isascii():
                _check_text(each, body)
        if not below:
            return
        level = below
    if any(isinstance(each, dict | list) for each in level):
        raise BadInput(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _check_text(text: str, body: dict[str, Any]) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = _place_of(text, body).encode("ascii", "backslashreplace").decode()
        raise BadInput(
            f"{place or 'A key: '}Has half of a surrogate pair, which is no character."
        ) from error


# --- out -------------------------------------------------------------------------------------

_EVOLUTION_NAMES: Final = {
    "webhook": (
        "url", "headers", "enabled", "events", "webhookByEvents", "webhookBase64",
    ),
    "pusher": ("enabled", "appId", "key", "secret", "cluster", "useTLS", "events"),
}  # fmt: skip
"""The keys of Evolution API's rows between `id` and the dates, in its order."""

_SAME_AS: Final = {"webhookByEvents": "byEvents", "webhookBase64": "base64"}


def iso(at: float) -> str:
    """Unix seconds as Evolution API writes dates: UTC, milliseconds, `Z`."""
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def subscription_row(row: Subscription) -> dict[str, Any]:
    """A named subscription as its routes answer it. Secrets stay inside. Raises
    `Undecipherable`."""
    return _named(row, _shown(row))


def subscription_rows(rows: Iterable[Subscription]) -> list[dict[str, Any]]:
    """Several: one that does not open shows an `error` and stands in nobody's way."""
    return [_named(row, _shown_or_error(row)) for row in rows]


def _named(row: Subscription, shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row.lane,
        "name": row.name,
        "sink": row.sink,
        **shown,
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "instanceId": row.instance.outbox,
    }


def evolution_row(instance: Instance, row: Subscription | None) -> dict[str, Any] | None:
    """The same as Evolution API's row: its keys in its order, then ours. Raises
    `Undecipherable`."""
    return None if row is None else _evolution(instance, row, _shown(row))


def _evolution(instance: Instance, row: Subscription, shown: Mapping[str, Any]) -> dict[str, Any]:
    names = _EVOLUTION_NAMES.get(row.sink, ("enabled", "events"))
    theirs = {name: shown[_SAME_AS.get(name, name)] for name in names}
    return {
        "id": row.lane,
        **theirs,
        "createdAt": iso(row.created_at),
        "updatedAt": iso(row.updated_at),
        "instanceId": instance.outbox,
        **{name: value for name, value in shown.items() if name not in theirs},
    }


def evolution_rows(state: State) -> dict[str, dict[str, Any] | None]:
    """All six sinks of an instance, row or null; as in `subscription_rows`."""
    found = {sink: state.sink(sink) for sink in schemas.SINKS}
    return {
        sink: None if row is None else _evolution(state.instance, row, _shown_or_error(row))
        for sink, row in found.items()
    }


def with_warnings(answer: Mapping[str, Any], warnings: Sequence[str]) -> dict[str, Any]:
    """Add `warnings`, the sentences about ignored fields, if there are any."""
    return {**answer, "warnings": list(warnings)} if warnings else dict(answer)


def _shown_or_error(row: Subscription) -> dict[str, Any]:
    """What only the sink has is null where it does not open."""
    try:
        return _shown(row)
    except Undecipherable as error:
        shown = _fields(row, dict.fromkeys(schemas.setting_names(row.sink)) | common_of(row))
        if "delivery" in shown:
            shown["delivery"] = None  # it follows from what nobody can read
        return shown | {"error": " ".join(error.messages)}


def _shown(row: Subscription) -> dict[str, Any]:
    return _fields(row, fields_of(row))


def _fields(row: Subscription, every: Mapping[str, Any]) -> dict[str, Any]:
    """Every field that may be seen: sink's own first, then the common ones."""
    own = {name: every[name] for name in schemas.setting_names(row.sink)}
    common = {name: every[name] for name in schemas.COMMON}
    common["timeout"] = _plain(common["timeout"])
    if common["retry"] is not None:
        common["retry"] = [_plain(each) for each in common["retry"]]
    if row.sink == "webhook":
        own["headers"] = own["headers"] or None  # unset is null, as in Evolution API
    if row.sink in signing.SINKS:
        common["secretSet"] = row.secret is not None
        common["publicKey"] = _public_key(row)
    own = masks.show(row.sink, own)
    if (promised := schemas.guarantee(row.sink, own)) is not None:
        own["delivery"] = promised
    return own | common


def _public_key(row: Subscription) -> str | None:
    """None too where its keys do not open: whatever else of it does not says so."""
    try:
        private = signing.in_use(row.open_keys(), signing.ED25519)
    except Undecipherable:
        return None
    return None if private is None else signing.public_key(private.text)


def _plain(seconds: float) -> float | int:
    """30, not 30.0."""
    return int(seconds) if seconds == int(seconds) else seconds
