"""What goes out with rq-dashboard's answers, and what is changed in them.

Its page of one job prints the job's text into HTML as it is (0.9.0). A tenant chooses the ids of
its events and a receiver the words of its answer, so both would run scripts in the operator's
session. The text is escaped on its way, and the browser is told to run no other scripts than
the page's own: two walls, since each release of theirs may move the first.
"""

from __future__ import annotations

import re
import secrets
from html import escape
from typing import Any, Final

from flask import Response, jsonify, request, url_for

from evoflask.errors import NotFound

_INLINE: Final = '<script type="text/javascript">'
_STATIC: Final = {"rq_dashboard.static", "rq_dashboard.favicon"}
_POLICY: Final = (
    "default-src 'none'; "
    # Their templates are compiled in the page, by `Function`.
    "script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)


_REGISTRIES: Final = {
    "queued", "scheduled", "deferred", "started", "finished", "failed", "canceled",
}  # fmt: skip
PER_PAGE: Final = 200
"""Most jobs of one page, as in their form."""


def check() -> None:
    """Before each request: raises `NotFound` for an address that theirs answers with a defect,
    or with every job there is."""
    asked = request.view_args or {}
    good = (
        int(asked.get("instance_number", 0)) == 0
        and str(asked.get("registry_name", "queued")) in _REGISTRIES
        and str(asked.get("order", "asc")) in {"asc", "dsc"}
        and _whole(asked.get("per_page", 1), PER_PAGE)
        and _whole(asked.get("page", 1), 1_000_000)
    )
    if not good:
        raise NotFound(f"Cannot {request.method} {request.path}")


def _whole(value: object, high: int) -> bool:
    """Whether it is a number from 1 on."""
    return bool(re.fullmatch(r"[1-9]\d{0,6}", str(value), re.ASCII)) and int(str(value)) <= high


def finish(response: Response) -> Response:
    """After each request to rq-dashboard."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    if request.endpoint in _STATIC:
        return response
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint == "rq_dashboard.job_info" and response.status_code == 200:
        response = _escaped(response)
    if response.mimetype == "text/html":
        _add_to_page(response)
    return response


def _escaped(response: Response) -> Response:
    safe = jsonify(_safe(response.get_json()))
    response.set_data(safe.get_data())
    return response


def _safe(value: Any) -> Any:
    """Each text of a job, harmless as HTML."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_safe(each) for each in value]
    if isinstance(value, dict):
        return {name: _safe(each) for name, each in value.items()}
    return value


def _add_to_page(response: Response) -> None:
    nonce = secrets.token_urlsafe(16)
    page = response.get_data(as_text=True).replace(
        _INLINE, f'<script nonce="{nonce}" type="text/javascript">'
    )
    ours = escape(url_for("dashboard.script"))
    response.set_data(page.replace("</body>", f'<script src="{ours}"></script></body>', 1))
    response.headers["Content-Security-Policy"] = _POLICY.format(nonce=nonce)
