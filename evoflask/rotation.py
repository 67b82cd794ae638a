"""Sealing again what older keys sealed, while everything runs.

Found by the models' own fields: whatever is a `SecretField` is handled, also one of tomorrow.
A row that somebody changes meanwhile is sealed by the newest key already, and is left alone:
what is written must still be what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from evoflask import db, vault
from evoflask.errors import Undecipherable
from evoflask.models import TABLES, Row, SecretField

PIECE: Final = 200
"""Rows of one transaction."""
LOOKED: Final = 10
"""Of each table, so many of the oldest and of the newest rows are looked at by `sample`."""


@dataclass(slots=True)
class Sealing:
    """How the sealed texts stand."""

    current: int = 0
    """Under the newest key."""
    stale: int = 0
    """Under an older one that this process has."""
    closed: int = 0
    """Under none that it has."""
    plain: int = 0
    """Under no key: written by a version that had none."""


def fields() -> list[tuple[type[Row], SecretField]]:
    """Every table and column that holds sealed texts."""
    return [
        (table, field)
        for table in TABLES
        for field in table._meta.sorted_fields
        if isinstance(field, SecretField)
    ]


def count() -> Sealing:
    """Looks at all of it and changes nothing. Raises `DatabaseDown`."""
    found = Sealing()
    for table, field in fields():
        for piece in _pieces(table, field):
            for _, sealed in piece:
                _count(found, sealed)
    return found


def sample() -> Sealing:
    """How the oldest and the newest stand: enough to notice a key that is missing, and cheap
    enough to ask all the time. Raises `DatabaseDown`."""
    found = Sealing()
    for table, field in fields():
        key: Any = table._meta.primary_key
        # Whether the column is set is no condition: where it seldom is, all rows would be read.
        query = table.select(key, field).limit(LOOKED)
        with db.translate():
            ends = [*query.order_by(key).tuples(), *query.order_by(key.desc()).tuples()]
        for sealed in filter(None, dict(ends).values()):
            _count(found, sealed)
    return found


def rotate(tell: Callable[[int], None] = lambda done: None) -> Sealing:
    """Seals with the newest key whatever is not. Returns how it stands then; `tell` hears how
    many were done so far, once a piece. May be stopped at any moment and begun anew. Raises
    `DatabaseDown`."""
    done = 0
    for table, field in fields():
        for piece in _pieces(table, field):
            done += _reseal(table, field, piece)
            tell(done)
    return count()


def _count(found: Sealing, sealed: vault.Sealed) -> None:
    try:
        sealed.open()
    except Undecipherable:
        found.closed += 1
        return
    if sealed.plain:
        found.plain += 1
    elif sealed.stale:
        found.stale += 1
    else:
        found.current += 1


def _pieces(table: Any, field: SecretField) -> Iterator[list[tuple[Any, vault.Sealed]]]:
    key, last = table._meta.primary_key, 0
    while True:
        query = table.select(key, field).where((key > last) & field.is_null(False))
        with db.translate():
            piece = list(query.order_by(key).limit(PIECE).tuples())
        if not piece:
            return
        last = piece[-1][0]
        yield piece


def _reseal(table: Any, field: SecretField, piece: list[tuple[Any, vault.Sealed]]) -> int:
    key = table._meta.primary_key
    stale = [(row, sealed) for row, sealed in piece if sealed.stale]
    done = 0
    with db.writing():
        for row, sealed in stale:
            try:
                text = sealed.open()
            except Undecipherable:
                continue
            change = table.update({field: text}).where((key == row) & (field == sealed))
            done += change.execute()
    return done
