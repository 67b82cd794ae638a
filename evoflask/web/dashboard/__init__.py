"""rq-dashboard at `/rq/`: dead letters for somebody who has never seen the code.

It shows RQ's Redis and would act on it straight away, for anybody. So it is let in behind a
login (`session`), what it does to letters' jobs is done to the letters (`actions`), and its
pages, which print a job's text into HTML as it is, are made safe (`pages`).
"""

from __future__ import annotations

import logging

import redis
import rq_dashboard
from flask import Flask, Response, request, url_for
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer

from evoflask.keyring import Keyring
from evoflask.settings import Settings
from evoflask.web.dashboard import actions, pages, session
from evoflask.web.errors import answer

log = logging.getLogger(__name__)

PREFIX = "/rq"

_theirs = rq_dashboard.blueprint
# Theirs would connect by the URL at each request, with retries and without timeouts.
_theirs.before_request_funcs[None] = [session.guard, pages.check]
_theirs.after_request_funcs[None] = [pages.finish]
rq_dashboard.web.config.serializer = JSONSerializer


def _failed(error: Exception) -> Response:
    if isinstance(error, NoSuchJobError):
        return answer(404, ["There is no such job; that of a settled letter is gone."])
    log.warning("RQ's Redis cannot be used: %s", type(error).__name__)
    return answer(503, ["RQ's Redis cannot be used now."])


_theirs.register_error_handler(redis.RedisError, _failed)
_theirs.register_error_handler(NoSuchJobError, _failed)


def register(app: Flask, settings: Settings, keys: Keyring, connection: redis.Redis) -> None:
    """Mounts it. `connection`: RQ's Redis; nothing is asked of it yet."""
    app.config["RQ_DASHBOARD_REDIS_URL"] = ("RQ",)  # a label: it is printed on every page
    app.config["RQ_DASHBOARD_POLL_INTERVAL"] = 2000
    app.redis_conn = connection  # type: ignore[attr-defined]  # where theirs looks for it
    app.extensions["evoflask.dashboard"] = session.Sessions(
        keys, settings.dashboard_session_seconds
    )
    app.url_build_error_handlers.append(_favicon)
    app.register_blueprint(_theirs, url_prefix=PREFIX)
    app.register_blueprint(session.bp, url_prefix=PREFIX)
    actions.replace(app)


def _favicon(error: Exception, endpoint: str, values: object) -> str:
    """Their pages ask for an icon in the application's static folder, and we have none."""
    if endpoint == "static" and request.blueprint == _theirs.name:
        return url_for(f"{_theirs.name}.favicon")
    raise error
