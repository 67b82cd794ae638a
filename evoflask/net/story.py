"""The story of one delivery, told step by step: for a test of a subscription.

Whoever sends asks `current()`; it is None for every delivery that nobody listens to, and that
question is all that it costs. The story knows what must not be shown, and shows it to nobody.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

MAX_SHOWN = 4096
"""Bytes of a body that are shown, of the request's and of the answer's."""
MAX_HEADERS = 64
MAX_VALUE = 512
"""Characters of a header's value."""
SECRET = "…"  # noqa: S105  # what stands where one was
_SHOWN_HEADERS = frozenset({"content-type", "user-agent", "accept", "accept-encoding"})
_HIDDEN_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})


@dataclass(slots=True)
class Story:
    """What happened, as far as it came. Times are seconds."""

    server: str = ""
    """Name and port that were asked for."""
    addresses: list[dict[str, str | None]] = field(default_factory=list)
    """What the name stands for: `address`, and `refused`, why it may not be reached."""
    address: str = ""
    """What was connected to."""
    tls: dict[str, Any] | None = None
    request: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None
    redirects: list[dict[str, Any]] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    """How long each step took, in their order; the last one is how far it came."""
    hidden: tuple[str, ...] = ()
    """Words that are secret."""
    secret_headers: frozenset[str] = frozenset()
    """Names, in lower case, of headers whose value is."""
    began: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)
    _body: bytearray = field(default_factory=bytearray)

    def start(self) -> None:
        """It begins now: what was prepared before is no step of it."""
        self.began = self._last = time.monotonic()

    def step(self, name: str) -> None:
        """That is done now; what passed since the step before is its time."""
        now = time.monotonic()
        self.timing[name] = round(self.timing.get(name, 0.0) + now - self._last, 6)
        self._last = now

    def hide(self, text: str) -> str:
        """Without the secret words."""
        for word in self.hidden:
            text = text.replace(word, SECRET)
        return text

    def sends(self, **facts: Any) -> None:
        """What is sent: the facts of its kind, `body` as bytes."""
        body = facts.pop("body", None)
        self.request = facts if body is None else {**facts, "body": self._shown(body)}

    def answers(self, **facts: Any) -> None:
        """What came back, without its body, which `hears` adds."""
        self._body.clear()
        self.answer = {**facts, "body": ""}

    def hears(self, piece: bytes) -> None:
        """A piece of the answer's body."""
        room = MAX_SHOWN + self._longest + 1 - len(self._body)
        self._body += piece[: max(0, room)]

    def turns(self, url: str, status: int) -> None:
        """It was sent on to another place: what comes now is of that one."""
        self.redirects.append({"url": url, "status": status, "timing": self.timing})
        self.addresses, self.address, self.tls, self.answer = [], "", None, None
        self.timing = {}

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return headers that may be shown: all names, and the values that are no secret.

        Bytes beyond ASCII are read as Latin-1, also if a library decoded them in another way.
        """
        shown: dict[str, str] = {}
        for name, value in list(headers.items())[:MAX_HEADERS]:
            low = name.lower()
            secret = low in _HIDDEN_HEADERS or low in self.secret_headers - _SHOWN_HEADERS
            shown[f"{_latin(name)}"] = SECRET if secret else self.hide(_latin(value))[:MAX_VALUE]
        return shown

    def told(self) -> dict[str, Any]:
        """The whole of it, as it is answered."""
        answer = self.answer
        if answer is not None:
            answer = {**answer, "body": self._shown(bytes(self._body))}
            answer["cut"] = len(self._body) > MAX_SHOWN
        return {
            "server": self.server or None,
            "addresses": self.addresses,
            "address": self.address or None,
            "tls": self.tls,
            "request": self.request,
            "answer": answer,
            "redirects": self.redirects,
            "timing": {**self.timing, "total": round(time.monotonic() - self.began, 6)},
        }

    def _shown(self, body: bytes) -> str:
        longest = self._longest
        text = self.hide(body[: MAX_SHOWN + longest].decode("utf-8", "replace"))
        if longest and len(body) > MAX_SHOWN + longest:
            text = text[:-longest]  # what was cut off in the middle of a secret is none any more
        return text[:MAX_SHOWN]

    @property
    def _longest(self) -> int:
        """Bytes of the longest secret."""
        return max((len(word.encode()) for word in self.hidden), default=0)


def _latin(text: str) -> str:
    """Replace the surrogates that stand for bytes which are no UTF-8: JSON cannot carry them."""
    if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text):
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


_current: ContextVar[Story | None] = ContextVar("story", default=None)


def current() -> Story | None:
    """The story that what runs here belongs to; None: nobody listens."""
    return _current.get()


@contextmanager
def telling() -> Iterator[Story]:
    """What is sent within, also by tasks that begin within, tells this story."""
    story = Story()
    token = _current.set(story)
    try:
        yield story
    finally:
        _current.reset(token)
