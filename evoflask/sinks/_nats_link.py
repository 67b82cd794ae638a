"""One connection to NATS that tells the truth: nats-py's, with what it keeps to itself.

What is used of it beyond its public side is here alone: its reader, a subscription's task, and
the socket, to cut it. What an error means for a delivery is not known here: it is handed on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from evoflask.sinks.base import Attempt

CONNECT_SECONDS = 10.0
"""For name, connection, TLS, greeting and credentials together."""
STEP_SECONDS = 5.0
"""For each of them."""
PING_SECONDS = 15
"""How often an idle connection is tried; it is given up when two are not answered."""
CHECK_SECONDS = 5.0
"""How long a server may take for a PING when answers are late, before we hang up."""
CLOSE_SECONDS = 2.0

_NEVER = 10**6
"""Seconds. A PING of nats-py whose wait is given up ends its reader when the PONG comes (it
sets a result on a cancelled future), so none is."""
_DENIED = re.compile(r'permissions violation for publish to (".*")')

# Its reader logs tracebacks; how a connection ended is told by the attempts.
logging.getLogger("nats").setLevel(logging.CRITICAL)

Work = Callable[[], Coroutine[Any, Any, object]]


class Link:
    """One connection with an inbox. What is under way on it is a subclass's: it is told of
    answers, of subjects that are denied, and of the end."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.client = _Client()
        self.prefix = ""
        """What answers are sent to, and then a name of one's own."""
        self.deaf = False
        """The server does not let this user subscribe to its inbox."""
        self.retiring = False
        """The server said that it is about to close."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._check: asyncio.Task[None] | None = None
        self._inbox: asyncio.Task[None] | None = None
        self._ended = True
        self._told: Exception | None = None

    def answered(self, name: str, msg: Msg) -> None:
        """Something came to the inbox."""

    def denied(self, quoted: str) -> None:
        """The server takes nothing for this subject: in quotes, and, by nats-py, lower case."""

    def ended(self) -> None:
        """Nothing more will come; `error` says why."""

    def lost(self) -> None:
        """It ended by itself, after having worked at least as far as the greeting."""

    @property
    def alive(self) -> bool:
        return not self._ended and not self.client.is_closed

    @property
    def server(self) -> str:
        """Host and port of the server that took us."""
        found = self.client.connected_url
        return found.netloc.rpartition("@")[2] if found else ""

    @property
    def peer(self) -> str:
        """Its address; "": there is no connection."""
        transport = getattr(self.client, "_transport", None)
        writer = getattr(transport, "_io_writer", None)
        name = writer.get_extra_info("peername") if writer is not None else None
        return str(name[0]) if name else ""

    @property
    def error(self) -> Exception:
        """What the connection ended with."""
        return self.client.last_error or nats.errors.ConnectionClosedError()

    async def open(self, ssl_context: ssl.SSLContext | None) -> None:
        """Raises what nats-py, sockets and TLS raise, and then leaves nothing behind."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._open(ssl_context)
        except nats.errors.NoServersError as error:
            await self.close(patience=0)
            raise self._told or error from None
        except BaseException:
            await self.close(patience=0)
            raise

    async def _open(self, ssl_context: ssl.SSLContext | None) -> None:
        client, address = self.client, self.address
        client.own_context = ssl_context
        await client.connect(
            address.servers,
            error_cb=self._on_error,
            lame_duck_mode_cb=self._on_lame_duck,
            name="evoflask",
            allow_reconnect=False,
            max_reconnect_attempts=1,  # servers are tried in turn; 0 would be for ever
            reconnect_time_wait=0,
            connect_timeout=STEP_SECONDS,  # type: ignore[arg-type]
            ping_interval=PING_SECONDS,
            pending_size=0,  # else a publish may wait, and swallows its cancellation
            **address.credentials(client),
        )
        # A server that hangs up after the credentials makes no error in nats-py.
        if not client.is_connected:
            raise nats.errors.ConnectionClosedError
        address.check(client)
        self._ended = False
        # The one sign of a connection's end that never fails to come: with data still to be
        # written, nats-py's own callbacks for it are skipped by an error.
        reader = getattr(client, "_reading_task", None)
        if reader is not None:
            reader.add_done_callback(self._on_end)
        inbox = client.new_inbox()
        self.prefix = f"{inbox}."
        subscription = await client.subscribe(f"{inbox}.*", cb=self._on_answer)
        # nats-py forgets this task where its `close` breaks off.
        self._inbox = getattr(subscription, "_wait_for_msgs_task", None)
        await self.round_trip()  # a refusal of the subscription comes before

    async def round_trip(self) -> None:
        """Returns when the server has read, and refused, what was asked for before.

        nats-py writes a PING at once and all else a little later, so one that is sent while
        something waits to be written proves nothing yet: the next one does. Its `flush` also
        succeeds without any answer when its reader is gone; `rtt` does not.
        """
        await asyncio.sleep(0)
        for _ in range(2 if self.client.pending_data_size else 1):
            await self.client.rtt(_NEVER)

    def check_pulse(self) -> None:
        """Hangs up on a server that stays silent, so that nothing piles up for it."""
        if self._check is None and self.alive:
            self._check = self.spawn(self._check_pulse)

    async def _check_pulse(self) -> None:
        ping = self.spawn(functools.partial(self.client.rtt, _NEVER))
        try:
            await asyncio.wait({ping}, timeout=CHECK_SECONDS)
        finally:
            self._check = None
        if not ping.done():
            self._abort()

    def spawn(self, work: Work) -> asyncio.Task[None]:
        """A task that ends with the connection."""
        task = asyncio.get_running_loop().create_task(_quietly(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self, patience: float = CLOSE_SECONDS) -> None:
        """Leaves no task and no socket. `patience`: seconds for what is still to be written."""
        self._finish()
        closing = asyncio.ensure_future(_quietly(self.client.close))
        tasks = {closing, *self._all_tasks()}
        try:
            await asyncio.wait({closing}, timeout=patience)
        finally:
            self._abort()
            closing.cancel()
        await asyncio.wait(tasks, timeout=CLOSE_SECONDS)

    def _finish(self) -> None:
        self._ended = True
        self.ended()
        for task in self._all_tasks():
            task.cancel()

    def _all_tasks(self) -> set[asyncio.Task[None]]:
        return self._tasks | ({self._inbox} if self._inbox is not None else set())

    def _abort(self) -> None:
        """Cuts the connection. nats-py has no public way: its `close` waits to write what a
        silent server does not read."""
        transport = getattr(self.client, "_transport", None)
        writer = getattr(transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    # what nats-py calls

    async def _on_answer(self, msg: Msg) -> None:
        self.answered(msg.subject[len(self.prefix) :], msg)

    async def _on_error(self, error: Exception) -> None:
        """Refusals of what was asked for, and why a server could not be reached; a connection's
        end is told by `_on_end`."""
        self._told = error
        text = str(error)
        if "permissions violation for subscription" in text:
            self.deaf = True
        elif denied := _DENIED.search(text):
            self.denied(denied[1])

    async def _on_lame_duck(self) -> None:
        self.retiring = True

    def _on_end(self, reader: asyncio.Task[Any]) -> None:
        if not reader.cancelled():
            reader.exception()  # looked at, else asyncio logs it
        if not self._ended:
            self._finish()
            self._abort()
            self.lost()


async def _quietly(work: Work) -> None:
    """What a task of ours ends with is told by the attempts."""
    try:
        await work()
    except Exception:
        return


class _Client(Client):
    """nats-py's, with certificates of our own; notes whether they were asked for."""

    own_context: ssl.SSLContext | None = None
    secured = False

    @property
    def ssl_context(self) -> ssl.SSLContext:
        self.secured = True
        return self.own_context or ssl.create_default_context()


@dataclass(frozen=True, slots=True)
class Address:
    """`NATS_URI` taken apart: one URL, or several with commas between. Credentials are those of
    the first that has some, and are handed over by themselves: nats-py takes them from a URL
    without decoding them."""

    servers: list[str]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    hidden: tuple[str, ...] = field(default=(), repr=False)
    secure: bool = False

    @classmethod
    def of(cls, uri: str) -> Address:
        """Raises `ValueError`."""
        parts = [urlsplit(each) for each in _BETWEEN.split(uri)]
        servers = [each._replace(netloc=each.netloc.rpartition("@")[2]).geturl() for each in parts]
        secure = all(each.scheme in ("tls", "wss") for each in parts)
        known = next((each for each in parts if each.username), None)
        if known is None:
            return cls(servers, secure=secure)
        given = (known.username, known.password)
        user, password = (None if each is None else unquote(each) for each in given)
        secrets = (known.password, password) if password else (known.username, user)
        return cls(servers, user, password, tuple(filter(None, secrets)), secure)

    def credentials(self, client: _Client) -> dict[str, Any]:
        """For `connect`, which asks for them when TLS should have begun."""

        def told(value: str) -> Callable[[], str]:
            def tell() -> str:
                self.check(client)
                return value

            return tell

        if self.user is None:
            return {}
        if self.password is None:
            return {"token": told(self.user)}
        return {"user": told(self.user), "password": told(self.password)}

    def check(self, client: _Client) -> None:
        """A `tls` URL asks for TLS; nats-py begins it only where the server does. Raises
        `SecureConnWantedError`."""
        if self.secure and not client.secured:
            raise nats.errors.SecureConnWantedError

    def hide(self, attempt: Attempt) -> Attempt:
        """Without the password, whatever a server repeats."""
        detail = attempt.detail
        for secret in self.hidden:
            detail = detail.replace(secret, "…")
        return Attempt(attempt.outcome, attempt.code, detail, attempt.retry_after)


_BETWEEN = re.compile(r",\s*(?=(?:nats|tls|ws|wss)://)")
