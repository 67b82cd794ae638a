"""Many letters in order: lane by lane, those of a lane in the order of their acceptance.

One look reads a bounded number of rows whatever the filter is, so that neither a rare filter
nor a million letters make anybody wait. A place is `[lane, entry]`; it only moves ahead, and
letters that come while it moves are not met: `Filter.upto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import peewee

from evoflask import db, operations
from evoflask.deadletters.reading import Filter, is_open, matches, newest
from evoflask.models import DeadLetter, Operation

LOOK = 500
"""Rows that one look reads."""
_END = "z"
"""Behind every entry of a lane, which is digits and dashes, in the order of bytes and of any
language: databases have theirs."""


@dataclass(frozen=True, slots=True)
class Key:
    """A letter without its body. `size` 0: it has none."""

    id: int
    entry: str
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """What one look saw."""

    lane: str
    keys: Sequence[Key]
    """Letters of the filter."""
    end: list[str]
    """The place behind all that it read."""

    @property
    def skip(self) -> list[str]:
        """The place behind the lane."""
        return [self.lane, _END]


def look(wanted: Filter, place: Sequence[str] | None) -> Found | None:
    """The next letters behind a place (None: from the start); None: there is nothing more."""
    lane, entry = place or ("", "")
    rows = _rows(wanted, lane, entry) if lane else []
    if not rows:
        following = _lane_after(wanted, lane)
        if following is None:
            return None
        lane, rows = following, _rows(wanted, following, "")
    keys = [Key(id, at, size) for id, at, size, hit in rows if hit]
    return Found(lane, keys, [lane, rows[-1][1] if rows else _END])


def _rows(wanted: Filter, lane: str, entry: str) -> list[Any]:
    """A letter is a hit or is not; one look reads as many rows either way."""
    hit = peewee.Case(None, [(matches(wanted), 1)], 0)
    query: Any = DeadLetter.select(DeadLetter.id, DeadLetter.entry, DeadLetter.size, hit)
    here = is_open() & (DeadLetter.lane == lane) & (DeadLetter.entry > entry)
    with db.translate():
        return list(query.where(here).order_by(DeadLetter.entry).limit(LOOK).tuples())


def _lane_after(wanted: Filter, lane: str) -> str | None:
    """The next lane with open letters that the filter does not rule out as a whole."""
    while (found := _any_lane_after(wanted.instances, lane)) is not None:
        lane, name, sink = found
        if wanted.subscription in (None, name) and wanted.sink in (None, sink):
            return lane
    return None


def _any_lane_after(instances: Sequence[int] | None, lane: str) -> tuple[str, str, str] | None:
    """(lane, subscription, sink); by instance, each is a step in an index."""
    ahead = is_open() & (DeadLetter.lane > lane)
    if instances is None:
        return _first(ahead)
    found = [_first(ahead & (DeadLetter.instance_id == each)) for each in instances]
    return min((each for each in found if each is not None), default=None)


def _first(ahead: Any) -> tuple[str, str, str] | None:
    columns = (DeadLetter.lane, DeadLetter.subscription_name, DeadLetter.sink)
    query: Any = DeadLetter.select(*columns).where(ahead).order_by(DeadLetter.lane).limit(1)
    with db.translate():
        row: tuple[str, str, str] | None = query.tuples().first()
    return row


# -- as an operation ----------------------------------------------------------------------------


def plan(
    kind: str,
    wanted: Filter,
    by: str,
    *,
    limit: int | None = None,
    onto: Mapping[str, str] | None = None,
) -> Operation:
    """An operation on the letters that the filter finds now. `onto`: `subscription` and `lane`
    of the target of a requeue."""
    asked = {k: v for k, v in asdict(upto_now(wanted)).items() if v is not None}
    if limit is not None:
        asked["limit"] = limit
    ids = wanted.instances
    scope = ids[0] if ids else None
    return operations.plan(kind, scope=scope, by=by, wanted=asked, onto=onto)


def wanted_of(operation: Operation) -> Filter:
    """The filter of an operation."""
    return Filter(**{k: v for k, v in operation.wanted.items() if k != "limit"})


def room(operation: Operation, most: int) -> int:
    """How many a piece may handle: its share, and what is left of the operation's limit."""
    limit = operation.wanted.get("limit")
    return most if limit is None else min(most, limit - operation.done)


def limited(operation: Operation, done: int) -> bool:
    """Whether that many more reach the operation's limit."""
    limit = operation.wanted.get("limit")
    return limit is not None and operation.done + done >= limit


def total(operation: Operation, counted: int) -> int:
    """How many it handles of those."""
    limit = operation.wanted.get("limit")
    return counted if limit is None else min(counted, limit)


def upto_now(wanted: Filter) -> Filter:
    """The filter without letters that come from now on."""
    return replace(wanted, upto=newest())
