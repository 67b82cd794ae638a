"""What a view says of itself: what it takes and what it answers. For the API's own documentation,
which is made from nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from marshmallow import Schema

View = TypeVar("View", bound=Callable[..., Any])

_SAYS: Final = "described"
_ASKS: Final = "asks_for"


class Who(enum.Enum):
    """Whose key a view asks for."""

    NOBODY = "open"
    OPERATOR = "an operator's key"
    INSTANCE = "an operator's key, or the token of the instance"
    ANY = "an operator's key, or a token: it sees its own"


@dataclass(frozen=True, slots=True)
class Many:
    """An array of them."""

    of: Shape


@dataclass(frozen=True, slots=True)
class Either:
    """One of them."""

    of: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class OrNull:
    """It, or null."""

    of: Shape


@dataclass(frozen=True, slots=True)
class PerSink:
    """Another one for each sink that stands in the path."""

    of: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Text:
    """No JSON: text of this media type."""

    mimetype: str


@dataclass(frozen=True, slots=True)
class AnyObject:
    """An object whose fields are told elsewhere."""


Shape = type[Schema] | Many | Either | OrNull | PerSink | Text | AnyObject


@dataclass(frozen=True, slots=True)
class Described:
    """What a view takes and answers. Errors that follow from a route (no key, a body that is none)
    need no word here."""

    answers: Mapping[int, Shape]
    body: Shape | None = None
    body_required: bool = True
    query: type[Schema] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers that count, and what for."""
    errors: tuple[int, ...] = ()
    """403 (beside a read-only key's), 404 or 409 that the view itself may raise."""
    example: Any = None
    """A body that is taken where the things that it names are there; by sink for `PerSink`."""
    bad: Shape | None = None
    """What a 400 looks like, where it is not as everywhere."""


def described(
    answer: Shape,
    status: int = 200,
    *,
    also: Mapping[int, Shape] | None = None,
    key: Who | None = None,
    **more: Any,
) -> Callable[[View], View]:
    """Says it. `also`: other answers that are no errors. `key`: where no guard of `auth` does."""

    def say(view: View) -> View:
        setattr(view, _SAYS, Described({status: answer, **(also or {})}, **more))
        return view if key is None else asking(view, key)

    return say


def asking(view: View, key: Who) -> View:
    """Says whose key a view asks for."""
    setattr(view, _ASKS, key)
    return view


def description_of(view: Callable[..., Any]) -> Described | None:
    """What a view said of itself."""
    return getattr(view, _SAYS, None)


def key_for(view: Callable[..., Any]) -> Who:
    """Whose key it asks for."""
    return getattr(view, _ASKS, Who.NOBODY)
