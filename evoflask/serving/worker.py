"""gunicorn's threaded worker, with a poller that receives: a thread gets a request when the
whole of it is there.

gunicorn's own gives a thread to a connection as soon as it says something, and the thread
waits for the rest: as many clients as there are threads, a byte a second each, and nobody
else is served. It closes connections on its main thread too, waiting up to two seconds for
the other side: one client that never hangs up, and nobody is served. And it stops accepting
when all its connections are taken, by whoever is idle.

Here a connection that waits costs a file and some bytes. Its time is bounded (`Patience`), all
bytes together are, and when connections run out the one that has been idle longest goes:
those that never asked anything first, then kept-alive ones, then requests on their way. All
of it happens on the main thread, which never waits for anybody; threads answer, and receive only
where a connection's requests follow one another at once and no other one waits for a thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent import futures
from typing import Any, ClassVar, Final

from gunicorn import http
from gunicorn.workers.gthread import ThreadWorker

from evoflask.errors import ProcessFull
from evoflask.serving.account import SMALL, Account
from evoflask.serving.answers import MALFORMED, OURS, Accounted, refusal, say
from evoflask.serving.arrival import Arrival, Bounds, State
from evoflask.serving.turns import Turns
from evoflask.serving.visitor import HOLD, Patience, Phase, Rank, Visitor

log = logging.getLogger(__name__)

FULL: Final = ProcessFull.words
_PIECE: Final = 262_144
"""Bytes taken from one connection before it is another's turn."""
_ACCEPTS: Final = 64
"""The same for connections that wait to be accepted."""
_LINGER: Final = 2.0
"""Seconds that the other side has to hang up after the last answer, or it might lose it: a
socket that is closed with unread bytes in it resets the connection."""
_LAST_LINGER: Final = 1.0
"""Seconds for the same while the process ends, and the seconds of silence after which a connection
is then closed. gunicorn grants two, and some platforms kill a process after five."""
_LOOK: Final = 0.25
"""Seconds between two looks for overdue connections."""
_TELL: Final = 60.0
"""Seconds between two lines about those that were cut."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPT_PAUSE: Final = 0.1
"""Seconds without accepting if no file is left and no connection can be closed."""
_SPARE_FILES: Final = 8
"""Connections closed at once when no file is left. Redis and the database need some, too."""
_STALLED: Final = 1.0
"""Seconds after which an unread answer may be cut, if another request waits."""

Identify = Callable[[bytes, bytes], tuple[Rank, Hashable]]
"""Rank and holder by the headers `apikey` and `Authorization`."""


def _stranger(_: bytes, __: bytes) -> tuple[Rank, Hashable]:
    return Rank.STRANGER, None


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn carries no types
    """See the module. `patience` is set by gunicorn's configuration."""

    wsgi: Any
    patience: ClassVar[Patience] = Patience(Bounds(head=65_536, body=16_777_216))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[Phase, dict[Visitor, None]] = {phase: {} for phase in Phase}
        """In the order in which they began to wait."""
        bounds = self.patience.bounds
        buffer = self.patience.buffer
        self.account = Account(buffer, max(buffer // 16, bounds.body + bounds.head))
        self.identify: Identify = _stranger
        self._turns: Turns[Visitor] = Turns(self.cfg.threads)
        # gunicorn closes answered connections above its own count of idle ones. This worker has
        # bounds of its own.
        self.max_keepalived = sys.maxsize
        self._paused_until = 0.0
        self._starving_since: float | None = None
        self._answering: dict[Visitor, None] = {}
        self._local = threading.local()
        self._holds = [None] * self.patience.holds
        """One for each thread that may hold a connection, and does not."""
        self._looked = self._told = time.monotonic()
        self._cut: Counter[str] = Counter()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Skip gunicorn's warning on a count of idle connections. This worker does not use it."""

    def run(self) -> None:
        """Run gunicorn's loop, and count the bytes of the application's answers."""
        self.wsgi = Accounted(self.wsgi, lambda: self._local.conn, self._charge_answer)
        super().run()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """gunicorn would wake up for the end of what it keeps alive itself, and that is nothing
        here: while the process ends, a second more for each step of everybody's goodbye."""
        if not self.alive:
            timeout = min(timeout, _LOOK)
        if time.monotonic() < self._paused_until:
            timeout = min(timeout, _ACCEPT_PAUSE)
        super().wait_for_and_dispatch_events(timeout)

    # -- coming ------------------------------------------------------------------------------

    def accept(self, listener: socket.socket) -> None:
        """As many as wait, within a turn."""
        for _ in range(_ACCEPTS):
            try:
                sock, client = listener.accept()
            except OSError as error:  # none waits any more, or it has left already
                if error.errno in _NO_FILES:
                    self._free_files()
                return
            self.nr_conns += 1
            conn = Visitor(self.cfg, sock, client, listener.getsockname())
            self._wait(conn, Phase.FRESH)
            self._receive(conn)
            if self.nr_conns >= self.worker_connections and not self._make_room():
                return

    def _free_files(self) -> None:
        """Close idle connections, because no file is left for a waiting one.

        If there are none, stop accepting for a moment: the listener stays readable.
        """
        for _ in range(_SPARE_FILES):
            if not self._make_room():
                self._cut["not accepted, no file left"] += 1
                self._paused_until = time.monotonic() + _ACCEPT_PAUSE
                self.set_accept_enabled(False)
                return

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept or not. gunicorn calls this in each round of its loop."""
        if not enabled or time.monotonic() >= self._paused_until:
            super().set_accept_enabled(enabled)

    def _receive(self, conn: Visitor) -> None:
        """It said something, or hung up."""
        try:
            data = conn.sock.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(conn)
            return
        if data:
            self._take(conn, data)
        elif conn.arrival is not None and conn.arrival.end() is State.WHOLE:
            self._hand_over(conn)
        else:
            self._drop(conn)

    def _take(self, conn: Visitor, data: bytes | memoryview) -> None:
        if conn.arrival is None:
            conn.arrival = Arrival(self.patience.bounds)
        before = conn.arrival.state
        state = conn.arrival.take(data)
        self._charge(conn, len(conn.arrival.data) + len(conn.arrival.behind) - conn.charged)
        if state is State.REFUSED:
            self._refuse(conn, *conn.arrival.refusal)
            return
        if state in (State.BODY, State.WHOLE) and before in (State.IDLE, State.HEAD):
            self._identify(conn)
            if conn.arrival.size > SMALL and self.account.full(conn.charged, known=conn.known):
                self._refuse(conn, 503, FULL)
                return
        if state is State.WHOLE:
            self._hand_over(conn)
            return
        if before is not state and state is not State.IDLE:
            self._wait(conn, Phase.RECEIVING)
        if state is State.BODY and conn.arrival.expects:
            conn.arrival.expects = False
            say(conn.sock, _CONTINUE)
        self._make_space()

    def _identify(self, conn: Visitor) -> None:
        """Note the holder of a request. Before that its bytes count as a stranger's."""
        assert conn.arrival is not None
        rank, key = self.identify(conn.arrival.key, conn.arrival.authorization)
        share = self._share(rank)
        if conn.arrival.is_socket:
            share = self.cfg.threads
        known = rank is not Rank.STRANGER
        if known and not conn.known:
            self.account.move(conn.charged)
        elif conn.known and not known:
            self.account.move(-conn.charged)
        conn.known = known
        conn.share = share
        conn.first = known or key is None
        if key is None:
            key = conn.client[0] if isinstance(conn.client, tuple) else conn.client
        conn.holder = (rank, conn.arrival.is_socket, key)

    def _share(self, rank: Rank) -> int:
        """Return the threads that a holder may have. The rest is for others, such as `/healthz`."""
        threads = self.patience.threads
        if rank is Rank.OPERATOR:
            return int(self.cfg.threads) - max(1, threads // 4)
        return threads // 2 if rank is Rank.TENANT else threads // 4

    def _charge(self, conn: Visitor, size: int) -> None:
        conn.charged += size
        self.account.add(size, known=conn.known)

    def _charge_answer(self, conn: Visitor, size: int, may_refuse: bool) -> bool:
        """Count an answer until it is sent. Return False if it does not fit."""
        if not conn.known:
            self.account.move(conn.charged)
            conn.known = True
        if not may_refuse:
            self.account.add(size, known=True)
        elif not self.account.try_add(size):
            return False
        conn.charged += size
        return True

    def _hand_over(self, conn: Visitor) -> None:
        """To a thread, with the bytes of one request."""
        assert conn.arrival is not None
        self._forget(conn)
        conn.open(conn.arrival)
        conn.arrival = None
        conn.busy = time.monotonic() < conn.answered + HOLD
        self._turns.add(conn, conn.holder, conn.share, known=conn.first)
        self._start()

    def _start(self) -> None:
        """Give free threads to waiting requests."""
        while (conn := self._turns.next()) is not None:
            self._answering[conn] = None
            self.enqueue_req(conn)
        if not self._turns.starving:
            self._starving_since = None
        elif self._starving_since is None:
            self._starving_since = time.monotonic()

    # -- waiting -----------------------------------------------------------------------------

    def _wait(self, conn: Visitor, phase: Phase) -> None:
        self._waiting[conn.phase].pop(conn, None)
        conn.phase = phase
        conn.since = time.monotonic()
        self._waiting[phase][conn] = None
        if not conn.registered:
            conn.registered = True
            self.poller.register(conn.sock, selectors.EVENT_READ, _Call(self._heard, conn))

    def _heard(self, conn: Visitor) -> None:
        if conn.phase is Phase.LEAVING:
            self._discard(conn)
        else:
            self._receive(conn)

    def _forget(self, conn: Visitor) -> None:
        """Nothing more is waited for."""
        self._waiting[conn.phase].pop(conn, None)
        if conn.registered:
            conn.registered = False
            with contextlib.suppress(OSError, KeyError, ValueError):
                self.poller.unregister(conn.sock)

    def _make_room(self) -> bool:
        """Cut the one that can best be spared. False: all of them are being answered."""
        for phase in Phase:
            for conn in self._waiting[phase]:
                self._cut[f"too many, {phase.name.lower()}"] += 1
                self._drop(conn)
                return True
        return False

    def _make_space(self) -> None:
        """Refuse the oldest arriving requests until the rest fits. Small ones are spared."""
        strangers = self.account.overdrawn_by_strangers
        if not (strangers or self.account.overdrawn):
            return
        for conn in list(self._waiting[Phase.RECEIVING]):
            if conn.charged > SMALL and (self.account.overdrawn or not conn.known):
                self._refuse(conn, 503, FULL)
                if not (self.account.overdrawn or self.account.overdrawn_by_strangers):
                    return

    def _cut_stalled(self, now: float) -> None:
        """Cut half of the stalled answers, the oldest first, if a request has waited a second for a
        thread."""
        if self._starving_since is None or now < self._starving_since + _STALLED:
            return
        stalled = [
            conn
            for conn in self._answering
            if conn.sending is not None and now >= conn.sending + _STALLED
        ]
        for conn in sorted(stalled, key=lambda each: each.sending or now)[: len(stalled) // 2 + 1]:
            self._cut["answer not read, others waited"] += 1
            with contextlib.suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)

    def murder_keepalived(self, force: bool = False) -> None:
        """Cut whose time is over; `force`: everybody."""
        now = time.monotonic()
        if not force and now < self._looked + _LOOK:
            return
        self._looked = now
        self._cut_stalled(now)
        for conn in list(self._overdue(now)) if not force else list(self._everybody()):
            if conn.phase is Phase.RECEIVING and not force:
                self._refuse(conn, 408, "too slow")
            else:
                self._drop(conn)
        if self._cut and now >= self._told + _TELL:
            self._tell(now)

    def murder_pending(self) -> None:
        """Nobody is pending here."""

    def _everybody(self) -> Iterator[Visitor]:
        for waiting in self._waiting.values():
            yield from waiting

    def _overdue(self, now: float) -> Iterator[Visitor]:
        kept = float(self.cfg.keepalive)
        limits = {Phase.LEAVING: _LINGER, Phase.FRESH: self.patience.head, Phase.KEPT: kept}
        if not self.alive:
            limits = {phase: min(limit, _LAST_LINGER) for phase, limit in limits.items()}
        for phase, limit in limits.items():
            for conn in self._waiting[phase]:  # the oldest first
                if now < conn.since + limit:
                    break
                yield conn
        for conn in self._waiting[Phase.RECEIVING]:
            if now >= conn.since + self._allowed(conn):
                yield conn

    def _allowed(self, conn: Visitor) -> float:
        """Seconds for the part of a request that it is at."""
        arrival = conn.arrival
        assert arrival is not None
        if arrival.state is not State.BODY:
            return self.patience.head
        return self.patience.head + len(arrival.data) / self.patience.rate

    def _tell(self, now: float) -> None:
        log.warning(
            "connections cut",
            extra={"connections": sum(self._cut.values()), "why": dict(self._cut)},
        )
        self._told = now
        self._cut.clear()

    # -- being answered, in a thread -----------------------------------------------------------

    def handle(self, conn: Visitor) -> bool:
        """A request, and those that follow at once; whether the connection goes on."""
        self._local.conn = conn
        while self._answer(conn):
            conn.answered = time.monotonic()
            conn.sending = None
            self._charge(conn, -conn.charged)
            if not self._receive_next(conn):
                return True
        return False

    def _receive_next(self, conn: Visitor) -> bool:
        """Whether the next request is here, whole, and for this thread.

        Back to the poller and out to a thread again are two wake-ups, a pipe, two calls of epoll.
        So a thread stays a moment with a connection that was busy so far, unless a request waits
        for a thread, or many stay already.
        """
        if not conn.busy or conn.rest or self._turns.starving or not self.alive:
            return False
        try:
            hold = self._holds.pop()
        except IndexError:
            return False
        try:
            conn.sock.settimeout(HOLD)
            data = conn.sock.recv(_PIECE)
        except OSError:  # none came, or the poller will see what is wrong with it
            return False
        finally:
            self._holds.append(hold)
        arrival = Arrival(self.patience.bounds)
        if arrival.take(data) is State.WHOLE and self._same(conn, arrival):
            conn.open(arrival)
            return True
        conn.rest = data
        return False

    def _same(self, conn: Visitor, arrival: Arrival) -> bool:
        """Return True if the thread of the last request may answer this one.

        It must be small, and of the same holder.
        """
        if arrival.size > SMALL or arrival.is_socket or not conn.known:
            return False
        rank, key = self.identify(arrival.key, arrival.authorization)
        return conn.holder == (rank, False, key)

    def _answer(self, conn: Visitor) -> bool:
        """One request; whether the connection goes on."""
        request = None
        try:
            conn.sock.settimeout(self.patience.send)
            request = next(conn.parser)
            if not request or not self.handle_request(request, conn):
                return False
            return not conn.last and _finish(conn) and _used_up(conn)
        except (http.errors.NoMoreData, StopIteration, TimeoutError) as error:
            self.log.debug("Closing connection. %s", error)
        except ConnectionError as error:
            self.log.debug("Ignoring a broken connection. %s", error)
        except (ssl.SSLError, OSError):
            self.log.exception("Socket error processing request.")
        except Exception as error:
            conn.sock.setblocking(False)
            self.handle_error(request, conn.sock, conn.client, error)
        return False

    def handle_error(
        self, request: object, client: socket.socket, address: object, error: Exception
    ) -> None:
        """gunicorn answers with a page that repeats what it was sent, and logs that too: a key in
        a header that is not well-formed would stand in both."""
        for kind, status, sentence in MALFORMED:
            if isinstance(error, kind) and not isinstance(error, OURS):
                log.info("malformed request: %s", type(error).__name__)
                say(client, refusal(status, sentence))
                return
        log.error("a request failed outside of the application", exc_info=error)
        say(client, refusal(500, "Internal error; the server's log has the reason."))

    # -- going -------------------------------------------------------------------------------

    def finish_request(self, conn: Visitor, done: futures.Future[bool]) -> None:
        """It was answered."""
        self._answering.pop(conn, None)
        self._turns.done(conn.holder)
        conn.sending = None
        conn.source.put(b"")
        self._charge(conn, -conn.charged)
        self._start()
        goes_on = not done.cancelled() and done.exception() is None and done.result()
        try:
            conn.sock.setblocking(False)
        except OSError:  # whoever had the socket closed it
            goes_on = False
        if not goes_on:
            self._say_goodbye(conn)
            return
        self._wait(conn, Phase.KEPT)
        rest, conn.rest = conn.rest, b""
        if rest:
            self._take(conn, rest)

    def _refuse(self, conn: Visitor, status: int, why: str) -> None:
        """Say why, as far as it still listens, and leave."""
        self._cut["too much held" if why == FULL else why] += 1
        sentence = why if why == FULL else f"The request was not received: {why}."
        say(conn.sock, refusal(status, sentence))
        self._say_goodbye(conn)

    def _say_goodbye(self, conn: Visitor) -> None:
        """Close it, once the other side has, or has had its time to."""
        self._forget(conn)
        self._charge(conn, -conn.charged)
        conn.arrival = None
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        self._wait(conn, Phase.LEAVING)
        self._discard(conn)

    def _discard(self, conn: Visitor) -> None:
        """What it still says, within bounds."""
        try:
            data = conn.sock.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        conn.discarded += len(data)
        if not data or conn.discarded > self.patience.bounds.body:
            self._drop(conn)

    def _drop(self, conn: Visitor) -> None:
        self._forget(conn)
        self._charge(conn, -conn.charged)
        self.nr_conns -= 1
        conn.sock.close()


class _Call:
    """What the poller does with a socket that is ready."""

    __slots__ = ("conn", "what")

    def __init__(self, what: Any, conn: Visitor) -> None:
        self.what = what
        self.conn = conn

    def __call__(self, _: object) -> None:
        self.what(self.conn)


def _finish(conn: Visitor) -> bool:
    """Read the rest of a body. An error ends the connection: the request is answered already."""
    try:
        return bool(conn.parser.finish_body())
    except http.errors.ParseException:
        return False


def _used_up(conn: Visitor) -> bool:
    """Whether the parser took all of the request: else it saw another end of it than we."""
    return conn.source.empty and not conn.parser.unreader.buf.getvalue()
