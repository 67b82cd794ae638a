"""Read the headers in which a proxy reports the scheme, host and prefix that its client used.

They count only from a peer in TRUSTED_PROXIES. From any other peer they change nothing. gunicorn
would obey a header `SCRIPT_NAME`; `gunicorn.conf.py` switches that off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from evoflask.doorkeeper import Network, is_in

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,8}")
_PREFIX_CHARACTERS: Final = 200


class Forwarded:
    """A WSGI application that believes trusted proxies. A value that is malformed is ignored."""

    def __init__(self, inner: WsgiApp, trusted: Sequence[Network]) -> None:
        self._inner = inner
        self._trusted = trusted

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self._trusted and is_in(environ.get("REMOTE_ADDR", ""), self._trusted):
            _believe(environ)
        return self._inner(environ, start_response)


def _believe(environ: dict[str, Any]) -> None:
    scheme = _last(environ, "PROTO").lower()
    if scheme in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme
    host = _last(environ, "HOST")
    if _HOST.fullmatch(host):
        environ["HTTP_HOST"] = host
    prefix = _last(environ, "PREFIX").rstrip("/")
    if len(prefix) <= _PREFIX_CHARACTERS and _PREFIX.fullmatch(prefix):
        environ["SCRIPT_NAME"] = prefix


def _last(environ: dict[str, Any], name: str) -> str:
    """Return the value that the nearest proxy added. A client's own values are left of it."""
    text: str = environ.get(f"HTTP_X_FORWARDED_{name}", "")
    return text.rpartition(",")[2].strip()
