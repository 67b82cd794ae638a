"""Admit an operator's key, as a header or through a form that keeps it in a signed cookie.

A cookie has its end, and a signature by a secret derived from the key. So it needs no state, holds
in every web process, and is void when the key is removed. Scripts cannot read it, and no other site
makes a browser send it. Scripts can read a second cookie. Each POST must repeat its value in the
header `X-CSRFToken`; rq-dashboard sends it.

At `/docs`, which shows nothing of tenants, the form also takes an instance's token. Its cookie
names the instance. A secret derived from the token's digest signs it, so it ends with the token.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from pathlib import Path

from flask import Blueprint, Response, current_app, redirect, request, send_file, url_for
from markupsafe import escape

from evoflask import configuration
from evoflask.doorkeeper import Shared
from evoflask.errors import Forbidden, TooManyFailures, Unauthorized
from evoflask.ids import random_id
from evoflask.keyring import Key, Keyring, digest
from evoflask.models import Instance
from evoflask.web import parts
from evoflask.web.auth import (
    address,
    caller_from_request,
    fail,
    key_of_request,
    unauthorized,
    visible,
)

log = logging.getLogger(__name__)

bp = Blueprint("dashboard", __name__)

DOCS = "/docs"
"""The other place that the login opens."""
COOKIE = "evoflask_rq"
TOKEN_COOKIE = "evoflask_docs"  # noqa: S105  # a cookie's name
"""Opens `/docs` for an instance's token."""
CSRF_COOKIE = "_csrf_token"
"""The name that rq-dashboard's script looks for."""
MAX_KEY = 256

_PUBLIC = {"rq_dashboard.static", "rq_dashboard.favicon"}
_PAGES = {
    "rq_dashboard.queues_overview",
    "rq_dashboard.workers_overview",
    "rq_dashboard.jobs_overview",
    "rq_dashboard.job_view",
}
_TOKEN = re.compile(r"(\d{1,12})\.[0-9a-f]{16}\.([a-z0-9-]{1,40})\.([0-9a-f]{64})", re.ASCII)


class Sessions:
    """Signs cookies and checks them. A cookie names its key, and is signed by what follows from
    it: it is void when that key is no more."""

    def __init__(self, keys: Keyring, seconds: int) -> None:
        self.seconds = seconds
        self._keys = keys
        self._tokens = Shared(lambda cookies: [each for each in cookies if _is_signed(each)])

    def issue(self, key: Key, now: float) -> str:
        """A cookie that is good for `seconds`."""
        what = f"{int(now + self.seconds)}.{random_id()}.{key.name}"
        return f"{what}.{self._sign(key.name, what)}"

    def key(self, cookie: str, now: float) -> Key | None:
        """Whose cookie it is; None: we did not sign it, its time is over, or its key is no more."""
        found = _TOKEN.fullmatch(cookie)
        if found is None or int(found[1]) <= now:
            return None
        key = self._keys.named(found[2])
        if key is None:
            return None
        good = hmac.compare_digest(found[3], self._sign(key.name, cookie.rpartition(".")[0]))
        return key if good else None

    def csrf(self, cookie: str) -> str:
        """What a POST of this session, whose cookie is a good one, must carry."""
        found = _TOKEN.fullmatch(cookie)
        assert found is not None
        return self._sign(found[2], f"csrf {cookie}")

    def issue_for_token(self, instance: Instance, now: float) -> str:
        """Return a cookie for `/docs`, good for `seconds` and as long as the instance's token."""
        what = f"{int(now + self.seconds)}.{random_id()}.{instance.outbox}"
        return f"{what}.{_sign_by_token(instance, what)}"

    def is_current(self, cookie: str, now: float) -> bool:
        """Return True if the cookie is well-formed and its time is not over. Reads no database."""
        found = _TOKEN.fullmatch(cookie)
        return found is not None and int(found[1]) > now

    def admits_token(self, cookie: str, now: float) -> bool:
        """Return True if the cookie is one of `issue_for_token`. Raises `DatabaseDown`."""
        return self.is_current(cookie, now) and _is_signed(cookie)

    def admits_in_turn(self, cookie: str, now: float) -> bool:
        """Return `admits_token`. All threads share one query at a time. Raises `DatabaseDown`."""
        return self.is_current(cookie, now) and self._tokens(cookie)

    def _sign(self, name: str, what: str) -> str:
        secret = self._keys.derive(name, b"evoflask /rq/ session")
        return hmac.new(secret, what.encode(), hashlib.sha256).hexdigest()


