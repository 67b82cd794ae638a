"""The OpenAPI 3.1 document: every route of the application, what its view says of itself, and the
errors that follow from the kind of route it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from apispec import APISpec
from flask import Flask
from marshmallow import Schema
from werkzeug.routing import Rule

from evoflask import __version__
from evoflask.ids import EVENT_ID, NAME
from evoflask.schemas import SINKS, answers
from evoflask.web import rowids
from evoflask.web.described import (
    AnyObject,
    Described,
    Either,
    Many,
    OrNull,
    PerSink,
    Shape,
    Text,
    Who,
    description_of,
    key_for,
)
from evoflask.web.openapi.convert import EVENT, Json, Plugin, anchored

JSON: Final = "application/json"
ELSEWHERE: Final = ("/rq", "/ws", "/docs")
"""Pages for people, and the websocket, which `_GATEWAY` tells of."""

_ABOUT: Final = """\
Events of many tenants, delivered to their sinks at least once and visibly.

An *instance* is a tenant. Its events go to its subscriptions. Each subscription names a sink
(webhook, websocket, rabbitmq, nats, sqs, pusher) and is a lane of its own. A dead endpoint delays
no other one. An event that cannot be delivered becomes a dead letter, until it is requeued or
discarded.

Every request carries a key in the header `apikey`, or as `Authorization: Bearer`. The key is one of
the operator's, or the token of an instance, which sees and changes only that instance. If both
headers are given, `apikey` counts. Errors have one shape, and its `message` is always a list of
sentences. Answers may get more fields; pass over those that you do not know.
"""

_KEYS: Final[Mapping[str, Json]] = {
    "operator": {
        "type": "apiKey",
        "in": "header",
        "name": "apikey",
        "description": "One of the operator's keys. A read-only one may look and change nothing.",
    },
    "instance": {
        "type": "apiKey",
        "in": "header",
        "name": "apikey",
        "description": "The token of an instance, for what is its own.",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "Any of these keys. The header `apikey` counts if both are given.",
    },
}

_ERRORS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("BadInput", "The request is wrong; the sentences say where. Nothing was changed."),
    401: ("Unauthorized", "No key, a wrong one, or a token and an instance that is not its own."),
    403: ("Forbidden", "A read-only key may look, and change nothing."),
    404: ("NotFound", "There is no such thing."),
    408: ("TooSlow", "The request did not come in time."),
    409: ("Conflict", "The thing is in a state that forbids it."),
    413: ("TooLarge", "The body or the batch is over its limit. Nothing was changed."),
    414: ("TooLong", "The request's line is over its limit."),
    415: ("WrongType", "The body's type or encoding is not supported. Nothing was changed."),
    426: ("UpgradeRequired", "The version of the websocket protocol must be 13."),
    429: ("TooMany", "Too fast, too many of them, or too many wrong keys from this address."),
    431: ("HeadTooLarge", "The request's line or its headers are over their limit."),
    503: ("Unavailable", "Something that this needs cannot be used now. Nothing was changed."),
}
_RETRY_LATER: Final = (429, 503)

_PATHS: Final[Mapping[str, Json]] = {
    "instance": {
        "schema": {"type": "string", "pattern": anchored(NAME)},
        "description": "The name of an instance.",
        "example": "support",
    },
    "name": {
        "schema": {"type": "string", "pattern": anchored(NAME)},
        "description": "The name of a subscription.",
        "example": "archive",
    },
    "event_id": {
        "schema": {"type": "string", "pattern": anchored(EVENT_ID)},
        "description": "The id of an event.",
        "example": "order-4711-paid",
    },
    "trial": {
        "schema": {"type": "string", "pattern": "^test-[0-9a-f]{16}$"},
        "description": "The id of a test.",
    },
    "letter": {
        "schema": {"type": "integer", "minimum": 0, "maximum": rowids.MAX},
        "description": "The id of a dead letter.",
    },
    "operation": {
        "schema": {"type": "integer", "minimum": 0, "maximum": rowids.MAX},
        "description": "The id of an operation.",
    },
}

_GATEWAY: Final[Json] = {
    "operationId": "gateway.open",
    "tags": ["websocket"],
    "summary": "Open a websocket.",
    "description": "A browser, which cannot set headers here, gives its key as `?apikey=`. What is "
    "said then is in the manual, under sinks.",
    "security": [{scheme: []} for scheme in _KEYS],
    "parameters": [
        {"in": "query", "name": "apikey", "schema": {"type": "string"}, "required": False},
        {
            "in": "header",
            "name": "Sec-WebSocket-Version",
            "schema": {"type": "string", "enum": ["13"]},
            "required": True,
        },
        {
            "in": "header",
            "name": "Sec-WebSocket-Key",
            "schema": {"type": "string", "minLength": 24, "maxLength": 24},
            "required": True,
        },
    ],
}


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the document. `sink`: which one of a rule that stands for several."""

    path: str
    method: str
    rule: Rule
    view: Any
    sink: str | None

    @property
    def id(self) -> str:
        """Unique."""
        return f"{self.rule.endpoint}.{self.sink}" if self.sink else str(self.rule.endpoint)

    @property
    def group(self) -> str:
        """Its blueprint."""
        return str(self.rule.endpoint.partition(".")[0])


