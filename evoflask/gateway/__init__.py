"""Websockets: `GET /ws`. Flask is known here; no key in Redis is.

    protocol.py    what is said, either way; pure
    connection.py  the bytes of one socket
    sessions.py    what one socket joined, and how far it is
    follower.py    the one reader of new entries in a web process
    registry.py    all sockets: places, keys, the end

A socket has one thread, which gunicorn gives it (`threads` counts them in). It sits beside
`web` and shares nothing with it but the way in which errors are rendered.
"""

from __future__ import annotations

import base64
import binascii
import time

from flask import Blueprint, Flask, abort, g, request
from flask_sock import Sock
from simple_websocket import Server
from werkzeug.exceptions import HTTPException

from evoflask.doorkeeper import Doorkeeper, client_address, too_many
from evoflask.errors import HOW_TO_SEND_A_KEY, BadInput, Unauthorized
from evoflask.gateway.connection import Connection, Limits
from evoflask.gateway.registry import Caller, Registry
from evoflask.keyring import Keyring, digest, given_key
from evoflask.reading import Reads
from evoflask.settings import Settings


class _NoThread:
    """What simple-websocket starts to read a socket: the session reads it itself."""

    def __init__(self, target: object) -> None:
        self.name = ""

    def start(self) -> None:
        """Nothing."""


class UpgradeRequired(HTTPException):
    """Refuses another version of the protocol. Plain HTTP is refused before."""

    code = 426
    description = "The version of the websocket protocol must be 13."

    def get_headers(self, environ: object = None, scope: object = None) -> list[tuple[str, str]]:
        return [("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")]


def register(
    app: Flask, settings: Settings, keys: Keyring, door: Doorkeeper, reads: Reads
) -> Registry:
    """Puts `GET /ws` into the application. Connects to nothing."""
    registry = Registry(settings, keys, reads)
    bp = Blueprint("gateway", __name__)
    sock = Sock()
    app.config["SOCK_SERVER_OPTIONS"] = {"thread_class": _NoThread}
    app.extensions["evoflask.gateway"] = registry

    @bp.before_request
    def admit() -> None:
        """Everything that may be refused is refused before the upgrade, in the contract's shape."""
        _check_handshake()
        _check_origin(settings)
        key = given_key(request.headers.get("apikey"), request.headers.get("Authorization"))
        key = key or request.args.get("apikey", "")  # a browser cannot set headers here
        g.socket_caller = _identify(registry, door, settings, key)
        registry.take_place(g.socket_caller)
        g.has_place = True
        # Compressing would cost each socket 300 kB and each message its CPU, once a socket.
        request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)

    @bp.teardown_request
    def leave(_: BaseException | None) -> None:
        if g.pop("has_place", False):
            registry.give_place(g.socket_caller)

    @sock.route("/ws", bp=bp)  # type: ignore[untyped-decorator]
    def serve(server: Server) -> None:
        def connect(limits: Limits) -> Connection:
            return Connection(server.sock, server.ws, limits)

        try:
            registry.serve(g.socket_caller, connect)
        finally:
            server.connected = False  # the session has said goodbye

    app.register_blueprint(bp)
    return registry


def _identify(registry: Registry, door: Doorkeeper, settings: Settings, key: str) -> Caller:
    """Whose key it is. Raises `Unauthorized`, `TooManyFailures`, `DatabaseDown`."""
    if not key:
        raise Unauthorized(
            f"Unauthorized: the request has no key. {HOW_TO_SEND_A_KEY} "
            "A browser uses /ws?apikey=<key>."
        )
    forwarded = ",".join(request.headers.getlist("X-Forwarded-For"))
    address = client_address(request.remote_addr or "", forwarded, settings.trusted_proxies)
    sha256 = digest(key)
    if not registry.is_operator(sha256):
        door.admit(lambda: address, sha256, time.monotonic())
    try:
        caller = registry.caller(sha256)
    except Unauthorized:
        door.forget(sha256)
        if wait := door.failed(address, time.monotonic()):
            raise too_many(wait) from None
        raise
    door.succeeded(sha256)
    return caller


def _check_handshake() -> None:
    if request.headers.get("Sec-WebSocket-Version") != "13":
        raise UpgradeRequired
    try:
        key = base64.b64decode(request.headers.get("Sec-WebSocket-Key", ""), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        raise BadInput("Sec-WebSocket-Key: Must be the base64 of 16 bytes.")


def _check_origin(settings: Settings) -> None:
    """A page of another origin, where origins are restricted. What is no browser sends none."""
    origin = request.headers.get("Origin")
    allowed = settings.websocket_origins
    if allowed and origin is not None and origin.lower().rstrip("/") not in allowed:
        abort(403, "Pages of this origin may not open websockets here.")
