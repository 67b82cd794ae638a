"""Name what is wrong in a body, in sentences: "webhook.url: Not a valid URL.". Only this module
calls marshmallow to load a body."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from marshmallow import Schema, ValidationError

from evoflask.errors import BadInput
from evoflask.spelling import shown, suggestion

REQUIRED: Final = "Missing data for required field."
MAX_FAULTS: Final = 20
"""Faults of one body that its refusal names."""
_UNKNOWN: Final = ["Unknown field."]
"""marshmallow's message for a field that a schema does not have."""


def load(schema: Schema, body: Mapping[str, Any], at: str, **how: Any) -> dict[str, Any]:
    try:
        return dict(schema.load(body, **how))
    except ValidationError as error:
        faults = islice(_sentences(_suggesting(schema, error.messages), at), MAX_FAULTS)
        raise BadInput(*faults) from error


def _suggesting(schema: Schema, messages: Any) -> Any:
    """Name the nearest field where one is unknown."""
    if not isinstance(messages, Mapping):
        return messages
    names = [field.data_key or name for name, field in schema.fields.items()]
    return {
        key: unknown_field(key, names) if below == _UNKNOWN else below
        for key, below in islice(messages.items(), MAX_FAULTS)
    }


def unknown_field(field: str, names: Iterable[str]) -> str:
    """Return the sentence that refuses a field, with the nearest of the known names."""
    return f"Unknown field{suggestion(field, names)}"


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
    return f"{at}.{shown(key)}" if at else shown(key)


def sentence(at: str, text: str) -> str:
    return f"{at}: {text}" if at else text
