"""Refuse unknown fields of Evolution-style bodies, or ignore them with a warning.

Evolution API ignores every unknown field, so a misspelt one has an unwanted effect: `"event":
["CALL"]` subscribes to all events. Here an unknown field is refused. Clients of Evolution API send
some fields that have no effect here. `_why_ignored` names them, and the answer lists them in
`warnings`. Fields of an answer that is sent back are ignored without a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from evoflask.errors import BadInput
from evoflask.schemas.faults import MAX_FAULTS, join, sentence, unknown_field
from evoflask.schemas.sinks import SCHEMAS, SINKS
from evoflask.spelling import nearest, shown

READ_ONLY: Final = frozenset(
    {
        "id", "secretSet", "publicKey", "createdAt", "updatedAt", "instanceId", "delivery",
        "warnings",
    }
)  # fmt: skip
"""Fields of an answer that may be sent back. They are not read."""

_PATH: Final = "the path names the instance"
_NO_SINK: Final = "this server has no such sink or integration"
_GATEWAY: Final = "only a WhatsApp gateway has this setting"

_INTEGRATIONS: Final = dict.fromkeys(
    (
        "kafka", "chatwoot", "proxy", "settings", "typebot", "openai", "dify", "flowise", "n8n",
        "evolutionBot", "evoai", "s3", "cloudapi",
    ),
    _NO_SINK,
)  # fmt: skip
_NAMING: Final = dict.fromkeys(("instance", "instanceName"), _PATH)
_SETTINGS: Final = dict.fromkeys(
    (
        "qrcode", "businessId", "accessToken", "mobile", "rejectCall", "msgCall", "groupsIgnore",
        "alwaysOnline", "readMessages", "readStatus", "syncFullHistory", "wavoipToken",
    ),
    _GATEWAY,
)  # fmt: skip

IGNORED: Final[Mapping[str, Mapping[str, str]]] = {
    "set": _NAMING,
    "several": _NAMING | _INTEGRATIONS,
    "create": _SETTINGS | _INTEGRATIONS,
    "sink": {},
}
"""Fields that clients of Evolution API send, by place in a body, and why each has no effect.
`set` is the top of `/<sink>/set`, `several` of `/event/set`, `create` of `/instance/create`. `sink`
is the object of one sink. `_` and capitals do not count: `reject_call` is `rejectCall`."""

_FAMILIES: Final = ("chatwoot", "proxy", "typebot", "kafka")
"""Integrations whose settings `create` takes one by one: `chatwootToken`, `typebot_url`."""

LENIENT: Final = frozenset({"set", "create"})
"""Places of Evolution API's own routes. Their clients send fields of their own: a scalar that
resembles none of ours is ignored with a warning."""

MAX_STRANGE: Final = 100
"""Unknown fields of one object that are checked, at most, to bound the work."""


def _fold(field: str) -> str:
    return field.replace("_", "").lower()


_LISTED: Final = {
    place: {_fold(field): why for field, why in listed.items()} for place, listed in IGNORED.items()
}

CREATE: Final = ("instanceName", "integration", "token", "number", *SINKS)
"""Fields of `/instance/create`, in one spelling each."""

_HOME: Final = {each: sink for sink in reversed(SINKS) for each in SCHEMAS[sink].fields}
"""The first sink that has a field."""


def check(
    body: Mapping[str, Any], place: str, at: str, taken: Iterable[str], names: Sequence[str]
) -> list[str]:
    """Return the warnings about one object of a body. Raises `BadInput` for unknown fields.

    `place` is a key of `IGNORED`; `taken` are the spellings that count there; a refusal suggests
    `names`.
    """
    known = READ_ONLY.union(taken)
    warnings: list[str] = []
    faults: list[str] = []
    strange = [each for each in body if each not in known]
    if len(strange) > MAX_STRANGE:
        faults.append(sentence(at, f"There are more than {MAX_STRANGE} unknown fields."))
    for field in strange[:MAX_STRANGE]:
        why = _why_ignored(field, body[field], place, names)
        if why is None:
            faults.append(sentence(join(at, field), _refusal(field, place, names)))
        elif _says_something(body[field]):
            warnings.append(sentence(join(at, field), f"Ignored: {why}."))
        if len(faults) >= MAX_FAULTS:
            break
    if faults:
        raise BadInput(*faults)
    return warnings[:MAX_FAULTS]


def _why_ignored(field: str, value: Any, place: str, names: Sequence[str]) -> str | None:
    """Return why a field has no effect, or None if it is refused.

    An unknown list or object may hold what a sink needs, so it is refused. A name that resembles
    one of ours is refused too.
    """
    folded = _fold(field[:100])
    if (listed := _LISTED[place].get(folded)) is not None:
        return listed
    if place == "create" and folded.startswith(_FAMILIES):
        return _NO_SINK
    strict = place not in LENIENT or field in _HOME or isinstance(value, dict | list)
    return None if strict or nearest(field, names) else "there is no such field here"


def _refusal(field: str, place: str, names: Sequence[str]) -> str:
    if place in ("several", "create") and field in _HOME:
        return f'Belongs inside the object of a sink: {{"{_HOME[field]}": {{"{field}": ...}}}}.'
    if place == "set" and shown(field).startswith(SINKS):
        return "This route sets one sink. Use /event/set for several."
    text = unknown_field(field, names)
    return f"{text} There are: {', '.join(names)}." if text.endswith("field.") else text


def _says_something(value: Any) -> bool:
    """Return False for a value without effect: false, 0, "", null, an empty list or object."""
    return value not in (None, False, "", [], {}, 0)