def _sign_by_token(instance: Instance, what: str) -> str:
    secret = hmac.digest(instance.token_sha256.encode(), b"evoflask /docs session", "sha256")
    return hmac.new(secret, what.encode(), hashlib.sha256).hexdigest()


def _is_signed(cookie: str) -> bool:
    """Return True if the token of the cookie's instance signed it. `cookie` is well-formed."""
    what, _, signature = cookie.rpartition(".")
    return any(
        hmac.compare_digest(signature, _sign_by_token(each.instance, what))
        for each in configuration.list_instances(outbox=what.rpartition(".")[2])
    )


def sessions() -> Sessions:
    """The application's."""
    found: Sessions = current_app.extensions["evoflask.dashboard"]
    return found


def guard() -> Response | None:
    """Admit a request to rq-dashboard, or return a redirect to the login.

    Raises `Unauthorized` and `Forbidden`. A key in a header needs no CSRF token: no other site
    can send that header. A cookie counts beside an `Authorization` that a proxy adds.
    """
    if request.endpoint in _PUBLIC:
        return None
    cookie = request.cookies.get(COOKIE, "")
    key = None if "apikey" in request.headers else sessions().key(cookie, time.time())
    if key is None:
        if caller_from_request().global_:
            return None
        if request.endpoint in _PAGES and not key_of_request():
            return _to(url_for("dashboard.login", next=request.path))
        raise unauthorized()
    if request.method not in {"GET", "HEAD"}:
        _check_csrf(cookie)
        if key.read_only:
            raise Forbidden(f'The key "{key.name}" may look, and not change anything.')
    return None


def admit() -> Response | None:
    """Admit a request to a page without tenants' data, or return a redirect to the login.

    Any key, a tenant's token and the login's cookie count. Raises `Unauthorized`, and
    `TooManyFailures` for a forged cookie from an address over its limit.
    """
    cookie = request.cookies.get(COOKIE, "")
    if "apikey" not in request.headers and sessions().key(cookie, time.time()) is not None:
        return None
    if key_of_request():
        visible(None)
    elif not _admits_token_cookie(request.cookies.get(TOKEN_COOKIE, "")):
        return _to(url_for("dashboard.login", next=request.path))
    return None


def _admits_token_cookie(cookie: str) -> bool:
    """Return True for a right cookie. Count a forged one as a wrong key.

    A malformed or expired cookie needs no query, and is not counted. Raises `TooManyFailures`.
    """
    now = time.time()
    if not sessions().is_current(cookie, now):
        return False
    sha256, door = digest(cookie), parts().door
    door.admit(address, sha256, time.monotonic(), lambda: sessions().admits_in_turn(cookie, now))
    if sessions().admits_token(cookie, now):
        door.succeeded(sha256)
        return True
    fail(sha256)
    return False


def _check_csrf(cookie: str) -> None:
    given = request.headers.get("X-CSRFToken", "")
    if not hmac.compare_digest(given.encode(), sessions().csrf(cookie).encode()):
        raise Unauthorized("The request does not carry its session's token; reload the page.")


@bp.get("/login")
def login() -> Response:
    """The form."""
    return _form()


@bp.post("/login")
def enter() -> Response:
    """Log in by the key in the form.

    303 to the requested page, with the cookies. 401 for a wrong key, 429 after too many of them.
    """
    sha256 = digest(request.form.get("key", "")[: MAX_KEY + 1])
    key = parts().keys.find(sha256)
    if key is None:
        return _enter_by_token(sha256)
    cookie = sessions().issue(key, time.time())
    response = _to(_next())
    for name, value, hidden, path in (
        (COOKIE, cookie, True, _home()),
        (COOKIE, cookie, True, _docs()),
        (CSRF_COOKIE, sessions().csrf(cookie), False, _home()),
    ):
        response.set_cookie(
            name,
            value,
            max_age=sessions().seconds,
            path=path,
            secure=request.is_secure,
            httponly=hidden,
            samesite="Strict",
        )
    return response


