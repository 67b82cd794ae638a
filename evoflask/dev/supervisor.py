"""`make run`: everything on one machine, under one process that keeps it up.

It starts what the Procfile starts, by the same commands, plus a private Redis where none is
named, and restarts what ends. What it needs and does not find is one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.client
import os
import secrets
import select
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import requests

from evoflask import vault
from evoflask.dev.greeting import greeting, local_address
from evoflask.dev.process import Process, wait_for
from evoflask.dev.redis_server import RedisServer
from evoflask.errors import Misconfigured
from evoflask.log import refuse
from evoflask.settings import Settings, embedded_socket

if TYPE_CHECKING:
    from evoflask.dev.demonstration import Demonstration

WEB_UNTIL, REST_UNTIL, REDIS_UNTIL = 2.5, 8.0, 9.5
"""Seconds after the wish to stop at which the web, then worker and clock, then Redis are killed."""

SLOWEST = 5.0
"""Longest wait before what ended is started again, seconds."""

STEADY = 20.0
"""After so many seconds a process counts as well again."""

LOOPBACK = "127.0.0.0/8,::1/128"

DEFAULTS = {
    "WEB_HOST": "127.0.0.1",
    "WEBHOOK_ALLOW_NETWORKS": LOOPBACK,
    "PYTHONUNBUFFERED": "1",
}
"""Variables that `make run` sets where the environment does not."""


def read_procfile(path: Path) -> dict[str, list[str]]:
    """The commands by their process type, in the file's order.

    Without their `exec`, which is for platforms: they start commands in a shell, and it is
    the command that shall get the signals.
    """
    lines = (line.partition(":") for line in path.read_text().splitlines() if ":" in line)
    commands = {name.strip(): shlex.split(command) for name, _, command in lines}
    return {name: words[words[0] == "exec" :] for name, words in commands.items() if words}


def open_home(home: Path) -> int:
    """Makes the home, takes it for this run and returns the lock's file descriptor.

    Whoever has the descriptor has the home: it is handed to Redis too, which may outlive us
    by a moment. Raises `Misconfigured`: not writable, or taken.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(
            f"The home {home} cannot be written to: {error.strerror} (EVOFLASK_HOME)."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise Misconfigured(f"Another run is using the home {home} (EVOFLASK_HOME).") from None
    return lock


def check_port(host: str, port: int) -> None:
    """Raise `Misconfigured` if nothing can listen on this address and port.

    The probe does not use SO_REUSEPORT, which would share the port with another program.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise Misconfigured(
            f"Port {port} of {host} cannot be used: {error.strerror}. "
            "Set PORT or WEB_HOST to another one."
        ) from error


def own_key(home: Path) -> str:
    """The key that this home made for itself, made at the first run and readable by its owner."""
    path = home / "apikey"
    with contextlib.suppress(FileNotFoundError):
        if made := path.read_text().strip():
            return made
    made = secrets.token_hex(24)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(file, f"{made}\n".encode())
    os.close(file)
    return made


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the children's environment: `DEFAULTS`, the key, and our interpreter first on PATH."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
    env = {
        **DEFAULTS,
        **{name: value for name, value in environ.items() if value},
        "PATH": path,
        "EVOFLASK_HOME": str(settings.home),
        "REDIS_URL": settings.redis_url,
        "DATABASE_URL": settings.database_url,
    }
    if not settings.encryption_key:
        vault.make_key(settings.home)
    if not settings.api_key:
        env["AUTHENTICATION_API_KEY"] = own_key(settings.home)
    return env


@dataclass(slots=True)
class Child:
    """One line of the Procfile, kept up."""

    process: Process
    wait: float = 0.0
    """Before the next start, seconds; doubles while it ends soon after each."""
    started: float = 0.0
    due: float | None = None
    """When to start it again; None while it runs."""

    def start(self) -> None:
        self.process.start()
        self.started, self.due = time.monotonic(), None

    def look(self) -> None:
        """Starts it again when it ended, with growing waits."""
        now = time.monotonic()
        if self.due is not None:
            if now >= self.due:
                self.start()
        elif not self.process.alive:
            status = self.process.kill9()  # and what is left of its group
            steady = now - self.started > STEADY
            self.wait = 0.2 if steady or not self.wait else min(self.wait * 2, SLOWEST)
            self.due = now + self.wait
            say(f"{self.process.name} ended with status {status}; again in {self.wait:g} s")


def say(*lines: str) -> None:
    """To the person at the terminal."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(*lines, sep="\n", flush=True)


class Supervisor:
    """Starts, watches and stops the children. One thread: the kernel ties them to it."""

    def __init__(
        self, settings: Settings, root: Path, environ: Mapping[str, str], *, all_: bool = False
    ) -> None:
        self._settings = settings
        self._demonstration = _demonstration(settings.home) if all_ else None
        self._root = root
        self._environ = environ
        self._redis: Child | None = None
        self._servers: list[Child] = []
        self._children: list[Child] = []
        self._asked: list[float] = []
        """When it was asked to stop."""
        self._ears, self._mouth = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Everything, until a signal; the exit status. Raises `Misconfigured`."""
        self._listen_to_signals()
        with self._home() as lock:
            check_port(self._settings.web_host, self._settings.port)
            env = environment(self._settings, self._environ)
            try:
                self._start_redis(lock)
                env |= self._start_servers()
                self._release(env)
                self._start_children(env)
                self._watch(env)
            finally:
                self._stop()
        return 0

    @contextlib.contextmanager
    def _home(self) -> Iterator[int]:
        lock = open_home(self._settings.home)
        try:
            yield lock
        finally:
            os.close(lock)

    def _listen_to_signals(self) -> None:
        signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda *_: self._asked.append(time.monotonic()))

    def _start_redis(self, lock: int) -> None:
        if self._environ.get("REDIS_URL"):
            return
        server = RedisServer(
            self._settings.home / "redis",
            socket=private_socket(self._settings.home),
            appendonly=True,
            pass_fds=[lock],
            parent_death_signal=signal.SIGTERM,
        )
        self._redis = Child(server.prepare())
        if cut := server.mend():
            say(cut)
        self._redis.start()
        try:
            wait_for(lambda: self._asked or server.up(), 300, "the embedded Redis")
        except (RuntimeError, TimeoutError) as error:
            why = server.damage() or str(error)
            raise Misconfigured(f"The embedded Redis does not start: {why}") from error

    def _start_servers(self) -> dict[str, str]:
        """Those of the demonstration, all at once; what the others must know of them."""
        if self._demonstration is None:
            return {}
        servers = self._demonstration.servers
        self._servers = [Child(server.prepare()) for server in servers]
        for child in self._servers:
            child.start()
        for server in servers:
            say(f"waiting for {server.name}")
            try:
                wait_for(lambda s=server: self._asked or s.up(), server.patience, server.name)  # type: ignore[misc]
            except (RuntimeError, TimeoutError) as error:
                raise Misconfigured(f"{server.name} does not start: {error}") from error
        return self._demonstration.environment()

    def _greet(self, env: Mapping[str, str]) -> None:
        """Print the greeting, after the instance of the six sinks was set up."""
        key = self._settings.api_key or own_key(self._settings.home)
        ready = self._demonstration is not None and self._demonstrate(self._demonstration, env, key)
        say(greeting(self._settings, key, six_sinks=ready))

    def _demonstrate(self, six: Demonstration, env: Mapping[str, str], key: str) -> bool:
        """Set up the instance with six sinks and watch them. Return False if that failed."""
        base = f"http://{local_address(self._settings.web_host)}:{self._settings.port}"
        try:
            six.set_up(base, key)
        except requests.RequestException as error:
            say(f"The instance with six sinks could not be set up: {error}")
            return False
        watcher = Child(six.watcher(base, key, env))
        self._children.append(watcher)
        watcher.start()
        return True

    def _release(self, env: Mapping[str, str]) -> None:
        command = read_procfile(self._root / "Procfile").get("release")
        if command and not self._asked:
            with Process(resolve(command, env), name="release", env=env, cwd=self._root) as it:
                wait_for(lambda: not it.alive or self._asked, 300, "the migrations")
                if not self._asked and it.wait() != 0:
                    raise Misconfigured("The migrations failed, see above.")

    def _start_children(self, env: Mapping[str, str]) -> None:
        for name, command in read_procfile(self._root / "Procfile").items():
            if name == "release":
                continue
            for number in range(self._settings.worker_processes if name == "worker" else 1):
                process = Process(
                    resolve(command, env),
                    name=f"{name}.{number + 1}",
                    env=env,
                    cwd=self._root,
                    parent_death_signal=signal.SIGTERM,
                )
                self._children.append(Child(process))
        for child in self._children:
            child.start()

    def _watch(self, env: Mapping[str, str]) -> None:
        greeted = False
        while not self._asked:
            self._sleep(0.1 if not greeted else 1.0)
            for child in self._all():
                child.look()
            if not greeted and answers(self._settings.web_host, self._settings.port):
                greeted = True
                self._greet(env)

    def _all(self) -> list[Child]:
        redis = [self._redis] if self._redis else []
        return [*redis, *self._servers, *self._children]

    def _sleep(self, seconds: float) -> None:
        """Until a signal, a child's end, or a child that is due to start again."""
        due = (child.due for child in self._all() if child.due is not None)
        until = min([time.monotonic() + seconds, *due])
        select.select([self._ears], [], [], max(0.0, until - time.monotonic()))
        with contextlib.suppress(BlockingIOError):
            os.read(self._ears, 4096)

    def _stop(self) -> None:
        """The web first, so that nothing new comes in; then who delivers; the stores last."""
        began = self._asked[0] if self._asked else time.monotonic()
        web = [each for each in self._children if each.process.name.startswith("web.")]
        rest = [each for each in self._children if each not in web]
        last = [*self._servers, *([self._redis] if self._redis else [])]
        for group, seconds in ((web, WEB_UNTIL), (rest, REST_UNTIL), (last, REDIS_UNTIL)):
            self._stop_group([child.process for child in group], began, seconds)

    def _stop_group(self, group: Sequence[Process], began: float, seconds: float) -> None:
        for process in group:
            process.send(signal.SIGTERM)
        while any(process.alive for process in group):
            now = time.monotonic()
            # Asked again: at once. A Ctrl-C may reach us on two ways, that is one wish.
            if now > began + seconds or any(each - began > 1 for each in self._asked):
                break
            time.sleep(0.02)
        for process in group:
            process.kill9()


def private_socket(home: Path) -> Path:
    """`embedded_socket`, in a folder that is ours alone. Raises `Misconfigured`."""
    path = embedded_socket(home)
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
    if path.parent.stat().st_uid != os.getuid():
        raise Misconfigured(f"The folder {path.parent} is somebody else's.")
    return path


def resolve(command: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """The command with its program looked up where the children's PATH says."""
    program = shutil.which(command[0], path=env["PATH"])
    if program is None:
        raise Misconfigured(f"There is no program {command[0]!r}, which the Procfile names.")
    return [program, *command[1:]]


def answers(host: str, port: int) -> bool:
    """Return True if an HTTP server answers on this address and port."""
    connection = http.client.HTTPConnection(local_address(host).strip("[]"), port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return True
    finally:
        connection.close()


def _demonstration(home: Path) -> Demonstration:
    from evoflask.dev.demonstration import Demonstration

    return Demonstration(home)


def main(root: Path | None = None, *, all_: bool = False) -> int:
    """`python -m evoflask.dev`; the exit status. `root`: the folder of the Procfile. `all_`:
    with a server for each sink and a demonstration."""
    root = root or Path(__file__).resolve().parents[2]
    try:
        environ = {**DEFAULTS, **{name: value for name, value in os.environ.items() if value}}
        return Supervisor(Settings.from_env(environ), root, environ, all_=all_).run()
    except Misconfigured as error:
        return refuse(error)
