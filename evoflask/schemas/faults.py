"""What a body has wrong, in sentences: "webhook.url: Not a valid URL.". marshmallow's one door."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from marshmallow import Schema, ValidationError

from evoflask.errors import BadInput

REQUIRED: Final = "Missing data for required field."
MAX_FAULTS: Final = 20
"""How many faults of one body are told."""


def load(schema: Schema, body: Mapping[str, Any], at: str, **how: Any) -> dict[str, Any]:
    try:
        return dict(schema.load(body, **how))
    except ValidationError as error:
        faults = list(_sentences(error.messages, at))
        raise BadInput(*faults[:MAX_FAULTS]) from error


def _sentences(messages: Any, at: str) -> Iterator[str]:
    """marshmallow's tree of faults as sentences, each with its place."""
    if isinstance(messages, Mapping):
        for key, below in messages.items():
            yield from _sentences(below, at if key == "_schema" else join(at, key))
    elif isinstance(messages, Iterable) and not isinstance(messages, str):
        for each in messages:
            yield from _sentences(each, at)
    else:
        yield sentence(at, str(messages))


def join(at: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{at}[{key}]"
    return f"{at}.{key}" if at else key


def sentence(at: str, text: str) -> str:
    return f"{at}: {text}" if at else text


def shown(value: Any) -> str:
    """A caller's own word in a sentence, short and printable."""
    text = value if isinstance(value, str) else type(value).__name__
    text = "".join(each if each.isprintable() else "?" for each in text[:60])
    return text + ("..." if isinstance(value, str) and len(value) > 60 else "")
