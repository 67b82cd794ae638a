"""Events that no subscription got: their reasons, as the outbox keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

from evoflask import routing
from evoflask.envelope import Event
from evoflask.outbox import Outbox, entries
from evoflask.routing import Route, Why

WHY_BYTES: Final = 1024
"""Bytes of the reasons of one event; those of further subscriptions are left out."""
_CODES: Final = {Why.DISABLED: "d", Why.EVENTS: "e", Why.INTEGRATION: "i", Why.LOCAL: "l"}
_WHYS: Final = {code: why for why, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a subscription did not get the event, by its configuration at that moment."""

    lane: str
    name: str
    sink: str
    why: Why


@dataclass(frozen=True, slots=True)
class Unwanted:
    """An event that was accepted, and that no subscription got."""

    event: str
    at: float
    """When it was accepted, Unix seconds of Redis' clock."""
    reasons: dict[str, Reason]
    """Reasons by lane. Reasons beyond `WHY_BYTES` are missing."""


def pack(route: Route, event: Event) -> bytes:
    """Return why each subscription of the route does not get the event.

    JSON, `[[lane, name, sink, code], ...]`, of at most `WHY_BYTES`."""
    rows, size = [], 2
    for rule in route.rules:
        why = routing.why(rule, event.name, event.integration, event.local)
        row = orjson.dumps([rule.lane, rule.name, rule.sink, _CODES[why]])
        size += len(row) + 1
        if size > WHY_BYTES:
            break
        rows.append(row)
    return b"[" + b",".join(rows) + b"]"


def find(outbox: Outbox, partition: int, i: str, event_id: str) -> Unwanted | None:
    """Return the newest unwanted event with that id; None: none is kept. Raises `OutboxDown`."""
    found = entries.unwanted(outbox, partition, i, event_id)
    if found is None:
        return None
    at, fields = found
    reasons = [
        Reason(lane, name, sink, _WHYS[code])
        for lane, name, sink, code in orjson.loads(fields[b"why"])
    ]
    return Unwanted(fields[b"event"].decode(), at, {each.lane: each for each in reasons})