def routes(app: Flask) -> Iterator[Route]:
    """Every operation that a view of ours answers."""
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(ELSEWHERE):
            continue
        view = app.view_functions[rule.endpoint]
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            for sink in _sinks(rule):
                yield Route(path_of(rule, sink), method.lower(), rule, view, sink)


def _sinks(rule: Rule) -> tuple[str | None, ...]:
    """What `<any(...):sink>` stands for."""
    return SINKS if "sink" in rule.arguments else (None,)


def path_of(rule: Rule, sink: str | None) -> str:
    """A rule as OpenAPI writes it."""
    parts: list[str] = []
    for dynamic, text in rule._trace:
        if not dynamic:
            parts.append(text)
        elif text == "sink" and sink:
            parts.append(sink)
        else:
            parts.append(f"{{{text}}}")
    return str("".join(parts).partition("|")[2])


def build(app: Flask) -> Json:
    """The whole document. Raises `LookupError` for a view that says nothing of itself."""
    spec = APISpec(
        title="evoflask",
        version=__version__,
        openapi_version="3.1.0",
        plugins=[Plugin()],
        info={"description": _ABOUT},
        servers=[{"url": "/"}],
        security=[{scheme: []} for scheme in _KEYS],
    )
    for name, scheme in _KEYS.items():
        spec.components.security_scheme(name, dict(scheme))
    spec.components.schema("EventName", component=dict(EVENT))
    for status, (name, words) in _ERRORS.items():
        spec.components.response(name, _error(status, words))
    groups = set()
    for route in routes(app):
        groups.add(route.group)
        spec.path(path=route.path, operations={route.method: _operation(route)})
    spec.path(path="/ws", operations={"get": dict(_GATEWAY) | {"responses": _handshake()}})
    return {**spec.to_dict(), "tags": _tags(app, groups)}


def _operation(route: Route) -> Json:
    said = description_of(route.view)
    if said is None:
        raise LookupError(f"{route.rule.endpoint} does not say what it answers")
    who = key_for(route.view)
    summary, description = _words(route.view, route.sink)
    operation: Json = {
        "operationId": route.id,
        "tags": [route.group],
        "summary": summary,
        "description": f"{description}\n\nKey: {who.value}.".strip(),
        "security": _security(who),
        "responses": _responses(route, said, who),
    }
    if parameters := _parameters(route, said):
        operation["parameters"] = parameters
    if said.body is not None:
        operation["requestBody"] = _body(route, said, said.body)
    return operation


def _words(view: Any, sink: str | None) -> tuple[str, str]:
    """The first sentence of a view's docstring, and the rest."""
    text = inspect.getdoc(view) or ""
    first, _, rest = text.partition("\n\n")
    head, stop, tail = " ".join(first.split()).partition(". ")
    head = head + stop.strip()
    summary = head[0].upper() + head[1:] if head else ""
    if sink:
        summary = f"{sink}: {summary[0].lower()}{summary[1:]}"
    return summary, "\n\n".join(each for each in (tail, rest) if each)


