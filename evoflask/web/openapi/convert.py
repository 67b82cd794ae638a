"""From marshmallow's fields to JSON Schema: apispec's own rules, and ours for what we made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import EXCLUDE, RAISE, Schema
from marshmallow.fields import Field

from evoflask import events, ordering, signing
from evoflask.schemas import fields
from evoflask.schemas.sinks import EMPTY_IS_UNSET, Common

Json = dict[str, Any]


def anchored(pattern: re.Pattern[str], *, optional: bool = False) -> str:
    """The whole string, which JSON Schema's `pattern` does not mean by itself. `optional`: or none
    of it."""
    return f"^(?:{pattern.pattern}){'?' if optional else ''}$"


def _may_be_empty(field: Field[Any]) -> bool:
    """An empty text means null there, as Evolution API's clients have it."""
    return isinstance(field.parent, Common) and field.name in EMPTY_IS_UNSET


EVENT: Final[Json] = {
    "type": "string",
    # Each name has one spelling: generators make equal members of `CALL` and `call`, and fail.
    "enum": [*events.NAMES, *events.ALIASES],
    "description": "Also taken as `messages.upsert` and `messages-upsert`, in any case.",
}
MOMENT: Final[Json] = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date"},
        {"type": "number", "minimum": 0, "maximum": 1e11},
    ],
    "description": "ISO 8601, UTC where it names no offset, or Unix seconds.",
    "example": "2026-11-24T09:30:00Z",
}
_STATUS: Final[Json] = dict(zip(("minimum", "maximum"), fields.STATUSES, strict=True))
_OF_FIELD: Final[Mapping[type, Json]] = {
    fields.Event: {"$ref": "#/components/schemas/EventName"},
    fields.Events: {
        "type": "array",
        "items": {"$ref": "#/components/schemas/EventName"},
        "maxItems": fields.MAX_EVENTS,
        "description": "Which events; empty: all.",
    },
    fields.Statuses: {
        "type": "array",
        "items": {"type": "integer", **_STATUS},
        "maxItems": fields.MAX_STATUSES,
    },
    fields.Headers: {
        "type": "object",
        "propertyNames": {"pattern": anchored(fields.HEADER_NAME)},
        "additionalProperties": {
            "type": "string",
            "maxLength": fields.MAX_HEADER_VALUE,
            "pattern": "^[ -~\u00a0-\u00ff]*$",
        },
        "patternProperties": {
            f"^{''.join(f'[{c}{c.upper()}]' if c.isalpha() else c for c in signing.JWT_KEY)}$": {
                "type": "string",
                "minLength": 1,
                "maxLength": fields.MAX_HEADER_VALUE,
                "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$",
            }
        },
        "maxProperties": fields.MAX_HEADERS,
        "example": {"X-Team": "support"},
    },
    fields.Moment: MOMENT,
    fields.OrderBy: {
        "anyOf": [
            {
                "type": "string",
                "pattern": rf"^(?:{ordering.CONVERSATION}|{fields.ORDER_BY.pattern})$",
                "maxLength": fields.MAX_ORDER_BY,
            },
            {
                "type": "array",
                "items": {
                    "type": "string",
                    "pattern": anchored(fields.ORDER_BY),
                    "maxLength": fields.MAX_ORDER_BY,
                },
                "minItems": 1,
                "maxItems": fields.MAX_ORDER_PATHS,
            },
            {"type": "null"},
        ],
        "example": ordering.CONVERSATION,
    },
    fields.Seconds: {"type": "number"},
}
_WORD: Final = r"(?:[!-)+-\-/-=?-z|~]|\{instance\}|\{event\})+"
"""Between two dots of a subject."""
_QUAD, _THREE, _TWO = "[A-Za-z0-9+/]{4}", "[A-Za-z0-9+/]{3}=", "[A-Za-z0-9+/]{2}=="
"""Of base64."""
_OF_VALIDATOR: Final[Mapping[Any, Json]] = {
    fields.web_url: {
        "format": "uri",
        "maxLength": fields.MAX_URL,
        "description": "http or https, without user, password and fragment. Hosts on private "
        "networks are refused.",
        "example": "https://example.com/hook",
    },
    fields.exchange: {"pattern": f"^(?!amq\\.){fields.EXCHANGE.pattern}$"},
    fields.subject: {
        "pattern": rf"^(?!\$|_INBOX){_WORD}(?:\.{_WORD})*$",
        "maxLength": 255,
        "description": "{instance} and {event} are filled in; no wildcards.",
        "example": "evolution.{instance}.{event}",
    },
    fields.signing_secret: {
        "pattern": f"^whsec_(?:(?:{_QUAD}){{8,20}}(?:{_QUAD}|{_THREE}|{_TWO})?"
        f"|(?:{_QUAD}){{21}}{_TWO})$",
        "writeOnly": True,
        "description": "whsec_ and the base64 of 24 to 64 bytes, as Standard Webhooks has it.",
    },
}


