"""How an error becomes an answer: one shape, and nothing of the inside.

{"status": 400, "error": "Bad Request", "response": {"message": ["webhook.url: ..."]}}
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import WebsocketMismatch

from evoflask.errors import BadInput, EvoflaskError, TooMany, Unauthorized, Unavailable, WrongType
from evoflask.web import routes

PLAIN_HTTP: Final = (
    "This address is a websocket, and the request is plain HTTP. Use a websocket client, "
    'such as new WebSocket("ws://<host>/ws?apikey=<key>") in a browser. '
    "A proxy before this server must pass on the headers Upgrade and Connection."
)

MAX_PATH: Final = 300
"""Characters of a path that an error quotes."""

log = logging.getLogger(__name__)


def answer(status: int, messages: Sequence[str]) -> Response:
    """The one shape of an error."""
    shape = {
        "status": status,
        "error": HTTPStatus(status).phrase,
        "response": {"message": list(messages)},
    }
    response = jsonify(shape)
    response.status_code = status
    return response


def reason_of(error: EvoflaskError) -> str:
    """The same in one line, for an answer that is no error as a whole."""
    return " ".join(error.messages)


class AllBad(BadInput):
    """A batch without a single good event: 400, with what is wrong with each."""

    def __init__(self, results: Sequence[Any]) -> None:
        super().__init__("None of the events could be accepted.")
        self.results = results


def register(app: Flask) -> None:
    """Render everything that views raise."""
    app.register_error_handler(EvoflaskError, render)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _defect)


def render(error: EvoflaskError) -> Response:
    """Return the answer to an error of ours."""
    response = answer(error.status, error.messages)
    if isinstance(error, AllBad):
        response = jsonify({**(response.get_json() or {}), "results": error.results})
        response.status_code = error.status
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 15.5.2
    if isinstance(error, Unavailable | TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, WrongType):
        _add_accepted(response, error)
    return response


def _add_accepted(response: Response, error: WrongType) -> None:
    """Add the headers of RFC 9110, 15.5.16. Only POST has one for types (W3C LDP, 7.1)."""
    if error.types and request.method == "POST":
        response.headers["Accept-Post"] = ", ".join(error.types)
    if error.encodings:
        response.headers["Accept-Encoding"] = ", ".join(error.encodings)


def _http(error: HTTPException) -> Response:
    if isinstance(error, WebsocketMismatch):
        return _no_handshake()
    response = answer(error.code or 500, [_sentence(error)])
    # Allow of a 405, WWW-Authenticate, Retry-After: all but what describes the old body.
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _no_handshake() -> Response:
    """Refuse plain HTTP at the websocket's path, or a websocket's handshake at another path."""
    if request.environ.get("HTTP_UPGRADE", "").lower() == "websocket" and request.path != "/ws":
        return answer(400, [f"There is no websocket at {request.path[:MAX_PATH]}. Open /ws."])
    return answer(400, [PLAIN_HTTP])


def _sentence(error: HTTPException) -> str:
    where = f"Cannot {request.method} {request.path[:MAX_PATH]}"
    if isinstance(error, NotFound):
        near = routes.nearest_route(request.method, request.path)
        return where if near is None else f"{where}. Did you mean {near}?"
    if isinstance(error, MethodNotAllowed):
        near = routes.nearest_route(request.method, request.path, same_method=True)
        allowed = sorted(error.valid_methods or ())
        use = " or ".join(each for each in allowed if each not in ("HEAD", "OPTIONS"))
        advice = f"Use {use}." if near is None else f"Did you mean {near}?"
        return f"{where}; allowed: {', '.join(allowed)}. {advice}"
    return error.description or error.name


def _defect(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return answer(500, ["Internal error; the server's log has the reason."])
