"""Who may look: the global key, as a header or through a form that keeps it in a signed cookie.

A cookie says until when it is good and is signed with a key that follows from the global key:
no state, the same in every web process, void when the global key changes. Scripts cannot read
it and no other site makes a browser send it. A second cookie, which scripts can read, carries
what each POST must repeat in the header `X-CSRFToken`; rq-dashboard sends it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import threading
import time
from collections import OrderedDict, deque
from pathlib import Path

from flask import Blueprint, Response, current_app, redirect, request, send_file, url_for
from markupsafe import escape

from evoflask.configuration import sha256
from evoflask.errors import Unauthorized
from evoflask.ids import random_id
from evoflask.web import parts
from evoflask.web.auth import caller_from_request, unauthorized

log = logging.getLogger(__name__)

bp = Blueprint("dashboard", __name__)

COOKIE = "evoflask_rq"
CSRF_COOKIE = "_csrf_token"
"""The name that rq-dashboard's script looks for."""
WRONG = 10
"""Wrong keys of one address in a `MINUTE`, in one web process; then the form waits."""
MINUTE = 60.0
ADDRESSES = 1_000
"""Addresses that are remembered; beyond it the one that was wrong the longest ago goes."""
MAX_KEY = 256

_PUBLIC = {"rq_dashboard.static", "rq_dashboard.favicon"}
_PAGES = {
    "rq_dashboard.queues_overview",
    "rq_dashboard.workers_overview",
    "rq_dashboard.jobs_overview",
    "rq_dashboard.job_view",
}
_TOKEN = re.compile(r"(\d{1,12})\.[0-9a-f]{16}\.([0-9a-f]{64})", re.ASCII)


class Sessions:
    """Signs cookies and checks them; counts wrong keys. Safe to share between threads."""

    def __init__(self, api_key: str, seconds: int) -> None:
        self.seconds = seconds
        self._key = api_key and hmac.digest(api_key.encode(), b"evoflask /rq/ session", "sha256")
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def issue(self, now: float) -> str:
        """A cookie that is good for `seconds`."""
        what = f"{int(now + self.seconds)}.{random_id()}"
        return f"{what}.{self._sign(what)}"

    def good(self, cookie: str, now: float) -> bool:
        """Whether we signed it, and its time is not over."""
        found = _TOKEN.fullmatch(cookie)
        if found is None or not self._key or int(found[1]) <= now:
            return False
        return hmac.compare_digest(found[2], self._sign(cookie.rpartition(".")[0]))

    def csrf(self, cookie: str) -> str:
        """What a POST of this session must carry."""
        return self._sign(f"csrf {cookie}")

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may try another key; 0: now."""
        with self._lock:
            times = self._wrong.get(address, deque())
            return max(0.0, times[0] + MINUTE - now) if len(times) >= WRONG else 0.0

    def wrong(self, address: str, now: float) -> None:
        """A wrong key came from there."""
        with self._lock:
            self._wrong.setdefault(address, deque(maxlen=WRONG)).append(now)
            self._wrong.move_to_end(address)
            while len(self._wrong) > ADDRESSES:
                self._wrong.popitem(last=False)

    def _sign(self, what: str) -> str:
        assert self._key, "nobody has logged in without a global key"
        return hmac.new(self._key, what.encode(), hashlib.sha256).hexdigest()


def sessions() -> Sessions:
    """The application's."""
    found: Sessions = current_app.extensions["evoflask.dashboard"]
    return found


def guard() -> Response | None:
    """Before each request to rq-dashboard. Answers where to log in, or lets it pass.

    Raises `Unauthorized`. A key in the header needs no token: no other site can send it.
    """
    if request.endpoint in _PUBLIC or caller_from_request().global_:
        return None
    cookie = request.cookies.get(COOKIE, "")
    if "apikey" in request.headers or not sessions().good(cookie, time.time()):
        if request.endpoint in _PAGES and "apikey" not in request.headers:
            return _to(url_for("dashboard.login", next=request.path))
        raise unauthorized()
    if request.method not in {"GET", "HEAD"}:
        _check_csrf(cookie)
    return None


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
    """The key, from the form: 303 to the page that was asked for, with the cookies; 401, or 429
    after too many wrong ones."""
    now, address = time.time(), request.remote_addr or ""
    if (wait := sessions().wait(address, now)) > 0:
        refused = _form(429, "Too many wrong keys. Wait a minute, then try again.")
        refused.headers["Retry-After"] = str(int(wait) + 1)
        return refused
    if not _right(request.form.get("key", "")):
        sessions().wrong(address, now)
        log.warning("wrong key at the login of /rq/", extra={"address": address})
        return _form(401, "This is not the global key.")
    cookie = sessions().issue(now)
    response = _to(_next())
    for name, value, hidden in (
        (COOKIE, cookie, True),
        (CSRF_COOKIE, sessions().csrf(cookie), False),
    ):
        response.set_cookie(
            name,
            value,
            max_age=sessions().seconds,
            path=_home(),
            secure=request.is_secure,
            httponly=hidden,
            samesite="Strict",
        )
    return response


@bp.post("/logout")
def leave() -> Response:
    """Forgets the cookies; asks for the token, so that nobody else logs one out."""
    cookie = request.cookies.get(COOKIE, "")
    if sessions().good(cookie, time.time()):
        _check_csrf(cookie)
    response = _to(url_for("dashboard.login"))
    for name in (COOKIE, CSRF_COOKIE):
        response.delete_cookie(name, path=_home())
    return response


@bp.get("/desk.js")
def script() -> Response:
    """What our pages add to theirs: what became of a click, and the way out."""
    return send_file(Path(__file__).with_name("desk.js"), mimetype="text/javascript")


def _right(key: str) -> bool:
    expected = parts().settings.api_key
    return bool(expected) and hmac.compare_digest(sha256(key[: MAX_KEY + 1]), sha256(expected))


def _home() -> str:
    return url_for("rq_dashboard.queues_overview")


def _next() -> str:
    """The page that was asked for: one of ours, whatever the form says."""
    wanted = request.args.get("next", "")
    return request.root_path + wanted if wanted.startswith("/rq/") else _home()


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
  <h1 style="font-size: 1.5rem">evoflask: dead letters</h1>
  <form method="post">
    <div class="form-group">
      <label for="key">The global key (AUTHENTICATION_API_KEY)</label>
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
    response = Response(_FORM.format(style=escape(style), said=words), status, mimetype="text/html")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    return response