def _enter_by_token(sha256: str) -> Response:
    """Admit an instance's token, or show the form again.

    Above the limit for wrong keys, logins share one query at a time, as other requests do.
    """
    try:
        parts().door.admit(address, sha256, time.monotonic())
        tenants = configuration.list_instances(token_sha256=sha256)
        if tenants:
            return _enter_as_tenant(tenants[0].instance)
        fail(sha256)
    except TooManyFailures as error:
        refused = _form(429, "Too many wrong keys. Wait a minute, then try again.")
        refused.headers["Retry-After"] = str(error.retry_after)
        return refused
    log.warning("wrong key at the login of /rq/", extra={"address": address()})
    return _form(401, "This is not a key for this page.")


def _enter_as_tenant(instance: Instance) -> Response:
    """Open `/docs` for an instance's token; 403 for the other pages."""
    if _next() != _docs():
        return _form(403, "This is an instance's token. It opens /docs, and not this page.")
    response = _to(_docs())
    response.set_cookie(
        TOKEN_COOKIE,
        sessions().issue_for_token(instance, time.time()),
        max_age=sessions().seconds,
        path=_docs(),
        secure=request.is_secure,
        httponly=True,
        samesite="Strict",
    )
    return response


@bp.post("/logout")
def leave() -> Response:
    """Forgets the cookies; asks for the token, so that nobody else logs one out."""
    cookie = request.cookies.get(COOKIE, "")
    if sessions().key(cookie, time.time()):
        _check_csrf(cookie)
    response = _to(url_for("dashboard.login"))
    for name, path in (
        (COOKIE, _home()),
        (COOKIE, _docs()),
        (CSRF_COOKIE, _home()),
        (TOKEN_COOKIE, _docs()),
    ):
        response.delete_cookie(name, path=path)
    return response


@bp.get("/desk.js")
def script() -> Response:
    """What our pages add to theirs: what became of a click, and the way out."""
    return send_file(Path(__file__).with_name("desk.js"), mimetype="text/javascript")


def _home() -> str:
    return url_for("rq_dashboard.queues_overview")


def _docs() -> str:
    return request.root_path + DOCS


def _next() -> str:
    """The page that was asked for: one of ours, whatever the form says."""
    wanted = request.args.get("next", "")
    ours = wanted.startswith("/rq/") or wanted == DOCS
    return request.root_path + wanted if ours else _home()


def _to(where: str) -> Response:
    response = redirect(where, 303)
    response.headers["Cache-Control"] = "no-store"
    assert isinstance(response, Response)
    return response


_FORM = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>evoflask: log in</title>
<link rel="stylesheet" href="{style}">
<div class="container" style="max-width: 26rem; margin-top: 15vh">
  <h1 style="font-size: 1.5rem">evoflask</h1>
  <form method="post">
    <div class="form-group">
      <label for="key">{asked}</label>
      <input class="form-control" id="key" name="key" type="password"
             autocomplete="current-password" maxlength="256" required autofocus>
    </div>
    {said}
    <button class="btn btn-primary" type="submit">Log in</button>
  </form>
</div>
"""


def _form(status: int = 200, said: str = "") -> Response:
    words = f'<p class="alert alert-danger" role="alert">{escape(said)}</p>' if said else ""
    style = url_for("rq_dashboard.static", filename="css/bootstrap.min.css")
    asked = "A global key (AUTHENTICATION_API_KEY), or a read-only one"
    if _next() == _docs():
        asked = f"{asked}, or an instance's token"
    page = _FORM.format(style=escape(style), said=words, asked=escape(asked))
    response = Response(page, status, mimetype="text/html")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    return response
