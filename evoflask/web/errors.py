"""How an error becomes an answer: one shape, and nothing of the inside.

{"status": 400, "error": "Bad Request", "response": {"message": ["webhook.url: ..."]}}
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from evoflask.errors import BadInput, EvoflaskError, TooMany, Unauthorized, Unavailable

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
    """The answer to an error of ours."""
    response = answer(error.status, error.messages)
    if isinstance(error, AllBad):
        response = jsonify({**(response.get_json() or {}), "results": error.results})
        response.status_code = error.status
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, 15.5.2
    if isinstance(error, Unavailable | TooMany):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _http(error: HTTPException) -> Response:
    response = answer(error.code or 500, [_sentence(error)])
    # Allow of a 405, WWW-Authenticate, Retry-After: all but what describes the old body.
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _sentence(error: HTTPException) -> str:
    if isinstance(error, NotFound):
        return f"Cannot {request.method} {request.path}"
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return f"Cannot {request.method} {request.path}; allowed: {allowed}"
    return error.description or error.name


def _defect(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return answer(500, ["Something went wrong here; the log says what."])
