"""How gunicorn runs the web process; what can be set comes from the settings."""

import os
import sys
from pathlib import Path
from threading import Thread

from gunicorn.config import Config
from gunicorn.glogging import Logger

from evoflask import collector, db, health, log, traces, vault
from evoflask.errors import Misconfigured
from evoflask.keyring import digest, given_key
from evoflask.serving import files
from evoflask.serving.arrival import Bounds
from evoflask.serving.visitor import Patience, Rank
from evoflask.serving.worker import PatientWorker
from evoflask.settings import Settings
from evoflask.web import Parts

try:
    _settings = Settings.from_env(os.environ)
    if not (_settings.api_key or _settings.api_keys):
        raise Misconfigured("AUTHENTICATION_API_KEY is not set, and there is no server without it.")
    vault.unlock(_settings)
    traces.check(_settings)
except Misconfigured as error:
    sys.exit(log.refuse(error))

log.configure(_settings.log_level, _settings.secrets(), _settings.log_format)


class _Logger(Logger):
    """gunicorn's own words go the way of ours: one line, no secrets."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


bind = f"{_settings.web_host}:{_settings.port}"
# A second web process on the same port: one takes over before the other one ends.
reuse_port = True
# A thread gets a request when the whole of it is there.
worker_class = PatientWorker
PatientWorker.patience = Patience(
    bounds=Bounds(head=65_536, body=_settings.max_body_bytes),
    head=_settings.web_head_seconds,
    rate=_settings.web_body_bytes_per_second,
    send=_settings.web_send_seconds,
    buffer=_settings.web_buffer_bytes,
    holds=_settings.web_threads // 2,
    threads=_settings.web_threads,
)
workers = _settings.web_concurrency
# A socket keeps a thread as long as it lasts: those for requests are beside them.
threads = _settings.threads
_files = files.allow(_settings.web_connections + threads, _settings.websocket_max_clients)
worker_connections = _files.connections
graceful_timeout = _settings.grace_seconds
timeout = 60
# `evoflask.web.forwarded` reads a proxy's headers, by TRUSTED_PROXIES. gunicorn would believe any
# client on loopback.
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
keepalive = _settings.web_idle_seconds
# Heartbeats of the workers are writes to a file: not on a disk that may stall.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
# It would be opened in the home folder of the user, for everybody's gunicorn there.
control_socket_disable = True
accesslog = None
logger_class = _Logger


def _identify(parts: Parts, apikey: bytes, authorization: bytes) -> tuple[Rank, str | None]:
    """Return rank and digest of a request's key, from memory alone."""
    key = given_key(apikey.decode("latin-1"), authorization.decode("latin-1"))
    if not key:
        return Rank.STRANGER, None
    sha256 = digest(key)
    if parts.keys.find(sha256) is not None:
        return Rank.OPERATOR, sha256
    return (Rank.TENANT if parts.door.knows(sha256) else Rank.STRANGER), sha256


def post_worker_init(worker: PatientWorker) -> None:
    """Set up what a worker needs after the fork.

    Sockets must notice a SIGTERM, else the worker would wait for them in vain. A thread exports
    spans, so it starts after the fork.
    """
    traces.configure(_settings, "web")
    parts = worker.wsgi.extensions["evoflask"]
    worker.identify = lambda apikey, authorization: _identify(parts, apikey, authorization)
    registry = worker.wsgi.extensions["evoflask.gateway"]
    registry.limit_places(_files.sockets)
    registry.alive = lambda: worker.alive
    collector.tune()
    collector.give_back()
    if worker.age == 1:  # the first web worker; a database that is away must not delay it
        Thread(target=_look_at_database, args=[parts], daemon=True).start()


def _look_at_database(parts: Parts) -> None:
    """Log a database that does not belong to this Redis."""
    try:
        health.log_database(parts.outbox, parts.settings)
    finally:
        db.close()


def worker_exit(server: object, worker: PatientWorker) -> None:
    """Its last spans."""
    traces.close()


def when_ready(server: object) -> None:
    """Log once what a power cut can cost, before the first web worker starts."""
    try:
        health.tell(_settings)
    except Misconfigured as error:
        sys.exit(log.refuse(error))
