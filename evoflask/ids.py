"""Ids that we draw: events (UUIDv7, time-ordered), outboxes, lanes and holds (random)."""

from __future__ import annotations

import os
import re
import secrets
import time
import unicodedata
from typing import Final
from uuid import UUID

from evoflask.spelling import shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}", re.ASCII)
"""Names of instances and subscriptions."""

NAME_RULE: Final = (
    "Must be 1 to 100 ASCII letters, digits, _, - or ., beginning with a letter or a digit."
)

OPERATOR = "_operator"
"""The hidden instance whose events go to the operator. `NAME` excludes it as a tenant's name."""

EVENT_ID = re.compile(r"[\x21-\x7e]{1,128}", re.ASCII)
"""Ids of events: printable ASCII without space."""

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.\-]", re.ASCII)

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def name_fault(name: str) -> str | None:
    """Return why this is no name of an instance or a subscription, or None if it is one.

    The sentence names the fault, the rule and, if possible, a valid name.
    """
    if NAME.fullmatch(name):
        return None
    start = name[:101]
    bad = list(dict.fromkeys(_NOT_IN_A_NAME.findall(start)))
    if not name:
        return f"Is empty. {NAME_RULE}"
    if bad:
        quoted = ", ".join(f'"{shown(each)}"' for each in bad[:5])
        why = f'"{shown(name)}" has {quoted}.'
    elif len(start) > 100:
        why = f'"{shown(name)}" is too long.'
    else:
        why = f'"{shown(name)}" begins with "{name[0]}".'
    return f"{why} {NAME_RULE}{_such_as(start)}"


def _such_as(name: str) -> str:
    """Return ` "Joao-1" would do.` for "João 1", or "" if too little is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = _NOT_IN_A_NAME.sub("-", plain.strip()).lstrip("_.-").rstrip("-")[:100]
    return f' "{shown(slug)}" would do.' if NAME.fullmatch(slug) and len(slug) <= 60 else ""


def event_id(now: float | None = None) -> str:
    """A UUIDv7 (RFC 9562, 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    ms = int((time.time() if now is None else now) * 1000)
    value = (ms & ((1 << 48) - 1)) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))


def time_of(event_id: str) -> int | None:
    """The Unix milliseconds that an id of the kind we draw was drawn at; None: it is another."""
    return int(event_id[:8] + event_id[9:13], 16) if _UUID7.fullmatch(event_id) else None


def random_id() -> str:
    """16 hex digits that are never given twice: outboxes `<i>`, lanes `<s>`, holds."""
    return secrets.token_hex(8)
