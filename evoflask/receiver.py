"""For whoever receives evoflask's webhooks: is it ours, is it new, is something missing.

One file, and nothing but Python's own library (`cryptography` where a key is `whpk_…`): copy it.
It knows no framework; `examples/` shows it in Flask and in FastAPI.

    received = verify(SECRET, request.headers, body)     # raises NotOurs: answer 401
    if repeats.begin(received.id):                       # False: answer 2xx, it was handled
        handle(received.event)                           # fails: repeats.forget(received.id), 5xx

The signatures are those of Standard Webhooks (https://www.standardwebhooks.com), so any of
its libraries does instead of `verify`. evoflask delivers at least once: a repeat has the id of
the first, and is a repeat also when the first answer was lost on its way.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlencode

TOLERANCE: Final = 300.0
"""Seconds that a request may be old, or ahead of this clock. It bounds how long somebody who has
copied a request may send it again; `Repeats` must remember for longer than that."""
_MARKS: Final = ("test", "replay")


class NotOurs(Exception):
    """Not signed with one of the keys, or too long ago. Its text says which, and no key."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request that is ours."""

    id: str
    """Of the event: the same at every repeat of it."""
    at: int
    """When this attempt was signed, Unix seconds."""
    event: Any
    """The body, parsed."""
    mark: str
    """`test` or `replay`; "": an event like any other."""


def verify(
    keys: str | Sequence[str],
    headers: Mapping[str, Any],
    body: bytes,
    *,
    now: float | None = None,
    tolerance: float = TOLERANCE,
) -> Received:
    """A request, checked. `keys`: secrets `whsec_…` and public keys `whpk_…`, several while one is
    exchanged; `body`: its bytes as they came, not parsed and written again; `now`: Unix seconds.

    Raises `NotOurs`, and `ValueError` for a key that is none.
    """
    found = {name.lower(): value for name, value in headers.items()}
    id, stamp = found.get("webhook-id", ""), found.get("webhook-timestamp", "")
    given = [each.partition(",") for each in found.get("webhook-signature", "").split()]
    if not id or not given or not (stamp.isascii() and stamp.isdigit()) or len(stamp) > 15:
        raise NotOurs("it is not signed")
    signed = f"{id}.{stamp}.".encode() + body
    each_key = [keys] if isinstance(keys, str) else list(keys)
    # Every key and signature is looked at: how long it takes says nothing of which one fits.
    fits = [_fits(key, scheme, value, signed) for key in each_key for scheme, _, value in given]
    if not any(fits):
        raise NotOurs("no signature fits")
    if abs((time.time() if now is None else now) - int(stamp)) > tolerance:
        raise NotOurs("it is too old, or one of the clocks is wrong")
    mark = next((each for each in _MARKS if _says(found, each)), "")
    return Received(id, int(stamp), json.loads(body), mark)


def _says(headers: Mapping[str, Any], mark: str) -> bool:
    """A message of RabbitMQ or SQS has it under its plain name."""
    return headers.get(f"webhook-{mark}") == "true" or headers.get(mark) in (True, "true")


def _fits(key: str, scheme: str, value: str, signed: bytes) -> bool:
    if key.startswith("whsec_"):
        mac = hmac.digest(_bytes(key.removeprefix("whsec_")), signed, hashlib.sha256)
        expected = base64.b64encode(mac).decode()
        return scheme == "v1" and hmac.compare_digest(expected.encode(), value.encode())
    if key.startswith("whpk_"):
        return scheme == "v1a" and _fits_ed25519(_bytes(key.removeprefix("whpk_")), value, signed)
    raise ValueError("a key begins with whsec_ or whpk_")


def _fits_ed25519(public: bytes, value: str, signed: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        signature = base64.b64decode(value, validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    except (InvalidSignature, binascii.Error):
        return False
    return True


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError("a key is base64 behind its prefix") from None


# --- repeats ----------------------------------------------------------------------------------


class Repeats:
    """Ids that were handled, in this process' memory: for several processes, or across a restart,
    keep them where you keep what you do with the event, in the same transaction.

    `most`: how many are remembered; `seconds`: for how long. Safe between threads.
    """

    def __init__(self, most: int = 100_000, seconds: float = 86_400.0) -> None:
        self._most, self._seconds = most, seconds
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, id: str, now: float | None = None) -> bool:
        """Whether to handle it. From now on it counts as handled."""
        at = time.time() if now is None else now
        with self._lock:
            while self._seen and at - next(iter(self._seen.values())) > self._seconds:
                self._seen.popitem(last=False)
            if id in self._seen:
                return False
            self._seen[id] = at
            while len(self._seen) > self._most:
                self._seen.popitem(last=False)
        return True

    def forget(self, id: str) -> None:
        """It could not be handled after all: its repeat is to be."""
        with self._lock:
            self._seen.pop(id, None)


# --- gaps -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gap:
    """An event that is not here."""

    id: str
    why: str
    """`lost here`: it was delivered, and answered 2xx; `dead`: it is a dead letter."""
    detail: str = ""
    """Of a dead letter: its reason."""


class Get(Protocol):
    """Asks evoflask: a path with its query in, the parsed answer out. `requests.get(base + path,
    headers={"apikey": token}, timeout=10).json()`, for example."""

    def __call__(self, path: str) -> Any: ...


def gaps(
    get: Get | Callable[[str], Any],
    instance: str,
    subscription: str,
    known: Collection[str],
    *,
    since: float,
) -> Iterator[Gap]:
    """What a subscription was sent, or was to be sent, since a moment (Unix seconds), and is not
    among the ids that are known here. What still waits on its lane is not missing yet.

    evoflask numbers nothing: events of different chats pass each other on purpose, and a retried
    one comes later. What is missing says its delivery log, for as long as that is kept
    (`ATTEMPTS_RETAIN_SECONDS`, with `ATTEMPTS_LOG=all`), and its dead letters.
    """
    where = {"instance": instance, "subscription": subscription, "since": since}
    seen = set()
    for each in _pages(get, "/attempt", "attempts", where | {"outcome": "delivered"}):
        id = each["eventId"]
        if id not in known and id not in seen:
            seen.add(id)
            yield Gap(id, "lost here")
    for each in _pages(get, "/deadletter", "letters", where):
        id = each["eventId"]
        if id not in known and id not in seen:
            seen.add(id)
            yield Gap(id, "dead", each["reason"])


def _pages(
    get: Callable[[str], Any], path: str, name: str, asked: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    after: str | None = None
    while True:
        query = asked | {"limit": 500} | ({} if after is None else {"after": after})
        page = get(f"{path}?{urlencode(query)}")
        yield from page[name]
        after = page["next"]
        if after is None:
            return