_OF_SUBSCRIPTION: Final[Mapping[str, str]] = {
    "enabled": "Whether it gets events. Its settings are kept while it does not.",
    "format": "How its messages look.",
    "concurrency": "Requests or messages under way at a time.",
    "orderBy": "Events with an equal key keep their order. `conversation`: the key is the chat of "
    "the event. Paths: the key is the first value. null: no order.",
    "onFailure": "`pass`: while an event waits for its next try, others go on; `wait`: they wait "
    "too.",
    "retry": "Seconds before each further try, instead of the server's schedule.",
    "timeout": "Seconds for one try.",
    "byEvents": "The event's name is added to the path.",
    "base64": "`data` is sent as the base64 of its JSON.",
    "headers": "Sent with each request; values are answered as a mask, which may be sent back. "
    "`jwt_key` is not sent: it signs an `Authorization: Bearer` (HS256).",
    "giveUpOn": "Statuses that end an event at once; every other failure is retried. Empty: every "
    "failure is retried. Redirects 307 and 308 are followed first.",
    "exchange": "A topic exchange; it is declared.",
    "mandatory": "A message that reaches no queue has failed.",
    "jetstream": "Wait until a stream has it; else nothing proves that anybody does.",
    "createStream": "Make a stream where none takes the subject.",
    "queueUrl": "Of an SQS queue, FIFO or not.",
    "accessKeyId": "With `secretAccessKey`; without both the server's own credentials are used.",
    "secretAccessKey": "Answered as a mask, which may be sent back.",
    "appId": "Of a Pusher app, with its `key`, `secret` and `cluster`.",
    "oversize": "If an event is too large for the sink, `reject` makes a dead letter, and "
    "`reference` sends the event's id and size without its data.",
}
"""What a field of a sink means, in a line; docs/sinks.md says more."""


def _ours(_: OpenAPIConverter, field: Field[Any], *, ret: Json) -> Json:
    """What apispec cannot know of a field."""
    found = next((_OF_FIELD[kind] for kind in type(field).__mro__ if kind in _OF_FIELD), {})
    more = dict(found)
    if "$ref" in more or "anyOf" in more:
        for word in ("type", "format"):
            ret.pop(word, None)
    for validator in field.validators:
        if isinstance(validator, fields.Matching):
            more["pattern"] = anchored(validator.pattern, optional=_may_be_empty(field))
        else:
            more |= _OF_VALIDATOR.get(validator, {})
    more |= field.metadata.get("json", {})
    if isinstance(field.parent, Common) and str(field.name) in _OF_SUBSCRIPTION:
        more["description"] = _OF_SUBSCRIPTION[str(field.name)]
    if field.allow_none and more:
        more = _or_null(more)
    return {**more, **{k: ret[k] for k in ("description", "example") if k in field.metadata}}


def _or_null(json: Json) -> Json:
    if "$ref" in json:
        return {"anyOf": [json, {"type": "null"}]}
    if "type" in json:
        return json | {"type": [json["type"], "null"]}
    return json


class _Converter(OpenAPIConverter):
    """Objects too: `Meta.either` are alternatives, `Meta.json` is what JSON Schema says beside the
    fields, and `open` ones carry more than they name."""

    def schema2jsonschema(self, schema: Any) -> Json:
        """A schema as JSON Schema."""
        made = schema if isinstance(schema, Schema) else schema()
        meta = type(made).Meta
        said = (type(made).__doc__ or "").strip()
        about = {"description": " ".join(said.split())} if said and _own_doc(type(made)) else {}
        if either := getattr(meta, "either", None):
            return about | {"anyOf": [self.resolve_nested_schema(each) for each in either]}
        json: Json = super().schema2jsonschema(schema)
        if made.unknown == RAISE:
            json["additionalProperties"] = False
        elif made.unknown == EXCLUDE and getattr(meta, "open", False):
            json["additionalProperties"] = True
        return {**about, **json, **getattr(meta, "json", {})}


def _own_doc(kind: type) -> bool:
    """Schemas without a docstring have marshmallow's, which is about marshmallow."""
    return kind.__doc__ not in {each.__doc__ for each in kind.__mro__[1:]}


class Plugin(MarshmallowPlugin):
    """apispec's, with our converter. A component is called as its class is."""

    Converter = _Converter

    def __init__(self) -> None:
        super().__init__(schema_name_resolver=_name)

    def init_spec(self, spec: Any) -> None:
        """As theirs."""
        super().init_spec(spec)
        assert self.converter is not None
        self.converter.add_attribute_function(_ours)


def _name(schema: Any) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return str(kind.__name__)
