"""Serve the documentation. It needs a key, as everything does. A browser logs in by the form of
`/rq/`, which also takes an instance's token for `/docs`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import orjson
from flask import Blueprint, Response, current_app, request, send_file, url_for

from evoflask.web.auth import some_key, unauthorized
from evoflask.web.dashboard import session
from evoflask.web.described import AnyObject, described
from evoflask.web.openapi import pages
from evoflask.web.openapi.document import build

bp = Blueprint("documentation", __name__)

_POLICY = (
    "default-src 'none'; style-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)


def document() -> dict[str, Any]:
    """The application's, made once in a process: routes do not change."""
    made = current_app.extensions.get("evoflask.openapi")
    if made is None:
        made = current_app.extensions["evoflask.openapi"] = build(
            cast(Any, current_app)._get_current_object()
        )
    return cast(dict[str, Any], made)


@bp.get("/openapi.json")
@some_key
@described(AnyObject())
def openapi() -> Response:
    """This API in OpenAPI 3.1."""
    return _json()


@bp.get(session.DOCS)
def page() -> Response:
    """The same as a page."""
    if (elsewhere := session.admit()) is not None:
        return elsewhere
    text = pages.render(
        document(), style=url_for("documentation.style"), source=url_for("documentation.source")
    )
    response = Response(text, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


@bp.get(f"{session.DOCS}/openapi.json")
def source() -> Response:
    """The document, where the page's cookie counts."""
    if session.admit() is not None:
        raise unauthorized()
    return _json()


@bp.get(f"{session.DOCS}/page.css")
def style() -> Response:
    """How the page looks. Open: it says nothing."""
    return send_file(Path(__file__).with_name("page.css"), mimetype="text/css")


def _json() -> Response:
    """Return the document with the prefix under which a proxy serves it."""
    found = {**document(), "servers": [{"url": request.root_path or "/"}]}
    return Response(orjson.dumps(found), mimetype="application/json")