def _security(who: Who) -> list[Json]:
    if who is Who.NOBODY:
        return []
    schemes = ("operator", "bearer") if who is Who.OPERATOR else tuple(_KEYS)
    return [{scheme: []} for scheme in schemes]


def _parameters(route: Route, said: Described) -> list[Any]:
    found: list[Any] = [
        {"in": "path", "name": name, "required": True, **_PATHS[name]}
        for name in sorted(route.rule.arguments - {"sink"})
    ]
    if said.query is not None:
        found.append({"in": "query", "schema": said.query})
    found += [
        {
            "in": "header",
            "name": name,
            "required": False,
            "schema": {"type": "string"},
            "description": words,
        }
        for name, words in said.headers.items()
    ]
    return found


def _body(route: Route, said: Described, body: Shape) -> Json:
    content = _content(body, route.sink)
    if said.example is not None:
        example = said.example[route.sink] if isinstance(body, PerSink) else said.example
        content[JSON]["example"] = example
    return {"required": said.body_required, "content": content}


def _responses(route: Route, said: Described, who: Who) -> Json:
    found: Json = {
        str(status): _answer(status, shape, route.sink) for status, shape in said.answers.items()
    }
    for status in sorted(_follows(route, said, who)):
        found.setdefault(str(status), _ERRORS[status][0])
    if said.bad is not None:
        found["400"] = _error(400, _ERRORS[400][1], said.bad)
    return dict(sorted(found.items()))


def _follows(route: Route, said: Described, who: Who) -> set[int]:
    """The errors that nobody needs to say of a view."""
    found = {408, 414, 431, *said.errors}
    if who is not Who.NOBODY:
        found |= {401, 429, 503}
        if route.method != "get":
            found.add(403)
    if route.rule.arguments - {"sink"} or _names_an_instance(said):
        found.add(404)
    if said.body is not None or said.query is not None:
        found.add(400)
    if said.body is not None:
        found |= {413, 415}
    return found


def _names_an_instance(said: Described) -> bool:
    """In the query."""
    return said.query is not None and "instance" in said.query().fields


def _answer(status: int, shape: Shape, sink: str | None) -> Json:
    return {"description": HTTPStatus(status).phrase, "content": _content(shape, sink)}


def _error(status: int, words: str, shape: Shape = answers.Error) -> Json:
    found: Json = {"description": words, "content": _content(shape, None)}
    if status in _RETRY_LATER:
        seconds = {"type": "string", "pattern": "^[0-9]+$"}
        found["headers"] = {
            "Retry-After": {"description": "Seconds.", "required": True, "schema": seconds}
        }
    return found


def _content(shape: Shape, sink: str | None) -> Json:
    if isinstance(shape, Text):
        return {shape.mimetype: {"schema": {"type": "string"}}}
    return {JSON: {"schema": _schema(shape, sink)}}


def _schema(shape: Shape, sink: str | None) -> Any:
    """What apispec resolves: a dictionary with schema classes in it."""
    match shape:
        case PerSink(of):
            assert sink is not None
            return _schema(of[sink], sink)
        case Many(of):
            return {"type": "array", "items": _schema(of, sink)}
        case Either(of):
            return {"anyOf": [_schema(each, sink) for each in of]}
        case OrNull(of):
            return {"anyOf": [_schema(of, sink), {"type": "null"}]}
        case Text():
            return {"type": "string"}
        case AnyObject():
            return {"type": "object"}
    assert issubclass(shape, Schema)
    return shape


def _handshake() -> Json:
    errors = (400, 401, 403, 408, 414, 426, 429, 431, 503)
    found: Json = {str(status): _ERRORS[status][0] for status in errors}
    return {"101": {"description": "Switching Protocols"}, **found}


def _tags(app: Flask, groups: Collection[str]) -> list[Json]:
    """What each group of routes is about: the first words of its module."""
    found = []
    for name, blueprint in app.blueprints.items():
        module = sys.modules[blueprint.import_name]
        about = (inspect.getdoc(module) or "").partition("\n\n")[0]
        if name in groups:
            found.append({"name": name, "description": " ".join(about.split())})
    return [*found, {"name": "websocket", "description": "Events as they come, for browsers too."}]
