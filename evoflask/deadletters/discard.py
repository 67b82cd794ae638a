"""Letters are given up for good. Changes no book: `dead` is cumulative."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from evoflask import db, operations
from evoflask.deadletters import walk
from evoflask.deadletters.reading import Filter, count, get, is_open, no_letter, of
from evoflask.models import DeadLetter, Operation
from evoflask.operations import Context, Piece


def discard(letter: int, instances: Sequence[int] | None = None) -> DeadLetter:
    """Give a letter up for good; which it was. Raises `NotFound`."""
    row = get(letter, instances)
    if not _discard(of(instances) & (DeadLetter.id == letter)):
        raise no_letter(letter)  # somebody else was faster
    return row


def _discard(where: Any) -> int:
    with db.writing():
        change = DeadLetter.update(discarded_at=time.time(), data=None)
        return int(change.where(where & is_open()).execute())


def discard_many(
    wanted: Filter, *, limit: int | None = None, tell: Callable[[int], object] = int
) -> tuple[int, int]:
    """Give letters up for good, to the end, while the caller waits; (discarded, left).
    `tell`: is told how many are done."""
    wanted = walk.upto_now(wanted)
    room = sys.maxsize if limit is None else limit
    place: Any = None
    done = 0
    while done < room and (found := walk.look(wanted, place)):
        n, place = _discard_keys(found, room - done)
        done += n
        tell(done)
    return done, count(wanted)


def _discard_keys(found: walk.Found, room: int) -> tuple[int, list[str]]:
    """As many as there is room for; (discarded, the place behind them)."""
    keys = found.keys[:room]
    n = _discard(DeadLetter.id.in_([key.id for key in keys])) if keys else 0
    return n, found.end if len(keys) == len(found.keys) else [found.lane, keys[-1].entry]


class Discard:
    """Letters of a filter, the oldest of a lane first."""

    def count(self, operation: Operation) -> int:
        """All of them."""
        return walk.total(operation, count(walk.wanted_of(operation)))

    def piece(self, context: Context, operation: Operation, until: float) -> Piece:
        """See `Kind`. A transaction for some hundred letters."""
        wanted, room = walk.wanted_of(operation), walk.room(operation, context.most)
        place, done = operation.cursor, 0
        while done < room:
            found = walk.look(wanted, place)
            if found is None:
                return Piece(done, 0, place, True)
            n, place = _discard_keys(found, room - done)
            done += n
            if time.monotonic() > until:
                break
        return Piece(done, 0, place, walk.limited(operation, done))


operations.KINDS["discard"] = Discard()
