"""Bodies as they are documented: one spelling of each. `schemas` takes more of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from marshmallow import EXCLUDE, RAISE, Schema, fields, validate

from evoflask import envelope
from evoflask.ids import EVENT_ID
from evoflask.schemas import INTEGRATIONS, SCHEMAS, SINKS
from evoflask.schemas.bodies import InstanceBody
from evoflask.schemas.fields import Event, Flag, Matching, name
from evoflask.web.described import Either, Many


def _kind(sink: str) -> type[Schema]:
    return type(SCHEMAS[sink])


_SCALAR: Final = {"type": ["string", "number", "boolean", "null"]}


class _Open:
    """The body of a route of Evolution API: an unknown scalar is ignored with a warning."""

    class Meta:
        unknown = EXCLUDE
        json: ClassVar = {"additionalProperties": _SCALAR}


def _made(
    title: str, doc: str, bases: tuple[type, ...], members: Mapping[str, Any]
) -> type[Schema]:
    return type(title, bases, {"__doc__": doc, **members})


def _set(sink: str) -> type[Schema]:
    nested = fields.Nested(_kind(sink), required=True)
    doc = (
        f"The {sink} fields to set; the rest stays. They may also stand at the top, and be "
        f"spelled {sink}Enabled or {sink}_enabled."
    )
    return _made(f"Set{sink.capitalize()}", doc, (_Open, Schema), {sink: nested})


SET: Final = {sink: _set(sink) for sink in SINKS}
"""`POST /<sink>/set/<instance>`."""

_SIX: Final = {sink: fields.Nested(_kind(sink)) for sink in SINKS}


def _complete(sink: str, unknown: str) -> type:
    """A `Meta`: what it takes to be enabled is there, or it is not enabled."""
    needed = SCHEMAS[sink].needed
    text = {"type": "string", "minLength": 1}
    there = {"required": list(needed), "properties": dict.fromkeys(needed, text)}
    disabled = {"required": ["enabled"], "properties": {"enabled": {"const": False}}}
    json: dict[str, Any] = {"anyOf": [there, disabled]} if needed else {}
    if pair := SCHEMAS[sink].together:
        both = {"required": list(pair), "properties": dict.fromkeys(pair, text)}
        none = {"properties": {each: {"enum": [None, ""]} for each in pair}}
        json = {"allOf": [json, {"anyOf": [both, none]}]}
    return type("Meta", (), {"unknown": unknown, "json": json})


def _first(sink: str) -> type[Schema]:
    doc = f"A {sink} from the beginning; enabled where nothing is said."
    meta = {"Meta": _complete(sink, RAISE)}
    return _made(f"First{sink.capitalize()}", doc, (_kind(sink),), meta)


_SIX_FIRST: Final = {sink: fields.Nested(_first(sink), allow_none=True) for sink in SINKS}


class _AtLeastOne:
    unknown = RAISE
    json: ClassVar = {"minProperties": 1}


SET_SEVERAL: Final = _made(
    "SetSeveral", "At least one sink.", (Schema,), {"Meta": _AtLeastOne, **_SIX}
)
"""`POST /event/set/<instance>`."""

CREATE: Final = _made(
    "NewInstance",
    "A name, and the sinks to begin with.",
    (InstanceBody,),
    {
        "Meta": _Open.Meta,
        "integration": fields.String(validate=validate.OneOf(INTEGRATIONS)),
        **_SIX_FIRST,
    },
)
"""`POST /instance/create`."""


def _new(sink: str) -> type[Schema]:
    head = {
        "name": fields.String(required=True, validate=name),
        "sink": fields.String(required=True, validate=validate.OneOf((sink,))),
        "enabled": Flag(required=True),
        "Meta": _complete(sink, RAISE),
    }
    doc = f"A new {sink} subscription."
    return _made(f"New{sink.capitalize()}Subscription", doc, (_kind(sink),), head)


def _changed(sink: str) -> type[Schema]:
    doc = f"What is to change of a {sink} subscription; what an answer shows may be sent back."
    return _made(f"Changed{sink.capitalize()}Subscription", doc, (_kind(sink),), {})


NEW: Final = Either(tuple(_new(sink) for sink in SINKS))
"""`POST /subscription/<instance>`."""

CHANGED: Final = Either(tuple(_changed(sink) for sink in SINKS))
"""`PUT /subscription/<instance>/<name>`."""


def _text(field: str) -> fields.String:
    return fields.String(allow_none=True, validate=validate.Length(max=envelope.LENGTHS[field]))


class NewEvent(Schema):
    """One event. Texts are printable; `apiKey` is not kept, `origin` is shown and not looked at."""

    class Meta:
        unknown = EXCLUDE

    event = Event(required=True)
    data = fields.Raw(required=True, allow_none=True, metadata={"description": "Any JSON."})
    id = fields.String(
        allow_none=True,
        validate=Matching(EVENT_ID, ""),
        metadata={"description": "A repeat of it is answered 200 and not kept again."},
    )
    sender = _text("sender")
    dateTime = _text("dateTime")  # noqa: N815
    serverUrl = _text("serverUrl")  # noqa: N815
    origin = _text("origin")
    apiKey = _text("apiKey")  # noqa: N815
    local = fields.Boolean(
        allow_none=True,
        metadata={"description": "false: not to the instance's own webhook and Pusher."},
    )
    integration = fields.List(
        fields.String(validate=validate.OneOf(SINKS)),
        allow_none=True,
        metadata={"description": "Only to these sinks."},
    )


EMIT: Final = Either((NewEvent, Many(NewEvent)))
"""`POST /event/emit/<instance>`."""


# -- examples, each of which is sent by a test ----------------------------------------------

_HOOK: Final = {"url": "https://example.com/hook", "enabled": True, "events": ["MESSAGES_UPSERT"]}

SET_EXAMPLE: Final[Mapping[str, Any]] = {
    "webhook": {"webhook": _HOOK},
    "websocket": {"websocket": {"enabled": True, "events": []}},
    "rabbitmq": {"rabbitmq": {"enabled": False, "events": ["CALL"]}},
    "nats": {"nats": {"enabled": False, "subject": "evolution.{instance}.{event}"}},
    "sqs": {
        "sqs": {
            "enabled": True,
            "queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/events",
        }
    },
    "pusher": {
        "pusher": {"enabled": True, "appId": "1234", "key": "k", "secret": "s", "cluster": "eu"}
    },
}
CREATE_EXAMPLE: Final = {"instanceName": "support", "webhook": _HOOK}
NEW_EXAMPLE: Final = {"name": "archive", "sink": "webhook", **_HOOK}
CHANGED_EXAMPLE: Final = {"concurrency": 16, "retry": [5, 60, 3600]}
EMIT_EXAMPLE: Final = {
    "event": "MESSAGES_UPSERT",
    "data": {"key": {"remoteJid": "15550100@s.whatsapp.net"}, "message": {"conversation": "Hi"}},
}
