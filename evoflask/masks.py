"""What is shown in place of a secret, and what it means when it is sent back. Pure.

Whoever reads a subscription, changes one field and sends it all back must not lose what was
hidden from him: the mask stands for what is stored, and only where it stood.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus, urlsplit

MASK: Final = "********"

SECRETS: Final = frozenset({("pusher", "secret"), ("sqs", "secretAccessKey")})
"""Sink and field. The webhook's own `secret` is not shown at all."""

_URLS: Final = frozenset({("webhook", "url"), ("sqs", "queueUrl")})


class NothingBehind(ValueError):
    """The mask stands where nothing is stored; the text says where."""


def show(sink: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """A sink's settings as they may be seen."""
    return {field: _shown(sink, field, value) for field, value in own.items()}


def _shown(sink: str, field: str, value: Any) -> Any:
    if value is None:
        return None
    if (sink, field) in SECRETS:
        return MASK
    if (sink, field) == ("webhook", "headers"):
        return dict.fromkeys(value, MASK)
    if (sink, field) in _URLS:
        return hide_password(str(value))
    return value


def hide_password(url: str) -> str:
    """A URL without what lets in: the password, or a user that stands alone (a token)."""
    user, at, host = urlsplit(url).netloc.rpartition("@")
    if not at:
        return url
    name, colon, _ = user.partition(":")
    hidden = f"{name}:{MASK}" if colon else MASK
    return url.replace(f"//{user}@{host}", f"//{hidden}@{host}", 1)


def spellings(word: str) -> set[str]:
    """How a word stands in an answer that repeats it: as it is, in JSON, in a page, in a URL."""
    return {word, json.dumps(word)[1:-1], html.escape(word), quote(word, safe=""), quote_plus(word)}


def is_masked(url: str) -> bool:
    """Whether the mask stands where a password would."""
    user = urlsplit(url).netloc.rpartition("@")[0]
    return user.rpartition(":")[2] == MASK


def reveal(sink: str, field: str, given: Any, stored: Any) -> Any:
    """What was meant by a field that somebody sent: the stored value where the mask stands for
    it. Raises `NothingBehind`."""
    if (sink, field) in SECRETS and given == MASK:
        return stored
    if (sink, field) == ("webhook", "headers") and given:
        return _reveal_headers(given, stored or {})
    if (sink, field) in _URLS and given and is_masked(given):
        if stored and given == hide_password(str(stored)):
            return stored
        raise NothingBehind(field)
    return given


def _reveal_headers(given: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    behind = {name.lower(): value for name, value in stored.items()}
    found = {}
    for name, value in given.items():
        if value == MASK and name.lower() not in behind:
            raise NothingBehind(f"headers.{name}")
        found[name] = behind[name.lower()] if value == MASK else value
    return found
