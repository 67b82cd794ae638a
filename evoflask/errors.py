"""Everything that evoflask raises on purpose.

    EvoflaskError
    ├── BadInput            400  the caller's words are wrong; `messages` says which
    ├── Unauthorized        401  no key, or not a key for this
    ├── Forbidden           403  the key may look, and not change anything
    ├── NotFound            404  no such instance, subscription, letter
    ├── Conflict            409  the thing is in a state that forbids it
    ├── NameTaken           403  the name of an instance is in use (Evolution API's status)
    ├── TooMany             429  of something that one may have so many of; `retry_after` seconds
    │   ├── TooFast              an instance's events come faster than they may
    │   └── TooManyFailures      wrong keys came from this address
    ├── TooLarge            413  body or batch over its limit
    ├── WrongType           415  the body's type or encoding is not supported
    ├── Unavailable         503  try again after `retry_after` seconds; nothing was accepted
    │   ├── OutboxDown           Redis cannot be reached, or refuses
    │   │   └── OutboxUnwritable     Redis cannot write to its disk
    │   ├── OutboxFull           memory is short
    │   ├── ProcessFull          this process holds too many requests and answers
    │   ├── DatabaseDown         the database cannot be reached, or refuses
    │   └── Undecipherable       a stored secret opens with no key that this process has
    └── Misconfigured            a setting is wrong; the process does not start

A test compares the drawing with the classes. `web/errors.py` renders them; no other module turns an
error into an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final


class EvoflaskError(Exception):
    """Base of all. `messages` are sentences for the caller, without secrets."""

    status: ClassVar[int] = 500
    logged: ClassVar[bool] = False
    """True if the code that raises the error logs it, once for the whole process."""

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages: Sequence[str] = messages


class BadInput(EvoflaskError):
    status = 400


HOW_TO_SEND_A_KEY: Final = 'Send one in the header "apikey", or as "Authorization: Bearer <key>".'


class Unauthorized(EvoflaskError):
    """Has one sentence for a wrong key, another tenant's token and an unknown instance.

    So the answer does not reveal which names exist.
    """

    status = 401

    def __init__(self, *messages: str) -> None:
        wrong = f"Unauthorized: the key is not valid for this. {HOW_TO_SEND_A_KEY}"
        super().__init__(*(messages or (wrong,)))


class Forbidden(EvoflaskError):
    status = 403


class NotFound(EvoflaskError):
    status = 404


class Conflict(EvoflaskError):
    status = 409


class NameTaken(EvoflaskError):
    status = 403


class TooMany(EvoflaskError):
    """`retry_after`: seconds."""

    status = 429
    retry_after: int = 60


class TooFast(TooMany):
    """`wait`: seconds until the same would pass, where they are known."""

    def __init__(self, *messages: str, wait: float | None = None) -> None:
        super().__init__(*messages)
        if wait is not None:
            self.retry_after = max(1, math.ceil(wait))


class TooManyFailures(TooMany):
    pass


class TooLarge(EvoflaskError):
    status = 413


class WrongType(EvoflaskError):
    """`types`, `encodings`: the supported ones, if the request has another."""

    status = 415

    def __init__(
        self, *messages: str, types: Sequence[str] = (), encodings: Sequence[str] = ()
    ) -> None:
        super().__init__(*messages)
        self.types = types
        self.encodings = encodings


class Unavailable(EvoflaskError):
    """Nothing was accepted by this call. `retry_after`: seconds."""

    status = 503
    retry_after: int = 1


class OutboxDown(Unavailable):
    pass


class OutboxUnwritable(OutboxDown):
    retry_after = 5
    logged = True


class OutboxFull(Unavailable):
    retry_after = 5


class ProcessFull(Unavailable):
    """This process holds as many bytes of requests and answers as it may."""

    retry_after = 5
    words = "The server holds too many requests and answers now; repeat this request later."

    def __init__(self, *messages: str) -> None:
        super().__init__(*(messages or (self.words,)))


class DatabaseDown(Unavailable):
    pass


class Undecipherable(Unavailable):
    retry_after = 30


class Misconfigured(EvoflaskError):
    pass
