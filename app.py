"""The HTTP process, put together. Nothing imports it; gunicorn and `flask --app app` run it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click
from flask import Flask

from evoflask import bell, cli, configuration, db, gateway, outbox, vault
from evoflask.configuration import Configuration
from evoflask.doorkeeper import Doorkeeper
from evoflask.errors import Misconfigured
from evoflask.keyring import Keyring
from evoflask.manager import EventManager
from evoflask.settings import Settings
from evoflask.web import (
    Parts,
    attempts,
    auditlog,
    auth,
    dashboard,
    deadletters,
    errors,
    events,
    health,
    instances,
    lanes,
    operations,
    replay,
    rowids,
    sinks,
    subscriptions,
)
from evoflask.web.forwarded import Forwarded
from evoflask.web.openapi import routes as documentation

BLUEPRINTS = (
    auditlog.bp,
    attempts.bp,
    deadletters.bp,
    documentation.bp,
    events.bp,
    health.bp,
    instances.bp,
    lanes.bp,
    operations.bp,
    replay.bp,
    sinks.bp,
    subscriptions.bp,
)


class Application(Flask):
    """Flask, of which nothing is asynchronous: it would ask at each request again."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """Connects to nothing yet. Raises `Misconfigured`; whoever types a command reads it as a
    sentence."""
    try:
        settings = settings or Settings.from_env(os.environ)
        vault.unlock(settings)
    except Misconfigured as error:
        if click.get_current_context(silent=True) is None:
            raise
        raise click.ClickException(" ".join(error.messages)) from error
    db.connect(settings)
    client = outbox.connect(settings.redis_url, connections=settings.threads)
    box = outbox.Outbox(client)
    app = Application("evoflask", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # rows have an order of keys
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    changes = Configuration(box, settings)
    bells = bell.connect(settings.rq_redis_url)
    manager = EventManager(box, settings, bells, changes)
    keys = Keyring(settings.api_key, settings.api_keys, settings.api_keys_read_only)
    door = Doorkeeper(settings.auth_failures_per_minute, configuration.live_tokens)
    app.extensions["evoflask"] = Parts(settings, client, box, changes, manager, keys, door)
    rowids.register(app)
    errors.register(app)
    app.url_map.strict_slashes = False  # Evolution API also takes a slash at the end
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    app.url_map.strict_slashes = True  # pages have relative links
    auth.register(app)
    dashboard.register(app, settings, keys, bells)
    gateway.register(app, settings, keys, door, manager.reads)
    cli.register(app)
    app.wsgi_app = Forwarded(app.wsgi_app, settings.trusted_proxies)  # type: ignore[method-assign]
    app.teardown_appcontext(lambda _: db.close())
    return app
